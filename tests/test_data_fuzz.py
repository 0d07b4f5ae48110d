# SPDX-License-Identifier: Apache-2.0
"""Hostile corpus folders: whatever is changed, opening and reading one either works or is a UserError in one
line.
"""
import copy
import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from data_helpers import small_corpus

import data
from common import UserError

VALUES = [
    None,
    True,
    -1,
    0,
    1,
    2,
    3.5,
    1e308,
    float("nan"),
    float("inf"),
    10**30,
    "",
    "x",
    "../../etc/passwd",
    "/etc/passwd",
    "web.train.00000.bin",
    "a" * 10_000,
    [],
    {},
    [1],
    {"a": 1},
    [[]] * 3,
    "\x00",
    "0" * 64,
]


def nodes(value, path=()):
    """Every place in a JSON value, as the path of keys that leads there."""
    yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from nodes(value[key], (*path, key))


def mutated_manifest(manifest: dict, draw: random.Random) -> str:
    """The manifest's text after one to three changes: a value replaced, removed, renamed, doubled, or bytes
    of the text changed.
    """
    manifest = copy.deepcopy(manifest)
    for _ in range(draw.randint(1, 3)):
        path = draw.choice([path for path in nodes(manifest) if path])
        parent = manifest
        for key in path[:-1]:
            parent = parent[key]
        change = draw.randrange(5)
        if change == 0:
            parent[path[-1]] = draw.choice(VALUES)
        elif change == 1:
            del parent[path[-1]]
        elif change == 2 and isinstance(parent[path[-1]], int | float):
            parent[path[-1]] = parent[path[-1]] * draw.choice([-1, 2, 1000]) + draw.choice([0, 1, -1, 2**16])
        elif change == 3 and isinstance(parent, dict):
            parent[draw.choice(["web", "train", "x", "shards", "../x"])] = parent.pop(path[-1])
        elif isinstance(parent, list):
            parent.append(copy.deepcopy(parent[path[-1]]))
    text = json.dumps(manifest)
    if draw.random() < 0.3:
        place = draw.randrange(len(text))
        text = (
            text[:place]
            + draw.choice(["", "{", "}", '"', ",", "9" * 5000, "\\u0000", "\ud800"])
            + text[place + draw.randrange(4) :]
        )
    return text


def mutate_shard(folder: Path, draw: random.Random) -> None:
    path = draw.choice(sorted(folder.glob("*.bin")))
    content = bytearray(path.read_bytes())
    change = draw.randrange(5)
    if change == 0:
        del content[draw.randrange(len(content)):]
    elif change == 1:
        content += bytes(draw.randrange(1, 5))
    elif change == 2:
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    if change < 3:
        path.write_bytes(content)
    elif change == 3:
        path.unlink()
    else:
        path.unlink()
        path.mkdir()


def attempt(folder: Path, verify: bool) -> bool:
    """Open both splits and read; True if it worked. Anything but success and a UserError of one line fails
    the test.
    """
    try:
        for split, length in (("train", 64), ("validation", 16)):
            corpus = data.Corpus(folder, length, 4, 10, split=split, verify=verify)
            for step in range(min(3, len(corpus))):
                batch = corpus.batch(step)
                assert batch.shape == (4, length) and 0 <= batch.min() and batch.max() < corpus.vocab_size
            assert corpus.num_tokens and corpus.fingerprint and corpus.epochs(len(corpus))
        assert (
            data.mixture_table(data.Corpus(folder, 64, 4, 10, verify=False))
            and data.steps_for_epochs(folder, 64, 4, 2) > 0
        )
    except UserError as error:
        assert 0 < len(str(error)) < 20_000 and "\n" not in str(error)
        return False
    return True


def survive(tmp_path: Path, count: int, seed: int) -> None:
    draw = random.Random(seed)
    clean = small_corpus(tmp_path / "clean", shard_tokens=10_000)
    manifest = json.loads((clean / "manifest.json").read_text(encoding="utf-8"))
    assert attempt(clean, verify=True)
    folder, refused = tmp_path / "folder", 0
    for number in range(count):
        if number % 25 == 0 or not folder.is_dir():
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(clean, folder)
        if draw.random() < 0.8:
            (folder / "manifest.json").write_text(
                mutated_manifest(manifest, draw), encoding="utf-8", errors="surrogatepass"
            )
            refused += not attempt(folder, verify=draw.random() < 0.5)
            (folder / "manifest.json").write_text(json.dumps(manifest))
        else:
            mutate_shard(folder, draw)
            assert not attempt(folder, verify=True)
            refused += 1
            shutil.rmtree(folder)
    assert refused > count / 2


def test_two_hundred_mutations(tmp_path):
    survive(tmp_path, 200, seed=0)


@pytest.mark.slow
def test_ten_thousand_mutations(tmp_path):
    survive(tmp_path, 10_000, seed=1)


def test_a_shard_with_a_right_checksum_and_wrong_tokens(tmp_path):
    """Whoever writes a folder can write its checksums as well: tokens are still compared with the vocabulary.
    """
    from data_helpers import sha256
    folder = small_corpus(tmp_path / "c", shard_tokens=10**6)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    tokens = np.full(20_000, 65_535, dtype="<u2").tobytes()
    (folder / "web.train.00000.bin").write_bytes(tokens)
    manifest["sources"]["web"]["train"]["shards"][0]["sha256"] = sha256(tokens)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="token 65535 in step 0, but only 4096 exist"):
        data.Corpus(folder, 64, 4, 10).batch(0)


def test_a_huge_manifest_is_not_read(tmp_path):
    folder = small_corpus(tmp_path / "c")
    with open(folder / "manifest.json", "ab") as file:
        file.truncate(1 << 30)
    with pytest.raises(UserError, match="more than the"):
        data.Corpus(folder, 64, 4, 10)


@pytest.mark.parametrize("content",
    ["", "{}", "[]", '{"recipe": []}', '{"recipe": {}, "sources": 1}', '{"recipe": null}', "\ufeff{",
        '{"sources": {}}'])
def test_a_damaged_record_of_a_preparation_is_an_error(tmp_path, content):
    from corpus.documents import path_source
    from corpus.prepare import prepare
    (tmp_path / "a.txt").write_text("text\n\n" * 9000)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "prepare.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError):
        prepare([path_source("web", tmp_path / "a.txt")], tmp_path / "out", workers=1)
