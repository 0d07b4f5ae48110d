# SPDX-License-Identifier: Apache-2.0
"""The encoder and the decoder: the reference's ids, the worked examples of its loop, plain against numpy,
streaming, special ids.

The built-in vocabulary serves wherever the two real ones are not needed. What they are needed for skips
without STENTOR_SHARED.
"""
import dataclasses
import doctest
import gzip
import importlib
import json
import random
import tracemalloc
import unicodedata

import numpy as np
import pytest

import tokenizer as module
from tokenizer import (
    ENDS_DEL, ENDS_LETTER, FastEncoder, Tokenizer, TokenMonster, Vocab, load, normalize, special_ids,
)

NAMES = ("english-4096-strict-nocapcode-v1", "english-8000-strict-nocapcode-v1")


@pytest.fixture(scope="session")
def builtin() -> Tokenizer:
    return load("builtin-4096")


@pytest.fixture(scope="session")
def real(shared) -> dict[str, Tokenizer]:
    return {name: load(shared / "vocabs" / f"{name}.vocab") for name in NAMES}


@pytest.fixture(scope="session")
def golden(shared) -> list[dict]:
    return json.loads((shared / "golden" / "tokenmonster.json").read_text(encoding="utf-8"))


def fast(tokenizer: Tokenizer, text, size: int = 1 << 15, document: bool = False) -> list[int]:
    return [id for block in tokenizer.fast.encode_blocks(text, document, size) for id in block.tolist()]


def odd_text(rng: random.Random, vocab: Vocab, longest: int = 60) -> bytes:
    """Pieces of tokens, spaces, marks, other scripts, any code point, bytes that are not UTF-8."""
    pool = [
        "a", "B", "\u00e9", "\u0301", "'", "\u2019", " ", "  ", "\n", "\r\n", "1", "9", "\x7f", "\u3160",
        "\ud55c", "\u4e2d", "\u0300" * 20, "xy" * 5, "_", "-", "\U0001f600", "the ", " of", "tion", "ing",
        "\x00", "\ud800",
    ]
    parts = []
    for _ in range(rng.randrange(1, longest)):
        choice = rng.random()
        if choice < 0.5:
            parts.append(rng.choice(vocab.records).token.replace(b"\x7f ", b""))
        elif choice < 0.85:
            parts.append(rng.choice(pool).encode("utf-8", "surrogatepass"))
        elif choice < 0.95:
            parts.append(chr(rng.randrange(0x110000)).encode("utf-8", "surrogatepass"))
        else:
            parts.append(bytes([rng.randrange(256)]))
    return b"".join(parts)


# --------------------------------------------------------------------------------------------------- identity

def test_golden_cases(real, golden):
    assert len(golden) == 404 and {case["vocab"] for case in golden} == set(NAMES)
    for case in golden:
        tokenizer = real[case["vocab"]]
        assert tokenizer.encode_plain(case["text"]) == case["ids"], case["text"]
        assert tokenizer.encode(case["text"]) == case["ids"], case["text"]
        assert fast(tokenizer, case["text"]) == case["ids"], case["text"]
        assert tokenizer.decode(case["ids"]) == case["decoded"]


def test_golden_cases_in_one_text_and_in_small_blocks(real, golden):
    """A line feed keeps two texts apart in normalization, not in tokens: the plain loop over the joined text
    is the judge.
    """
    for name, tokenizer in real.items():
        text = "\n".join(case["text"] for case in golden if case["vocab"] == name)
        ids = tokenizer.encode_plain(text)
        assert fast(tokenizer, text) == fast(tokenizer, text, 200) == ids


WORKED = {
    "Because": (
        [98, 2887],
        r"""
        i=0 fd=0 rec "\D B" covers 3: 1 "\D B"+"ec" = 0; 2 "\D"+" Because" = 112 -> branch 2, emit 98
        i=1 fd=0 rec " Because" covers 8: emit 2887""",
    ),
    "1999": (
        [98, 1049, 28],
        r"""
        i=0 fd=0 rec "\D 19" covers 4: 1 "\D 19"+"9" = 106; 2 "\D"+" 199" = 108; 3 "\D 1"+"9" = -9895 -> branch 2, emit 98
        i=1 fd=0 rec " 199" covers 4: 1 " 199"+"9" = 107; 2 " "+"19" = -95; 3 " 19"+"9" = -9894 -> branch 1, emit 1049
        i=5 fd=0 rec "9" covers 1: emit 28""",
    ),
    "Zygote": (
        [61, 92, 98, 1241, 72],
        r"""
        i=0 fd=0 rec "\D Z" covers 3: 1 "\D Z"+"y" = -1; 2 "\D"+" Z" = -9897 -> branch 1, emit 61
        i=3 fd=0 rec "y" covers 1: 1 "y"+"go" = -101; 1b "y"+" got" = -1 -> branch 1b, emit 92, 98
        i=4 fd=1 rec " got" covers 3: 1 " got"+"e" = -97; 2 " "+"go" = -199; 2b " "+" got" = -9999; 3 " go"+"te" = -97 -> branch 1, emit 1241
        i=7 fd=0 rec "e" covers 1: emit 72""",
    ),
    "cat\n\n\nbird": (
        [98, 1169, 1, 494, 656, 425],
        r"""
        i=0 fd=0 rec "\D ca" covers 4: 1 "\D ca"+"t" = 103; 2 "\D"+" cat" = 208; 3 "\D c"+"at" = 103 -> branch 2, emit 98
        i=1 fd=0 rec " cat" covers 4: 1 " cat"+"\n\n\n" = 209; 2 " "+"ca" = -98; 2b " "+" cat" = -9795; 3 " ca"+"t" = -9897 -> branch 1, emit 1169
        i=5 fd=0 rec "\n\n\n" covers 3: 1 "\n\n\n"+"\D bi" = 105; 2 "\n\n"+"\n" = -9895; 3 "\n"+"\n\n\D" = 107 -> branch 3, emit 1
        i=6 fd=0 rec "\n\n\D" covers 3: 1 "\n\n\D"+" bi" = 106; 2 "\n\n"+"\D bi" = 104; 3 "\n"+"\n" = 4 -> branch 1, emit 494
        i=9 fd=0 rec " bi" covers 3: 1 " bi"+"rd" = 4; 2 " "+"bi" = -9998; 3 " b"+"ir" = 0 -> branch 1, emit 656
        i=12 fd=0 rec "rd" covers 2: emit 425""",
    ),
    "caf\u00e9 2024": (
        [70, 98, 645, 852, 516, 21, 23],
        r"""
        i=0 fd=0 rec "\D ca" covers 4: 1 "\D ca"+"fe" = 1; 2 "\D"+" ca" = -9896; 3 "\D c"+"a" = -10001; 3b "\D c"+" af" = 99 -> branch 3b, emit 70, 98
        i=3 fd=1 rec " af" covers 2: 1 " af"+"e\xcc\x81" = 5; 2 " "+"a" = -200; 2b " "+" af" = -10000; 3 " a"+"fe" = -101 -> branch 1, emit 645
        i=5 fd=0 rec "e\xcc\x81" covers 3: 1 "e\xcc\x81"+" 20" = 109; 2 "e"+"\xcc\x81" = -9998 -> branch 1, emit 852
        i=8 fd=0 rec " 20" covers 3: 1 " 20"+"2" = 106; 2 " "+"20" = -9995; 3 " 2"+"02" = 106 -> branch 1, emit 516
        i=11 fd=0 rec "2" covers 1: 1 "2"+"4" = 4 -> branch 1, emit 21
        i=12 fd=0 rec "4" covers 1: emit 23""",
    ),
}


@pytest.mark.parametrize("text", WORKED)
def test_worked_examples_step_by_step(real, text):
    tokenizer = real[NAMES[0]]
    ids, expected = WORKED[text]
    records = tokenizer.vocab.records

    def shown(number: int) -> str:
        signs = {10: "\\n", 127: "\\D"}
        return (
            '"'
            + "".join(
                signs.get(byte) or (chr(byte) if byte < 127 else f"\\x{byte:02x}")
                for byte in records[number].token
            )
            + '"'
        )

    lines = []
    for step in tokenizer.turns(normalize(text)):
        covered = len(records[step.record].token) - step.virtual
        line = f"i={step.start} fd={step.virtual} rec {shown(step.record)} covers {covered}: "
        tried = sorted(step.branches, key=lambda branch: branch.name)
        line += "; ".join(
            f"{branch.name} {shown(branch.first)}+{shown(branch.second)} = {branch.score}" for branch in tried
        )
        line += f" -> branch {step.winner.name}, " if step.winner else ""
        lines.append(line + "emit " + ", ".join(map(str, step.ids)))
    assert lines == [line.strip() for line in expected.strip().splitlines()]
    assert tokenizer.encode(text) == ids


def test_plain_and_numpy_are_equal_on_odd_texts(builtin):
    rng = random.Random(4)
    cases = [builtin] + [
        Tokenizer(dataclasses.replace(builtin.vocab, **change), 2, None, 2, 4097)
        for change in ({"unk": 4096}, {"delete": None})
    ]
    for _ in range(150):
        tokenizer = rng.choice(cases)
        text = odd_text(rng, tokenizer.vocab)
        ids = tokenizer.encode_plain(text)
        assert fast(tokenizer, text, rng.choice((7, 50, 300, 65536))) == ids, text


def test_the_tables_hold_the_scores_of_weigh(builtin):
    """For any two records, each byte after them, with a virtual space and in a b branch, the sum of the
    three shares is the score that `weigh` gives. Flags and word counts are random, so that all of them meet.
    """
    rng = random.Random(8)
    flags = [flag for flag in range(256) if not (flag & ENDS_LETTER and flag & ENDS_DEL)]
    records = [record._replace(flag=rng.choice(flags), words=rng.randrange(4))
               for record in builtin.vocab.records]
    monster = TokenMonster(dataclasses.replace(builtin.vocab, records=records))
    tables = FastEncoder(monster)
    for _ in range(4000):
        first, second = rng.randrange(len(records)), rng.randrange(len(records))
        virtual, b, byte = rng.randrange(2), rng.randrange(2), bytes([rng.randrange(256)])
        data = records[first].token[virtual:] + records[second].token[b:] + byte
        expected = monster.weigh(data, 0, 0, virtual, 1, first, second, b).score
        shares = (tables.second, tables.second_b)[b][tables.ending[first]]
        after = tables.after[tables.after_letter[second] + tables.following[data[-1]]]
        assert tables.first[virtual][first] + shares[second] + after == expected, (first, second, virtual, b)


def test_plain_and_numpy_are_equal_on_the_real_vocabularies(real):
    rng = random.Random(5)
    for _ in range(60):
        tokenizer = rng.choice(list(real.values()))
        text = odd_text(rng, tokenizer.vocab, 120)
        assert fast(tokenizer, text, rng.choice((7, 50, 300, 65536))) == tokenizer.encode_plain(text), text


def test_a_long_line_and_a_long_run_of_marks(builtin):
    for text in (
        "abc" * 4000, "a" + "\u0301" * 3000 + " b", "\u3160" * 2000, " " * 5000, "\u4e2d" * 3000,
        "x" * 20 + "\r\n" * 1500,
    ):
        assert fast(builtin, text, 1000) == builtin.encode_plain(text)


def test_sections_of_ordinary_text(real, shared):
    """Prose, code and mathematics of the samples, by both forms and both vocabularies; a block starts where
    the one before it ended.
    """
    for file, key in (("web.jsonl.gz", "text"), ("code.jsonl.gz", "content"), ("math.jsonl.gz", "text")):
        with gzip.open(shared / "corpus" / file, "rt", encoding="utf-8") as lines:
            text = "\n\n".join(json.loads(line)[key] for _, line in zip(range(6), lines))[:15000]
        for tokenizer in real.values():
            assert tokenizer.encode(text) == fast(tokenizer, text, 999) == tokenizer.encode_plain(text)


def test_tokens_lie_where_the_encoder_says(builtin):
    text = "It's caf\u00e9 time in 1999, isn't it?\nUnbelievablyZygotic words \u4e2d " * 3
    data = normalize(text)
    parts = list(builtin.fast.encode_normalized([data], 40))
    ids, starts = (np.concatenate(arrays) for arrays in zip(*parts))
    assert ids.tolist() == builtin.encode_plain(text)
    plain = [step.start for step in builtin.turns(data) for _ in step.ids]
    assert starts.tolist() == plain
    assert starts[0] == 0 and (np.diff(starts) >= 0).all() and starts[-1] < len(data)


# ---------------------------------------------------------------------------------------------- normalization

def test_markers():
    cases = {
        "Hello": "*Hello", " a": " a", "don't": "*don't", "don\u2019t": "*don\u2019t", "a1": "*a*1",
        "a\nb": "*a\n*b", "(x)": "(*x)", "'tis": "'*tis", "1'a": "*1'*a", "a  b": "*a  b", "12 3": "*12 3",
        "\u2167": "*\u2167", "\u00a0x": "\u00a0*x", "": "",
    }
    for text, marked in cases.items():
        assert normalize(text).decode().replace("\x7f ", "*") == marked
    assert normalize("caf\u00e9") == b"\x7f cafe\xcc\x81"
    assert normalize("a\x7fb") == b"\x7f a\x14\x7f b"  # a DEL of the text becomes U+0014, and is no letter
    assert normalize(b"a\xffb") == b"\x7f a\xff\x7f b"
    assert normalize("\ud800") == b"\xed\xa0\x80"  # no UTF-8 text has this; no error either


def test_stream_safe_text():
    """After 30 attached code points comes U+034F (section 8 of the format's description)."""
    safe = module.stream_safe
    assert safe("a" + "\u0301" * 30) == "a" + "\u0301" * 30
    assert safe("a" + "\u0301" * 31) == "a" + "\u0301" * 30 + "\u034f" + "\u0301"
    # e-acute has one inside
    assert safe("\u00e9" + "\u0301" * 30) == "\u00e9" + "\u0301" * 29 + "\u034f\u0301"
    assert safe("a" + "\u0344" * 16) == "a" + "\u0344" * 15 + "\u034f\u0344"  # two each
    assert safe("\u3160" * 31) == "\u3160" * 30 + "\u034f\u3160"
    assert safe("x" * 100) == "x" * 100


def test_document_mode_maps_line_ends(builtin):
    rng = random.Random(6)
    for _ in range(25):
        text = "".join(
            rng.choice(["\r", "\n", "\r\n", "a ", "b.", "\u00e9", "1"]) for _ in range(rng.randrange(300))
        )
        mapped = text.replace("\r\n", "\n").replace("\r", "\n")
        for form in (text, text.encode()):
            assert (
                builtin.encode(form, document=True)
                == builtin.encode(mapped)
                == fast(builtin, form, 64, document=True)
            )
        assert builtin.eos_id not in builtin.encode(text, document=True)
    assert builtin.encode("a\rb") != builtin.encode("a\nb")  # the exact mode keeps CR


def normalize_one_by_one(text: bytes) -> bytes:
    """Normalization character by character, as the format's description says it in words."""
    characters = unicodedata.normalize("NFD", module.stream_safe(text.decode("utf-8", "surrogateescape")))
    out, previous, previous2 = [], "\0", "\0"
    for character in characters:
        kind = unicodedata.category(character)[0]
        if kind == "L":
            after_word = previous == " " or unicodedata.category(previous)[0] in "LM"
            after_apostrophe = previous in "'\u2019" and unicodedata.category(previous2)[0] == "L"
            out += [] if after_word or after_apostrophe else ["\x7f "]
        if kind == "N":
            out += [] if previous == " " or unicodedata.category(previous)[0] == "N" else ["\x7f "]
        out.append("\x14" if character == "\x7f" else character)
        previous2, previous = previous, character
    return "".join(out).encode("utf-8", "surrogateescape")


def test_normalization_in_pieces_equals_one_by_one():
    rng = random.Random(7)
    pool = [
        "a", "\u00e9", "\u0301", "\u0344", "\u3160", "\ud55c", "'", "\u2019", " ", "1", "\r\n", "\r", "\x7f",
        "\u0300" * 33, "\U0001f600", "\ud800",
    ]
    for _ in range(80):
        parts = [rng.choice(pool).encode("utf-8", "surrogatepass") for _ in range(rng.randrange(1, 40))]
        parts[rng.randrange(len(parts))] = bytes([rng.randrange(128, 256)])
        text = b"".join(parts)
        lines = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        for size in (1, 5, 1 << 16):
            assert b"".join(module.normalize_pieces(text, False, size)) == normalize_one_by_one(text)
            assert b"".join(module.normalize_pieces(text, True, size)) == normalize_one_by_one(lines)
        as_str = text.decode("utf-8", "replace")
        assert b"".join(module.normalize_pieces(as_str, False, 3)) == normalize_one_by_one(as_str.encode())


# ---------------------------------------------------------------------------------------------------- decoder

def test_decoding_is_the_text_in_nfd_without_lost_bytes(builtin):
    text = "The caf\u00e9 isn't far: \u00dcber 1,999 words.\n\tNot\u2014quite."
    assert builtin.decode(builtin.encode(text)) == unicodedata.normalize("NFD", text)
    assert builtin.decode([]) == "" and builtin.encode("") == [] and builtin.encode(b"") == []
    assert builtin.decode([10**6, -1, builtin.vocab.rows]) == ""  # ids past the table


def test_decoding_what_no_encoder_writes(real):
    tokenizer = real[NAMES[0]]
    assert tokenizer.decode([98, 43]) == " H"  # DEL DEL SPACE H: the first DEL takes the second
    assert tokenizer.decode([503, 68]) == " ( a" and tokenizer.decode(tokenizer.encode(" (a")) == " (a"
    assert tokenizer.decode([2]) == "\r" and tokenizer.decode([98]) == ""
    assert tokenizer.decode([127]) == "\ufffd" and tokenizer.decode(np.array([996])) == "the"


@pytest.mark.parametrize("seed", range(3))
def test_streaming_equals_the_whole_decode(builtin, seed):
    rng = random.Random(seed)
    for _ in range(150):
        ids = [
            rng.choice((rng.randrange(4096), builtin.vocab.delete, rng.randrange(128, 160), 5000))
            for _ in range(rng.randrange(40))
        ]
        stream, parts, start = builtin.stream(), [], 0
        while start < len(ids):
            step = rng.randrange(1, 4)
            parts.append(stream.feed(ids[start:start + step]))
            start += step
        text = builtin.decode(ids)
        assert "".join(parts) in (text, text.removesuffix("\ufffd"))


def test_streaming_never_breaks_a_character(real):
    tokenizer = real[NAMES[1]]
    text = "\u4e16\u754c na\u00efve \U0001f600 \u0417\u0434\u0440 caf\u00e9"
    stream = tokenizer.stream()
    parts = [stream.feed([id]) for id in tokenizer.encode(text)]
    assert "\ufffd" not in "".join(parts)
    assert "".join(parts) == tokenizer.decode(tokenizer.encode(text))
    stream = tokenizer.stream()
    assert stream.feed(tokenizer.encode("\u4e16")[:-1]) == ""


# ------------------------------------------------------------------------------------------------ special ids

def test_special_ids_of_the_two_lines(real):
    small, large = real.values()
    assert (small.vocab_size, small.eos_id, small.bos_id, small.pad_id) == (4096, 2, None, 2)
    assert (large.vocab_size, large.eos_id, large.bos_id, large.pad_id) == (8064, 8000, 8001, 8000)
    assert large.vocab_size % 128 == 0 and large.vocab_size == large.vocab.size + 2 + 62
    assert small.decode([2]) == "\r"  # every other id is as in the file; the separator is a convention
    assert all(large.decode([id]) == "" for id in (8000, 8001, 8063))


def test_special_text_is_text(builtin, real):
    for tokenizer in (builtin, *real.values()):
        special = {tokenizer.eos_id, tokenizer.bos_id, tokenizer.pad_id}
        for text in ("<|endoftext|>", "<|startoftext|>", "</s>", "a\r\nb\rc <|endoftext|>\r"):
            ids = tokenizer.encode(text, document=True)
            assert not special & set(ids)
            assert tokenizer.decode(ids) == text.replace("\r\n", "\n").replace("\r", "\n")


def test_skipping_special_ids_comes_before_joining(real):
    tokenizer = real[NAMES[0]]
    assert tokenizer.decode([98, 2, 1169]) == " cat"  # the marker takes the byte of the separator
    assert tokenizer.decode([98, 2, 1169], skip_special=True) == tokenizer.decode([98, 1169]) == "cat"
    assert (
        tokenizer.decode([996, 2, 996]) == "the\rthe"
        and tokenizer.decode([996, 2, 996], skip_special=True) == "thethe"
    )
    large = real[NAMES[1]]
    ids = large.encode("one")
    assert large.decode([8001, *ids, 8000, *ids]) == "oneone"


def test_fingerprint_follows_vocabulary_and_special_ids(builtin):
    same = Tokenizer(Vocab.parse(builtin.vocab.to_bytes()), **special_ids(builtin.vocab))
    assert same.fingerprint == builtin.fingerprint and len(same.fingerprint) == 64
    other = Tokenizer(builtin.vocab, eos_id=1, bos_id=None, pad_id=1, vocab_size=4096)
    assert other.fingerprint != builtin.fingerprint


# ------------------------------------------------------------------------------------------- memory and speed

def test_memory_does_not_grow_with_the_text(builtin):
    def peak(repeats: int) -> int:
        text = "The quick brown fox, which isn't old, jumps over 13 lazy dogs.\n" * repeats
        tracemalloc.start()
        for _ in builtin.fast.encode_blocks(text, size=1 << 11):
            pass
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used - len(text)

    peak(10)  # tables are made on first use
    assert peak(6000) < 1.2 * peak(2000)


@pytest.mark.ci
def test_numpy_form_is_several_times_as_fast(builtin):
    import time

    text = (
        "Because the harbour was quiet, nobody expected that anything else would happen before the ferry "
        "came in.\n"
        * 4000
    )
    times = []
    for encode in (builtin.fast.encode, builtin.encode_plain):
        sample = text if encode == builtin.fast.encode else text[:len(text) // 8]
        encode(sample[:1000])
        start = time.process_time()
        encode(sample)
        times.append((time.process_time() - start) / len(sample))
    assert times[1] > 4 * times[0]


@pytest.mark.parametrize("name", ["tokenizer", "tokenizing.view", "vocab_files.bpe"])
def test_examples_in_docstrings(name):
    found = doctest.testmod(importlib.import_module(name))
    assert found.failed == 0 and (found.attempted > 0 or name == "vocab_files.bpe")


def test_many_short_texts_in_one_block(builtin, real):
    """`encode_many` gives what `encode` gives for each text: empty, short, odd and longer than a block."""
    rng = random.Random(7)
    pieces = ["the", "cat", " ", "ing", "'s", "\n\n", "Once", "3", ".", ",", " of the", "\r", "\0", "é", '"']
    texts = ["", "x", *("".join(rng.choice(pieces) for _ in range(rng.randrange(12))) for _ in range(400))]
    texts.insert(200, "Once upon a time. " * 3000)
    for coder in (builtin, *real.values()):
        assert coder.encode_many(["", ""]) == [[], []] and coder.encode_many([]) == []
        for document in (False, True):
            one_by_one = [coder.encode_plain(text, document) for text in texts]
            assert coder.encode_many(texts, document) == one_by_one
