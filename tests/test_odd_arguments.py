# SPDX-License-Identifier: Apache-2.0
"""Arguments that are odd but legal (numpy's integers, arrays, empty batches) work; others raise the
documented error. On the command line: empty names, names that begin with a dash, closed and full streams.
"""
from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch

import common
import evaluate
import tokenizer
from common import ROOT, UserError
from data import Corpus
from judging import gsm8k
from model import KVCache, Llama, ModelConfig, attention_written_out, next_token_loss, next_token_losses, sdpa
from sample import SampleSettings, generate
from training.resolve import checked

SMALL = ModelConfig(4096, 32, 64, 2, 2, 1, 16, 64, tie_word_embeddings=True)


@pytest.fixture(scope="module")
def model() -> Llama:
    torch.manual_seed(0)
    return Llama(SMALL).eval()


@pytest.fixture(scope="module")
def words() -> tokenizer.Tokenizer:
    return tokenizer.load()


# -------------------------------------------------------------------------------------------------- functions

IDS = [98, 685, 3, 262]


@pytest.mark.parametrize("ids", [
    tuple(IDS), numpy.array(IDS), numpy.array(IDS, dtype=numpy.uint16), torch.tensor(IDS),
])
def test_a_prompt_may_be_an_array(model, ids):
    assert generate(model, ids, 5, seed=3) == generate(model, IDS, 5, seed=3)


def test_a_vocabulary_of_another_model_is_named(words, tmp_path):
    small = Llama(ModelConfig(100, 16, 16, 1, 2, 1, 8, 64)).eval()
    pair = {"sentence_good": "The cat sat.", "sentence_bad": "The cat sit."}
    pair |= {"UID": "a", "linguistics_term": "b", "field": "syntax"}
    item = {"task": "t", "kind": "question", "context": "Where is it?", "choices": ["here", "there"]}
    item |= {"label": 0}
    (tmp_path / "pairs").write_text(json.dumps(pair))
    (tmp_path / "items").write_text(json.dumps(item))
    for measure in (lambda: evaluate.perplexity(small, words, "The cat sat."),
                    lambda: evaluate.blimp(small, words, tmp_path / "pairs"),
                    lambda: evaluate.multiple_choice(small, words, tmp_path / "items")):
        with pytest.raises(UserError, match="the model only 100 tokens; the vocabulary belongs to another"):
            measure()


def test_numbers_of_numpy_are_numbers(model):
    wanted = generate(model, IDS, 5, seed=3, top_k=50)
    assert generate(model, IDS, numpy.int64(5), seed=numpy.int32(3), top_k=numpy.int64(50)) == wanted
    for stop in (wanted[2], numpy.int64(wanted[2]), {numpy.int64(wanted[2])}, numpy.array([wanted[2]])):
        assert generate(model, IDS, 5, seed=3, top_k=50, stop_id=stop) == wanted[:wanted.index(wanted[2])]


@pytest.mark.parametrize("changes", [{"temperature": None}, {"top_p": "0.9"}, {"max_new_tokens": -1}])
def test_settings_that_are_no_numbers_are_named(changes):
    with pytest.raises(UserError, match=f"{next(iter(changes))} must be between"):
        SampleSettings(**changes).check()


@pytest.mark.parametrize("attend", [sdpa, attention_written_out])
@pytest.mark.parametrize("rows, length", [(0, 3), (2, 0), (2, 1)])
def test_empty_and_short_batches(attend, rows, length):
    ids = torch.ones(rows, length, dtype=torch.long)
    assert Llama(SMALL, attend)(ids).shape == (rows, length, 4096)
    assert Llama(SMALL, attend)(ids, KVCache(SMALL, rows, 4)).shape == (rows, length, 4096)


def test_ids_of_32_bits(model):
    ids = torch.randint(4096, (2, 7), generator=torch.Generator().manual_seed(0))
    logits = model(ids.int())
    assert torch.equal(logits, model(ids))
    assert torch.equal(next_token_loss(logits, ids.int()), next_token_loss(logits, ids))
    for found, wanted in zip(next_token_losses(logits, ids.int()), next_token_losses(logits, ids)):
        assert torch.equal(found, wanted)


def test_token_ids_of_numpy_are_saved_and_others_leave_nothing(model, tmp_path):
    model.save_pretrained(tmp_path / "a", eos_token_id=numpy.int64(2))
    assert common.read_json(tmp_path / "a/config.json")["eos_token_id"] == 2
    for wrong in (2.5, "2"):
        with pytest.raises(TypeError):
            model.save_pretrained(tmp_path / "b", eos_token_id=wrong)
    assert not (tmp_path / "b").exists()


def test_a_corpus_takes_small_integers_of_numpy(corpus):
    plain = Corpus(corpus, 32, 4, 300)
    odd = Corpus(corpus, numpy.uint16(32), numpy.uint8(4), numpy.int64(300), numpy.int64(42))
    for step in (0, 63, 64, 200, 255):                            # 64 * 4 does not fit into 8 bits
        assert (plain.batch(numpy.uint8(step)) == plain.batch(step)).all()
        assert (odd.batch(step) == plain.batch(step)).all()
    parts = [plain.batch(200, numpy.uint8(rank), numpy.uint8(4)) for rank in range(4)]
    assert (numpy.concatenate(parts) == plain.batch(200)).all()


@pytest.mark.parametrize("rank, world", [(0, 0), (0, -1), (0, 3), (-1, 2), (2, 2)])
def test_impossible_ranks_are_one_line(corpus, rank, world):
    with pytest.raises(UserError, match="cannot be divided"):
        Corpus(corpus, 32, 4, 10).batch(0, rank, world)


def test_a_negative_horizon_is_one_line(corpus):
    with pytest.raises(UserError, match="for -5 steps"):
        Corpus(corpus, 32, 4, -5)


def test_impossible_options_of_a_benchmark_are_one_line(model, words, tmp_path):
    pairs, items, sums = tmp_path / "b.jsonl", tmp_path / "c.jsonl", tmp_path / "g.jsonl"
    pairs.write_text('{"sentence_good": "a", "sentence_bad": "b", "UID": "u", "linguistics_term": "t"}\n')
    items.write_text('{"task": "t", "kind": "question", "context": "a", "choices": ["b", "c"], "label": 0}\n')
    sums.write_text('{"question": "1 + 1?", "answer": "#### 2"}\n')
    for limit in (0, -1):
        for judge, path in ((evaluate.blimp, pairs), (evaluate.multiple_choice, items),
                            (gsm8k.exact_match, sums)):
            with pytest.raises(UserError, match="limit must be at least 1"):
                judge(model, words, path, limit=limit)
    with pytest.raises(UserError, match="unknown prompt 'lm_eval'"):
        evaluate.blimp(model, words, pairs, prompt="lm_eval")
    with pytest.raises(UserError, match="context must be at least 1, not -5"):
        evaluate.perplexity(model, words, "a text", context=-5)


def test_sentences_without_a_token_are_a_tie(model, words, tmp_path):
    pairs = tmp_path / "b.jsonl"
    pair = {"sentence_good": "", "sentence_bad": "\0", "UID": "u", "linguistics_term": "t"}
    pairs.write_text(json.dumps(pair) + "\n")
    assert evaluate.blimp(model, words, pairs)["overall"] == 0.5


@pytest.mark.parametrize("name, value", [("steps", True), ("data", ""), ("init", ""), ("out", "")])
def test_settings_of_a_run_that_are_empty_or_no_number(name, value):
    with pytest.raises(UserError, match=f"--{name}"):
        checked({name: value})


# ---------------------------------------------------------------------------------------------- command lines

def run_script(*words: str, **options) -> subprocess.CompletedProcess:
    """One of the project's scripts in a process of its own."""
    options = {"stdout": subprocess.PIPE, "stdin": subprocess.DEVNULL, **options}
    script = [sys.executable, str(ROOT / words[0]), *words[1:]]
    return subprocess.run(script, stderr=subprocess.PIPE, text=True, check=False, **options)


def parser() -> common.Parser:
    made = common.Parser("A parser.", prog="x.py")
    made.add_argument("runs", nargs="*")
    made.add_argument("--out")
    made.add_argument("--text", action="append")
    made.add_argument("--resume", nargs="?", const="")
    return made


@pytest.mark.parametrize("words, named", [
    (["--out", ""], "--out"), (["--out="], "--out"), (["--text", "a", "--text", ""], "--text"),
    (["a", ""], "runs"),
])
def test_an_empty_argument_is_a_mistake(words, named):
    with pytest.raises(UserError, match=f"^{named} is empty"):
        parser().parse_args(words)


def test_an_empty_path_is_a_mistake():
    made = common.Parser("A parser.", prog="x.py")
    made.add_argument("folder", nargs="?", type=Path)
    assert made.parse_args(["a"]).folder == Path("a") and made.parse_args([]).folder is None
    with pytest.raises(UserError, match="^argument folder: it is empty"):
        made.parse_args([""])


@pytest.mark.parametrize("text", ["-hello", "-x"])
def test_a_text_that_begins_with_a_dash(text):
    made = common.Parser("A parser.", prog="x.py")
    made.add_argument("prompt", nargs="?")
    with pytest.raises(UserError, match="give a text that begins with a dash on standard input"):
        made.parse_args([text])


def test_one_argument_too_many():
    made = common.Parser("A parser.", prog="x.py")
    with pytest.raises(UserError, match="^unknown argument tiny; see x.py --help$"):
        made.parse_args(["tiny"])
    made.add_argument("prompt", nargs="?")
    with pytest.raises(UserError, match="^unknown argument upon; put a text of several words in quotes$"):
        made.parse_args(["Once", "upon", "a", "time"])


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    """By its own name, not by the name of the temporary file."""
    (tmp_path / "file").touch()
    with pytest.raises(OSError) as caught:
        common.atomic_write(tmp_path / "file" / "x", "text")
    assert caught.value.filename == str(tmp_path / "file" / "x")


def test_a_file_to_write_is_no_folder(tmp_path):
    from audit.plot import plot
    for path, words in ((tmp_path, "that is a folder"), (tmp_path / "a/b.png", "there is no such folder")):
        with pytest.raises(UserError, match=f"^--plot .*{words}; name a file, such as "):
            plot({}, str(path))
    parts = dict.fromkeys(("embedding", "lm_head", "attention", "mlp", "total"), 1)
    plot({"x": parts}, str(tmp_path / "no-ending"))
    assert os.listdir(tmp_path) == ["no-ending"]


def test_a_file_where_a_folder_is_needed_is_said(tmp_path, capsys):
    (tmp_path / "x").write_text("")
    assert common.run(lambda: (tmp_path / "x").mkdir(exist_ok=True)) == 2
    said = capsys.readouterr().err
    assert said.endswith(f": error: a file is where a folder is needed: {tmp_path / 'x'}\n")


def test_what_may_be_empty():
    assert parser().parse_args(["--resume", "--text", "a"]).resume == ""
    made = common.Parser("A parser.", prog="x.py")
    made.add_argument("prompt", nargs="?")
    assert made.parse_args([""]) == argparse.Namespace(prompt="")


def test_an_empty_name_is_not_the_newest_run():
    with pytest.raises(UserError, match="is empty"):
        common.find_run("")


def test_a_run_of_another_user_is_not_the_newest(tmp_path, monkeypatch):
    for name in ("mine", "closed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text("{}")
    monkeypatch.setattr(os, "access", lambda place, mode: Path(place).name != "closed")
    assert common.newest_run(tmp_path) == tmp_path / "mine"


def test_a_printed_path_is_no_flag():
    assert common.command("train.py", "--resume", Path("-run")) == "python train.py --resume ./-run"


def test_a_file_in_place_of_a_run_is_said(tmp_path):
    (tmp_path / "x").write_text("")
    with pytest.raises(UserError, match="a file, not a run or model folder"):
        common.find_run(tmp_path / "x")


def test_a_text_that_utf8_cannot_store_is_written_and_a_folder_is_named(tmp_path):
    common.atomic_write(tmp_path / "a.md", "half a pair \ud800")
    assert (tmp_path / "a.md").read_text(encoding="utf-8") == "half a pair ?"
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError) as caught:
        common.atomic_write(tmp_path / "folder", "x")
    assert caught.value.filename == str(tmp_path / "folder")
    assert sorted(os.listdir(tmp_path)) == ["a.md", "folder"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_disk_behind_stdout_is_named():
    with open("/dev/full", "w") as full:
        variables = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        done = run_script("tokenizer.py", "encode", "Hello", stdout=full, env=variables)
    assert done.returncode == 2
    assert done.stderr == "tokenizer.py: error: No space left on device: standard output\n"


@pytest.mark.skipif(os.name != "posix", reason="descriptors are closed as a POSIX shell does")
def test_closed_streams_of_the_tokenizer():
    done = run_script("tokenizer.py", "encode", preexec_fn=lambda: os.close(0))
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "stdin is closed" in done.stderr
    assert run_script("tokenizer.py", "decode", "98", preexec_fn=lambda: os.close(1)).returncode == 0
