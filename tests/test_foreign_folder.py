# SPDX-License-Identifier: Apache-2.0
"""Model folders that other programs wrote: several end-of-text ids, what a tokenizer puts before a text."""
import dataclasses
import json

import pytest
import torch

import evaluate
import model
from common import UserError
from model import SIZES, Llama, ModelConfig
from tokenizer import load


@pytest.fixture(scope="module")
def builtin():
    return load()


@pytest.fixture
def folder(builtin, tmp_path):
    """A model folder of ours, to be changed as others write it."""
    Llama(SIZES["tiny"]).save_pretrained(tmp_path / "model", eos_token_id=builtin.eos_id)
    builtin.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def change(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | values))


def test_every_end_of_text_id_ends_a_text(folder, builtin):
    assert load(folder).stop_ids == {builtin.eos_id} and load(folder).prefix_ids == []
    change(folder / "config.json", eos_token_id=[7, builtin.eos_id])
    change(folder / "generation_config.json", eos_token_id=[9])
    tokenizer = load(folder)
    assert tokenizer.stop_ids == {7, 9, builtin.eos_id} and tokenizer.eos_id == builtin.eos_id
    assert tokenizer.decode([7, *builtin.encode("cat"), 9], skip_special=True) == "cat"
    change(folder / "config.json", eos_token_id=[7, 8])
    assert load(folder).eos_id == 7


@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
@pytest.mark.parametrize("value", [-1, [3, -1], [3, "x"], 3.5, 4096, {"a": 1}, True, [3, False], [[3]], "3"])
def test_ids_outside_the_vocabulary_are_refused(folder, file, value):
    change(folder / file, eos_token_id=value)
    with pytest.raises(UserError, match=file if value != 4096 else "4096"):
        load(folder)


@pytest.mark.parametrize("kind", ["bos", "pad"])
def test_negative_padding_and_beginning_are_refused(folder, kind):
    change(folder / "config.json", **{f"{kind}_token_id": -1})
    with pytest.raises(UserError, match="negative"):
        load(folder)


def bpe_folder(folder, adds_bos=True):
    """A small byte-level BPE as transformers saves one; its post-processor may put <s> before a text."""
    library = pytest.importorskip("tokenizers", reason="the tokenizers library (extra bpe) is not installed")
    bpe = library.ByteLevelBPETokenizer()
    bpe.train_from_iterator(["the cat sat on the mat and he is using it"] * 9, vocab_size=300,
                            special_tokens=["<s>", "</s>"], show_progress=False)
    inner = library.Tokenizer.from_str(bpe.to_str())
    if adds_bos:
        template = library.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
        inner.post_processor = template
    folder.mkdir()
    inner.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))
    return folder


def test_the_prefix_is_what_the_post_processor_adds(tmp_path):
    tokenizer = load(bpe_folder(tmp_path / "with"))
    assert tokenizer.prefix_ids == [tokenizer.bos_id] == [0]
    assert tokenizer.encode("the cat")[0] != 0, "encode stays bare"
    assert load(bpe_folder(tmp_path / "without", adds_bos=False)).prefix_ids == []


def test_a_folder_of_ours_has_no_prefix(tmp_path):
    """Our training puts nothing before a text, so the copy of a vocabulary in our folders says so."""
    load(bpe_folder(tmp_path / "with")).save_pretrained(tmp_path / "ours")
    assert load(tmp_path / "ours").prefix_ids == []


@pytest.mark.parametrize("value, read", [("silu", True), ("swish", True), ("gelu", False)])
def test_swish_is_another_name_of_silu(folder, value, read):
    change(folder / "config.json", hidden_act=value)
    if read:
        assert ModelConfig.from_json(folder / "config.json") == SIZES["tiny"]
    else:
        with pytest.raises(UserError, match="hidden_act 'gelu'"):
            ModelConfig.from_json(folder / "config.json")


def test_a_file_without_permission_is_not_called_damaged(folder, monkeypatch):
    def refuse(self, *_):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(type(folder), "open", refuse)
    with pytest.raises(UserError, match="model.safetensors: cannot be read: Permission denied"):
        model.tensor_index(folder)


# ----------------------------------------------------------------------------- what is scored begins with it

class Prefixed:
    """Letters as tokens, with a beginning-of-text id that the tokenizer itself puts before a text."""

    eos_id, bos_id, pad_id, vocab_size, fingerprint = 0, 1, 0, 64, "prefixed"
    prefix_ids, stop_ids = [1], {0}

    def encode(self, text, document=False):
        return [2 + byte % 62 for byte in text.encode()]

    def encode_many(self, texts, document=False):
        return [self.encode(text, document) for text in texts]

    def token_bytes(self, ids):
        return bytes(id + 60 for id in ids)


CONFIG = ModelConfig(64, 32, 48, 2, 4, 2, 8, 96, tie_word_embeddings=True)


def log_p(network, ids, start):
    """Sum of log p of the tokens from `start` on, by one plain forward pass."""
    with torch.no_grad():
        found = network(torch.tensor([ids[:-1]])).double().log_softmax(dim=-1)[0]
    return float(sum(found[i - 1, ids[i]] for i in range(start, len(ids))))


def test_perplexity_blimp_and_choices_begin_with_the_prefix(tmp_path):
    torch.manual_seed(0)
    network, tokenizer = Llama(CONFIG).eval(), Prefixed()
    for parameter in network.parameters():
        parameter.data.mul_(3)
    ids = tokenizer.encode("the cat sat")
    found = evaluate.perplexity(network, tokenizer, "the cat sat")
    expected = -log_p(network, [1, *ids], 1) / len(ids)
    assert found["tokens"] == len(ids) and found["loss"] == pytest.approx(expected, 1e-5)
    long = tokenizer.encode("the cat sat on the mat " * 9)
    assert evaluate.perplexity(network, tokenizer, "the cat sat on the mat " * 9)["tokens"] == len(long)
    (queries, _) = evaluate.choice_queries(tokenizer, "the", [" cat", " mat"])
    encoded = [[1, *tokenizer.encode(text)] for text in ("the cat", "the mat")]
    assert [query.ids for query in queries] == encoded
    assert {query.start for query in queries} == {4}
    (queries, _) = evaluate.choice_queries(tokenizer, "", ["cat"])
    assert queries[0].ids == [1, *tokenizer.encode("cat")] and queries[0].start == 1
    pairs = [("he is", "is he"), ("she", "shy"), ("a b", "b")]
    file = tmp_path / "blimp.jsonl"
    items = [{"sentence_good": good, "sentence_bad": bad, "UID": str(number), "linguistics_term": "x"}
             for number, (good, bad) in enumerate(pairs)]
    file.write_text("".join(json.dumps(item) + "\n" for item in items))
    found = evaluate.blimp(network, tokenizer, file)["paradigms"]
    for number, texts in enumerate(pairs):
        good, bad = (log_p(network, [1, *tokenizer.encode(text)], 1) for text in texts)
        assert found[str(number)] == float(good > bad)


def test_a_foreign_folder_is_judged_as_transformers_does(tmp_path):
    """Perplexity of a text and log p of a choice, with the ids that transformers' own tokenizer gives."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    folder = bpe_folder(tmp_path / "foreign")
    tokenizer = load_with_config(folder)
    reference = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    network = Llama.from_pretrained(folder)
    ids = theirs("the cat sat on the mat", return_tensors="pt").input_ids
    assert ids[0].tolist() == tokenizer.prefix_ids + tokenizer.encode("the cat sat on the mat")
    with torch.no_grad():
        loss = float(reference(ids, labels=ids).loss)
    found = evaluate.perplexity(network, tokenizer, "the cat sat on the mat")
    assert found["loss"] == pytest.approx(loss, abs=1e-4)
    queries, _ = evaluate.choice_queries(tokenizer, "the cat", [" sat", " is using it"])
    for query, choice in zip(queries, [" sat", " is using it"]):
        assert query.ids == theirs("the cat" + choice).input_ids


def load_with_config(folder):
    """The folder's tokenizer, after a small model of its size is put there."""
    rows = load(folder).vocab_size
    torch.manual_seed(0)
    network = Llama(dataclasses.replace(CONFIG, vocab_size=rows))
    network.save_pretrained(folder, eos_token_id=1, bos_token_id=0)
    return load(folder)
