# SPDX-License-Identifier: Apache-2.0
"""evaluate.py on small random models and a toy tokenizer that looks ahead; what needs the real vocabulary and
items skips without STENTOR_SHARED.
"""
import dataclasses
import gzip
import json
import math
import random
import re
import statistics
import zipfile
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch

import common
import evaluate
from corpus import documents
from corpus.documents import path_source
from corpus.prepare import prepare
import tokenizer
from common import UserError
from evaluate import Query, choice_queries, choice_scores, score
from data_helpers import numbered, write_corpus
from judging import curve
from judging import fetch_blimp
from judging import scoreboard
from evaluate import MMLU_GROUPS, lm_eval_prompt
import tokenizer as tokenizer_module
from model import SIZES, Llama, ModelConfig

CONFIG = ModelConfig(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=96,
    tie_word_embeddings=True,
)


class Toy:
    """Longest match over single letters and a few tokens that reach over words: all the boundary trouble of
    an ungreedy tokenizer.
    """

    pieces = [bytes([byte]) for byte in b"\r abcdefghijklmnopqrstuvwxyz.:?\nQAT_"] + [
        b" he",
        b" she",
        b" he is",
        b" her",
        b" is",
        b" the",
        b"the cat",
        b" cat",
        b" sat",
        b" using",
        b" swims",
        b" s",
        b"Question:",
        b"\nAnswer:",
    ]
    eos_id, bos_id, pad_id, vocab_size = 0, None, 0, CONFIG.vocab_size
    prefix_ids, stop_ids = [], {0}
    fingerprint = "toy"

    def encode(self, text, document=False):
        left, ids = text.encode(), []
        while left:
            best = max((piece for piece in self.pieces if left.startswith(piece)), key=len)
            ids.append(self.pieces.index(best))
            left = left[len(best):]
        return ids

    def encode_many(self, texts, document=False):
        return [self.encode(text, document) for text in texts]

    def token_bytes(self, ids):
        return b"".join(self.pieces[token] for token in ids if token < len(self.pieces))

    def decode(self, ids, skip_special=False):
        return self.token_bytes([token for token in ids if not (skip_special and token == 0)]).decode()


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = Llama(CONFIG).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.mul_(6)  # far from uniform, so that a mistake shows
    return model


@pytest.fixture(scope="module")
def toy():
    return Toy()


def naive(model, row):
    """log p of each scored token of a row, one forward pass, no batching."""
    with torch.no_grad():
        log_p = model(torch.tensor([row.ids[:-1]])).double().log_softmax(dim=-1)[0]
    return torch.stack([log_p[i - 1, row.ids[i]] for i in range(row.start, len(row.ids))])


def write(path, items):
    text = "".join(json.dumps(item) + "\n" for item in items)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


# ------------------------------------------------------------------------------------------------------ score

@pytest.mark.parametrize("pays", [0.0, math.inf], ids=["prefixes shared", "rows apart"])
def test_score_equals_one_pass_per_row(model, pays, monkeypatch):
    monkeypatch.setattr(evaluate, "SHARING_GAIN", pays)
    monkeypatch.setattr(evaluate, "POSITIONS", 150)  # several batches
    draw = random.Random(1)
    groups = []
    for _ in range(12):
        prefix = [draw.randrange(64) for _ in range(draw.randrange(1, 40))]
        group = []
        for _ in range(draw.randrange(1, 5)):
            rest = [draw.randrange(64) for _ in range(draw.randrange(1, 20))]
            group.append(Query(prefix + rest, draw.randrange(1, len(prefix) + len(rest) + 1)))
        groups.append(group)
    for group, scored in zip(groups, score(model, groups), strict=True):
        for row, one in zip(group, scored, strict=True):
            assert one.log_probs.dtype == torch.float64 and len(one.log_probs) == len(row.ids) - row.start
            if len(one.log_probs):
                assert torch.allclose(one.log_probs, naive(model, row), atol=1e-4)


def test_sharing_computes_fewer_positions():
    group = [Query([1] * 40 + [choice, choice], 40) for choice in (2, 3, 4, 5)]
    shared, plan = evaluate.batches([group] * 3)
    apart, _ = evaluate.batches([[row] for row in group] * 3)
    assert shared == 3 * (39 + 4 * 2) and apart == 12 * 41 and plan == [(39, [0, 1, 2])]


def test_too_long_a_row_loses_its_beginning_as_in_lm_eval(model):
    ids = [random.Random(2).randrange(64) for _ in range(130)]
    (scored,), = score(model, [[Query(ids, 120)]])
    assert torch.allclose(scored.log_probs, naive(model, Query(ids[-97:], 97 - 10)), atol=1e-4)
    with pytest.raises(UserError, match="must be scored in one piece, but the model has only 96 positions"):
        score(model, [[Query(ids, 30)]])


# ------------------------------------------------------------------------------------------------- perplexity

@pytest.mark.parametrize("length", [2, 20, 21, 22, 100])
def test_windows_score_every_token_once_with_context(length):
    ids = list(range(length))
    rows = evaluate.windows(ids, 1, context=20, stride=10)
    assert [token for row in rows for token in row.ids[row.start:]] == ids[1:]
    assert all(len(row.ids) <= 21 for row in rows)
    assert all(row.start >= 10 for row in rows[1:])


def test_perplexity_of_a_short_and_a_long_text(model, toy):
    text = "the cat sat. she is using the cat. " * 2
    ids = [0] + toy.encode(text)
    assert len(ids) < CONFIG.max_position_embeddings
    losses = -naive(model, Query(ids, 1))
    found = evaluate.perplexity(model, toy, text)
    assert found["loss"] == pytest.approx(float(losses.mean()), abs=1e-5) and found["ppl"] == pytest.approx(
        math.exp(found["loss"])
    )
    assert found["bits_per_byte"] == pytest.approx(
        float(losses.sum()) / math.log(2) / len(text.encode()), abs=1e-5
    )
    assert found["stderr"] == pytest.approx(float(losses.std()) / math.sqrt(len(losses)), abs=1e-5)
    assert (found["tokens"], found["bytes"]) == (len(ids) - 1, len(text))
    long = evaluate.perplexity(model, toy, text * 6)
    assert long["tokens"] == len(toy.encode(text * 6)) and long == evaluate.perplexity(model, toy, text * 6)
    several = evaluate.perplexity(model, toy, [text, "", text])
    assert (
        several["loss"] == pytest.approx(found["loss"], abs=1e-6) and several["tokens"] == 2 * found["tokens"]
    )
    assert several["stderr"] == pytest.approx(0, abs=1e-6)  # two equal documents do not differ
    with pytest.raises(UserError, match="nothing to score"):
        evaluate.perplexity(model, toy, "")


def test_portions_change_no_perplexity(model, toy, monkeypatch):
    documents = ["a text", "", "another one " * 9, "b", "the last"]
    whole = evaluate.perplexity(model, toy, documents)
    for size in (1, 7, 60):
        monkeypatch.setattr(evaluate, "PORTION", size)
        assert evaluate.perplexity(model, toy, documents) == pytest.approx(whole, abs=1e-6)


def test_bits_per_byte_and_per_character_differ_by_the_bytes_of_a_character(model, shared):
    coder = tokenizer.load(shared / "vocabs" / "english-4096-strict-nocapcode-v1.vocab")
    torch.manual_seed(0)
    big = Llama(ModelConfig(**{**CONFIG.__dict__, "vocab_size": 4096})).eval()
    found = evaluate.perplexity(big, coder, "Caf\u00e9, na\u00efve")
    assert found["bytes"] == 13 and found["bits_per_char"] / found["bits_per_byte"] == pytest.approx(13 / 11)


def test_perplexity_equals_the_loss_of_transformers(model, toy, tmp_path):
    transformers = pytest.importorskip(
        "transformers", reason="transformers is the oracle here: pip install transformers"
    )
    model.save_pretrained(tmp_path, eos_token_id=0)
    theirs = transformers.LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    text = "the cat sat. she is using the cat. he swims: is her cat using he?\n"
    ids = torch.tensor([[0] + toy.encode(text)])
    with torch.no_grad():
        loss = theirs(input_ids=ids, labels=ids).loss.item()
    assert evaluate.perplexity(model, toy, text)["loss"] == pytest.approx(loss, abs=1e-4)


# ---------------------------------------------------------------------------- where a choice begins in a text

def test_a_stable_boundary_is_lm_evals(model, toy):
    plain, crossed = choice_queries(toy, "the cat", [" sat", " swims"])
    assert not crossed and plain == choice_queries(toy, "the cat", [" sat", " swims"], "lm-eval")[0]


def test_lm_evals_slice_loses_bytes_and_may_be_empty(toy):
    (row, other), crossed = choice_queries(toy, "the cat. he", [" is using", " swims"], "lm-eval")
    assert crossed
    assert toy.token_bytes(row.ids) == b"the cat. he using"  # " is" was swallowed by the token " he is"
    (empty,), _ = choice_queries(toy, "the cat. he", [" is"], "lm-eval")
    assert empty.ids[empty.start:] == [0]  # the Stentor3 card's patch: token 0
    assert toy.token_bytes(other.ids) == b"the cat. he swims"


def test_a_crossed_boundary_by_brute_force(model, toy):
    """score(c) = log p(context and c) - log p(context), both along the encoder's paths, written out without
    `choice_queries`.
    """
    context, choices = "the cat. he", [" is using", " swims", " is"]
    rows, crossed = choice_queries(toy, context, choices)
    assert crossed and len(rows) == 4
    found = choice_scores(rows, score(model, [rows])[0])
    start = toy.encode("the cat.")

    def log_p(ids):
        return float(naive(model, Query(start + ids, len(start))).sum())

    he = toy.pieces.index(b" he")
    begin_so = [token for token, piece in enumerate(toy.pieces) if piece.startswith(b" he")]
    assert sorted(toy.pieces[token] for token in begin_so) == [b" he", b" he is", b" her"]
    log_z = math.log(sum(math.exp(log_p([token])) for token in begin_so))
    expected = [
        log_p(toy.encode(" he is using")) - log_z,
        log_p([he, *toy.encode(" swims")]) - log_z,
        log_p(toy.encode(" he is")) - log_z,
    ]
    assert found == pytest.approx(expected, abs=1e-4)
    assert all(value < 0 for value in found)


def test_a_context_cut_otherwise_is_summed_over_both_cuts(model, toy):
    """ "_the" alone is [_, " ", t, h, e]-like; before " cat" it is ["_", "the cat"]: two stems, so Z has two
    terms.
    """
    context, choices = "_the", [" cat sat", " swims"]
    rows, crossed = choice_queries(toy, context, choices)
    assert crossed
    assert {tuple(row.ids[row.start:row.cover]) for row in rows} == {(), tuple(toy.encode("th"))}
    found = choice_scores(rows, score(model, [rows])[0])
    first = toy.encode("_")

    def log_p(ids):
        return float(naive(model, Query(first + ids, 1)).sum())

    one = sum(math.exp(log_p([token])) for token, piece in enumerate(toy.pieces) if piece.startswith(b"the"))
    two = sum(
        math.exp(log_p([*toy.encode("th"), token]))
        for token, piece in enumerate(toy.pieces)
        if piece.startswith(b"e")
    )
    log_z = math.log(one + two)
    assert found == pytest.approx(
        [log_p(toy.encode("the cat sat")) - log_z, log_p(toy.encode("the swims")) - log_z], abs=1e-4
    )


def test_choices_of_one_token_share_all_probability(model, toy):
    """What may follow the bytes " he" within one token: " is", "r", or the end of the token. Their
    probabilities sum to one.
    """
    rows, _ = choice_queries(toy, "the cat. he", [" is", "r"])
    found = choice_scores(rows, score(model, [rows])[0])
    (alone, *_), = [score(model, [[rows[-1]]])[0]]
    log_z = alone.log_mass
    rest = float(alone.log_probs.sum()) - log_z
    assert sum(math.exp(value) for value in [*found, rest]) == pytest.approx(1, abs=1e-5)


def test_nothing_shared_falls_back_on_the_separator(model, toy):
    rows, crossed = choice_queries(toy, "the", [" cat", " swims"])
    assert crossed and rows[0].ids == [0, toy.pieces.index(b"the cat")] and rows[0].start == 1
    assert all(value < 0 for value in choice_scores(rows, score(model, [rows])[0]))


def test_an_empty_context_is_the_separator(toy):
    rows, crossed = choice_queries(toy, "", [" sat", " cat"])
    assert not crossed and [row.ids[0] for row in rows] == [0, 0] and all(row.start == 1 for row in rows)


def test_real_items_score_exactly_the_choices_bytes(shared):
    """On real items with the real vocabulary: what lies after the covering bytes is the choice, byte for
    byte.
    """
    import unicodedata
    coder = tokenizer.load(shared / "vocabs" / "english-4096-strict-nocapcode-v1.vocab")
    crossings = 0
    for name, count in (("hellaswag_val", 60), ("winogrande_dev", 60), ("openbookqa_test", 15)):
        for item in evaluate.read_items(shared / "eval" / f"{name}.jsonl.gz", {"context": str})[:count]:
            for context, choices in evaluate.plain_prompt(item):
                rows, crossed = choice_queries(coder, context, choices)
                crossings += crossed
                for row, choice in zip(rows, choices):
                    end = len(coder.token_bytes(row.ids[:row.start]))
                    if crossed:
                        visible = sum(
                            bool(match[1])
                            for match in evaluate.VISIBLE.finditer(
                                coder.token_bytes(coder.encode(context, document=True))
                            )
                        )
                        cover, begun = evaluate.covering(coder, row.ids, visible)
                        assert cover == row.cover and row.ids[cover] in row.among
                        end = len(coder.token_bytes(row.ids[:cover]) + begun)
                    own = evaluate.VISIBLE.sub(
                        lambda match: match[1] or b"", coder.token_bytes(row.ids)[end:]
                    )
                    assert own.decode() == unicodedata.normalize("NFD", choice)
    assert crossings > 3, "the real vocabulary has tokens such as ' he is'"


# ------------------------------------------------------------------------------------------------------ BLiMP

def pair(good, bad, paradigm="adjunct_island", term="island_effects"):
    return {
        "sentence_good": good,
        "sentence_bad": bad,
        "UID": paradigm,
        "linguistics_term": term,
        "field": "syntax",
        "pairID": "0",
    }


def test_blimp_compares_whole_sentences_and_halves_a_tie(model, toy, tmp_path):
    pairs = [
        pair("the cat sat.", "cat the sat."),
        pair("he is using her.", "he is using he."),
        pair("she swims.", "she swims."),
        pair("she is.", "is she.", "superlative_quantifiers_1", "quantifiers"),
    ]
    found = evaluate.blimp(model, toy, write(tmp_path / "blimp.jsonl.gz", pairs))
    right = []
    for item in pairs:
        good, bad = (
            float(naive(model, Query([0] + toy.encode(item[key]), 1)).sum())
            for key in ("sentence_good", "sentence_bad")
        )
        right.append(0.5 if item["sentence_good"] == item["sentence_bad"] else float(good > bad))
    first = sum(right[:3]) / 3
    assert found["paradigms"] == {
        "adjunct_island": pytest.approx(first),
        "superlative_quantifiers_1": right[3],
    }
    assert (
        found["overall"] == pytest.approx((first + right[3]) / 2)
        and found["ties"] == 1
        and found["pairs"] == 4
    )
    assert found["overall_lm_eval"] == pytest.approx(((sum(right[:3]) + 0.5) / 3 + right[3]) / 2)
    assert found["phenomena"] == {"island_effects": pytest.approx(first), "quantifiers": right[3]}
    assert set(found["categories"]) == {"Island Constraints", "NPI Licensing"}
    low, high = found["intervals"]["paradigms"]["adjunct_island"]
    assert 0 <= low < first < high <= 1


def test_logits_that_are_not_finite_give_no_score(model, toy, tmp_path):
    """A comparison with NaN would be an answer: a wrong one or the first choice."""
    broken = Llama(CONFIG).eval()
    broken.load_state_dict(model.state_dict())
    broken.model.norm.weight.data.fill_(3e38)
    pairs = write(tmp_path / "blimp.jsonl", [pair("the cat sat.", "cat the sat.")])
    item = {"task": "piqa", "kind": "question", "context": "the cat", "choices": ["sat.", "is."], "label": 0}
    items = write(tmp_path / "items.jsonl", [item])
    for judge in (lambda: evaluate.perplexity(broken, toy, "the cat sat."),
                  lambda: evaluate.blimp(broken, toy, pairs),
                  lambda: evaluate.multiple_choice(broken, toy, items)):
        with pytest.raises(UserError, match="not finite"):
            judge()


def test_a_model_that_knows_nothing_scores_half(toy, tmp_path):
    ignorant = Llama(CONFIG).eval()
    for parameter in ignorant.parameters():
        parameter.data.zero_()
    # equal in tokens
    found = evaluate.blimp(
        ignorant, toy, write(tmp_path / "blimp.jsonl", [pair("he swims", "he using"), pair("a cat", "a sat")])
    )
    assert found["overall"] == 0.5 and found["overall_lm_eval"] == 1.0


def test_bands_and_interval():
    assert [evaluate.band(share) for share in (0.85, 0.8499, 0.551, 0.55)] == [
        "strong",
        "moderate",
        "moderate",
        "weak",
    ]
    low, high = evaluate.wilson_interval(0.5, 100)
    assert (low, high) == (pytest.approx(0.4038, abs=1e-4), pytest.approx(0.5962, abs=1e-4))
    for count in range(1, 50):                                    # rounding may not lead out of 0 to 1
        assert evaluate.wilson_interval(1.0, count)[1] <= 1 and evaluate.wilson_interval(0.0, count)[0] >= 0
    assert evaluate.wilson_interval(1.0, 1000)[1] == pytest.approx(1)
    assert evaluate.wilson_interval(0.0, 10)[0] == pytest.approx(0)


def test_categories_cover_blimp_and_come_near_the_cards_numbers():
    """The card's own 67 accuracies, put into our categories, give its averages (stated as approximate) within
    5 points.
    """
    cards = json.loads((Path(evaluate.__file__).parent / "cards" / "cards.json").read_bytes())["models"][
        "Stentor2-30M"
    ]["blimp"]
    members = {}
    for name, accuracy, _, term, _ in cards["task_accuracy"][0]["rows"]:
        members.setdefault(evaluate.CATEGORIES.get(name) or evaluate.CATEGORIES[term], []).append(accuracy)
    assert sum(map(len, members.values())) == 67 and len(members) == 8
    for name, average, *_ in cards["category_averages"][0]["rows"]:
        assert statistics.fmean(members[name]) == pytest.approx(average, abs=5), name
    bands = [evaluate.band(row[1] / 100) for row in cards["task_accuracy"][0]["rows"]]
    assert [bands.count(name) for name in ("strong", "moderate", "weak")] == [28, 26, 13]


def test_real_blimp_file_has_67_paradigms_and_7_identical_pairs(shared):
    items = evaluate.read_items(
        shared / "eval" / "blimp.jsonl.gz", {"sentence_good": str, "sentence_bad": str, "UID": str}
    )
    assert (
        len({item["UID"] for item in items}) == 67
        and sum(item["sentence_good"] == item["sentence_bad"] for item in items) == 7
    )
    assert all(
        item["UID"] in evaluate.CATEGORIES or item["linguistics_term"] in evaluate.CATEGORIES
        for item in items
    )


def test_fetch_blimp_once(tmp_path, monkeypatch):
    archive = tmp_path / "blimp.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("blimp-x/data/b.jsonl", json.dumps(pair("b", "c")) + "\n")
        file.writestr("blimp-x/data/a.jsonl", json.dumps(pair("a", "c")) + "\n")
        file.writestr("blimp-x/README.md", "no pairs here")
    monkeypatch.setattr(fetch_blimp, "ARCHIVE", archive.as_uri())
    with pytest.raises(UserError, match="holds 2 pairs, expected 67000"):
        fetch_blimp.fetch_blimp(tmp_path / "blimp.jsonl.gz")
    monkeypatch.setattr(fetch_blimp, "PAIRS", 2)
    path = fetch_blimp.fetch_blimp(tmp_path / "corpora" / "blimp.jsonl.gz")
    assert [item["sentence_good"] for item in evaluate.read_items(path, {"UID": str})] == ["a", "b"]
    archive.unlink()
    assert fetch_blimp.fetch_blimp(path) == path
    with pytest.raises(UserError, match="could not be fetched"):
        fetch_blimp.fetch_blimp(tmp_path / "other.jsonl.gz")


# -------------------------------------------------------------------------------------------- multiple choice

def question(context, choices, task="arc_easy", kind="question", **label):
    return {"task": task, "id": "1", "kind": kind, "context": context, "choices": choices, **label}


def manual(model, toy, context, choice):
    begin = len(toy.encode(context))
    return float(naive(model, Query(toy.encode(context) + toy.encode(choice), begin)).sum())


def test_acc_and_acc_norm_on_hand_made_arc(model, toy, tmp_path):
    items = [
        question("is the cat she?", ["she swims", "he", "the cat sat on"], label=0),
        question("he?", ["her", "is using her"], label=1),
        question("cat?", ["sat", "swims", "is", "the"], label=2),
    ]
    path = write(tmp_path / "arc.jsonl", items)
    acc, normed = [], []
    for item in items:
        values = [
            manual(model, toy, f"Question: {item['context']}\nAnswer:", " " + choice)
            for choice in item["choices"]
        ]
        acc.append(values.index(max(values)) == item["label"])
        per_character = [value / len(choice) for value, choice in zip(values, item["choices"])]
        normed.append(per_character.index(max(per_character)) == item["label"])
    for prompt in ("plain", "lm-eval"):
        for boundary in ("bytes", "lm-eval"):
            found = evaluate.multiple_choice(model, toy, path, boundary, prompt)
            assert (found["acc"], found["acc_norm"], found["items"]) == (
                pytest.approx(sum(acc) / 3),
                pytest.approx(sum(normed) / 3),
                3,
            )
            assert found["stderr"] == pytest.approx(statistics.stdev(map(float, acc)) / math.sqrt(3))
            assert found["chance"] == pytest.approx((1 / 3 + 1 / 2 + 1 / 4) / 3)


def test_truthfulqa_mc2_is_the_share_of_the_true_choices(model, toy, tmp_path):
    item = question("is the cat?", ["he", "she is", "her cat"], task="truthfulqa_mc2", labels=[1, 0, 1])
    values = [
        math.exp(manual(model, toy, "Question: is the cat?\nAnswer:", " " + choice))
        for choice in item["choices"]
    ]
    found = evaluate.multiple_choice(model, toy, write(tmp_path / "mc2.jsonl", [item]))
    assert (
        found["acc"] == pytest.approx((values[0] + values[2]) / sum(values), abs=1e-5)
        and found["acc_norm"] is None
    )


def test_a_cloze_scores_what_follows_given_each_choice(model, toy, tmp_path):
    item = question("the cat sat. _ is using her.", ["he", "she"], task="winogrande", kind="cloze", label=0)
    prompts = evaluate.plain_prompt(item)
    assert (
        prompts
        == [("the cat sat. he", [" is using her."]), ("the cat sat. she", [" is using her."])]
        == lm_eval_prompt(item)
    )
    values = []
    for context, choices in prompts:
        rows, _ = choice_queries(toy, context, choices)
        values += choice_scores(rows, score(model, [rows])[0])
    found = evaluate.multiple_choice(model, toy, write(tmp_path / "w.jsonl", [item]))
    assert found["acc"] == found["acc_norm"] == float(values[0] > values[1]) and found["crossed"] == 1


def test_prompts_are_lm_evals():
    mmlu = question("Who?", ["a", "b"], task="mmlu", subject="high_school_us_history", label=0)
    head = "The following are multiple choice questions (with answers) about high school us history.\n\n"
    assert lm_eval_prompt(mmlu) == [(f"{head}Who?\nA. a\nB. b\nAnswer:", [" A", " B"])]
    csqa = question("Who?", ["a", "b", "c"], task="commonsenseqa", label=0)
    assert lm_eval_prompt(csqa) == [("Question: Who?\nA. a\nB. b\nC. c\nAnswer:", [" A", " B", " C"])]
    assert lm_eval_prompt(question("So", ["a"], task="openbookqa")) == [("So", [" a"])]
    (context, choices), = lm_eval_prompt(question("Why?", ["a"], task="truthfulqa_mc2"))
    assert (
        context.startswith("Q: What is human life expectancy")
        and context.endswith("Barcelona, Spain.\n\nQ: Why?\nA:")
        and choices == [" a"]
    )
    with pytest.raises(UserError, match="no prompt of lm-eval is known"):
        lm_eval_prompt(question("Why?", ["a"], task="truthfulqa_binary"))
    with pytest.raises(UserError, match="names the subject"):
        lm_eval_prompt(question("Why?", ["a"], task="mmlu"))
    cloze = question("a _ 's b", ["x", "y"], task="winogrande", kind="cloze")
    assert lm_eval_prompt(cloze)[0] == ("a x", [" 's b"])


def test_mmlu_groups(model, toy, tmp_path):
    items = [
        question("a?", ["he", "she"], task="mmlu", label=0, subject=subject)
        for subject in ("virology", "astronomy", "sociology", "anatomy")
    ]
    found = evaluate.multiple_choice(model, toy, write(tmp_path / "m.jsonl", items))
    assert set(found["groups"]) == {"other", "STEM", "social sciences"}
    assert found["group_intervals"]["STEM"] == evaluate.wilson_interval(found["groups"]["STEM"], 2)
    assert sum(len(subjects.split()) for subjects in MMLU_GROUPS.values()) == 57 - 19


@pytest.mark.parametrize("change, message", [
    ({"choices": ["a"]}, "item 1: choices must be two or more texts"),
    ({"choices": ["a", ""]}, "choices must be"),
    ({"kind": "riddle"}, "kind must be"), ({"label": 2}, "label must be"), ({"label": "0"}, "label must be"),
    ({"label": None}, "label must be"),
    ({"labels": [[], []]}, "label must be"), ({"labels": [1]}, "label must be"),
    ({"labels": [0, 0]}, "label must be"), ({"labels": [1, 2]}, "label must be"),
    ({"kind": "cloze"}, "a cloze has one _"), ({"kind": "cloze", "context": "a _"}, "and text after it"),
    ({"context": 3}, "'context' of type str"),
])
def test_a_wrong_item_is_named(model, toy, tmp_path, change, message):
    path = write(tmp_path / "x.jsonl", [{**question("a?", ["he", "she"], label=0), **change}])
    with pytest.raises(UserError, match=message):
        evaluate.multiple_choice(model, toy, path)


def test_a_wrong_file_is_named(tmp_path):
    def reading(name, content):
        (tmp_path / name).write_bytes(content)
        return pytest.raises(UserError, match=name)

    with reading("cut.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 1000)[:-20]):
        evaluate.read_items(tmp_path / "cut.jsonl.gz", {})
    with reading("flipped.jsonl.gz", b"\x1f\x8b" + b"rubbish" * 9):
        evaluate.read_items(tmp_path / "flipped.jsonl.gz", {})
    with reading("text.jsonl", b'{"a": 1}\nnot json\n'):
        evaluate.read_items(tmp_path / "text.jsonl", {})
    with reading("latin.jsonl", b'{"a": "\xe9"}\n'):
        evaluate.read_items(tmp_path / "latin.jsonl", {})
    with reading("empty.jsonl", b"\n\n"):
        evaluate.read_items(tmp_path / "empty.jsonl", {})
    with reading("list.jsonl", b"[1]\n"):
        evaluate.read_items(tmp_path / "list.jsonl", {"a": int})
    with pytest.raises(UserError, match="nowhere.jsonl"):
        evaluate.read_items(tmp_path / "nowhere.jsonl", {})
    (tmp_path / "bom.jsonl").write_bytes(b'\xef\xbb\xbf{"a": 1}\n')
    assert evaluate.read_items(tmp_path / "bom.jsonl", {"a": int}) == [{"a": 1}]


def test_an_item_without_an_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "LARGEST_DOCUMENT", 100)
    (tmp_path / "long.jsonl.gz").write_bytes(gzip.compress(b'{"a": "' + b"x" * 200))
    with pytest.raises(UserError, match="line 1 has more than 100 characters"):
        evaluate.read_items(tmp_path / "long.jsonl.gz", {})


def test_two_blanks_are_refused_whatever_the_item_is_called(model, toy, tmp_path):
    """`split("_")` of lm-eval's prompt for Winogrande and of a cloze gives two parts for one blank only."""
    for kind, prompt in (("cloze", "plain"), ("cloze", "lm-eval"), ("continuation", "lm-eval")):
        item = question("a _ b _ c", ["he", "she"], task="winogrande", label=0) | {"kind": kind}
        with pytest.raises(UserError, match="item 1: a cloze has one _"):
            evaluate.multiple_choice(model, toy, write(tmp_path / "w.jsonl", [item]), prompt=prompt)


def test_more_choices_than_letters_are_refused(model, toy, tmp_path):
    item = question("a?", ["he"] * 27, task="commonsenseqa", label=26)
    with pytest.raises(UserError, match="27 choices, but only 26 letters"):
        evaluate.multiple_choice(model, toy, write(tmp_path / "w.jsonl", [item]), prompt="lm-eval")


# -------------------------------------------------------------------------------------- tables, blocks, curve

def test_the_cards_mean_over_chance_is_reproduced():
    scores, chance = scoreboard.card_peers()
    stated = {
        "Stentor3-50M": 0.0123,
        "Stentor3-20M": 0.0109,
        "DistilGPT2": 0.0147,
        "Pythia-31M": 0.0110,
        "Pythia-70M": 0.0127,
        "TinyStories-33M": 0.0075,
        "Portimbria-150M": 0.0144,
    }
    found = scoreboard.mean_over_chance(scores, chance)
    assert round(found["Stentor3-20M"], 4) == 0.0109
    assert found == {name: pytest.approx(value, abs=1.1e-4) for name, value in stated.items()}


def test_the_table_marks_best_and_second_best():
    scores = {
        "a": {"PIQA": 0.6, "x: bits per byte (less is better)": 1.2},
        "b": {"PIQA": 0.5, "x: bits per byte (less is better)": 1.1},
        "c": {"PIQA": 0.6, "MMLU": 0.3},
    }
    table = scoreboard.markdown(scores, {"a": {"PIQA": [0.59, 0.61]}}, {"PIQA": 0.5})
    assert table.splitlines()[2:] == [
        "| PIQA | 0.5000 | **0.6000** (0.5900 to 0.6100) | _0.5000_ | **0.6000** |",
        "| x: bits per byte (less is better) |  | _1.2000_ | **1.1000** |  |",
        "| MMLU |  |  |  | 0.3000 |",
        "| mean over chance |  | **0.1000** | _0.0000_ | **0.1000** |"]


MODEL = Namespace(config=CONFIG)                                  # where only the configuration is read


def test_the_terminals_table_names_each_run_and_fits_80_columns():
    scores = {"one": {"ARC-Challenge": 0.25, "my.txt: bits per byte (less is better)": 1.5}, "two": {}}
    scores["two"] = {title: value + 0.1 for title, value in scores["one"].items()}
    ends = {name: {title: [0.1, 0.9] for title in row} for name, row in scores.items()}
    lines = scoreboard.aligned(scores, ends, {"ARC-Challenge": 0.25}).splitlines()
    assert [line.split() for line in lines if line.startswith("ARC-C")] == [
        ["ARC-Challenge", "one", "0.2500", "0.1000", "to", "0.9000", "0.2500", "second"],
        ["ARC-Challenge", "two", "0.3500", "0.1000", "to", "0.9000", "0.2500", "best"]]
    assert [line.split()[-1] for line in lines if line.startswith("my.txt")] == ["best", "second"]
    assert max(map(len, lines)) <= 80 and "Bits per byte: less is better." in lines


def test_an_accuracy_of_a_few_items_has_wilsons_interval():
    """None of 24 right is 0 to 14%, not 0.000 ± 0.000."""
    interval = evaluate.wilson_interval(0, 24)
    result = {"acc": 0.0, "acc_norm": None, "stderr": 0.0, "task": "x", "interval": interval}
    score, (low, high) = scoreboard.headline(result)
    assert (score, low) == (0, 0) and high == pytest.approx(0.138, abs=1e-3)


def test_worse_than_knowing_nothing_is_said(monkeypatch, tmp_path, capsys):
    """Perplexity 40,442 with 64 tokens is worse than a uniform guess; perplexity 60 is not."""
    (tmp_path / "a.txt").write_text("a")
    monkeypatch.setattr(scoreboard, "lost_text", lambda *_: None)
    for ppl, said in ((40_442.0, True), (60.0, False)):
        found = dict.fromkeys(("stderr", "bits_per_byte", "bits_per_char", "tokens"), 1)
        found |= {"loss": math.log(ppl), "ppl": ppl}
        monkeypatch.setattr(scoreboard, "perplexity", lambda *_, found=found: found)
        scoreboard.judge_text("my run", MODEL, None, tmp_path / "a.txt", 8, None, {})
        printed = capsys.readouterr().out
        assert printed.startswith("my run: ") and ("worse than knowing nothing" in printed) == said


def test_a_spread_is_not_told_of_one_token(monkeypatch, tmp_path, capsys):
    result = {"loss": 2.0, "stderr": 0.0, "bits_per_byte": 3.0, "tokens": 1}
    assert scoreboard.headline(result) == (3.0, [0.0, math.inf])
    assert scoreboard.headline({**result, "stderr": 1.9, "tokens": 9})[1][0] == 0.0
    (tmp_path / "a.txt").write_text("a")
    monkeypatch.setattr(scoreboard, "lost_text", lambda *_: None)
    for loss, shown in ((2.0, "7.39"), (50.0, "5.2e+21"), (5000.0, "above 1e+300")):
        found = {**result, "loss": loss, "bits_per_char": 3.0}
        monkeypatch.setattr(scoreboard, "perplexity", lambda *_, found=found: found)
        scoreboard.judge_text("run", MODEL, None, tmp_path / "a.txt", 8, None, {})
        printed = capsys.readouterr().out
        assert "±" not in printed and f"perplexity {shown}\n" in printed


@pytest.mark.parametrize("flags, words", [
    (["--text", "empty.txt"], "empty.txt: nothing to score"),
    (["--text", "folder"], "folder: no prepared corpus here"),
    (["--blimp", "long.jsonl"], "long.jsonl: a text of 1200 tokens must be scored in one piece"),
    (["--text", "a.txt", "--out", "."], "--out .: name files that can be written"),
    (["--text", "a.txt", "--out", "taken"], "--out taken: name files that can be written"),
])
def test_the_input_of_a_mistake_is_named(two_runs, tmp_path, monkeypatch, flags, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "taken.md").mkdir()
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "a.txt").write_text("a text")
    write(tmp_path / "long.jsonl", [pair("a" * 1200, "b" * 1200)])
    with pytest.raises(UserError, match=words):
        scoreboard.judge_all(two_runs[:1], scoreboard.parser().parse_args(flags))


@pytest.mark.parametrize("flag", ["text", "choices", "blimp", "gsm8k"])
def test_a_device_is_no_input(two_runs, flag):
    if not Path("/dev/zero").exists():
        pytest.skip("no /dev/zero here")
    with pytest.raises(UserError, match="/dev/zero: not a regular file"):
        scoreboard.judge_all(two_runs, flags(**{flag: "/dev/zero" if flag == "blimp" else ["/dev/zero"]}))


def test_a_place_that_cannot_be_written_is_noticed_before_anything_is_judged(two_runs, tmp_path, monkeypatch):
    """The same for a read-only run: it is judged if the results go elsewhere, but cannot be continued."""
    (tmp_path / "a.txt").write_text("the cat sat")
    monkeypatch.setattr(scoreboard, "judge_run", None)            # would fail
    real = scoreboard.tempfile.TemporaryFile

    def read_only(dir):
        if Path(dir).resolve() == tmp_path / "one":
            raise OSError(30, "Read-only file system")
        return real(dir=dir)

    monkeypatch.setattr(scoreboard.tempfile, "TemporaryFile", read_only)
    with pytest.raises(UserError, match="one: the results cannot be written here .Read-only.*--out STEM"):
        scoreboard.judge_all(two_runs[:1], flags(text=[tmp_path / "a.txt"]))
    monkeypatch.undo()
    monkeypatch.setattr(scoreboard.tempfile, "TemporaryFile", read_only)
    blocks = scoreboard.Blocks(tmp_path / "one" / "evaluation_blocks.json", "a model")
    blocks["part"] = [1.0]
    assert blocks == {"part": [1.0]} and not blocks.path.exists()


def test_a_disk_that_is_full_does_not_end_an_evaluation(tmp_path, capsys):
    """A folder in the place of the file: it cannot be written either."""
    (tmp_path / "blocks.json").mkdir()
    blocks = scoreboard.Blocks(tmp_path / "blocks.json", "a model")
    blocks["part"], blocks["next"] = [1.0], [2.0]
    assert blocks == {"part": [1.0], "next": [2.0]}
    assert capsys.readouterr().err.count("note: ") == 1


def flags(**given):
    """The namespace that evaluate.py's parser makes, with some flags given."""
    default = dict(
        text=[],
        blimp=None,
        choices=[],
        gsm8k=[],
        builtin=None,
        shots=[0],
        examples=None,
        prompt="plain",
        boundary="bytes",
        limit=None,
        context=None,
        device="cpu",
        peers=False,
        out=None,
        curve=False,
    )
    return Namespace(**{**default, **given})


@pytest.fixture
def two_runs(tmp_path, toy, monkeypatch):
    monkeypatch.setattr(scoreboard, "load_tokenizer", lambda folder: toy)
    for number, name in enumerate(("one", "two")):
        torch.manual_seed(number)
        Llama(CONFIG).save_pretrained(tmp_path / name / "best", eos_token_id=0)
    return [tmp_path / "one" / "best", tmp_path / "two" / "best"]


def test_one_content_read_in_two_ways_is_judged_twice(two_runs, tmp_path, monkeypatch):
    """A .jsonl is rows, the same bytes as .txt one text: what was computed for one is not the result of the
    other.
    """
    finished = scoreboard.Blocks(tmp_path / "blocks.json", "a model")
    monkeypatch.setattr(scoreboard, "perplexity", lambda model, tokenizer, texts, context: dict.fromkeys(
        ("loss", "stderr", "ppl", "bits_per_byte", "bits_per_char"), 0.0) | {"tokens": len(texts)})
    monkeypatch.setattr(scoreboard, "lost_text", lambda tokenizer, texts, least: None)
    for name in ("a.jsonl", "a.txt"):
        (tmp_path / name).write_text('{"text": "one"}\n{"text": "two"}\n')
    assert [
        scoreboard.judge_text("run", MODEL, None, tmp_path / name, 8, None, finished)["tokens"]
        for name in ("a.jsonl", "a.txt")
    ] == [2, 1]


def test_models_side_by_side_and_nothing_twice(two_runs, tmp_path, monkeypatch, capsys):
    items = write(tmp_path / "arc.jsonl", [question("cat?", ["he", "she is"], label=1)] * 4)
    text = tmp_path / "my.txt"
    text.write_text("the cat sat")
    asked = flags(choices=[items], text=[text], out=str(tmp_path / "new folder" / "table"), peers=True)
    scoreboard.judge_all(two_runs, asked)
    printed = capsys.readouterr().out
    report = json.loads((tmp_path / "new folder" / "table.json").read_text(encoding="utf-8"))
    assert list(report["models"]) == ["one", "two"] and report["models"]["one"]["ARC-Easy"]["items"] == 4
    assert "Stentor3-20M (card)" in printed and "per character" in printed
    assert "one: " in printed and "two: " in printed, "each line names its run"
    table = (tmp_path / "new folder" / "table.md").read_text(encoding="utf-8")
    assert "| ARC-Easy | 0.5000 | " in table and "HellaSwag" not in table + printed, "only rows of all runs"
    monkeypatch.setattr(evaluate, "score_batch", None)  # computing anything now would fail
    scoreboard.judge_all(two_runs, asked)
    assert json.loads((tmp_path / "new folder" / "table.json").read_text(encoding="utf-8")) == report


def test_text_that_the_vocabulary_cannot_hold_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        scoreboard,
        "perplexity",
        lambda *_: dict.fromkeys(("loss", "stderr", "ppl", "bits_per_byte", "bits_per_char", "tokens"), 0),
    )
    words, told = tokenizer.load(), []
    for name, content in (
        ("russian.txt", "the cat " + "мир " * 9),
        ("english.txt", "the caf\u00e9,\r\ntwice\r"),
    ):
        (tmp_path / name).write_text(content, encoding="utf-8")
        scoreboard.judge_text("run", MODEL, words, tmp_path / name, 8, None, {})
        told.append(capsys.readouterr().err)
    assert (
        told[1] == ""
        and told[0].startswith(f"warning: {tmp_path / 'russian.txt'}: ")
        and "have no token in this vocabulary" in told[0]
    )
    assert tokenizer_module.lost_characters(words, "the cat " + "м" * 8) == 8


def test_files_of_one_name_and_of_one_task_stand_side_by_side(two_runs, tmp_path):
    for number in range(2):
        (tmp_path / f"d{number}").mkdir()
        (tmp_path / f"d{number}" / "my.txt").write_text("the cat sat" * (number + 1))
        write(
            tmp_path / f"mmlu_{number}.jsonl",
            [question("cat?", ["he", "she is"], task="truthfulqa_mc1", label=1)] * (number + 2),
        )
    texts = [str(tmp_path / f"d{number}" / "my.txt") for number in range(2)]
    scoreboard.judge_all(
        two_runs[:1],
        flags(
            text=texts,
            choices=[tmp_path / f"mmlu_{number}.jsonl" for number in range(2)],
            out=str(tmp_path / "o"),
        ),
    )
    report = json.loads((tmp_path / "o.json").read_text(encoding="utf-8"))["models"]["one"]
    assert {f"{path}: bits per byte (less is better)" for path in texts} < set(report)
    assert report["TruthfulQA MC1"]["items"] == 2 and report["TruthfulQA MC1 (mmlu_1.jsonl)"]["items"] == 3


def test_an_interrupted_evaluation_goes_on(two_runs, tmp_path, monkeypatch, toy):
    pairs = [pair("the cat", "cat the", f"paradigm_{number}") for number in range(6)]
    path = write(tmp_path / "blimp.jsonl", pairs)
    whole = evaluate.blimp(Llama.from_pretrained(two_runs[0]), toy, path)
    counted = []
    original = evaluate.score_batch

    def interrupting(*arguments):
        counted.append(1)
        if len(counted) == 4:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(evaluate, "score_batch", interrupting)
    with pytest.raises(KeyboardInterrupt):
        scoreboard.judge_all(two_runs[:1], flags(blimp=path))
    kept = json.loads((tmp_path / "one" / "evaluation_blocks.json").read_text(encoding="utf-8"))["blocks"]
    assert len(kept) == 3
    scoreboard.judge_all(two_runs[:1], flags(blimp=path))
    assert len(counted) == 4 + 3
    assert json.loads((tmp_path / "one" / "evaluation.json").read_bytes())["models"]["one"]["BLiMP"][
        "overall"
    ] == pytest.approx(whole["overall"])


def test_blocks_of_another_model_are_not_used(tmp_path):
    blocks = scoreboard.Blocks(tmp_path / "b.json", "model one")
    blocks["part"] = [1.0]
    assert dict(scoreboard.Blocks(tmp_path / "b.json", "model one")) == {"part": [1.0]}
    assert not scoreboard.Blocks(tmp_path / "b.json", "model two")


def test_nothing_to_do_says_what_to_give(two_runs):
    with pytest.raises(UserError, match="give --text, --blimp, --choices, --gsm8k or --builtin"):
        scoreboard.judge_all(two_runs[:1], flags())


def test_validation_documents_of_a_prepared_folder(two_runs, tmp_path, monkeypatch, toy):
    coder = tokenizer.load("builtin-4096")
    texts = {"web": ["The caf\u00e9 is open.", "He is using it."], "code": ["def f():\n    return 1"]}
    tokens = {}
    for name, found in texts.items():
        validation = [token for text in found for token in [*coder.encode(text, document=True), coder.eos_id]]
        tokens[name] = {"train": numbered(100), "validation": np.array(validation)}
    folder = write_corpus(tmp_path / "corpus", tokens)
    monkeypatch.setattr(scoreboard, "load_tokenizer", lambda folder: coder)
    assert scoreboard.text_documents(folder) == [*texts["web"], *texts["code"]]
    assert scoreboard.text_documents(folder, limit=1) == [texts["web"][0], texts["code"][0]]
    (tmp_path / "one" / "run.json").write_text(json.dumps({"data": str(folder), "settings": {"seq_len": 8}}))
    judged = []

    def judge(model, coder, texts, context):
        judged.append((texts, context))
        return evaluate.perplexity(model, toy, "a cat")

    monkeypatch.setattr(scoreboard, "perplexity", judge)
    # no flag: the run's own data, at the length it was trained at
    scoreboard.judge_all(two_runs[:1], flags())
    assert judged == [([*texts["web"], *texts["code"]], 8)]


@pytest.mark.parametrize("seq_len", [-1, 0, True, "8", 2.5, [8], {}])
def test_a_length_that_is_no_length_is_one_line(two_runs, tmp_path, seq_len):
    record = {"data": str(tmp_path), "settings": {"seq_len": seq_len}}
    (tmp_path / "one" / "run.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="run.json: not the record of a run .*seq_len"):
        scoreboard.judge_all(two_runs[:1], flags())


def test_text_files(tmp_path):
    path = write(tmp_path / "docs.jsonl.gz", [{"text": "one"}, {"text": "two"}])
    (tmp_path / "docs.json").write_text(json.dumps([{"content": "one"}, {"content": None}]))
    assert scoreboard.text_documents(tmp_path / "docs.json") == ["one"]
    assert scoreboard.text_documents(path) == ["one", "two"] and scoreboard.text_documents(path, 1) == ["one"]
    (tmp_path / "a.txt").write_bytes("caf\u00e9\r\n".encode())
    assert scoreboard.text_documents(tmp_path / "a.txt") == ["caf\u00e9\r\n"]
    (tmp_path / "b.txt").write_bytes(b"caf\xe9")
    with pytest.raises(UserError, match="b.txt: not UTF-8 text .*iconv -f LATIN1"):
        scoreboard.text_documents(tmp_path / "b.txt")


def command(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["evaluate.py", *map(str, arguments)])
    return common.run(evaluate.main)


def test_the_command_on_a_real_folder(tmp_path, monkeypatch, capsys):
    coder = tokenizer.load("builtin-4096")
    Llama(ModelConfig(**{**CONFIG.__dict__, "vocab_size": 4096})).save_pretrained(
        tmp_path / "m", eos_token_id=coder.eos_id
    )
    coder.save_pretrained(tmp_path / "m")
    items = write(
        tmp_path / "piqa.jsonl.gz",
        [question("To boil water", ["heat it", "cool it"], task="piqa", label=0)] * 3,
    )
    blimp = write(tmp_path / "blimp.jsonl", [pair("He is here.", "He are here.")])
    assert (
        command(
            monkeypatch,
            tmp_path / "m",
            "--choices",
            items,
            "--blimp",
            blimp,
            "--prompt",
            "lm-eval",
            "--device",
            "cpu",
        )
        == 0
    )
    printed = capsys.readouterr().out
    assert re.search(r"^PIQA +m +[01]\.", printed, re.MULTILINE) and "BLiMP" in printed
    assert "in 0 of 3 items a token crosses the boundary of context and choice" in " ".join(printed.split())
    report = json.loads((tmp_path / "m" / "evaluation.json").read_text(encoding="utf-8"))["models"]["m"]
    assert report["PIQA"]["items"] == 3 and report["BLiMP"]["pairs"] == 1
    written = (tmp_path / "m" / "evaluation.md").read_text(encoding="utf-8")
    assert (
        "| Island Constraints |" in written
        and "| adjunct_island |" in written
        and "lm-eval counts a tie as right" in written
    )


@pytest.mark.parametrize("arguments, message", [
    (["--choice", "x"], "unknown argument --choice; did you mean --choices?"),
    (["nowhere"], "nowhere: no such run or model folder"),
    (["--boundary", "words"], "invalid choice: 'words'"), (["--limit", "many"], "'many' is not a number"),
    (["--limit", "0"], "'0' is not at least 1"), (["--context", "-5"], "'-5' is not at least 1"),
])
def test_a_mistake_is_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert command(monkeypatch, *arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and message in captured.err and not captured.out


def test_curve_over_the_published_one(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    settings = {"size": "20m", "seq_len": 256, "batch_size": 8, "steps": 200, "recipe": "card", "model": None}
    record = {"settings": settings, "data": "corpora/builtin", "vocabulary": "abc"}
    (run / "run.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="not the settings of a run"):
        curve.overlay(run)
    (run / "run.json").write_text(json.dumps({**record, "model": dataclasses.asdict(SIZES["20m"])}))
    with pytest.raises(UserError, match="log.jsonl holds no loss"):
        curve.overlay(run)
    rows = [{"step": step, "tokens": step * 2048, "loss": 8 - step / 100} for step in range(1, 200)]
    write(run / "log.jsonl", [*rows, {"step": 100, "tokens": 204800, "eval_loss": 7.0}])
    said = curve.overlay(run)
    assert "FineWeb-HQ" in said and "407,552 tokens of corpora/builtin" in said and "~8.5" in said
    drawn = (run / "curve.svg").read_text(encoding="utf-8")
    assert drawn.startswith("<?xml") and all(f'id="axes_{panel}"' in drawn for panel in (1, 2))


@pytest.mark.parametrize("size, points, best",
    [("20m", 21, 14.02), ("30m", 8, 18.07), ("150m", 13, 18.0), ("12m", 0, 26.61), ("50m", 0, 9.64),
    ("12m-v1", 0, 89.01), ("30m-v1", 0, 33.02)])
def test_published_histories(size, points, best):
    found = curve.published(size)
    assert len(found["history"]) == points and math.exp(found["best"]) == pytest.approx(best)
    if points:
        assert found["history"] == sorted(found["history"])
    assert curve.published("tiny") == {}


def test_a_text_is_cleaned_as_the_corpus_of_the_run_was(tmp_path, capsys):
    paragraphs = [f"First line {number},\nsecond  line.\n" for number in range(3000)]
    path = tmp_path / "a.txt"
    path.write_text("\n".join(paragraphs))
    short = tmp_path / "short.txt"
    short.write_text("One,\n  two.\n")
    for kind, cleaned in (("text", "One,\n  two."), ("web", "One, two.")):
        corpus = prepare([path_source(kind, path)], tmp_path / kind, workers=1)
        assert scoreboard.cleaned_documents(short, None, str(corpus)) == [cleaned]
        assert f"short.txt: cleaned like {kind} in {corpus}" in " ".join(capsys.readouterr().out.split())
    assert scoreboard.cleaned_documents(short, None, str(tmp_path / "gone")) == ["One,\n  two.\n"]
    assert "judged as it is" in " ".join(capsys.readouterr().out.split())
    assert scoreboard.cleaned_documents(short, None, None) == ["One,\n  two.\n"]
