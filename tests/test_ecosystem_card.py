# SPDX-License-Identifier: Apache-2.0
"""The model card: written when a run ends, every number from the run's own files."""
import dataclasses
import json
import re
import shutil
import sys

import pytest

from corpus.command import prepare_files
import params
import tokenizer
from common import UserError, folder_problem
from in_process import run_script
from publishing import card
from publishing import card_audit
from publishing import gallery
from model import Llama, ModelConfig
from sample import SampleSettings, generate
from train import train
from training.read_run import read_run

SHAPE = ModelConfig(4096, 64, 96, 2, 4, 2, 16, 256, tie_word_embeddings=True)
SHORT = SampleSettings(temperature=0.6, top_p=0.85, repetition_penalty=1.25, max_new_tokens=24)


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """A run of a few steps, by the real loop, which writes the card at its end (with short answers here, to
    be quick).
    """
    work = tmp_path_factory.mktemp("card")
    paragraphs = [
        f"The {word} lived by the sea, and every day it had {i} reasons to look at the water. " * 3
        for i, word in enumerate("fox heron otter badger crow hare seal toad wren vole newt".split() * 8)
    ]
    (work / "tales.txt").write_text("\n\n".join(paragraphs), encoding="utf-8")
    corpus = prepare_files([work / "tales.txt"], work / "tales")
    settings = dict(
        model=SHAPE, data=str(corpus), out=str(work / "small run"), steps=8, seq_len=32, batch_size=4,
        eval_steps=4, logging_steps=2, learning_rate=3e-3, device="cpu", precision="fp32",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(card, "STENTOR3", SHORT)
        history = train(**settings)
        card.write_card(history.folder)
        return history


@pytest.fixture
def text(ended) -> str:
    return (ended.folder / "best" / "README.md").read_text(encoding="utf-8")


def block(text: str) -> dict:
    (found,) = re.findall(r"```json numbers\n(.*?)\n```", text, flags=re.DOTALL)
    return json.loads(found)


def test_numbers_come_from_the_run(ended, text):
    found = block(text)
    assert found["parameters"] == params.count(SHAPE)
    assert (
        found["weights_bytes"]
        == 4 * params.count(SHAPE)["total"]
        < (ended.folder / "best" / "model.safetensors").stat().st_size
    )
    assert (found["steps"], found["tokens_per_step"], found["tokens"]) == (8, 128, 1024)
    best = min(ended.evals, key=lambda row: row["eval_loss"])
    assert found["best_step"] == best["step"] and found["best_eval_loss"] == round(best["eval_loss"], 4)
    assert found["last_train_loss"] == round(ended.losses[-1], 4)
    assert folder_problem(ended.folder / "best") is None, "the folder's checksums know the card"
    for number in (
        f"{found['parameters']['total']:,}", f"{best['eval_loss']:.4f}", f"{best['eval_ppl']:.2f}", "1,024",
    ):
        assert number in text
    manifest = json.loads((ended.folder.parent / "tales" / "manifest.json").read_text(encoding="utf-8"))
    (source,) = manifest["sources"].values()
    assert (
        f"{source['train']['documents']:,} | {source['train']['tokens']:,} | "
        f"{source['validation']['tokens']:,}"
        in text
    )


def test_settings_and_curve(ended, text):
    settings = json.loads((ended.folder / "run.json").read_text(encoding="utf-8"))["settings"]
    for name in ("steps", "seq_len", "learning_rate", "warmup_steps", "weight_decay", "seed"):
        assert f"| `{name}` | {settings[name]} |" in text
    rows = re.findall(r"^\| (\d+) \| [\d,]+ \| ([\d.]+) \| ([\d.]+) \|", text, flags=re.MULTILINE)
    assert [(int(step), float(loss)) for step, _, loss in rows] == [
        (row["step"], round(row["eval_loss"], 4)) for row in ended.evals
    ]


def test_gallery_is_unedited_and_measured(ended, text):
    """The gallery can be made again from the weights: the same texts, in order, and the same shares."""
    samples = gallery.gallery(ended.folder / "best", SHORT)
    assert len(samples) == sum(map(len, gallery.PROMPTS.values())) == block(text)["gallery"]["samples"]
    assert set(gallery.PROMPTS) >= {"prose", "code", "arithmetic", "greeting", "nonsense"}
    place = text.index("## Samples")
    for sample in samples:
        place = text.index(f"{card.fenced(sample.prompt)}\n\n{card.fenced(sample.text)}", place)
    assert card.measured(card.shown(samples)).items() <= block(text)["gallery"].items()
    assert str(SHORT.max_new_tokens) in text[text.index("## Samples"):]


def test_answers_do_not_depend_on_each_other(ended):
    """Prompts of different lengths in one batch: each answer is the one that `sample.generate` gives to
    its prompt alone.
    """
    model, t = Llama.from_pretrained(ended.folder / "best").eval(), tokenizer.load(ended.folder / "best")
    prompts = [t.encode(prompt, document=True) for prompts in gallery.PROMPTS.values() for prompt in prompts]
    assert len({len(ids) for ids in prompts}) > 3
    together = gallery.continuations(model, prompts, SHORT, t.eos_id)
    alone = [generate(model, ids, **dataclasses.asdict(SHORT), seed=gallery.SEED) for ids in prompts]
    assert [new[:new.index(t.eos_id)] if t.eos_id in new else new for new in alone] == \
           [new[:-1] if new[-1] == t.eos_id else new for new in together]


def test_shares():
    def sample(tokens, ended, answer):
        return gallery.Sample("prose", "a", answer, tokens, ended)
    round_and_round = sample([5, 6, 7, 8, 9] * 6, False, "x")
    shares = card.measured(card.shown([
        round_and_round, sample(list(range(50)), True, "x"), sample([1], True, "\ufffd"),
        sample([], False, ""),
    ]))
    assert shares == {"samples": 4, "ended": 0.5, "looping": 0.25, "replacement_character": 0.25}


def test_front_matter_is_a_hub_card(text):
    hub = pytest.importorskip(
        "huggingface_hub",
        reason="huggingface_hub is not installed: it is the oracle of a card's front matter",
    )
    head = hub.ModelCard(text).data
    assert (
        head.license == "apache-2.0"
        and head.pipeline_tag == "text-generation"
        and head.library_name == "transformers"
    )
    assert {"llama", "tokenmonster"} <= set(head.tags) and head.datasets == []
    results = {result.metric_type: result.metric_value for result in head.eval_results}
    assert results == {"loss": block(text)["best_eval_loss"], "perplexity": block(text)["best_eval_ppl"]}
    assert head.model_name == "small run"


def test_sections(text):
    for title in (
        "Architecture", "Data", "Training", "Curve", "Evaluation", "How to load", "Samples", "Limits",
        "Licence", "Citation", "Numbers",
    ):
        assert f"\n## {title}\n" in text
    assert (
        "not run here" in text
        and "vllm serve" in text
        and "trust_remote_code=True" in text
        and "@misc{small_run," in text
    )
    written_by_the_model = r"## Samples\n.*?(?=\n## )|```json\n.*?```"
    ours = re.sub(written_by_the_model, "", text, flags=re.DOTALL)
    assert "rows of 32 tokens" in ours and "None" not in ours


def test_hub_datasets_are_named():
    sources = {
        "web": "epfml/FineWeb-HQ, StentorLabs/StenCore main data",
        "code": "built-in code, Python 3.11.7",
        "math": "a.txt: 1 files, sizes ab",
    }
    assert card.hub_datasets({"recipe": {"sources": sources}}) == ["StentorLabs/StenCore", "epfml/FineWeb-HQ"]


def test_written_again_with_results(ended, tmp_path, monkeypatch, capsys):
    """After evaluate.py the card takes its results in; where the corpus is gone it says so and keeps all
    else.
    """
    folder = tmp_path / "again"
    shutil.copytree(ended.folder, folder)
    results = {"text": {"loss": 1.25, "bits_per_byte": 1.5}}
    (folder / "evaluation.json").write_text(json.dumps(results))
    info = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    (folder / "run.json").write_text(json.dumps({**info, "data": str(tmp_path / "gone")}))
    monkeypatch.setattr(card, "STENTOR3", SHORT)
    monkeypatch.setattr(sys, "argv", ["card", str(folder)])
    assert card.main() == 0 and capsys.readouterr().out.strip() == str(folder / "best" / "README.md")
    again = (folder / "best" / "README.md").read_text(encoding="utf-8")
    assert folder_problem(folder / "best") is None
    assert (
        block(again)["evaluation"] == results and "was not there" in again and '"bits_per_byte": 1.5' in again
    )


def test_mistakes_are_one_line(tmp_path, ended):
    with pytest.raises(UserError, match="run.json: no such file"):
        card.write_card(tmp_path)
    shutil.copytree(ended.folder, tmp_path / "r")
    (tmp_path / "r" / "log.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match="a card needs one of each"):
        card.write_card(tmp_path / "r")
    (tmp_path / "r" / "log.jsonl").write_text("[1, 2")
    with pytest.raises(UserError, match="a card needs one of each"):
        card.write_card(tmp_path / "r")
    row = {"step": 1, "loss": 1.0, "eval_loss": 1.0, "eval_ppl": 2.7, "tokens": "many"}
    (tmp_path / "r" / "log.jsonl").write_text(json.dumps(row))
    with pytest.raises(UserError, match="log.jsonl: a row has no number of tokens"):
        card.write_card(tmp_path / "r")
    info = json.loads((tmp_path / "r" / "run.json").read_text(encoding="utf-8"))
    del info["device"], info["settings"]["schedule"]
    (tmp_path / "r" / "run.json").write_text(json.dumps(info))
    with pytest.raises(UserError, match="run.json: a card needs device, schedule"):
        card.write_card(tmp_path / "r")


def test_the_folder_passes_its_audit(ended):
    done = run_script("params.py", "--audit", ended.folder, folder=ended.folder.parent)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_digit_but_those_of_samples_is_audited(ended, tmp_path):
    """Each digit of the card is changed, in sentences, tables, commands, front matter and numbers; the audit
    notices each one.
    """
    shutil.copytree(ended.folder, tmp_path / "small run")
    original = (tmp_path / "small run" / "best" / "README.md").read_text(encoding="utf-8")
    folder = card_audit.Folder(tmp_path / "small run")
    samples = re.sub(r"^(`{3,})(.*?)\n.*?^\1$", lambda found: found[0] if found[2] else " " * len(found[0]),
                     original, flags=re.MULTILINE | re.DOTALL)
    places = [found.start() for found in re.finditer(r"\d", samples)]
    assert len(places) > 400
    unnoticed = []
    for place in places:
        digit = "0" if original[place] in "34567" else str((int(original[place]) + 5) % 10)
        folder.card, folder.findings = original[:place] + digit + original[place + 1:], []
        try:
            card_audit.card(folder)
        except UserError:                                         # the block is no JSON any more
            continue
        if not any(finding.verdict == "inconsistent" for finding in folder.findings):
            unnoticed.append(original[place - 40:place + 20])
    assert unnoticed == []


def test_a_model_of_the_built_in_corpus_is_shown_beside_its_entropy(ended, text, tmp_path):
    """Loss, token counting and entropy in one unit, and the share of the way that the loss has come."""
    folder = tmp_path / "again"
    shutil.copytree(ended.folder, folder)
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    measured = {"whole_loss": 0.37720, "unigram_entropy": 5.66753, "entropy": 0.31257,
                "share_of_the_way": 0.98793}
    rows = [{**row, **measured} if "eval_loss" in row else row for row in rows]
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    again = card.card_text(read_run(folder), "again", "", block(text)["gallery"], {})
    opening = " ".join(again[:again.index("## Evaluation")].split())
    assert ("On complete documents its loss is 0.377: 98.8% of the way from counting tokens (5.668) to the "
            "entropy of the corpus (0.313), which no model can go below.") in opening
    assert block(again)["entropy"] == 0.313 and block(again)["share_of_the_way"] == 0.988
    assert card.way({**block(again), "share_of_the_way": -0.1}).startswith(
        "\nOn complete documents its loss is 0.377: not yet better than counting tokens (5.668).")


def test_the_betas_of_a_fine_tuning_run_are_in_its_card():
    assert card.adamw({"recipe": "finetune-stentor3"}) == (0.9, 0.999, 1e-8)
    assert card.adamw({"recipe": "laptop", "beta1": 0.8, "beta2": 0.99, "eps": 1e-6}) == (0.8, 0.99, 1e-6)


def test_the_card_opens_with_the_result_and_shows_the_curve(ended, text):
    body = text.split("\n---\n", 1)[1].strip().splitlines()
    assert body[0] == "# small run" and body[2].startswith("**Validation loss ")
    assert "![Loss over the steps of training](training_curves.svg)" in text[:text.index("## Evaluation")]
    assert (ended.folder / "best" / "training_curves.svg").is_file()
    assert not re.search(r"[0-9a-f]{64}", text[:text.index("## Samples")])
