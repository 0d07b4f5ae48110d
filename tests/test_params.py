# SPDX-License-Identifier: Apache-2.0
"""params.py: counts against real models and the cards' published numbers, memory against measured peaks,
command line and JSON.
"""
import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import params
from common import UserError
from audit import cost
from in_process import run_script
from model import SIZES, KVCache, Llama, ModelConfig
from params import arithmetic, count, embedding_share, flops, kv_cache_bytes, training_memory

ROOT = Path(__file__).resolve().parent.parent

# Published: total, embedding share in percent (the cards' family table and breakdowns).
PUBLISHED = {
    "12m-v1": (12.0, 52.2), "30m-v1": (30_419_712, 27.6), "12m": (12.3, 16.8), "30m": (30_353_920, 13.6),
    "20m": (20_324_160, 12.9), "50m": (49.4, 8.5), "150m": (151_026_432, 16.7),
}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    """Call `params.py ARGS` in this process and return what it prints."""
    def call(*args: str) -> str:
        monkeypatch.setattr(sys, "argv", ["params.py", *args])
        assert params.main() == 0
        return capsys.readouterr().out
    return call


# ------------------------------------------------------------------------------------------------- parameters

@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_count_is_the_sum_over_the_real_model(size: str, tied: bool):
    config = dataclasses.replace(SIZES[size], tie_word_embeddings=tied)
    with torch.device("meta"):
        model = Llama(config)
    found = dict.fromkeys(("embedding", "lm_head", "attention", "mlp", "norms", "final_norm"), 0)
    kinds = {
        "embed_tokens": "embedding",
        "lm_head": "lm_head",
        "self_attn": "attention",
        "mlp.": "mlp",
        "layernorm": "norms",
        "model.norm": "final_norm",
    }
    for name, parameter in model.named_parameters():
        found[next(kind for part, kind in kinds.items() if part in name)] += parameter.numel()
    assert count(config) == {**found, "total": sum(found.values())}


def test_count_of_odd_shapes():
    """Widths that are not heads * head_dim, an odd vocabulary, one layer."""
    for heads, kept, width, hidden in ((3, 1, 10, 48), (4, 4, 6, 10), (6, 2, 128, 64)):
        for tied in (True, False):
            config = ModelConfig(97, hidden, 33, 1, heads, kept, width, 16, tie_word_embeddings=tied)
            assert count(config)["total"] == sum(p.numel() for p in Llama(config).parameters())


@pytest.mark.parametrize("size", PUBLISHED)
def test_published_totals_and_shares(size: str):
    total, share = PUBLISHED[size]
    found = count(SIZES[size])["total"]
    assert found == total if isinstance(total, int) else round(found / 1e6, 1) == total
    assert round(embedding_share(SIZES[size]), 1) == share


def test_arithmetic_of_the_20m_card_line_by_line():
    lines = {name: value for name, (_, value) in arithmetic(SIZES["20m"]).items()}
    assert lines == {
        "kv_dim": 64,
        "q_proj": 102_400,
        "k_proj": 20_480,
        "v_proj": 20_480,
        "o_proj": 102_400,
        "attention": 245_760,
        "mlp": 1_228_800,
        "norms": 640,
        "per_layer": 1_475_200,
        "layers": 17_702_400,
        "embedding": 1_310_720,
        "lm_head": 1_310_720,
        "final_norm": 320,
        "total": 20_324_160,
    }


def test_components_add_up():
    for config in SIZES.values():
        parts = count(config)
        assert sum(parts.values()) == 2 * parts["total"]


def test_impossible_shape_is_one_error_with_all_problems():
    with pytest.raises(UserError) as error:
        count(ModelConfig(0, 64, -1, 2, 4, 3, 15, 64))
    parts = (
        "vocab_size must",
        "intermediate_size must",
        "num_attention_heads 4 is not a multiple of num_key_value_heads 3",
        "head_dim 15 is odd",
    )
    assert [part for part in parts if part not in str(error.value)] == []


# ----------------------------------------------------------------------------------------------------- memory

def test_kv_cache_formula_is_the_real_cache():
    for size in ("tiny", "20m", "12m-v1"):
        cache = KVCache(SIZES[size], 3, 40, dtype=torch.bfloat16)
        assert kv_cache_bytes(SIZES[size], 40, 3, 2) == cache.keys.nbytes + cache.values.nbytes


def test_kv_cache_of_the_cards():
    assert kv_cache_bytes(SIZES["150m"], 4096, 1, 4) == 160 * 2**20          # the card's 160 "MB" are MiB
    assert kv_cache_bytes(SIZES["20m"], 4096, 1, 4) == 24 * 2**20            # the card has 12
    mha = dataclasses.replace(SIZES["20m"], num_key_value_heads=10)
    assert 1 - kv_cache_bytes(SIZES["20m"], 4096) / kv_cache_bytes(mha, 4096) == pytest.approx(0.8)


def test_weights_table():
    table = params.memory_tables("20m", SIZES["20m"], 4096, 1)[0]
    rows = {row[0]: dict(zip(table.columns, row)) for row in table.rows}
    assert list(rows) == ["FP32", "FP16/BF16", "INT8", "INT4"]
    assert "MB (10^6 bytes)" in table.title and round(rows["FP16/BF16"]["weights"], 1) == 40.6
    assert rows["FP16/BF16"]["KV cache with MHA"] == pytest.approx(5 * rows["FP16/BF16"]["KV cache"])


def test_training_table():
    table = params.memory_tables("tiny", SIZES["tiny"], 64, 2)[1]
    peaks = next(dict(zip(table.columns, row)) for row in table.rows if row[0] == "peak")
    for name, autocast, recompute in (("FP32", False, False), ("FP32 recompute", False, True),
                                      ("16-bit", True, False), ("16-bit recompute", True, True)):
        expected = training_memory(SIZES["tiny"], 2, 64, autocast, recompute)["peak"]
        assert peaks[name] == expected / 1e6


def saved_for_backward(config: ModelConfig, batch: int, length: int, autocast: bool) -> int:
    """Bytes that autograd really keeps for one forward pass without the loss, parameters and rotary tables
    not counted.
    """
    model = Llama(config)
    known = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in known and tensor.is_floating_point():
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=autocast),
    ):
        logits = model(torch.zeros(batch, length, dtype=torch.long))
    assert logits.shape == (batch, length, config.vocab_size)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("shape", ["tiny", "20m", "12m-v1"])
def test_activations_are_what_autograd_keeps(shape: str):
    config = dataclasses.replace(SIZES[shape], num_hidden_layers=3, vocab_size=512)
    predicted = training_memory(config, 2, 48)["activations"]
    assert predicted == pytest.approx(saved_for_backward(config, 2, 48, autocast=False), rel=0.01)


def test_activations_under_autocast():
    config = dataclasses.replace(SIZES["tiny"], vocab_size=512)
    memory = training_memory(config, 4, 256, autocast=True)
    kept = saved_for_backward(config, 4, 256, autocast=True)
    assert memory["activations"] + memory["16-bit copies"] == pytest.approx(kept, rel=0.03)


MEASURE = """
import sys, torch
sys.path.insert(0, {root!r})
from torch.utils.checkpoint import checkpoint
from training.chunked_loss import ChunkedLoss
from precision import apply_precision
from model import SIZES, Llama, next_token_loss
torch.set_num_threads(1)

def again(function, *inputs):
    return checkpoint(function, *inputs, use_reentrant=False)

def step(model, ids, optimizer, chunk=None):
    if chunk:
        ChunkedLoss(model, chunk, again)(ids)[0].backward()
    else:
        logits = model(ids)
        next_token_loss(logits, ids).backward()
    optimizer.step()

def status(key):
    return int(next(line for line in open("/proc/self/status") if line.startswith(key)).split()[1]) * 1024

def prepared(size, recompute):
    model = apply_precision(Llama(SIZES[size]), "fp32", "cpu")
    if recompute:
        model.model.recompute = again
    return model, torch.optim.AdamW(model.parameters(), foreach=False)

small, optimizer = prepared("tiny", True)
step(small, torch.zeros(1, 8, dtype=torch.long), optimizer, 4)            # load libraries and kernels first
del small, optimizer
before = status("VmRSS")
model, optimizer = prepared({size!r}, {recompute})
for parameter in model.parameters():
    parameter.grad = torch.zeros_like(parameter)
optimizer.step()                                                    # the moments exist from here
optimizer.zero_grad(set_to_none=True)
open("/proc/self/clear_refs", "w").write("5")                       # the high-water mark begins again
step(model, torch.randint(4096, ({batch}, {length})), optimizer, {chunk})
print(status("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak of a process from /proc")
@pytest.mark.parametrize(("size", "batch", "length", "recompute", "chunk"), [
    ("tiny", 16, 256, False, None), ("20m", 4, 256, False, None), ("20m", 8, 256, True, None),
    ("30m", 4, 256, False, None),
    ("12m-v1", 4, 256, False, None), ("12m-v1", 4, 256, False, 32), ("12m-v1", 8, 256, True, 64)])
def test_training_memory_is_the_measured_peak(
    size: str, batch: int, length: int, recompute: bool, chunk: int | None
):
    """Within 15% of the resident peak of one real step in its own process (glibc told to give freed memory
    back at once).
    """
    script = MEASURE.format(
        root=str(ROOT), size=size, batch=batch, length=length, recompute=recompute, chunk=chunk
    )
    settings = {
        "MALLOC_MMAP_THRESHOLD_": "1000000",
        "MALLOC_TRIM_THRESHOLD_": "1000000",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=settings, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr
    predicted = training_memory(SIZES[size], batch, length, recompute=recompute, loss_chunk=chunk)["peak"]
    shape = f"{size} {batch} x {length} recompute {recompute} chunk {chunk}"
    print(f"{shape}: measured {int(done.stdout) / 1e6:.0f} MB, predicted {predicted / 1e6:.0f} MB")
    assert predicted == pytest.approx(int(done.stdout), rel=0.15)


def test_the_tpu_compilers_figure_stands_beside_the_prediction():
    notes = params.memory_tables("150m", SIZES["150m"], 4096, 1)[1].notes
    assert any("torch_xla, flash, layers recomputed" in note for note in notes)
    assert any("torchtpu, flash" in note for note in notes)
    figures = [note for note in notes if "its compiler" in note]
    form = r"compiler \d+\.\d\d GiB of 15.75 \(20\d\d-\d\d-\d\d\), our formula's peak \d+\.\d\d$"
    assert len(figures) == 2 and all(re.search(form, line) for line in figures), figures
    assert not [
        note for note in params.memory_tables("tiny", SIZES["tiny"], 64, 1)[1].notes if "compiler" in note
    ]


def test_recompute_accumulate_and_autocast_move_the_peak_the_right_way():
    plain = training_memory(SIZES["20m"], 8, 512)
    assert training_memory(SIZES["20m"], 8, 512, recompute=True)["peak"] < 0.5 * plain["peak"]
    assert (
        training_memory(SIZES["20m"], 8, 512, accumulate=True)["peak"] == plain["peak"] + plain["gradients"]
    )
    assert training_memory(SIZES["20m"], 8, 512, autocast=True)["peak"] < plain["peak"]


# ---------------------------------------------------------------------------------------------------- compute

def test_flops_convention_against_torch_counter():
    """The counter sees matrix products only: 2 FLOPs a multiply-add, attention in full, the lookup of an
    untied embedding not counted.
    """
    from torch.utils.flop_counter import FlopCounterMode

    from model import attention_written_out
    config = dataclasses.replace(SIZES["20m"], num_hidden_layers=2)
    model = Llama(config, attend=attention_written_out)
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 64, dtype=torch.long))
    norms = count(config)["norms"] + count(config)["final_norm"]
    assert counter.get_total_flops() == pytest.approx(
        64 * (flops(config, 64)["training matmul"] / 3 - 2 * norms), rel=1e-9
    )


def test_flops_of_the_20m_card():
    work = flops(SIZES["20m"], 4096)
    assert work["training"] == 6 * 20_324_160 + 12 * 12 * 10 * 32 * 4096 == 3 * work["forward"]
    assert work["training causal"] == 6 * 20_324_160 + 6 * 12 * 10 * 32 * 4096


def test_run_of_the_20m_card():
    table = cost.compute_table("20m", SIZES["20m"], 4096, 8.5e9, 262144)
    rows = {row[0]: row[1] for row in table.rows}
    assert rows["steps"] == 32425
    assert round(rows["tokens per parameter"], 1) == 418.2
    assert round(rows["thousand tokens per token type"], 3) == 2_075.195
    assert round(rows["MFLOP per token, training"], 2) == 310.69
    times = cost.time_table("20m", flops(SIZES["20m"], 4096)["training"], 8.5e9, 304_000, 0.4, None)
    row = dict(zip(times.columns, times.rows[0]))
    assert row["device"] == "TPU v5e-8" and row["hours"] == pytest.approx(7.767, abs=0.001)
    assert row["% of peak"] == pytest.approx(6.0, abs=0.05)
    assert row["kWh"] == pytest.approx(1.6 * row["hours"]) and row["kg CO2"] == pytest.approx(
        0.37 * row["kWh"]
    )


def test_utilization_and_throughput_agree():
    work = flops(SIZES["150m"], 4096)["training"]
    rate = 0.4 * cost.HARDWARE["H200"].peak / work
    by_rate = {row[0]: row for row in cost.time_table("x", work, 6e9, rate, 0.1, None).rows}
    by_share = {row[0]: row for row in cost.time_table("x", work, 6e9, None, 0.4, None).rows}
    assert by_rate["H200"][5] == pytest.approx(by_share["H200"][5])


def test_what_if_vocabularies():
    table = cost.what_if("20m", SIZES["20m"], 4096, 8.5e9)
    rows = {(row[0], row[1]): dict(zip(table.columns, row)) for row in table.rows}
    assert len(rows) == 6 and rows[4096, "untied"]["parameters"] == 20_324_160
    assert (
        rows[32768, "untied"]["parameters"] - rows[4096, "untied"]["parameters"] == 2 * (32768 - 4096) * 320
    )
    assert (
        rows[32768, "tied"]["embedding %"]
        > rows[8064, "tied"]["embedding %"]
        > rows[4096, "tied"]["embedding %"]
    )


# ----------------------------------------------------------------------------------------------- command line

def test_size_shows_breakdown_and_arithmetic(run):
    text = run("--size", "20m")
    for part in (
        "20,324,160",
        "kv_dim",
        "= 2 key/value heads * 32 head_dim",
        "transformer layers x12",
        "embedding share 12.9%",
    ):
        assert part in text


def test_all_is_the_family(run):
    rows = json.loads(run("--all", "--json"))["tables"][0]["rows"]
    assert [row["model"] for row in rows] == list(params.FAMILY)
    assert rows[-1]["total"] == 151_026_432


@pytest.mark.parametrize("flags", ["--all", "--all --memory", "--size 20M --flops", "--audit"])
def test_tables_fit_80_columns(run, flags):
    assert max(map(len, run(*flags.split()).splitlines())) <= 80


def test_json_of_every_section(run):
    answer = json.loads(
        run("--size", "150m", "--memory", "--flops", "--batch", "2", "--context", "1024", "--json")
    )
    titles = [table["title"] for table in answer["tables"]]
    assert len(titles) == 5 and answer["models"]["150m"]["parameters"]["total"] == 151_026_432
    assert all(table["rows"] and table["notes"] is not None for table in answer["tables"])


def test_architecture_flags(run):
    answer = json.loads(
        run(
            "--vocab-size",
            "4096",
            "--hidden-size",
            "512",
            "--intermediate-size",
            "1536",
            "--num-hidden-layers",
            "15",
            "--num-attention-heads",
            "8",
            "--num-key-value-heads",
            "2",
            "--no-tie-word-embeddings",
            "--json",
        )
    )
    (model,) = answer["models"].values()
    assert model["config"]["head_dim"] == 64 and model["parameters"]["total"] == 49_430_016


def test_config_file_run_folder_and_model_folder(tmp_path: Path):
    Llama(SIZES["tiny"]).save_pretrained(tmp_path / "run" / "best")
    total = count(SIZES["tiny"])["total"]
    for path in (tmp_path / "run", tmp_path / "run" / "best", tmp_path / "run" / "best" / "config.json"):
        args = params.parser().parse_args([str(path)])
        assert [count(config)["total"] for config in params.chosen(args).values()] == [total]


@pytest.mark.parametrize(("args", "message"), [
    (["--size", "20m", "--hidden-size", "321", "--vocab-size", "0", "--num-key-value-heads", "3"],
    "not a multiple of 10 heads"),
    (["--num-key-value-heads", "3", "--head-dim", "31"], "odd"),
    (["--all", "--size", "20m"], "give one of"),
    (["--utilization", "40"], "--utilization"),
    (["--batch", "0"], "at least 1"),
    (["--context", "2048"], "--context changes no parameter count; give it with --memory or --flops"),
    (["--all", "--step-tokens", "8k"], "--step-tokens changes no parameter count"),
    (["--hiden-size", "512"], "did you mean --hidden-size?"),
    (["nowhere"], "no such run or model folder"),
    (["--audit", "nowhere"], "no such run or model folder"),
    (["--plot", "x.nosuchformat"], "nosuchformat"),
])
def test_mistakes_are_one_clear_line(
    args: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["params.py", *args])
    with pytest.raises(UserError) as error:
        params.main()
    assert message in str(error.value) and "\n" not in str(error.value)


def test_exit_code_of_a_mistake():
    done = run_script("params.py", "--num-key-value-heads", "3", "--head-dim", "31")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "not a multiple" in done.stderr and "odd" in done.stderr


def test_plot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    monkeypatch.setattr(sys, "argv", ["params.py", "--all", "--plot", str(tmp_path / "family.png")])
    assert params.main() == 0
    assert (tmp_path / "family.png").read_bytes().startswith(b"\x89PNG")
    assert f"written: {tmp_path / 'family.png'}" in capsys.readouterr().out


def test_measure_this_machine():
    reached = cost.measure(SIZES["tiny"], seconds=0.05)
    assert 1e6 < reached < 1e15
    table = cost.time_table("tiny", flops(SIZES["tiny"], 1024)["training"], 1e6, None, 0.4, reached)
    row = dict(zip(table.columns, table.rows[-1]))
    assert row["device"] == "this machine" and row["hours"] > 0 and row["% of peak"] is None
