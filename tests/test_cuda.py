# SPDX-License-Identifier: Apache-2.0
"""What a CUDA GPU runs. `pytest -m cuda tests/test_cuda.py` needs one; the rest is computed on the CPU by the
same functions.
"""
import re
import shutil

import pytest
import torch

import sample
from training import compiled
from sampling import cuda_graph
from training import resolve
from sampling.cuda_graph import GraphDecoder, positions_to_read
from devices.attention_gpu import attend, attend_with_copies, choose_attention
from devices.device import Device
from training.resolve import default_values, fit_on_chip, for_device
from model import SIZES, KVCache, Llama, attention_written_out
from precision import PRECISIONS
from train import train
from training.settings import TrainSettings

on_gpu = pytest.mark.cuda


@pytest.mark.parametrize("size", ["tiny", "20m", "30m"])
@pytest.mark.parametrize("B", [1, 3])
def test_what_a_graph_records_equals_the_model(size, B):
    """At several positions, also after the cache was set back, as speculative decoding does."""
    torch.manual_seed(0)
    model = Llama(SIZES[size]).eval()
    step, plain, ours = GraphDecoder(model), KVCache(model.config, B, 300), KVCache(model.config, B, 300)
    ids = torch.randint(model.config.vocab_size, (B, 9))
    step.cache = ours
    with torch.inference_mode():
        for cache in (plain, ours):
            model(ids[:, :4], cache)
        for position in (4, 5, 6, 5, 6, 7):
            plain.length = position
            expected = model(ids[:, position:position + 1], plain)[:, -1]
            step.newest, step.position = ids[:, position:position + 1], torch.tensor([position])
            assert torch.allclose(step.at_position(positions_to_read(ours)), expected, atol=1e-5)
    assert torch.allclose(ours.keys, plain.keys, atol=1e-5) and torch.allclose(
        ours.values, plain.values, atol=1e-5
    )


def test_positions_to_read():
    cache = KVCache(SIZES["tiny"], 1, 1000)
    for length, window in ((0, 256), (255, 256), (256, 512), (511, 512), (512, 1000), (999, 1000)):
        cache.length = length
        assert positions_to_read(cache) == window
    assert positions_to_read(KVCache(SIZES["tiny"], 1, 20)) == 20


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attend(dtype, monkeypatch):
    """Both forms give the numbers of the plain one; a T4 has no FlashAttention, the only kernel that takes
    shared heads.
    """
    q, k, v = (
        torch.randn(2, heads, 17, 8, generator=torch.Generator().manual_seed(heads)).to(dtype)
        for heads in (6, 2, 2)
    )
    mask = (torch.arange(17)[:, None] - torch.arange(17)).abs() < 5                           # (T, S)
    for form in (attend, attend_with_copies):
        assert torch.allclose(
            form(q, k, v), attention_written_out(q, k, v), atol=1e-6 if dtype == torch.float32 else 2e-2
        )
        assert torch.allclose(
            form(q, k, v, mask),
            attention_written_out(q, k, v, mask),
            atol=1e-6 if dtype == torch.float32 else 2e-2,
        )
    for capability, form in (((7, 5), attend_with_copies), ((8, 0), attend), ((9, 0), attend)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda capability=capability: capability)
        assert choose_attention("cuda") is form
    assert choose_attention("mps") is attend_with_copies


@pytest.mark.parametrize("free, rows", [(80, 48), (50, 24), (24, 16), (6, 4), (1, 1)])
def test_as_many_rows_at_once_as_the_gpu_holds(monkeypatch, free, rows):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free * 2**30, 80 * 2**30))
    settings = TrainSettings(size="20m", batch_size=48, seq_len=4096)
    device = Device("cuda", torch.device("cpu"), "")
    assert fit_on_chip(settings, SIZES["20m"], device, PRECISIONS["tpu-bf16"]) == {
        "loss_chunk": None, "micro_batch": rows}
    given = TrainSettings(micro_batch=5, loss_chunk=64)
    assert fit_on_chip(given, SIZES["20m"], device, PRECISIONS["fp32"]) == {}


@pytest.mark.parametrize("parts", [dict(kind="xla", shards=8), dict(kind="tpu", world=8, rank=3)])
def test_what_a_chip_of_a_tpu_needs(parts):
    """The same for both backends: eight chips with eight rows each."""
    device = Device(torch_device=torch.device("cpu"), reason="", **parts)
    found = {}
    for size in ("20m", "150m"):
        settings = TrainSettings(size=size, recipe="card", batch_size=64, seq_len=4096)
        found[size] = fit_on_chip(settings, SIZES[size], device, PRECISIONS["tpu-bf16"])
    assert found == {"20m": {"loss_chunk": None}, "150m": {"recompute": True, "loss_chunk": 512}}


def test_what_torch_compile_lacks(monkeypatch):
    """Each thing in turn, from the first that is missing to a GPU that has all."""
    capability = [(6, 1)]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability[0])
    for name, find, tool, headers, words in [
        ("triton", None, "gcc", True, "the package triton"),
        ("cc", True, None, True, "a C compiler (gcc)"),
        ("headers", True, "gcc", False, "Python's headers (python3-dev)"),
        ("old", True, "gcc", True, "a GPU of compute capability 7.0"),
    ]:
        monkeypatch.setattr(compiled, "find_spec", lambda _, find=find: find)
        monkeypatch.setattr(shutil, "which", lambda _, tool=tool: tool)
        monkeypatch.setattr(compiled.Path, "is_file", lambda _, headers=headers: headers)
        assert compiled.lacking("cuda") == words, name
    capability[0] = (7, 5)
    assert compiled.lacking("cuda") is None and compiled.lacking("cpu") is None
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert compiled.lacking("cpu") == "a C++ compiler (g++)"
    assert compiled.lacking("tpu") is None


def test_a_device_decides_what_is_its_own(monkeypatch):
    """A run that moves to a device of another kind leaves the first one's compiling and micro-batch behind.
    """
    gpu, cpu, xla, tpu = (Device(kind, torch.device("cpu"), "") for kind in ("cuda", "cpu", "xla", "tpu"))
    monkeypatch.setattr(resolve, "lacking", lambda kind: None)
    values = default_values()
    assert for_device(values, gpu, {}) == dict(compile=True, fused=True)
    stored, moved = {"device": "cuda"}, {**values, "compile": True, "fused": True, "micro_batch": 16}
    assert for_device(moved, gpu, stored) == {}
    assert for_device(moved, cpu, stored) == dict(compile=False)
    assert for_device(moved, xla, stored) == dict(fused=False, compile=False, micro_batch="auto")
    assert for_device(values, cpu, {}) == dict(fused=True)
    assert for_device(values, tpu, {}) == dict(fused=False, compile=True)
    assert for_device({**values, "fused": False}, cpu, {}) == {}
    assert for_device(moved, tpu, stored) == dict(fused=False, micro_batch="auto")
    changes = for_device({**values, "micro_batch": 2}, gpu, {"device": "cpu"})
    assert changes == dict(fused=True, compile=True, micro_batch="auto")
    monkeypatch.setattr(resolve, "lacking", lambda kind: "a C compiler")
    assert for_device(values, gpu, {}) == dict(fused=True)
    assert for_device(moved, gpu, stored) == dict(compile=False)
    # asked for: check_settings says what is missing
    assert for_device({**values, "compile": True}, gpu, {}) == dict(fused=True)


def settings(corpus, out, **others):
    return (
        {
            "size": "tiny",
            "data": str(corpus),
            "out": str(out),
            "steps": 6,
            "seq_len": 64,
            "batch_size": 8,
            "eval_steps": 3,
            "max_eval_samples": 8,
            "warmup_steps": 1,
            "learning_rate": 1e-3,
            "recipe": "laptop",
            "precision": "fp32",
        }
        | others
    )


@on_gpu
def test_losses_equal_those_of_the_cpu_and_a_resumed_run_goes_on(generated, tmp_path):
    cpu = train(**settings(generated, tmp_path / "cpu", device="cpu")).losses
    gpu = train(**settings(generated, tmp_path / "gpu", device="cuda", micro_batch=4)).losses
    assert max(abs(a - b) for a, b in zip(cpu, gpu, strict=True)) < 1e-3
    first = train(**settings(generated, tmp_path / "part", device="cuda", micro_batch=4, stop_after=4))
    second = train(resume=str(first.folder))
    assert max(abs(a - b) for a, b in zip(gpu, first.losses + second.losses, strict=True)) < 1e-3


@on_gpu
@pytest.mark.parametrize("precision", ["tpu-bf16", "t4-fp16", "bf16"])
def test_recipes_run_and_stay_near_fp32(generated, tmp_path, precision):
    fp32 = train(**settings(generated, tmp_path / "fp32", device="cuda")).losses
    low = train(**settings(generated, tmp_path / precision, device="cuda", precision=precision)).losses
    assert max(abs(a - b) for a, b in zip(fp32, low, strict=True)) < 0.03
    assert (torch.get_float32_matmul_precision() == "high") == (precision != "t4-fp16")


@on_gpu
def test_no_form_of_attention_holds_the_scores():
    """4,096 tokens of 20m, forward and backward: the scores of one layer alone would take 0.3 GiB in 16 bits
    and 0.6 GiB in 32.
    """
    for dtype, masked, form in (
        (torch.bfloat16, False, attend),
        (torch.float32, False, attend),
        (torch.float16, True, attend),
        (torch.float16, False, attend_with_copies),
        (torch.float32, True, attend_with_copies),
    ):
        q, k, v = (
            torch.randn(1, heads, 4096, 32, device="cuda", dtype=dtype, requires_grad=True)
            for heads in (10, 2, 2)
        )
        mask = torch.ones(4096, 4096, dtype=torch.bool, device="cuda").tril() if masked else None
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        form(q, k, v, mask).sum().backward()
        assert torch.cuda.max_memory_allocated() - before < 0.2 * 2**30, (dtype, masked)


@on_gpu
def test_out_of_memory_halves_the_micro_batch(corpus, tmp_path, capfd):
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(2 * 2**30 / torch.cuda.mem_get_info()[1])
    try:
        changes = dict(steps=2, seq_len=1024, batch_size=64, micro_batch=64, eval_steps=2)
        history = train(**settings(corpus, tmp_path / "run", device="cuda", **changes))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert len(history.losses) == 2 and re.search(
        r"out of memory: continuing with --micro-batch \d+", capfd.readouterr().err
    )


@on_gpu
def test_graphs_give_the_tokens_of_the_plain_model(monkeypatch):
    """Across two recordings, for one row and for three, greedy and sampled; row i of a batch is the same
    alone.
    """
    monkeypatch.setattr(cuda_graph, "FEWEST", 32)
    # a training run under a bf16 recipe, before this in the process, asks for TF32
    torch.set_float32_matmul_precision("highest")
    torch.manual_seed(0)
    model = Llama(SIZES["20m"]).to("cuda").eval()
    step, ids = GraphDecoder(model), list(range(5, 25))
    assert sample.generate(model, ids, 60, temperature=0, next_logits=step) == sample.generate(
        model, ids, 60, temperature=0
    )
    wanted = sample.SampleSettings(max_new_tokens=60)
    rows = [sample.Draw(model, ids, wanted, seed) for seed in range(3)]
    together = [
        list(column) for column in zip(*(tokens for tokens, _ in sample.decode(model, ids, rows, step)))
    ]
    for seed in range(3):
        alone = sample.decode(model, ids, [sample.Draw(model, ids, wanted, seed)], step)
        assert [tokens[0] for tokens, _ in alone] == together[seed]
