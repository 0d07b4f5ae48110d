# SPDX-License-Identifier: Apache-2.0
"""The vocabulary trainer: files derived from tokens alone, candidates, tokenizing in lanes, tiny trainings,
stop and resume.
"""
import gzip
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import tokenizer
from common import UserError
from tokenizing import trainer as train_vocab
from tokenizing import lanes as vocab_lanes
from tokenizing.trainer import RESERVED, plan
from tokenizing.candidates import candidates, letter_starts, may_grow, wanted
from tokenizing.lanes import Field, write_tables
from tokenizing.records import derive, shape

ROOT = Path(__file__).resolve().parent.parent
NAMES = ["english-4096-strict-nocapcode-v1", "english-8000-strict-nocapcode-v1"]


def story(seed: int, sentences: int) -> str:
    """English of a small world: enough to learn from, made without a file."""
    draw = random.Random(seed)
    names = ["Anna", "the captain", "my brother", "Doctor Green", "an old friend", "nobody"]
    verbs = [
        "remembered",
        "was looking for",
        "would have taken",
        "had never seen",
        "doesn't like",
        "bought 3 of",
    ]
    things = [
        "the yellow boat",
        "a letter from 1987",
        "this wonderful country",
        "the café",
        "(perhaps) the answer",
        "\"the other way\"",
        "nothing",
    ]
    ends = [".", "!", "?", ", and then", ";\n\n", " \u2014 unbelievable.\n"]
    return " ".join(
        draw.choice(names) + " " + draw.choice(verbs) + " " + draw.choice(things) + draw.choice(ends)
        for _ in range(sentences)
    )


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    (folder / "a.txt").write_text(story(1, 250), encoding="utf-8")
    rows = [json.dumps({"text": story(seed, 10)}) for seed in range(2, 12)]
    (folder / "b.jsonl.gz").write_bytes(gzip.compress("\n".join(rows).encode()))
    return folder


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Fewer candidates and larger steps than a real training has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vocab_lanes, "MOST_CANDIDATES", 3)
        patch.setattr(train_vocab, "STEPS", [(2, 0.5, 0.3), (1, 1.0, 0.1)])
        yield


def train(texts: Path, out: Path, **options) -> bytes:
    train_vocab.train_vocab([str(texts)], out, size=180, **options)
    return out.read_bytes()


@pytest.fixture(scope="module")
def trained(texts, tmp_path_factory) -> Path:
    """A small vocabulary, trained without a break."""
    out = tmp_path_factory.mktemp("trained") / "a.vocab"
    train(texts, out)
    return out


# ------------------------------------------------------------------------------------------------------- 12.1

@pytest.mark.parametrize("name", NAMES)
def test_real_files_follow_from_their_tokens(shared, name):
    data = (shared / "vocabs" / f"{name}.vocab").read_bytes()
    vocab = tokenizer.Vocab.parse(data)
    scores = {record.token: record.score for record in vocab.records if record.score != -1}
    assert derive(scores, vocab.mode, vocab.reserve).to_bytes() == data


def test_derived_file_is_sound():
    scores = dict.fromkeys(
        [
            b"\x7f",
            b" ",
            b"a",
            b"\xcc",
            b"\xcc\x81",
            b" a",
            b" ab",
            b" ab cd",
            b"'s",
            b"12",
            b" 12",
            b"x" * 39,
            b"_a",
        ],
        0.1,
    )
    vocab = derive(scores)
    assert tokenizer.Vocab.parse(vocab.to_bytes()).records == [
        record._replace(score=np.float32(record.score)) for record in vocab.records
    ]
    by_token = {record.token: record for record in vocab.records}
    assert by_token[b"\x7f a"].id == by_token[b"a"].id and by_token[b"\x7f a"].score == -1
    assert b"\x7f " + b"x" * 39 not in by_token  # too long for a duplicate
    assert [vocab.records[number].token for number in by_token[b" ab cd"][3:5]] == [b" ab"] + [b" a"]
    assert (
        by_token[b" ab"].flag & tokenizer.WHOLE_WORD and not by_token[b" ab cd"].flag & tokenizer.WHOLE_WORD
    )
    assert (
        vocab.begin[0x20] == tokenizer.BEGINS_SPACE
        and vocab.begin[0x7F] == tokenizer.BEGINS_OTHER
        and vocab.begin[ord("z")] == 0
    )
    with pytest.raises(ValueError, match="looks like a duplicate"):
        derive({b"\x7f a": 0.0})


# ------------------------------------------------------------------------------------------------------- 12.2

@pytest.mark.parametrize("name", NAMES)
def test_real_tokens_are_wanted(shared, name):
    vocab = tokenizer.Vocab.parse((shared / "vocabs" / f"{name}.vocab").read_bytes())
    tokens = [
        record.token
        for record in vocab.records
        if record.score != -1 and len(record.token) > 1 and b"\r" not in record.token
    ]
    assert [token for token in tokens if not wanted(token)] == []
    assert [
        token for token in tokens if not all(may_grow(token[:length]) for length in range(1, len(token)))
    ] == []


@pytest.mark.parametrize("token, good", [
    (" cat", True), (" don't", True), (" the cat sat", True), (" a b c d e f", True),
    (" a b c d e f g", False), (" the ", False), (" don''t", False),
    (" x1", False), ("ing", True), ("'s", True), ("in g", False), ("2024", True), (" 2024", True),
    ("20 24", False),
    ("()", True), (")(", False), ("),", True), (",\n", True), (".\n", True), (". ", False), ("\n    ", True),
    ("\n\n*\x7f", True), ("  *", False),
    (" (\x7f", True), ("\t(", False), ("\n(", True), (" ((", False), ("</\x7f", True), ("><", False),
    ("\u2014", True), ("e\u0301", True), ("\r\n", False),
])
def test_wanted(token, good):
    assert wanted(token.encode()) == good


def test_candidates_equal_a_plain_count():
    text = tokenizer.normalize(story(3, 40) + " A\u030a\u4e16\u754c \U0001f600").replace(
        b"brother", b"bro\xcc\xff"
    )
    starts = letter_starts(text)
    seen, whole = {}, {}
    for start in range(len(text)):
        for length in range(2, min(40, len(text) - start) + 1):
            piece = text[start:start + length]
            seen[piece] = seen.get(piece, 0) + 1
            whole[piece] = whole.get(piece, 0) + (start + length == len(text) or not starts[start + length])
    least = 30
    expected = {}
    for piece, count in seen.items():
        count = whole[piece] if shape(piece)[0] == " " and " " in shape(piece).strip(" ") else count
        if count >= 2 and count * len(piece) >= least and wanted(piece):
            expected[piece] = count
    assert candidates(text, least) == expected


# ------------------------------------------------------------------------------------------------------- 12.3

@pytest.fixture(scope="module")
def field(tmp_path_factory) -> Field:
    folder = tmp_path_factory.mktemp("field")
    text = tokenizer.normalize(story(4, 30) + "\r\u4e16\u754c caf\u00e9 " + story(5, 10))
    write_tables(folder, text, 300, RESERVED["english"][1])
    return Field(folder)


@pytest.mark.parametrize("seed", range(3))
def test_lanes_tokenize_as_the_encoder_does(field, seed):
    rng = np.random.default_rng(seed)
    fixed = np.array([number for number, token in enumerate(field.tokens) if len(token) == 1])
    others = rng.permutation(np.arange(len(fixed), len(field.tokens)))[:50 * (seed + 1)]
    chosen = np.sort(np.append(fixed, others))
    text = field.text[:field.size].tobytes()
    scores, tokens = field.tokenize(chosen, np.array([[0, field.size]]))
    monster = tokenizer.TokenMonster(derive(dict.fromkeys([field.tokens[number] for number in chosen], 0.0)))
    expected, count, steps = np.zeros(len(chosen), dtype=int), 0, list(monster.turns(text))
    for step, after in zip(steps, [step.start for step in steps[1:]] + [len(text)]):
        count += max(1, len(step.ids))
        if step.ids:
            expected[step.ids[0]] += after - step.start
        expected[step.ids[1:]] += 1
    assert tokens == count
    assert scores.tolist() == expected.tolist()


def test_lanes_cover_the_text_once(field):
    lanes = field.lanes(1.0, np.random.default_rng(0))
    assert (
        lanes[0, 0] == 0
        and lanes[-1, 1] == field.size
        and (lanes[1:, 0] == lanes[:-1, 1]).all()
        and len(lanes) > 10
    )
    some = field.lanes(0.25, np.random.default_rng(0))
    assert 0.1 < (some[:, 1] - some[:, 0]).sum() / field.size < 0.4


def test_plan_ends_at_the_size():
    rounds = plan(60000, 4000)
    left = [round.candidates - round.drop for round in rounds]
    assert (
        left[-1] == 4000
        and [round.candidates for round in rounds[1:]] == left[:-1]
        and all(round.drop > 0 for round in rounds)
    )
    assert (rounds[0].hands, rounds[-1].hands, rounds[-1].share) == (15, 1, 1.0)
    assert plan(10, 10) == []


def test_tiny_training(trained):
    vocab = tokenizer.Vocab.parse(trained.read_bytes())
    tokens = {record.id: record.token for record in vocab.records if record.score != -1}
    assert vocab.size == vocab.rows == 180 and vocab.reserve == 48 and vocab.mode == 4
    assert {token for token in tokens.values() if len(token) == 1} == {
        bytes([byte]) for byte in RESERVED["english"][1]
    }
    assert [token for token in tokens.values() if b"\r" in token] == [b"\r"] and tokens[
        vocab.delete
    ] == b"\x7f"
    # more by one byte for each delete token
    assert sum(record.score for record in vocab.records if record.score != -1) == pytest.approx(1, abs=0.1)
    coder = tokenizer.load(trained)
    text = story(99, 30)
    ids = coder.encode(text)
    assert (
        coder.eos_id == 2
        and coder.decode(ids) == coder.decode(coder.encode_plain(text))
        and len(ids) < 0.45 * len(text)
    )
    assert not trained.with_name("a.vocab.work").exists()


def test_same_seed_same_vocabulary(texts, trained, tmp_path):
    assert train(texts, tmp_path / "b.vocab", workers=2) == trained.read_bytes()
    assert train(texts, tmp_path / "c.vocab", seed=1) != trained.read_bytes()


@pytest.mark.parametrize("rounds", [0, 5])
def test_stopped_and_resumed_training_ends_like_an_uninterrupted_one(
    texts, trained, tmp_path, monkeypatch, rounds
):
    written = []

    def stop(path, content):
        if len(written) == rounds:
            raise KeyboardInterrupt
        written.append(path)
        write(path, content)
    write = train_vocab.atomic_write
    monkeypatch.setattr(train_vocab, "atomic_write", stop)
    with pytest.raises(KeyboardInterrupt):
        train(texts, tmp_path / "b.vocab")
    monkeypatch.setattr(train_vocab, "atomic_write", write)
    with pytest.raises(UserError, match="unfinished training; continue it with --resume"):
        train(texts, tmp_path / "b.vocab")
    with pytest.raises(UserError, match="was made with seed 42, now it is 7"):
        train(texts, tmp_path / "b.vocab", resume=True, seed=7)
    assert train(texts, tmp_path / "b.vocab", resume=True) == trained.read_bytes()


def test_ctrl_c_in_the_command_loses_nothing(texts, trained, tmp_path):
    program = f"""if True:
        import sys
        sys.path.insert(0, {str(ROOT)!r})
        from common import run
        from tokenizing import trainer as train_vocab
        from tokenizing import lanes as vocab_lanes
        vocab_lanes.MOST_CANDIDATES, train_vocab.STEPS = {vocab_lanes.MOST_CANDIDATES}, {train_vocab.STEPS}
        sys.exit(run(lambda: train_vocab.main(sys.argv[1:])))"""
    command = [
        sys.executable,
        "-c",
        program,
        str(texts),
        "--vocab-size",
        "180",
        "--workers",
        "2",
        "--out",
        str(tmp_path / "b.vocab"),
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "b.vocab.work" / "state.npz").exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    errors = process.communicate()[1]
    assert (
        "the same command with --resume" in errors and "Traceback" not in errors and process.returncode == 130
    )
    assert not (tmp_path / "b.vocab").exists()
    subprocess.run(command + ["--resume"], check=True)
    assert (tmp_path / "b.vocab").read_bytes() == trained.read_bytes()


def test_mistakes_are_named(texts, tmp_path):
    out = tmp_path / "a.vocab"
    with pytest.raises(UserError, match="too few for 60,000 tokens"):
        train_vocab.train_vocab([str(texts)], out, size=60000)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="nowhere.txt"):
        train_vocab.train_vocab([str(tmp_path / "nowhere.txt")], out)
    with pytest.raises(UserError, match="--vocab-size"):
        train_vocab.train_vocab([str(texts)], out, size=100)
    out.write_bytes(b"mine")
    with pytest.raises(UserError, match="exists"):
        train_vocab.train_vocab([str(texts)], out)
    assert out.read_bytes() == b"mine"


def test_shipped_vocabulary():
    coder = tokenizer.load("builtin-4096")
    tokens = [record.token for record in coder.vocab.records if record.score != -1]
    assert (
        coder.vocab_size == len(tokens) == 4096 and coder.eos_id == coder.pad_id == tokens.index(b"\r") == 2
    )
    assert [token for token in tokens if b"\r" in token] == [b"\r"]
    scores = {record.token: record.score for record in coder.vocab.records if record.score != -1}
    assert derive(scores, coder.vocab.mode, coder.vocab.reserve) == coder.vocab


def documents(path: Path) -> list[str]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line)["text"] for line in file]


@pytest.mark.slow
def test_twenty_megabytes(shared, tmp_path):
    """At most 15 minutes; on other English at most 5 % more tokens than english-4096, on its own text fewer.
    """
    command = [
        sys.executable,
        str(ROOT / "tokenizer.py"),
        "train",
        str(shared / "corpus" / "web.jsonl.gz"),
        "--out",
        str(tmp_path / "web.vocab"),
    ]
    started = time.monotonic()
    subprocess.run(command + ["--vocab-size", "4096", "--workers", "2"], check=True)
    minutes = (time.monotonic() - started) / 60
    ours, real = (
        tokenizer.load(tmp_path / "web.vocab"),
        tokenizer.load(shared / "vocabs" / f"{NAMES[0]}.vocab"),
    )
    counts = {}
    for name in ("heldout_web", "web"):
        texts = documents(shared / "corpus" / f"{name}.jsonl.gz")
        counts[name] = [
            sum(len(coder.encode(text, document=True)) for text in texts) for coder in (ours, real)
        ]
    print(f"{minutes:.1f} minutes; tokens ours, english-4096: {counts}")
    assert counts["heldout_web"][0] <= 1.05 * counts["heldout_web"][1] and counts["web"][0] < counts["web"][1]
    assert minutes <= 15
