# SPDX-License-Identifier: Apache-2.0
"""The audit: the rule of rounding, the search for corrections, every finding by id, and the audit of a folder
of our own.
"""
import dataclasses
import json
import math
import random
import sys
from pathlib import Path

import pytest

import params
from common import UserError, read_json
from audit import all as every_card
from audit import cards as audit
from audit import results as audit_results
from audit import shapes as audit_shapes
from audit import runs as audit_training
from audit.cards import agree, interval, spread
from model import SIZES, Llama
from params import count, embedding_share, kv_cache_bytes, read_cards
from publishing import card, card_audit
from training.read_run import read_run

ROOT = Path(__file__).resolve().parent.parent
# id -> verdict of every finding, read through by hand: the published numbers that are consistent, the errors,
# what nothing decides.
EXPECTED = dict(
    reversed(line.split("\t")) for line in (ROOT / "tests" / "audit_expected.txt").read_text().splitlines()
)


@pytest.fixture(scope="module")
def findings() -> dict[str, audit.Finding]:
    return {finding.id: finding for finding in every_card.audit()}


# --------------------------------------------------------------------------------------------------- rounding

@pytest.mark.parametrize(("stated", "expected"), [
    (52.2, (52.15, 52.25)), (12.0, (11.95, 12.05)), (33, (32.5, 33.5)), (80, (79.5, 80.5)),
    ("~304,000", (303_500, 304_500)), (31600, (31_550, 31_650)),
    ("~8.16h", (8.155, 8.165)), ("~67.2B", (67.15e9, 67.25e9)), ("~2.1 million", (2.05e6, 2.15e6)),
    ("~30MB", (29.5, 30.5)), ("8x", (7.5, 8.5)),
    ("15-point", (14.5, 15.5)), ("32K BPE", (31_500, 32_500)), ("over 86%", (86, math.inf)),
    ("above 5.0", (5, math.inf)), ("about 4.0+", (4, math.inf)),
    ("< 1.0 kg", (-math.inf, 1)), ("3:1", (2.5, 3.5)), ("800M", (750e6, 850e6)), (1e-05, (0.5e-5, 1.5e-5)),
    (0.00408, (0.004075, 0.004085)),
])
def test_interval(stated, expected):
    assert interval(stated) == pytest.approx(expected)


def test_interval_of_a_column_and_of_an_exact_count():
    assert interval(0.28, 4) == pytest.approx((0.27995, 0.28005))
    assert interval(102_400, exact=True) == (102_400, 102_400)
    assert interval(100, 0) == (99.5, 100.5)
    with pytest.raises(ValueError, match="no number"):
        interval("first two")


def test_every_rounding_of_a_value_agrees_with_it():
    for value in (0.0109, 3.14159, 72.55208, 418.2216, 20_324_160, 28_871):
        # "70" does not say that it is rounded to tens
        for digits in range(1 if value > 100 or value < 10 else 2, 9):
            rounded = float(f"{value:.{digits - 1}e}")
            text = f"{rounded:.{max(0, digits - 1 - math.floor(math.log10(value)))}f}"
            assert agree(interval(text), value), (text, value)


def test_agreement_counts_the_rounding_of_the_inputs():
    # 2.44, published as ~2.5 from a rounded 29.9
    gap = spread(lambda a, b: a - b, interval(29.9), interval(27.46, 2))
    assert agree(interval("~2.5"), gap) and not agree(interval("~2.5"), 29.9 - 27.46)


def test_bf16_interval_is_the_rounding_of_bf16():
    import torch
    for loss in (4.8125, 2.6406, 2.8594, 3.1406, 5.3438):
        low, high = audit_training.bf16_interval(loss)
        stored = (
            torch.tensor([low * 1.00001, high * 0.99999, low * 0.99999, high * 1.00001]).bfloat16().float()
        )
        assert [abs(value - loss) < 1e-4 for value in stored.tolist()] == [True, True, False, False]


# ----------------------------------------------------------------------------------------------------- search

def test_search_finds_every_single_field_correction():
    """Break each size in each field: the search must find the way back, and every value that it names must
    fit.
    """
    for size in params.FAMILY:
        right = SIZES[size]
        total, share = (
            interval(round(count(right)["total"] / 1e6, 1)),
            interval(round(embedding_share(right), 1)),
        )
        scaled = (total[0] * 1e6, total[1] * 1e6)
        for field in ("num_hidden_layers", "intermediate_size", "vocab_size", "head_dim"):
            broken = dataclasses.replace(right, **{field: getattr(right, field) // 2})
            found = audit_shapes.corrections(broken, scaled, share)
            assert getattr(right, field) in found[field]
            for name, values in found.items():
                for value in values:
                    fixed = dataclasses.replace(broken, **{name: value})
                    assert agree(scaled, count(fixed)["total"]) and agree(share, embedding_share(fixed))


def test_the_round_correction_is_preferred():
    assert audit_shapes.roundest({"intermediate_size": [853, 854], "num_hidden_layers": [12]}) == (
        "num_hidden_layers",
        12,
    )
    assert audit_shapes.roundest({"intermediate_size": list(range(764, 772)), "head_dim": [112]}) == (
        "intermediate_size",
        768,
    )
    assert audit_shapes.roundest({}) is None


# --------------------------------------------------------------------------------------------------- findings

def test_every_finding_by_id(findings: dict[str, audit.Finding]):
    assert {name: finding.verdict for name, finding in findings.items()} == EXPECTED


def test_ids_are_unique_and_fields_complete():
    found = every_card.audit()
    assert len({finding.id for finding in found}) == len(found)
    facts = read_json(ROOT / "cards" / "cards.json")["models"]
    for finding in found:
        _, model, group, key = finding.where.split(".")
        sources = [(statement["card"], statement["section"]) for statement in facts[model][group][key]]
        assert (finding.card, finding["section"]) in sources
        assert finding.verdict in audit.VERDICTS and finding.formula
        assert finding.correction is None or set(finding.correction) == {"field", "stated", "value"}


def test_every_statement_is_looked_at(findings: dict[str, audit.Finding]):
    facts = read_json(ROOT / "cards" / "cards.json")["models"]
    paths = {
        f"models.{model}.{group}.{key}"
        for model, groups in facts.items()
        for group, keys in groups.items()
        for key in keys
    }
    assert {finding.where for finding in findings.values()} == paths


def test_facts_are_those_of_the_shared_folder(shared: Path):
    source = json.loads((shared / "cards" / "cards.json").read_text(encoding="utf-8"))["models"]
    for model, groups in read_json(ROOT / "cards" / "cards.json")["models"].items():
        for group, keys in groups.items():
            for key, statements in keys.items():
                original = source[model][group][key]
                assert statements == (original if isinstance(original, list) else [original])


@pytest.mark.parametrize(("name", "stated", "computed", "correction"), [
    ("12m-v1.parameters.total.stentor3-family-table", 12.0, 10.608192, ("num_hidden_layers", 9, 12)),
    ("12m-v1.parameters.embedding_share_percent", 52.2, 59.3, ("num_hidden_layers", 9, 12)),
    ("12m-v1.architecture.num_hidden_layers", 9, 12, ("num_hidden_layers", 9, 12)),
    ("12m.parameters.total.stentor3-family-table", 12.3, 9.935104, ("intermediate_size", 512, 768)),
    ("12m.architecture.intermediate_size.portimbria-family-table", 512, 768, ("intermediate_size", 512, 768)),
    ("20m.architecture.num_attention_heads.stentor3-gqa-explanation", 8, 10, ("num_attention_heads", 8, 10)),
    ("20m.architecture.num_attention_heads.stentor3-family-table", 5, 10, ("num_attention_heads", 5, 10)),
    ("20m.architecture.kv_cache_reduction_percent.stentor3-gqa-explanation", 75, 80, None),
    ("20m.memory.vram_table_4096_ctx.kv-cache-fp32", 12, 24, None),
    ("20m.memory.vram_table_4096_ctx.kv-cache-fp16-bf16", 6, 12, None),
    ("150m.memory.vram_table_4096_ctx.total-fp32", 764, 771.9, None),
    ("30m.use_cases.fp16_size", "~30MB", 57.9, None),
    ("150m.use_cases.fp16_size", "~600MB", 302.1, None),
    ("20m.lora.stated_trainable", "~0.8M", 393_216, None),
    ("150m.lora.stated_trainable", "~3.1M", 1_638_400, None),
    ("20m.parameters.component_table.ffn-all-layers-percent", 72.5, 72.552, None),
    ("20m.throughput.training_time", "~8.16h", 8.1453, None),
    ("30m.throughput.tokens_per_s", [45000, 46000], 32_921, None),
    ("150m.throughput.global_tokens_per_s", 253_000, 207_821, None),
    ("30m.throughput.end_step.budget", 30_300, 97_656.25, None),
    ("20m.tokenizer.tokens_needed_for_same_coverage_at_32k", "~67.2B", 66.40625e9, None),
    ("30m-v1.hardware.accelerator.portimbria-comparison-across-the-family", "2× T4", 1,
    ("accelerator", "2× T4", 1)),
])
def test_errors_with_their_numbers(
    findings: dict[str, audit.Finding], name: str, stated, computed: float, correction
):
    finding = findings[name]
    assert finding.verdict == "inconsistent" and finding.stated == stated
    assert finding.computed == pytest.approx(computed, rel=1e-3)
    assert finding.correction == (dict(zip(("field", "stated", "value"), correction)) if correction else None)


@pytest.mark.parametrize("name", [
    "150m.memory.vram_table_4096_ctx.kv-cache-fp32",                   # 160 "MB" are MiB
    # the card itself says that its wall-clock holds evaluation and saving
    "20m.throughput.global_tokens_per_s",
    "150m.results.best_step_perplexity",  # 18.03 and 18.0 of one loss: BF16 rounds the loss
    "20m.checkpoint_history.table.perplexity-1000",  # exp(4.8125) is 123.04, stated 122.9: the same
    "150m.benchmarks.hellaswag_gap_pythia",  # 2.44 as ~2.5, from a 29.9 that was rounded itself
    "30m.tokenizer.padding_tokens",  # 8,000 + 62 is 8,062: EOS and BOS are the other two
    "20m.tokenizer.occurrences_per_type_32k",                         # 266,000 with 32,000 types
    "30m.blimp.category_averages.agreement",                          # 88 with the irregular forms counted in
    "150m.meta.chinchilla_tokens_per_parameter", "30m.results.reduction_vs_v1_percent",
    "20m.training_dynamics.initial_loss",
])
def test_what_rounding_or_the_card_itself_explains_is_consistent(
    findings: dict[str, audit.Finding], name: str
):
    assert findings[name].verdict == "consistent", findings[name]


def test_means_over_chance_depend_on_the_rounding_of_the_scores(findings: dict[str, audit.Finding]):
    """The plain mean of Pythia-31M's published scores is 0.01094, stated 0.0110: ten scores rounded to four
    digits allow it.
    """
    finding = findings["20m.benchmarks.peer_table.pythia-31m-average"]
    assert finding.verdict == "consistent" and finding.computed[1] > 0.01095


def test_blimp_readings_are_exhaustive():
    cards = audit.Audit(read_cards())
    tasks = cards["Stentor2-30M"].rows("blimp.task_accuracy")
    used = {task["blimp_term"] for task in tasks}
    named = {
        term for terms, optional in audit_results.CATEGORIES.values() for term in [*terms.split(), *optional]
    }
    assert used - {"quantifiers"} <= named
    assert len(audit_results.category_means(tasks, "NPI Licensing")) == 8


def test_a_changed_fact_changes_the_verdict():
    """The audit computes: with the errors put right in the data, the findings are consistent; with a new
    error, it is found.
    """
    facts = read_json(ROOT / "cards" / "cards.json")["models"]
    facts["Stentor-12M v1"]["architecture"]["num_hidden_layers"][0]["value"] = 12
    facts["Stentor3-20M"]["parameters"]["q_proj"][0]["value"] = 102_401
    cards = audit.Audit(facts)
    for part in audit_shapes.PARTS:
        part(cards)
    verdicts = {finding.id: finding.verdict for finding in cards.findings}
    assert (
        verdicts["12m-v1.parameters.total.stentor3-family-table"]
        == verdicts["12m-v1.architecture.num_hidden_layers"]
        == "consistent"
    )
    assert verdicts["20m.parameters.q_proj"] == "inconsistent"


def test_our_own_tables_agree():
    assert audit_shapes.own_contradictions() == []


def test_a_contradiction_of_our_own_is_found(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(SIZES, "30m", dataclasses.replace(SIZES["30m"], num_hidden_layers=11))
    assert any(line.startswith("30m: model.SIZES") for line in audit_shapes.own_contradictions())


def test_command_line_prints_and_exits_0(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    monkeypatch.setattr(sys, "argv", ["params.py", "--audit"])
    assert params.main() == 0
    text = capsys.readouterr().out
    assert len(text.splitlines()) < 100 and text.count("12m-v1.architecture.num_hidden_layers") == 1
    monkeypatch.setattr(sys, "argv", ["params.py", "--audit", "--full"])
    assert params.main() == 0
    text = capsys.readouterr().out
    for part in (
        "INCONSISTENT", "num_hidden_layers: 9 -> 12", "intermediate_size 764 to 771", "CONSISTENT",
        "NOT CHECKABLE", "SUMMARY",
    ):
        assert part in text


def test_command_line_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    monkeypatch.setattr(sys, "argv", ["params.py", "--audit", "--json"])
    assert params.main() == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["own"] == [] and len(answer["findings"]) == sum(answer["summary"].values()) == len(EXPECTED)


# --------------------------------------------------------------------------------------------- our own folder

def make_run(folder: Path) -> dict:
    """A run folder with weights, log and card, as train.py and publishing/card.py leave one. Returns the
    card's numbers.
    """
    config = dataclasses.replace(SIZES["tiny"], num_hidden_layers=1, vocab_size=64)
    parts = count(config)
    Llama(config).save_pretrained(folder / "best")
    info = {
        "settings": {"size": "tiny", "seq_len": 16, "batch_size": 4, "steps": 3, "learning_rate": 0.003,
                     "init": None, "schedule": "cosine", "precision": "fp32"},
        "model": dataclasses.asdict(config),
        "parameters": count(config)["total"],
        "data": "gone", "corpus": "0a1b", "vocabulary": "2c3d", "device": "cpu", "replicas": 1,
        "versions": {"python": "3.11"}, "precision_reason": "--precision fp32", "git_commit": None,
    }
    (folder / "run.json").write_text(json.dumps(info))
    log = [{"step": 1, "tokens": 64, "loss": 4.17, "seconds": 1.0, "tokens_per_second": 60.0},
           {"step": 2, "tokens": 128, "loss": 4.01, "seconds": 2.5, "tokens_per_second": 64.0},
           {"step": 2, "tokens": 128, "eval_loss": 3.98765, "eval_ppl": math.exp(3.98765), "seconds": 2.6},
           {"step": 3, "tokens": 192, "loss": 3.9, "seconds": 0.7, "tokens_per_second": 62.0},
           {"step": 3, "tokens": 192, "eval_loss": 4.1, "eval_ppl": math.exp(4.1), "seconds": 0.9}]
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log))
    numbers = {
        "parameters": parts,
        "embedding_share_percent": round(embedding_share(config), 1),
        "weights_bytes": 4 * count(config)["total"],
        "kv_cache_bytes_fp16": int(kv_cache_bytes(config, 1024)),
        "lora_r16_parameters": audit_shapes.lora_parameters(config, 16),
        "steps": 3,
        "tokens": 192,
        "tokens_per_step": 64,
        "tokens_per_parameter": round(192 / count(config)["total"], 3),
        "best_step": 2,
        "best_eval_loss": 3.9876,
        "best_eval_ppl": 53.93,
        "last_eval_loss": 4.1,
        "last_eval_ppl": 60.34,
        "last_train_loss": 3.9,
        "tokens_per_second": 62.0,
        "seconds": 3.4,
        "gallery": {"samples": 1, "ended": 0.0, "looping": 0.0, "replacement_character": 0.0,
                    "temperature": 0.6, "top_p": 0.85, "repetition_penalty": 1.15, "max_new_tokens": 24,
                    "seed": 0},
    }
    samples = "**prose** (cut off): prompt, then answer\n\n```\nIt had\n```\n\n```\n 3 legs.\n```"
    text = card.card_text(read_run(folder), "own-1", samples, numbers["gallery"], {})
    (folder / "best" / "README.md").write_text(text)
    return numbers


def verdicts(folder: Path) -> dict[str, str]:
    return {finding.id: finding.verdict for finding in card_audit.audit_folder(folder)}


def test_a_true_card_passes(tmp_path: Path, capsys: pytest.CaptureFixture):
    numbers = make_run(tmp_path)
    found = verdicts(tmp_path)
    assert "inconsistent" not in found.values(), [
        name for name, verdict in found.items() if verdict == "inconsistent"
    ]
    assert {f"README.md.numbers.{name}" for name in numbers if name != "parameters"} <= set(found)
    sections = {name.split(": ")[0] for name in found if ": " in name}
    assert sections == {f"README.md.{title}" for title in ("", "Evaluation", "Samples", "How to load",
                        "Limits", "Curve", "Data", "Training", "Architecture", "Licence", "Citation")}
    assert card_audit.main(str(tmp_path), as_json=False) == 0
    assert "SUMMARY" in capsys.readouterr().out


@pytest.mark.parametrize(("old", "new", "name"), [
    ('"best_eval_ppl": 53.93', '"best_eval_ppl": 53.95', "README.md.numbers.best_eval_ppl"),
    ('"steps": 3', '"steps": 4', "README.md.numbers.steps"),
    ('"best_step": 2', '"best_step": 3', "README.md.numbers.best_step"),
    ('"seconds": 3.4', '"seconds": 0.9', "README.md.numbers.seconds"),
    ("| `hidden_size` | 128 |", "| `hidden_size` | 256 |", "README.md.Architecture"),
    ("| `learning_rate` | 0.003 |", "| `learning_rate` | 0.001 |", "README.md.Training"),
    ("| 2 | 128 | 4.0100 | 3.9876 | 53.93 |", "| 2 | 128 | 4.0100 | 3.9 | 53.93 |", "README.md.Curve"),
    ("      value: 3.9876", "      value: 3.9", "README.md.: "),
])
def test_a_false_card_fails(tmp_path: Path, old: str, new: str, name: str):
    make_run(tmp_path)
    card = tmp_path / "best" / "README.md"
    assert old in card.read_text(encoding="utf-8")
    card.write_text(card.read_text(encoding="utf-8").replace(old, new))
    wrong = [finding for finding, verdict in verdicts(tmp_path).items() if verdict == "inconsistent"]
    assert len(wrong) == 1 and wrong[0].startswith(name)
    assert card_audit.main(str(tmp_path), as_json=True) == 1


def test_weights_config_and_log_are_compared_without_a_card(tmp_path: Path):
    make_run(tmp_path)
    (tmp_path / "best" / "README.md").unlink()
    info = read_json(tmp_path / "run.json")
    (tmp_path / "run.json").write_text(json.dumps({**info, "parameters": 1}))
    log = (tmp_path / "log.jsonl").read_text(encoding="utf-8")
    (tmp_path / "log.jsonl").write_text(log.replace('"tokens": 192', '"tokens": 193'))
    found = verdicts(tmp_path)
    assert (
        found["README.md.card"] == "not checkable" and found["model.safetensors.parameters"] == "consistent"
    )
    assert found["run.json.parameters"] == "inconsistent" and found["log.jsonl.tokens"] == "inconsistent"


def test_a_plain_model_folder_is_audited(tmp_path: Path):
    Llama(dataclasses.replace(SIZES["tiny"], num_hidden_layers=1)).save_pretrained(tmp_path)
    assert verdicts(tmp_path) == {
        "model.safetensors.parameters": "consistent",
        "README.md.card": "not checkable",
    }


@pytest.mark.parametrize(("file", "content", "message"), [
    ("log.jsonl", "{\"step\": 1", "line 1 is not a JSON object"),
    ("log.jsonl", "\udcff", "line 1 is not a JSON object"),
    ("best/README.md", "```json numbers\nnot json\n```\n", "json numbers"),
    ("best/model.safetensors", "broken", "damaged"),
])
def test_damaged_files_are_one_clear_line(tmp_path: Path, file: str, content: str, message: str):
    make_run(tmp_path)
    (tmp_path / file).write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=message):
        card_audit.audit_folder(tmp_path)


def test_200_mutations_of_a_folder_never_give_a_traceback(tmp_path: Path, capsys: pytest.CaptureFixture):
    """Bytes changed, cut out or cut off in log, settings, card and configuration: a finding or one clear
    line, nothing else.
    """
    make_run(tmp_path)
    source = random.Random(0)
    for _ in range(200):
        file = tmp_path / source.choice(["log.jsonl", "run.json", "best/README.md", "best/config.json"])
        original = file.read_bytes()
        start = source.randrange(len(original))
        end = source.choice([start + 1, start + 20, len(original)])
        file.write_bytes(
            original[:start]
            + bytes(source.choices(b'0123456789{}[]",:.eE-|` ', k=source.randrange(4)))
            + original[end:]
        )
        try:
            assert card_audit.main(str(tmp_path), as_json=source.random() < 0.5) in (0, 1)
        except UserError as error:
            assert "\n" not in str(error)
        file.write_bytes(original)
    capsys.readouterr()


def test_a_card_of_another_form_is_not_checked(tmp_path: Path):
    make_run(tmp_path)
    file = tmp_path / "best" / "README.md"
    text = file.read_text(encoding="utf-8")
    verdict_of = {1: "not checkable", 2: "not checkable", 0: "inconsistent", 7: "inconsistent"}
    for form, verdict in verdict_of.items():
        file.write_text(text.replace(f'"card": {card.FORM}', f'"card": {form}'))
        assert verdicts(tmp_path)["README.md.card"] == verdict


def test_numbers_block():
    assert card_audit.numbers_block("text\n````json numbers\n{\"a\": 1}\n````\n") == {"a": 1}
    assert card_audit.numbers_block("no block") == {}
