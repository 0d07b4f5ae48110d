# SPDX-License-Identifier: Apache-2.0
"""Cleaning, split, permutation, mixture, and batches as a pure function of the step."""
import collections
import json
import os
import random
import re
import string
import subprocess
import sys
import unicodedata

import numpy as np
import pytest
from data_helpers import EOS, numbered, small_corpus, write_corpus

import data
from common import ROOT, UserError
from corpus.python_docs import CODE_SHARE, module_share, python_documents

LINE_BREAKS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
ODD = (
    LINE_BREAKS
    + " \t\u00a0\u2003\u3000\u200b\ufeff\u00ad\ufb01\u00bd"
    + "\u2460\uff21e\u0301\u1e9e\ud55c\u1112\U0001f600\u0000"
    + string.ascii_letters
)


def odd_texts(count: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return ["".join(draw.choice(ODD) for _ in range(draw.randrange(40))) for _ in range(count)]


# --------------------------------------------------------------------------------------------------- cleaning

def test_clean_text_properties():
    for text in odd_texts(3000):
        flat, code = data.clean_text(text), data.clean_text(text, preserve_linebreaks=True)
        for cleaned in (flat, code):
            assert unicodedata.is_normalized("NFKC", cleaned)
            assert cleaned == cleaned.strip() and "\r" not in cleaned
            # only white space changes
            assert "".join(cleaned.split()) == "".join(unicodedata.normalize("NFKC", text).split())
        assert flat == " ".join(unicodedata.normalize("NFKC", text).split())
        assert data.clean_text(flat) == flat and data.clean_text(code, preserve_linebreaks=True) == code
        assert all(line == line.rstrip() for line in code.split("\n"))
        assert len(flat.splitlines()) <= 1


def test_line_breaks_are_those_of_splitlines():
    for character in LINE_BREAKS:
        assert data.clean_text(f"a{character}b", preserve_linebreaks=True) == "a\nb"
        assert data.clean_text(f"a{character}b") == "a b"
    assert data.clean_text("a\r\nb", preserve_linebreaks=True) == "a\nb"
    # empty lines and indents stay
    assert data.clean_text("a\n\n\n  b  ", preserve_linebreaks=True) == "a\n\n\n  b"


def test_stentor2_has_no_newline_step_and_it_makes_no_difference():
    for text in odd_texts(2000, seed=1):
        assert data.clean_text(text, unify_newlines=False) == data.clean_text(text)


def test_split_key_sees_letters_only():
    key = data.split_key("The cat sat on the mat.")
    for copy in (
        "THE CAT SAT ON THE MAT",
        "The\u200b  cat, sat\non the mat!",
        "\ufeffThe cat sat on the mat.",
    ):
        assert data.split_key(data.clean_text(copy)) == key
    assert data.split_key("The cat sat on the hat.") != key
    assert data.split_key("...") != data.split_key("???")  # nothing but marks: the text itself


def test_planted_copies_fall_on_one_side(shared):
    """web_known.json: every exact copy and every copy changed in spaces, line ends, case or invisible
    characters has the original's key.
    """
    import gzip
    known = json.loads((shared / "corpus" / "web_known.json").read_text(encoding="utf-8"))
    with gzip.open(shared / "corpus" / "web.jsonl.gz", "rt", encoding="utf-8") as file:
        texts = {row["id"]: row["text"] for row in map(json.loads, file)}
    pairs = [(copy, original, "exact") for copy, original in known["exact_duplicates"]]
    pairs += [tuple(entry[:3]) for entry in known["near_duplicates"] + known["noise"]]
    keys = {name: data.split_key(data.clean_text(texts[name])) for pair in pairs for name in pair[:2]}
    same = collections.Counter(change for copy, original, change in pairs if keys[copy] == keys[original])
    total = collections.Counter(change for _, _, change in pairs)
    for change in ("exact", "whitespace", "crlf", "uppercase", "bom", "zero_width_and_nbsp"):
        assert same[change] == total[change] > 0, change
    # what a hash of the whole text cannot see, and the docstring of split_key says so
    for change in ("truncated", "boilerplate", "one_word_in_forty_dropped"):
        assert same[change] == 0 < total[change], change


# ------------------------------------------------------------------------------------------------ permutation

@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 16, 17, 100, 1000, 4097])
def test_permutation_is_one(size):
    orders = {key: [data.permute(index, size, key) for index in range(size)] for key in ("a", "b")}
    for order in orders.values():
        assert sorted(order) == list(range(size))
    if size >= 16:
        assert orders["a"] != orders["b"] != list(range(size))


def test_permutation_looks_random():
    """Over many keys each index goes everywhere about equally often (chi-square), and neighbours do not stay
    together.
    """
    size, keys = 10, 4000
    counts = np.zeros((size, size))
    for key in range(keys):
        for index in range(size):
            counts[index, data.permute(index, size, str(key))] += 1
    chi_square = ((counts - keys / size) ** 2 / (keys / size)).sum()
    assert chi_square < 81 + 5 * np.sqrt(2 * 81)
    order = np.array([data.permute(index, 5000, "x") for index in range(5000)])
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.06


# ---------------------------------------------------------------------------------------------------- mixture

def played(mixture: data.Mixture) -> np.ndarray:
    """(N, sources) one-hot: which source fills each block; checks on the way that each source's blocks are
    numbered 0, 1, 2, ...
    """
    given = [0] * len(mixture.start)
    chosen = np.zeros((mixture.total, len(given)))
    for number in range(mixture.total):
        assert mixture.counts(number) == given
        source, index = mixture.block(number)
        assert index == given[source]
        given[source] += 1
        chosen[number, source] = 1
    assert mixture.counts(mixture.total) == given
    return chosen


@pytest.mark.parametrize("start, end, total", [
    ((0.75, 0.15, 0.10), (0.50, 0.30, 0.20), 12_000), ((0.75, 0.15, 0.10), (0.10, 0.15, 0.75), 6_000),
    ((0.10, 0.15, 0.75), (0.5, 0.3, 0.2), 3_001),
    ((1 / 3, 1 / 3, 1 / 3), (0.0, 0.5, 0.5), 4_000), ((0.0, 0.5, 0.5), (0.4, 0.3, 0.3), 4_000),
        ((0.5, 0.5), (0.5, 0.5), 2_500), ((1.0,), (1.0,), 1_500)])
def test_shares_within_two_blocks_in_any_window(start, end, total):
    mixture = data.Mixture(start, end, total)
    counts = np.vstack([np.zeros(len(start)), played(mixture).cumsum(axis=0)])
    wanted = np.array([[mixture.target(a, b, time) for a, b in zip(start, end)] for time in range(total + 1)])
    assert np.abs(counts - wanted).max() <= 1.0
    for window in (1, 10, 100, 1000):
        off = (counts[window:] - counts[:-window]) - (wanted[window:] - wanted[:-window])
        assert np.abs(off).max() <= 2.0, window
    shares = np.array([mixture.weights(block + 0.5) for block in range(total)])  # w is the slope of C
    assert np.allclose(wanted[1:] - wanted[:-1], shares, atol=1e-3)


def test_cards_bound_in_the_docstring():
    mixture = data.Mixture((0.75, 0.15, 0.10), (0.50, 0.30, 0.20), 20_000)
    counts = np.vstack([np.zeros(3), played(mixture).cumsum(axis=0)])
    wanted = np.array(
        [[mixture.target(a, b, time) for a, b in zip(mixture.start, mixture.end)] for time in range(20_001)]
    )
    assert (np.abs(counts - wanted).max(axis=0) <= [0.5 + 1e-6, 0.8 + 1e-6, 0.7 + 1e-6]).all()


def test_anneal_of_the_cards():
    mixture = data.Mixture(tuple(data.START.values()), tuple(data.END.values()), 1000)
    for block in (0, 500, 849):
        assert mixture.weights(block) == [0.75, 0.15, 0.10]
    assert np.allclose(mixture.weights(1000), [0.50, 0.30, 0.20])
    assert np.allclose(mixture.weights(925), [0.625, 0.225, 0.15])
    shares = [data.average_share(data.START[name], data.END[name]) for name in data.START]
    assert np.allclose(mixture.counts(1000), 1000 * np.array(shares), atol=1)


def test_mixture_table(two_sources):
    """The shares at the beginning, at the turn, at two points after it, and at the end."""
    file = two_sources / "manifest.json"
    manifest = json.loads(file.read_text(encoding="utf-8"))
    start, end = {"text": 0.8, "code": 0.2}, {"text": 0.5, "code": 0.5}
    manifest["mixture"] = {"start": start, "end": end, "anneal": 0.15}
    file.write_text(json.dumps(manifest))
    rows = [line.split() for line in data.mixture_table(data.Corpus(two_sources, 32, 2, 1000)).splitlines()]
    assert [row for row in rows if row[0][0].isdigit()] == [
        ["0", "80.0%", "20.0%"], ["850", "80.0%", "20.0%"], ["900", "70.0%", "30.0%"],
        ["950", "60.0%", "40.0%"], ["1,000", "50.0%", "50.0%"],
    ]


# ----------------------------------------------------------------------------------------------------- corpus

def test_batch_is_a_pure_function(tmp_path):
    folder = small_corpus(tmp_path / "c")
    first, again = (data.Corpus(folder, 64, 8, 50) for _ in range(2))
    order = random.Random(0).sample(range(50), 50)
    batches = {step: again.batch(step) for step in order}
    for step in range(50):
        batch = first.batch(step)
        assert batch.shape == (8, 64) and batch.dtype == np.int64
        assert (batch == batches[step]).all()
    assert (data.Corpus(folder, 64, 8, 50, seed=43).batch(0) != first.batch(0)).any()


@pytest.mark.parametrize("world", [1, 2, 4, 8])
def test_ranks_slice_one_global_batch(tmp_path, world):
    corpus = data.Corpus(small_corpus(tmp_path / "c"), 32, 8, 20)
    for step in (0, 7, 19):
        assert (
            np.concatenate([corpus.batch(step, rank, world) for rank in range(world)]) == corpus.batch(step)
        ).all()


@pytest.mark.parametrize("shard_tokens", [77, 1000, 10**6])
def test_shard_size_changes_no_batch(tmp_path, shard_tokens):
    whole = data.Corpus(small_corpus(tmp_path / "whole", shard_tokens=10**6), 64, 4, 100)
    cut = data.Corpus(small_corpus(tmp_path / "cut", shard_tokens=shard_tokens), 64, 4, 100)
    assert all((whole.batch(step) == cut.batch(step)).all() for step in range(0, 100, 9))


def test_every_block_once_an_epoch_and_only_the_tail_left_out(tmp_path):
    """Three epochs of one source: each visits every block once, in three orders; each row is a run of
    consecutive tokens.
    """
    folder = write_corpus(tmp_path / "c", {"web": {"train": numbered(4001), "validation": numbered(100)}})
    corpus = data.Corpus(folder, 40, 10, 30)
    assert corpus.blocks == [100] and corpus.epochs(30) == {"web": 3.0}
    orders = []
    for epoch in range(3):
        rows = np.concatenate([corpus.batch(step) for step in range(10 * epoch, 10 * epoch + 10)])
        assert (rows == rows[:, :1] + np.arange(40)).all()
        assert sorted(rows[:, 0]) == list(range(0, 4000, 40))
        orders.append(tuple(rows[:, 0]))
    assert len(set(orders)) == 3


def test_validation_is_every_block_once_in_fixed_order(tmp_path):
    folder = small_corpus(tmp_path / "c")
    corpus = data.Corpus(folder, 50, 3, split="validation", seed=1)
    other = data.Corpus(folder, 50, 3, total_steps=9, split="validation", seed=2)
    assert corpus.num_blocks == 20 + 5 + 3 and len(corpus) == 9
    assert all((corpus.batch(step) == other.batch(step)).all() for step in range(9))
    seen = [corpus.locate(number) for number in range(corpus.num_blocks)]
    assert sorted(seen) == [
        (source, block) for source, blocks in enumerate(corpus.blocks) for block in range(blocks)
    ]
    sources = [source for source, _ in seen]
    # the sources are spread over the whole, so that any beginning of it is a fair sample
    for half in (sources[:14], sources[14:]):
        assert abs(half.count(0) - 10) <= 1
    with pytest.raises(IndexError):
        corpus.batch(9)
    assert len(data.Corpus(folder, 50, 40, split="validation")) == 0
    # 150 tokens are no block of 200: this source is left out
    without_math = data.Corpus(folder, 200, 1, split="validation")
    assert without_math.blocks == [5, 1, 0] and without_math.epochs(6) == {
        "web": 1.0,
        "code": 1.0,
        "math": 0.0,
    }


def test_end_of_run_and_impossible_requests(tmp_path):
    folder = small_corpus(tmp_path / "c")
    corpus = data.Corpus(folder, 64, 8, 5)
    for step in (-1, 5):
        with pytest.raises(IndexError):
            corpus.batch(step)
    for rank, world in ((0, 3), (2, 2), (-1, 2)):
        with pytest.raises(UserError, match="cannot be divided"):
            corpus.batch(0, rank, world)
    with pytest.raises(UserError, match="math has 3001 training tokens, less than a block of 4096"):
        data.Corpus(folder, 4096, 1, 5)
    with pytest.raises(UserError, match="no validation block of 2000 tokens"):
        data.Corpus(folder, 2000, 1, split="validation")
    for bad in (dict(seq_len=1), dict(batch_size=0), dict(total_steps=0), dict(split="test")):
        with pytest.raises(UserError, match="no batches of"):
            data.Corpus(**({"dir": folder, "seq_len": 8, "batch_size": 2, "total_steps": 3} | bad))


def test_epochs_and_the_steps_that_fit(tmp_path):
    folder = small_corpus(tmp_path / "c")
    steps = data.steps_for_epochs(folder, 50, 4, 2)
    assert max(data.Corpus(folder, 50, 4, steps).epochs(steps).values()) <= 2.02
    longer = data.Corpus(folder, 50, 4, steps + 3)
    assert max(longer.epochs(steps + 3).values()) > 2


def test_unigram_entropy(tmp_path):
    draw = np.random.default_rng(0)
    folder = write_corpus(
        tmp_path / "c", {"web": {"train": numbered(500), "validation": draw.integers(0, 4, 8000)}}
    )
    corpus = data.Corpus(folder, 100, 8, split="validation")
    assert abs(corpus.unigram_entropy() - np.log(4)) < 0.01
    text = np.concatenate([corpus.batch(step)[:, 1:].ravel() for step in range(3)])
    frequent = np.bincount(text) / len(text)
    assert np.isclose(corpus.unigram_entropy(3), -(frequent * np.log(frequent)).sum())


def test_document_mask_keeps_documents_apart():
    """With the mask a document gets the logits that it has alone: its rotary positions are shifted, but
    attention sees differences only.
    """
    import torch

    from model import SIZES, Llama
    from train import document_mask
    torch.manual_seed(0)
    row = torch.tensor([[5, 9, 6, EOS, 7, 8, 11, EOS, 12]])
    mask = document_mask(row, EOS)[0, 0]
    documents = [range(4), range(4, 8), range(8, 9)]
    assert all(
        mask[query, key] == any(query in part and key in part and key <= query for part in documents)
        for query in range(9)
        for key in range(9)
    )
    model = Llama(SIZES["tiny"])
    for parameter in model.parameters():  # far from uniform, so that a leak shows
        parameter.data.mul_(4)
    with torch.no_grad():
        packed, plain, alone = model(row, mask=document_mask(row, EOS)), model(row), model(row[:, 4:8])
    assert torch.allclose(packed[:, 4:8], alone, atol=1e-3) and not torch.allclose(
        plain[:, 4:8], alone, atol=1e-2
    )


def test_fingerprint_follows_what_decides_the_batches(tmp_path):
    one, same = (
        data.Corpus(small_corpus(tmp_path / "a"), 64, 8, 5),
        data.Corpus(small_corpus(tmp_path / "b"), 32, 4, 9),
    )
    assert one.fingerprint == same.fingerprint and re.fullmatch("[0-9a-f]{64}", one.fingerprint)
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text(encoding="utf-8"))
    manifest["mixture"]["anneal"] = 0.2
    (tmp_path / "b" / "manifest.json").write_text(json.dumps(manifest))
    assert data.Corpus(tmp_path / "b", 64, 8, 5).fingerprint != one.fingerprint


# --------------------------------------------------------------------------------- changed and broken folders

def broken(folder, change):
    change(folder)
    with pytest.raises(UserError) as caught:
        data.Corpus(folder, 64, 4, 10)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_changed_files_are_found_before_the_first_step(tmp_path):
    def flip(folder):
        content = bytearray((folder / "code.train.00002.bin").read_bytes())
        content[100] ^= 1
        (folder / "code.train.00002.bin").write_bytes(content)

    def cut(folder):
        os.truncate(folder / "web.train.00003.bin", 1990)

    def other_vocabulary(folder):
        (folder / "tokenizer" / "tokenmonster.vocab").write_bytes(b"a vocabularY")
    assert "code.train.00002.bin: changed since" in broken(small_corpus(tmp_path / "a"), flip)
    assert "web.train.00003.bin: 1,990 bytes, where the manifest says 2,000" in broken(
        small_corpus(tmp_path / "b"), cut
    )
    assert "tokenmonster.vocab: changed since" in broken(small_corpus(tmp_path / "c"), other_vocabulary)
    assert "math.train.00001.bin: missing" in broken(
        small_corpus(tmp_path / "d"), lambda folder: (folder / "math.train.00001.bin").unlink()
    )
    assert "no prepared corpus" in broken(
        small_corpus(tmp_path / "e"), lambda folder: (folder / "manifest.json").unlink()
    )
    assert "not valid JSON" in broken(
        small_corpus(tmp_path / "f"), lambda folder: (folder / "manifest.json").write_text("{")
    )


def test_a_file_cut_during_training_is_an_error_and_no_crash(tmp_path):
    folder = small_corpus(tmp_path / "c", shard_tokens=10**6)
    corpus = data.Corpus(folder, 64, 8, 10)
    os.truncate(folder / "web.train.00000.bin", 10)
    with pytest.raises(UserError, match="ends too early"):
        corpus.batch(0)


def test_a_token_outside_the_vocabulary_is_named(tmp_path):
    corpus = data.Corpus(small_corpus(tmp_path / "c", vocab_size=100), 64, 8, 10)
    with pytest.raises(UserError, match="only 100 exist"):
        corpus.batch(0)


MEASURE = """
import json, resource, sys
import data
corpus = data.Corpus(sys.argv[1], 4096, 8, 200_000, verify=False)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for step in range(0, 200_000, 1000):
    corpus.batch(step)
print(corpus.num_blocks * 4096, before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="sparse files and peak memory as Linux reports them")
def test_memory_is_the_same_for_8_million_and_8_billion_tokens(tmp_path):
    """Sparse shards: 17 GB of uint16 that take no room on disk. 200 batches from all over each corpus."""
    peaks = {}
    for tokens in (8_500_000, 8_500_000_000):
        folder = tmp_path / str(tokens)
        write_corpus(folder, {"web": {"train": numbered(10), "validation": numbered(10)}})
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        shard = min(tokens, 100_000_000)
        shards = [
            {"file": f"web.train.{n:05d}.bin", "tokens": shard, "sha256": "0" * 64}
            for n in range(tokens // shard)
        ]
        manifest["sources"]["web"]["train"] = {
            "documents": 1,
            "characters": 1,
            "tokens": tokens,
            "shards": shards,
        }
        (folder / "manifest.json").write_text(json.dumps(manifest))
        for entry in shards:
            with open(folder / entry["file"], "wb") as file:
                file.truncate(2 * entry["tokens"])
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, folder], capture_output=True, text=True, check=True, cwd=ROOT
        )
        held, before, after = map(int, done.stdout.split())
        assert held > 0.99 * tokens
        peaks[tokens] = (before, after)
    small, large = peaks.values()
    assert large[1] - small[1] < 4096 and large[1] - large[0] < 4096  # KiB


# ------------------------------------------------------------------------------------- Python's documentation

def test_library_modules_are_web_or_code_never_both():
    web = [name for name, _ in python_documents("web")]
    code = [name for name, _ in python_documents("code")]
    docstrings = {name.removeprefix("web/") for name in web if name.startswith("web/")}
    assert len(docstrings) > 100 and len(code) > 20 and any(name.startswith("topics/") for name in web)
    assert not docstrings & {name.removeprefix("code/") for name in code}
    assert all(module_share(name) >= CODE_SHARE for name in docstrings)
    assert code == sorted(code)
