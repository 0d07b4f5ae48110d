# SPDX-License-Identifier: Apache-2.0
"""sampling/speculate.py: the target's distribution, whatever the draft; and sampling/weights.py: what the
forms of the weights change.
"""
from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import sys

import pytest
import torch

import sample
import tokenizer
from common import UserError
from bench import weight_forms
from sampling import speculate, weights
from sampling.fast_decoder import FastDecoder
from model import SIZES, KVCache, Llama, ModelConfig
from sample import Draw, SampleSettings, decode, generate

PLAIN = SampleSettings(temperature=1.0, top_p=1.0, repetition_penalty=1.0, max_new_tokens=3)


def small(seed: int, vocab: int = 5, **changes) -> Llama:
    torch.manual_seed(seed)
    config = dataclasses.replace(
        SIZES["tiny"],
        vocab_size=vocab,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        head_dim=8,
        **changes,
    )
    model = Llama(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(8)
    return model


def exact(model: Llama, ids: list[int], settings: SampleSettings) -> dict[tuple[int, ...], float]:
    """The probability of each continuation of `max_new_tokens` tokens, by multiplying the model's own."""
    found = {(): 1.0}
    for _ in range(settings.max_new_tokens):
        longer = {}
        for new, mass in found.items():
            seen = Draw(model, ids + list(new), settings, 0).seen
            with torch.inference_mode():
                p = speculate.distribution(model(torch.tensor([ids + list(new)]))[0, -1], seen, settings)
            for token, chance in enumerate(p.tolist()):
                longer[new + (token,)] = mass * chance
        found = longer
    return found


FILTERED = dataclasses.replace(PLAIN, temperature=0.7, top_p=0.9, repetition_penalty=1.2)


@pytest.mark.parametrize("settings, draws", [
    (FILTERED, 400),
    pytest.param(PLAIN, 5000, marks=pytest.mark.slow),
    pytest.param(FILTERED, 5000, marks=pytest.mark.slow),
])
def test_distribution_is_the_targets(settings, draws):
    """Chi-square of the first three tokens over all 27 continuations; the draft is another model altogether.
    """
    target, draft, ids = small(1, 3), small(2, 3), [0, 2]
    expected = exact(target, ids, settings)
    counts, kept, proposed = dict.fromkeys(expected, 0), 0, 0
    for seed in range(draws):
        result = speculate.speculate(target, draft, ids, settings, seed, ahead=2)
        counts[tuple(result.ids)] += 1
        kept, proposed = kept + result.kept, proposed + result.proposed
    assert sum(counts.values()) == draws and 0.05 < kept / proposed < 0.95
    likely = [new for new, mass in expected.items() if mass * draws >= 5]
    pairs = [(counts[new], expected[new] * draws) for new in likely]
    rest = draws - sum(count for count, _ in pairs), draws - sum(mean for _, mean in pairs)
    chi_square = sum((count - mean) ** 2 / mean for count, mean in pairs + [rest] if mean > 1)
    freedom = len(pairs)
    assert chi_square < freedom + 4 * (2 * freedom) ** 0.5, (chi_square, freedom)
    wrong = exact(draft, ids, settings)  # the test would see the draft's distribution
    assert (
        sum((counts[new] - wrong[new] * draws) ** 2 / max(wrong[new] * draws, 1) for new in likely)
        > 4 * freedom
    )


@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_greedy_tokens_are_the_targets_own(penalty):
    target, draft = small(1, 50, max_position_embeddings=64), small(2, 50, max_position_embeddings=64)
    settings = SampleSettings(temperature=0, repetition_penalty=penalty, max_new_tokens=100)
    for ahead, helper in itertools.product([1, 4, 9], [draft, target]):
        result = speculate.speculate(
            target, helper, [3, 1, 4], settings, 0, ahead=ahead, draft_logits=FastDecoder(helper)
        )
        assert result.ids == generate(target, [3, 1, 4], 100, temperature=0, repetition_penalty=penalty)
        assert len(result.ids) == 61
        if helper is target:
            assert result.kept == result.proposed
    stop = result.ids[7]
    stopped = speculate.speculate(target, draft, [3, 1, 4], settings, 0, [stop])
    assert stopped.ids == result.ids[:result.ids.index(stop)]


def test_draft_with_a_shorter_context_is_left_behind():
    target, draft = small(1, 50, max_position_embeddings=64), small(2, 50, max_position_embeddings=16)
    settings = SampleSettings(temperature=0, repetition_penalty=1, max_new_tokens=40)
    assert speculate.speculate(target, draft, [1], settings, 0).ids == generate(
        target, [1], 40, temperature=0
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs of one vocabulary, and one of another."""
    folder = tmp_path_factory.mktemp("runs")
    vocabulary = tokenizer.load("builtin-4096")
    for seed, name in enumerate(("large", "small", "foreign")):
        torch.manual_seed(seed)
        model = Llama(dataclasses.replace(SIZES["tiny"], num_hidden_layers=2 if name == "large" else 1))
        model.save_pretrained(
            folder / name,
            eos_token_id=vocabulary.eos_id if name != "foreign" else 7,
            pad_token_id=vocabulary.pad_id,
        )
        (folder / name / "tokenmonster.vocab").write_bytes(vocabulary.vocab.to_bytes())
    return folder


def test_command_prints_acceptance_and_speed(runs, monkeypatch, capsys):
    monkeypatch.setattr(
        sys,
        "argv",
        [
            "sample.py",
            str(runs / "large"),
            "Hello there",
            "--draft",
            str(runs / "small"),
            "--max-new-tokens",
            "12",
        ],
    )
    assert sample.run(sample.main) == 0
    out = capsys.readouterr().out
    assert out.startswith("Hello there") and "proposed tokens kept" in out and "speed-up" in out
    monkeypatch.setattr(
        sys, "argv", ["sample.py", str(runs / "large"), "Hello there", "--draft", str(runs / "foreign")]
    )
    assert sample.run(sample.main) == 2
    log = capsys.readouterr().err
    assert "foreign" in log and "vocabulary" in log and log.count("\n") == 1


# --------------------------------------------------------------------------------------------------- quantize

def test_int8_rounds_each_weight_by_at_most_half_a_step():
    torch.manual_seed(0)
    weight = torch.randn(64, 32) * torch.logspace(-3, 1, 64)[:, None]
    product = weights.int8_product(weight)
    unit = torch.eye(32)
    error = (product(unit).T - weight).abs()
    step = weight.abs().amax(dim=1, keepdim=True) / 127
    # half a step, and BF16's rounding of scale and result
    assert bool((error <= 0.5 * step + 0.01 * weight.abs() + 1e-9).all())


@pytest.mark.parametrize(
    "form, limit", [("fp32", 1e-4), ("bf16", 0.05), ("int8", 0.05), ("int8-dynamic", 0.2)]
)
@pytest.mark.parametrize("size", ["20m", "30m"])
def test_forms_stay_near_fp32_and_the_step_equals_the_model(form, limit, size):
    torch.manual_seed(0)
    model = Llama(dataclasses.replace(SIZES[size], num_hidden_layers=2)).eval()
    ids = torch.randint(model.config.vocab_size, (2, 12))
    with torch.inference_mode():
        whole = model(ids)
        changed, step = weights.quantized(model, form)
        logits = changed(ids)
        assert float((logits - whole).norm() / whole.norm()) < limit
        cache = KVCache(model.config, 2, 12)
        changed.model(ids[:, :-1], cache)
        last = step(ids[:, -1:], cache)
    assert float((last - logits[:, -1]).norm() / logits[:, -1].norm()) < max(limit, 1e-4)


@pytest.mark.parametrize("form, limit", [
    ("fp32", 1e-5), ("bf16", 0.02), ("bf16 rows", 0.02), ("int8", 0.03), ("int8-dynamic", 0.1),
])
def test_forms_take_every_width_and_no_row_depends_on_the_others(form, limit):
    """Each product beside the exact one, for widths that are not multiples of what a kernel reads at once.

    One row is a thousand times larger than the others. FP32 sums may be in another order for several rows;
    the other forms give the same bits.
    """
    draw = torch.Generator().manual_seed(0)
    for width, outputs in itertools.product((1, 2, 7, 30, 43, 64, 172), (1, 5, 33, 64)):
        weight = torch.randn(outputs, width, generator=draw)
        sizes = torch.tensor([1, 1000, 0.01, 1, 1])[:, None]  # (B, 1)
        x = torch.randn(5, width, generator=draw) * sizes  # (B, in)
        product = {**weights.FORMS, "bf16 rows": weights.bf16_row_product}[form](weight)
        with torch.inference_mode():
            together = product(x).float()  # (B, out)
            alone = torch.cat([product(row).float() for row in x.split(1)])  # (B, out)
        bound = limit * x.norm(dim=1, keepdim=True) * weight.norm(dim=1)  # (B, out)
        assert bool(((together - x @ weight.T).abs() <= bound).all()), (width, outputs)
        if form == "fp32":
            assert bool(((together - alone).abs() <= bound).all())
        else:
            assert torch.equal(together, alone), (width, outputs)


@pytest.mark.parametrize("form", list(weights.FORMS))
def test_an_odd_model_answers_in_every_form_and_row_i_is_the_same_alone(form):
    """The width 172 of this MLP is not a multiple of 16."""
    torch.manual_seed(0)
    model = Llama(ModelConfig(4096, 64, 172, 2, 4, 2, 16, 256)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(3)
    model, decoder = weights.quantized(model, form)
    ids, settings = [5, 6, 7], SampleSettings(max_new_tokens=20)
    draws = [Draw(model, ids, settings, seed) for seed in range(3)]
    steps = [tokens for tokens, _ in decode(model, ids, draws, decoder)]
    for seed in range(3):
        draw = Draw(model, ids, settings, seed)
        alone = [tokens[0] for tokens, _ in decode(model, ids, [draw], decoder)]
        assert alone == [tokens[seed] for tokens in steps]


def test_bytes_read_and_unknown_form():
    model = Llama(dataclasses.replace(SIZES["tiny"]))
    tied = sum(p.numel() for p in model.parameters())
    assert weight_forms.bytes_read(model, "fp32") == 4 * tied
    assert weight_forms.bytes_read(model, "int8") < 1.05 * tied
    with pytest.raises(UserError, match="int4"):
        weights.quantized(model, "int4")


def test_table_of_forms(runs, tmp_path, monkeypatch, capsys):
    (tmp_path / "text.txt").write_text("The cat sat on the mat. " * 10)
    monkeypatch.setattr(
        sys, "argv", ["weight_forms.py", str(runs / "large"), str(tmp_path / "text.txt"), "--tokens", "4"]
    )
    assert weight_forms.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(weights.FORMS)
    assert lines[1].split()[3] == "+0.0000" and all(abs(float(line.split()[3])) < 0.1 for line in lines[1:])


# -------------------------------------------------------------------------------------------------- benchmark

def test_benchmark_prints_every_way_beside_the_memory(runs, tmp_path, monkeypatch, capsys):
    pytest.importorskip("transformers", reason="transformers is what is compared with")
    from bench import decoding as bench_sample
    (tmp_path / "text.txt").write_text("The cat sat on the mat. " * 10)
    monkeypatch.setattr(bench_sample, "memory_bandwidth", lambda device: 1e10)
    monkeypatch.setattr(
        sys,
        "argv",
        [
            "bench_sample.py",
            "--run",
            str(runs / "large"),
            "--contexts",
            "12",
            "--tokens",
            "4",
            "--rounds",
            "1",
            "--text",
            str(tmp_path / "text.txt"),
        ],
    )
    assert bench_sample.main() == 0
    out = capsys.readouterr().out
    ways = ["transformers fp32", "plain step fp32", *(f"ours {form}" for form in weights.FORMS)]
    if importlib.util.find_spec("llama_cpp"):
        ways += [f"llama.cpp {kind}" for kind in bench_sample.LLAMA_CPP.values()]
    rows = [line[20:].split() for line in out.splitlines() if line[:20].strip() in ways]
    assert len(rows) == len(ways) and rows[0][1] == "1.00" and all(float(row[0]) > 0 for row in rows)
    assert len(
        [line for line in out.splitlines() if line.split() and line.split()[0] in weights.FORMS]
    ) == len(weights.FORMS)
    monkeypatch.setattr(sys, "argv", ["bench_sample.py", "--text", "x"])
    assert sample.run(bench_sample.main) == 2
