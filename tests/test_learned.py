# SPDX-License-Identifier: Apache-2.0
"""What training says of the built-in corpus: bound, loss by source, samples, facts kept, snapshots."""
import csv
import dataclasses
import json
import math
import re

import numpy
import pytest
import torch
from safetensors.torch import load_file

import data
import sample
import train
from corpus import builtin, checker, tales
from corpus.documents import builtin_source
from corpus.prepare import prepare
from judging.builtin import judge_builtin, table
from model import Llama, ModelConfig, next_token_loss
from tokenizer import load
from training import learned
from training.log import read_log, read_samples

SMALL = ModelConfig(4096, 32, 64, 2, 2, 1, 16, 1024, tie_word_embeddings=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small built-in corpus of all three kinds."""
    sources = [builtin_source(kind) for kind in builtin.KINDS]
    out = tmp_path_factory.mktemp("corpus") / "builtin"
    return prepare(sources, out, source_token_budget=12_000, validation_share=0.2)


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    """Four steps on it, evaluated twice."""
    out = tmp_path_factory.mktemp("run") / "run"
    train.train(model=SMALL, data=str(folder), out=str(out), steps=4, eval_steps=2, seq_len=32, batch_size=2,
                max_eval_samples=12, logging_steps=1, device="cpu", precision="fp32")
    return out


def test_the_manifest_knows_the_entropy(folder):
    """Nats of each source and split; the corpus gives nats per token of its split."""
    corpus = data.Corpus(folder, 32, 2, split="validation")
    coder = load(corpus.vocab_path)
    for kind in builtin.KINDS:
        documents = corpus.documents(kind, 10**6)
        grammar = builtin.KINDS[kind].grammar
        nats = sum(grammar.read(coder.decode(ids[:-1].tolist())).nats for ids in documents)
        assert corpus.entropy(kind) == pytest.approx(nats / sum(map(len, documents)), rel=1e-6)
    assert 0.2 < corpus.entropy() < 0.6


def test_another_corpus_does_not_know_its_entropy(tmp_path):
    text = tmp_path / "my.txt"
    text.write_text("\n\n".join(f"Paragraph {n}. " + "Some words of mine. " * 600 for n in range(12)))
    from corpus.command import prepare_files
    corpus = data.Corpus(prepare_files([text], tmp_path / "mine"), 32, 2, split="validation")
    assert corpus.entropy() is None and not learned.knows_its_entropy(corpus)
    assert learned.Learned.of(corpus, load(), torch.device("cpu"), 1024).measure(None) == {}


def test_documents_that_do_not_fit_into_the_model_are_not_measured(folder):
    """A model of 64 positions can be trained on tales of 200 tokens."""
    corpus, coder, cpu = data.Corpus(folder, 32, 1, split="validation"), load(), torch.device("cpu")
    complete = learned.Learned.of(corpus, coder, cpu, 1024).documents
    longest = max(len(document.ids) for document in complete["web"])
    fitting = learned.Learned.of(corpus, coder, cpu, longest - 1).documents
    assert 0 < len(fitting["web"]) < len(complete["web"])
    nothing = learned.Learned.of(corpus, coder, cpu, 8)
    assert nothing.measure(None) == {} and nothing.sample(None) == ""


def test_an_older_generator_is_left_beside(tmp_path, monkeypatch):
    """A folder of another generator stays as it is, and a new one is prepared beside it."""
    from corpus.command import prepare_builtin
    few = dataclasses.replace(builtin.KINDS["math"], documents=400)
    monkeypatch.setitem(builtin.KINDS, "math", few)
    old = prepare_builtin(tmp_path / "builtin", kinds=("math",))
    manifest = json.loads((old / "manifest.json").read_text(encoding="utf-8"))
    manifest["recipe"]["sources"]["math"] = "built-in exercises, generator tales-0"
    (old / "manifest.json").write_text(json.dumps(manifest))
    new = prepare_builtin(tmp_path / "builtin", kinds=("math",))
    assert (old, new) == (tmp_path / "builtin", tmp_path / "builtin-2")
    assert json.loads((old / "manifest.json").read_text(encoding="utf-8")) == manifest
    assert prepare_builtin(tmp_path / "builtin", kinds=("math",)) == new


def test_evaluation_rows_say_what_was_learned(run):
    rows = [row for row in read_log(run / "log.jsonl") if "eval_loss" in row]
    assert [row["step"] for row in rows] == [2, 4]
    for row in rows:
        assert set(row["losses"]) == set(row["whole_losses"]) == set(builtin.KINDS)
        assert row["entropy"] < row["whole_loss"] < 9 and row["entropy"] < row["unigram_entropy"] < 9
        way = row["unigram_entropy"] - row["entropy"]
        assert row["share_of_the_way"] == pytest.approx((row["unigram_entropy"] - row["whole_loss"]) / way)
        assert row["name_first"] > 0 and row["name_later"] > 0 and row["kept"]["sentences"] > 0
    with open(run / "training_curves.csv") as file:
        table = list(csv.DictReader(file))
    assert list(table[0])[:6] == ["step", "epoch", "train_loss", "eval_loss", "eval_ppl", "note"]
    assert float(table[-1]["eval_loss_web"]) == rows[-1]["losses"]["web"]
    assert float(table[-1]["entropy"]) == rows[-1]["entropy"]


def test_the_same_prompt_after_step_1_and_at_each_evaluation(run):
    samples = read_samples(run)
    assert [row["step"] for row in samples] == [1, 2, 4]
    assert all(row["text"].startswith(learned.openings(1)[0]) for row in samples)


def test_snapshots_of_a_small_model(run):
    """BF16 model folders after step 1 and at each evaluation; the one of step 1 has the first weights."""
    assert sorted(int(path.name) for path in (run / "snapshots").iterdir()) == [1, 2, 4]
    weights = load_file(run / "snapshots" / "1" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    torch.manual_seed(42)
    first = Llama(SMALL).state_dict()
    assert all(torch.equal(tensor, first[name].bfloat16()) for name, tensor in weights.items())
    assert Llama.from_pretrained(run / "snapshots" / "4").config == SMALL


def test_recommended_settings_have_no_penalty_for_this_corpus(run, tmp_path):
    config = Llama.from_pretrained(run / "best").config
    assert sample.recommended(config, run / "best").repetition_penalty == 1
    assert sample.recommended(config, run / "snapshots" / "4").repetition_penalty == 1
    assert sample.recommended(config) == sample.recommended(config, tmp_path)
    assert sample.recommended(config).repetition_penalty > 1


def test_many_continuations_are_those_of_one_prompt_alone():
    """Greedy continuations of prompts of different lengths equal `sample.generate` one by one."""
    torch.manual_seed(3)
    model, coder = Llama(SMALL).eval(), load()
    prompts = ["Once", "Once upon a time there was a shy fox named Nora.", "The fox"]
    texts = learned.continuations(model, coder, prompts, temperature=0, most=40)
    for prompt, text in zip(prompts, texts):
        ids = [coder.eos_id, *coder.encode(prompt, document=True)]
        new = sample.generate(model, ids, 40 - len(ids), temperature=0, stop_id=coder.eos_id)
        assert text == coder.decode(ids[1:] + new)


def test_losses_of_padded_documents_are_those_of_each_alone():
    torch.manual_seed(4)
    model, coder = Llama(SMALL).eval(), load()
    documents = [learned.Document(text, [coder.eos_id, *coder.encode(text), coder.eos_id], nats)
                 for text, nats in (tales.GRAMMAR.write(1), tales.GRAMMAR.write(2))]
    together = learned.token_losses(model, documents, torch.device("cpu"))
    for document, losses in zip(documents, together):
        ids = torch.tensor([document.ids])
        alone = next_token_loss(model(ids), ids)
        assert losses.mean() == pytest.approx(alone.item(), abs=1e-4)


def test_first_and_later_mentions_of_a_name():
    """A name's loss is that of all its tokens; first mentions are apart from later ones."""
    coder, text = load(), "Nora met Milo. Nora saw Milo and Nora."
    ids = [coder.eos_id, *coder.encode(text), coder.eos_id]
    losses, stream, seen = numpy.zeros(len(ids) - 1), coder.stream(), ""
    for place, token in enumerate(ids[1:-1]):
        seen += stream.feed([token])
        losses[place] = 1.0 if len(seen) <= len("Nora met Milo") else 0.25
    first, later = learned.mention_losses([learned.Document(text, ids, 0.0)], [losses], coder)
    assert first > 3 * later > 0  # a name at the start of a text may take one token more


def test_judging_prints_shares_with_intervals(run):
    model = Llama.from_pretrained(run / "best").eval()
    result = judge_builtin(model, load(run / "best"), count=4)
    assert result["tales"]["sentences"] > 0 and result["programs"]["parse"][1] == 4
    for way in result["way"].values():
        assert way["loss"] > way["bound"] and math.isfinite(way["stderr"])
    text = table(result)
    assert "no mistake to the end" in text and "tales" in text and "exercises" in text
    name = re.search(r"loss on a name: (\d+\.\d\d) nats at its first mention, (\d+\.\d\d) later", text)
    assert 0 < float(name[1]) < 30 and 0 < float(name[2]) < 30


def test_a_model_that_has_learned_nothing_covers_nothing():
    """A share below zero is no share."""
    from judging.builtin import table
    kept = dict.fromkeys(("name_and_pronoun", "name", "pronoun", "thing", "look", "kind", "faultless",
                          "tales", "sentences", "good_sentences"), 0)
    way = {"unigram": 6.0, "loss": 8.3, "bound": 0.3, "share": -0.4, "stderr": 0.1,
           "name_first": 20.0, "name_later": 20.0}
    shown = table({"tales": kept, "programs": {}, "exercises": {}, "way": {"web": way}})
    assert "none yet" in shown and "-4" not in shown


def test_shares_count_tales_that_are_long_enough():
    texts = [tales.GRAMMAR.write(number).text for number in (1, 2)]
    texts.append("Once upon a time there lived a shy fox named Nora.")
    found = learned.shares(texts)
    assert found["tales"] == found["faultless"] == found["name_and_pronoun"] == 2
    assert checker.check_tale(texts[2]).counts is False
