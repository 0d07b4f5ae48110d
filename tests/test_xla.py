# SPDX-License-Identifier: Apache-2.0
"""The XLA path without a TPU: eight virtual devices, in the oracle environment `xla` (torch 2.9, torch_xla 2.9; see oracle_runner.py).

The same command trains there; its losses equal the plain CPU run's on the same batches, its checkpoints are read everywhere and resume
exactly, and the number of compiled graphs stays constant.
"""
import json
import os
import subprocess
from pathlib import Path

import pytest

import data

ROOT = Path(__file__).resolve().parent.parent
PYTHON = Path(os.environ.get("STENTOR_ORACLES", "none")) / "xla" / "bin" / "python"
pytestmark = [pytest.mark.ci, pytest.mark.skipif(not PYTHON.is_file(), reason="STENTOR_ORACLES names no folder with the environment xla (torch_xla 2.9)")]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return data.prepare_builtin(tmp_path_factory.mktemp("corpus") / "math", kinds=("math",))


def python(code_or_file: str, *arguments: str, cwd: Path, devices: int = 8, xla: bool = True) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if name not in ("PJRT_DEVICE", "CPU_NUM_DEVICES")}
    if xla:
        environment |= {"PJRT_DEVICE": "CPU", "CPU_NUM_DEVICES": str(devices)}
    environment["PYTHONPATH"] = str(ROOT)
    start = [code_or_file] if code_or_file.endswith(".py") else ["-c", code_or_file]
    return subprocess.run([str(PYTHON), *start, *arguments], capture_output=True, text=True, cwd=cwd, env=environment, timeout=900)


def train(corpus: Path, out: Path, *more: str, xla: bool = True, devices: int = 8) -> str:
    arguments = ["--size", "tiny", "--data", str(corpus), "--out", str(out), "--precision", "fp32", "--steps", "12", "--seq-len", "32",
                 "--batch-size", "16", "--eval-steps", "6", "--logging-steps", "3", "--max-eval-samples", "32"]
    if "--resume" in more:
        arguments = []
    done = python(str(ROOT / "train.py"), *arguments, *more, cwd=out.parent, xla=xla, devices=devices)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def runs(corpus, tmp_path_factory) -> dict[str, Path]:
    """One uninterrupted run on eight virtual devices, and the same on the plain CPU of the same torch."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "text").write_text(train(corpus, folder / "xla"))
    train(corpus, folder / "cpu", "--device", "cpu", xla=False)
    return {"xla": folder / "xla", "cpu": folder / "cpu", "text": folder / "text"}


def test_losses_equal_the_plain_cpu(runs):
    pairs = list(zip(rows(runs["xla"]), rows(runs["cpu"])))
    assert len(pairs) == 14
    for one, two in pairs:
        assert one["step"] == two["step"]
        for key in ("loss", "grad_norm", "eval_loss"):
            assert (key in one) == (key in two)
            if key in one:
                allowed = 1e-4 if key != "grad_norm" else 1e-3 * two[key]
                assert one[key] == one[key] and abs(one[key] - two[key]) < allowed, (one, two)


def test_it_ran_on_eight_devices_and_compiled_a_constant_number_of_graphs(runs):
    text = runs["text"].read_text()
    assert "xla (PJRT_DEVICE" in text and "8 in parallel" in text
    counts = [int(line.split("compiled graphs ")[1].split()[0]) for line in text.splitlines() if "compiled graphs " in line]
    assert len(counts) >= 4 and counts[-1] > 0
    assert len(set(counts[2:])) == 1, counts                    # after the first evaluation: schedule, clipping, logging, evaluation, last batch


def test_checkpoint_is_read_everywhere_and_resumes_exactly(corpus, runs, tmp_path):
    cut = tmp_path / "cut"
    train(corpus, cut, "--stop-after", "6")
    train(corpus, cut, "--resume", str(cut))
    for name in ("last/model.safetensors", "last/optimizer.safetensors", "last/trainer_state.json", "best/model.safetensors"):
        assert (cut / name).read_bytes() == (runs["xla"] / name).read_bytes(), name
    import torch

    from model import Llama
    model = Llama.from_pretrained(runs["xla"] / "best")         # in this process, without torch_xla
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_batch_is_dealt_out_and_autocast_named_cuda_has_no_effect(tmp_path):
    """What the cards print, autocast("cuda", enabled=False) around a critical layer, leaves an XLA autocast on; ours does not."""
    code = """
import numpy, torch, precision
from model import SIZES, Llama
device = precision.open_device("xla")
ids = device.put(numpy.zeros((8, 16), dtype=numpy.int64))
import torch_xla
print("sharding", torch_xla._XLAC._get_xla_sharding_spec(ids))
x, w = torch.randn(4, 4, device=device.device), torch.randn(4, 4, device=device.device)
with torch.autocast("xla", dtype=torch.bfloat16):
    with torch.autocast("cuda", enabled=False):
        print("card", (x @ w).dtype)
    with torch.autocast("xla", enabled=False):
        print("ours", (x @ w).dtype)
model = precision.apply_recipe(Llama(SIZES["tiny"]), "tpu-bf16", device.device)
seen = {}
for name, module in model.named_modules():
    if name.endswith("q_proj"):
        module.register_forward_hook(lambda m, i, o, name=name: seen.update({name: o.dtype}))
model(ids)
print("layers", [str(seen[f"model.layers.{i}.self_attn.q_proj"]) for i in range(4)])
"""
    done = python(code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = dict(line.split(" ", 1) for line in done.stdout.splitlines() if line.startswith(("sharding", "card", "ours", "layers")))
    assert lines["sharding"] == "{devices=[8,1]0,1,2,3,4,5,6,7}"
    assert lines["card"] == "torch.bfloat16" and lines["ours"] == "torch.float32"
    assert lines["layers"] == str(["torch.float32", "torch.bfloat16", "torch.bfloat16", "torch.float32"])


def test_torch_xla_is_imported_only_for_xla(corpus, tmp_path):
    code = ("import sys, train\n"
            f"train.main(['--size', 'tiny', '--data', {str(corpus)!r}, '--dry-run', '--device', 'cpu'])\n"
            "print('torch_xla' in sys.modules)")
    done = python(code, cwd=tmp_path, xla=False)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "False", done.stderr[-2000:]
