# SPDX-License-Identifier: Apache-2.0
"""The XLA path without a TPU: eight virtual devices, in the oracle environment `xla` (torch 2.9, torch_xla
2.9; see oracle_runner.py).

The same command trains there; its losses equal the plain CPU run's on the same batches, its checkpoints are
read everywhere and resume exactly, and the number of compiled graphs stays constant. The step of `tiny` is
compiled for a TPU v5e-8, and the TPU's attention kernel is compared with ours in jax's interpreter. Nothing
here runs on a TPU.
"""
import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from corpus.command import prepare_builtin

ROOT = Path(__file__).resolve().parent.parent
PYTHON = Path(os.environ.get("STENTOR_ORACLES", "none")) / "xla" / "bin" / "python"
pytestmark = [
    pytest.mark.ci,
    pytest.mark.skipif(
        not PYTHON.is_file(),
        reason="STENTOR_ORACLES names no folder with the environment xla (torch_xla 2.9)",
    ),
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Two sources, so that the mixture changes when the curriculum's anneal begins (85% of the steps)."""
    return prepare_builtin(tmp_path_factory.mktemp("corpus") / "two", kinds=("web", "math"))


def python(
    code_or_file: str, *arguments: str, cwd: Path, devices: int = 8, xla: bool = True
) -> subprocess.CompletedProcess:
    environment = {
        name: value for name, value in os.environ.items() if name not in ("PJRT_DEVICE", "CPU_NUM_DEVICES")
    }
    if xla:
        environment |= {"PJRT_DEVICE": "CPU", "CPU_NUM_DEVICES": str(devices)}
    environment["PYTHONPATH"] = str(ROOT)
    start = [code_or_file] if code_or_file.endswith(".py") else ["-c", code_or_file]
    return subprocess.run(
        [str(PYTHON), *start, *arguments], capture_output=True, text=True, cwd=cwd, env=environment,
        timeout=900,
    )


# Logged after steps 1, 4, 5, 6, 10, 12 and 13, evaluations at 6, 12 and 13 of 13 steps. The first rate is 0
# and all others are low: a high one would make a difference of one rounding grow with each step.
SETTINGS = [
    "--size", "tiny", "--precision", "fp32", "--steps", "13", "--seq-len", "32", "--batch-size", "16",
    "--learning-rate", "3e-4",
    "--eval-steps", "6", "--logging-steps", "5", "--max-eval-samples", "32",
]
# two micro-steps, layers and logits computed twice
THRIFTY = ["--micro-batch", "1", "--recompute", "--loss-chunk", "8"]


def train(folder: Path, *arguments: str, xla: bool = True) -> str:
    done = python(str(ROOT / "train.py"), *arguments, cwd=folder, xla=xla)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def runs(corpus, tmp_path_factory) -> dict[str, Path]:
    """Uninterrupted: on eight virtual devices, there with accumulation, recomputation and a chunked loss, and
    on the plain CPU of the same torch.
    """
    folder = tmp_path_factory.mktemp("runs")
    common = [*SETTINGS, "--data", str(corpus)]
    (folder / "xla.txt").write_text(train(folder, *common, "--out", "xla"))
    (folder / "thrifty.txt").write_text(train(folder, *common, *THRIFTY, "--out", "thrifty"))
    train(folder, *common, "--out", "cpu", "--device", "cpu", xla=False)
    return {name: folder / name for name in ("xla", "thrifty", "cpu", "xla.txt", "thrifty.txt")}


@pytest.mark.parametrize("name", ["xla", "thrifty"])
def test_losses_equal_the_plain_cpu(runs, name):
    pairs = list(zip(rows(runs[name]), rows(runs["cpu"]), strict=True))
    assert len(pairs) == 16
    for one, two in pairs:
        assert one["step"] == two["step"]
        for key in ("loss", "grad_norm", "eval_loss"):
            assert (key in one) == (key in two)
            if key in one:
                allowed = 1e-4 if key != "grad_norm" else 1e-3 * two[key]
                assert one[key] == one[key] and abs(one[key] - two[key]) < allowed, (one, two)


@pytest.mark.parametrize("name", ["xla", "thrifty"])
def test_a_constant_number_of_graphs_and_nothing_leaves_the_devices(runs, name):
    """Through schedule, clipping, logs of several lengths, evaluations and the last batch; no `.item()` at
    all, no operation on the host.
    """
    text = runs[f"{name}.txt"].read_text(encoding="utf-8")
    assert "xla (PJRT_DEVICE" in text and "8 in parallel" in text
    counts = [
        int(line.split("compiled graphs ")[1].split()[0])
        for line in text.splitlines()
        if "compiled graphs " in line
    ]
    assert len(counts) == 7 and counts[0] > 0, text[-2000:]
    assert len(set(counts[:4])) == 1, counts                     # before the first evaluation: training alone
    assert len(set(counts[4:])) == 1, counts                     # after it
    (line,) = [line for line in text.splitlines() if line.startswith("xla: ")]
    graphs, executions, items = map(
        int,
        re.match(r"xla: (\d+) graphs compiled, (\d+) executions, (\d+) values read by .item", line).groups(),
    )
    assert graphs == counts[-1] and items == 0 and line.endswith("operations left to the host: none"), line
    print(f"{name}: {counts}; {line}")


def test_interrupted_anywhere_and_resumed_is_the_same_run(corpus, runs, tmp_path):
    """Cut between two evaluations and after the anneal began, with accumulation: bit-equal files and rows,
    one after the other.
    """
    common = [*SETTINGS, *THRIFTY, "--data", str(corpus)]
    train(tmp_path, *common, "--out", "cut", "--stop-after", "4")
    train(tmp_path, "--resume", "cut", "--stop-after", "12")
    train(tmp_path, "--resume", "cut")
    for name in (
        "last/model.safetensors", "last/optimizer.safetensors", "last/trainer_state.json",
        "best/model.safetensors",
    ):
        assert (tmp_path / "cut" / name).read_bytes() == (runs["thrifty"] / name).read_bytes(), name
    plain = [
        [
            {key: value for key, value in row.items() if key not in ("seconds", "tokens_per_second")}
            for row in rows(folder)
        ]
        for folder in (tmp_path / "cut", runs["thrifty"])
    ]
    assert plain[0] == plain[1]


def test_a_checkpoint_is_read_everywhere(runs):
    import torch

    from model import Llama
    for name in ("best", "last"):                                # in this process, without torch_xla
        model, twin = Llama.from_pretrained(runs["xla"] / name), Llama.from_pretrained(runs["cpu"] / name)
        ids = torch.arange(32)[None]
        torch.testing.assert_close(model(ids), twin(ids), rtol=0, atol=1e-3)


def test_the_command_of_a_tpu_host_trains_on_eight_virtual_devices(corpus, tmp_path):
    """Nothing said but the size (and what keeps it short): the TPU's recipe, one row for each device."""
    text = train(
        tmp_path, "--size", "20m", "--data", str(corpus), "--steps", "2", "--seq-len", "32",
        "--max-eval-samples", "8",
    )
    assert "8 in parallel" in text and "tpu-bf16" in text and "one row for each of the 8 devices" in text
    assert len(rows(tmp_path / "runs" / "20m")) == 3


def test_batch_is_dealt_out_and_autocast_named_cuda_has_no_effect(tmp_path):
    """What the cards print, autocast("cuda", enabled=False) around a critical layer, leaves an XLA autocast
    on; ours does not.
    """
    code = """
import numpy, torch, precision
from devices.open import open_device
from model import SIZES, Llama
device = open_device("xla")
ids = device.put(numpy.zeros((8, 16), dtype=numpy.int64))
import torch_xla
print("sharding", torch_xla._XLAC._get_xla_sharding_spec(ids))
x, w = torch.randn(4, 4, device=device.torch_device), torch.randn(4, 4, device=device.torch_device)
with torch.autocast("xla", dtype=torch.bfloat16):
    with torch.autocast("cuda", enabled=False):
        print("card", (x @ w).dtype)
    with torch.autocast("xla", enabled=False):
        print("ours", (x @ w).dtype)
model = precision.apply_precision(Llama(SIZES["tiny"]), "tpu-bf16", device.torch_device)
seen = {}
for name, module in model.named_modules():
    if name.endswith("q_proj"):
        module.register_forward_hook(lambda m, i, o, name=name: seen.update({name: o.dtype}))
model(ids)
print("layers", [str(seen[f"model.layers.{i}.self_attn.q_proj"]) for i in range(4)])
"""
    done = python(code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = dict(
        line.split(" ", 1)
        for line in done.stdout.splitlines()
        if line.startswith(("sharding", "card", "ours", "layers"))
    )
    assert lines["sharding"] == "{devices=[8,1]0,1,2,3,4,5,6,7}"
    assert lines["card"] == "torch.bfloat16" and lines["ours"] == "torch.float32"
    assert lines["layers"] == str(["torch.float32", "torch.bfloat16", "torch.bfloat16", "torch.float32"])


def test_torch_xla_is_imported_only_for_xla(corpus, tmp_path):
    code = ("import sys, train\n"
            f"train.main(['--size', 'tiny', '--data', {str(corpus)!r}, '--dry-run', '--device', 'cpu'])\n"
            "print('torch_xla' in sys.modules)")
    done = python(code, cwd=tmp_path, xla=False)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "False", done.stderr[-2000:]


def test_the_step_of_tiny_compiles_for_a_tpu_v5e_8(tmp_path):
    """The real training step with the TPU's attention, by libtpu's compiler: it fits, and gradients are
    summed over the chips.
    """
    missing = [
        name
        for name in ("jax", "libtpu")
        if not list(PYTHON.parent.parent.glob(f"lib/python*/site-packages/{name}"))
    ]
    if missing:
        pytest.skip(f"the environment xla has no {', '.join(missing)}")
    done = python(
        "import sys; from bench import tpu_compile; sys.argv[1:] = ['--size', 'tiny', '--json']; "
        "sys.exit(tpu_compile.main())",
        cwd=tmp_path,
        xla=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    program = json.loads(done.stdout.splitlines()[-1])
    assert program["attention"] == "flash" and program["rows"] == 64 and program["seq_len"] == 1024
    assert 0.01 < program["sum GiB"] < 15.75 and program["TFLOP"] > 0.01
    assert re.match(r"all-reduce x\d+ \((\d+ f32, \d+ bf16|\d+ bf16, \d+ f32)\)", program["collectives"]), (
        program
    )


INTERPRETED = """
import math, sys
import jax, jax.numpy as jnp, numpy, torch
from jax.experimental.pallas import tpu
from jax.experimental.pallas.ops.tpu import flash_attention as kernel
from model import attention_written_out
torch.manual_seed(0)
B, H, K, T, F = 2, 4, 2, 256, 32
q, g = torch.randn(B, H, T, F), torch.randn(B, H, T, F)
k, v = torch.randn(B, K, T, F), torch.randn(B, K, T, F)
for tensor in (q, k, v):
    tensor.requires_grad_()
y = attention_written_out(q, k, v)
y.backward(g)
ours = [y.detach(), q.grad, k.grad, v.grad]
size = 128
blocks = kernel.BlockSizes(block_q=size, block_k_major=size, block_k=size, block_b=2,
                           block_q_major_dkv=size, block_k_major_dkv=size, block_k_dkv=size, block_q_dkv=size,
                           block_k_major_dq=size, block_k_dq=size, block_q_dq=size)
def attend(q, k, v):
    k, v = jnp.repeat(k, H // K, axis=1), jnp.repeat(v, H // K, axis=1)      # as devices/attention_tpu.py
    return kernel.flash_attention(q, k, v, causal=True, sm_scale=F**-0.5, block_sizes=blocks)
with tpu.force_tpu_interpret_mode():
    y, back = jax.vjp(attend, *(jnp.asarray(tensor.detach().numpy()) for tensor in (q, k, v)))
    theirs = [y, *back(jnp.asarray(g.numpy()))]
print("largest", max(float(numpy.abs(numpy.asarray(b) - a.numpy()).max()) for a, b in zip(ours, theirs)))
"""


def test_the_tpu_kernel_computes_our_attention(tmp_path):
    """Result and gradients of the Pallas kernel, interpreted on a CPU, against `attention_written_out`; the
    kernel itself needs a TPU.
    """
    done = python(INTERPRETED, cwd=tmp_path, xla=False)
    if "No module named 'jax'" in done.stderr:
        pytest.skip("the environment xla has no jax")
    assert done.returncode == 0, done.stderr[-3000:]
    assert float(done.stdout.split("largest ")[1]) < 1e-4
    print(done.stdout)
