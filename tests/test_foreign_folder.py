# SPDX-License-Identifier: Apache-2.0
"""Model folders that other programs wrote: several end-of-text ids, what a tokenizer puts before a text."""
import json

import pytest

from common import UserError
from model import SIZES, Llama
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
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


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
@pytest.mark.parametrize("value", [-1, [3, -1], [3, "x"], 3.5, 4096, {"a": 1}])
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
