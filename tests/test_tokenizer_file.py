# SPDX-License-Identifier: Apache-2.0
"""The `.vocab` file: read and written byte for byte; whatever is wrong with it is a VocabError that names
field and offset.
"""
import dataclasses
import json
import random
import re
import struct
import tracemalloc

import pytest

from common import UserError
from tokenizer import (
    DEL,
    LONGEST_TOKEN,
    NONE,
    SPECIAL,
    Record,
    Tokenizer,
    TokenMonster,
    Vocab,
    VocabError,
    find,
    load,
)

HEADER = 24


@pytest.fixture(scope="session")
def data() -> bytes:
    return find("builtin-4096").read_bytes()


def small(**changes) -> Vocab:
    """A vocabulary of six tokens and one duplicate, written out."""
    records = [
        Record(b"\n", 128, 0, None, None, 0, 0.125), Record(b"\r", 128, 0, None, None, 1, 0.0),
        Record(b" ", 132, 0, None, None, 2, 0.25), Record(b"a", 131, 0, None, None, 3, 0.25),
        Record(b"\x7f", 152, 0, None, None, 4, 0.125), Record(b" a", 165, 1, 2, None, 5, 0.25),
        Record(b"\x7f a", 17, 1, 4, None, 3, -1.0),
    ]
    return Vocab(**{"records": records, "begin": bytes(256), "delete": 4, **changes})


def offset_of(data: bytes, number: int) -> int:
    """Where a record begins."""
    at = HEADER
    for _ in range(number):
        at += 1 + data[at] + 15
    return at


def patched(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value):]


def u24(number: int) -> bytes:
    return number.to_bytes(3, "little")


# ---------------------------------------------------------------------------------------- reading and writing

def test_the_real_files_come_back_byte_for_byte(shared):
    sizes = {}
    for path in sorted((shared / "vocabs").glob("*.vocab")):
        content = path.read_bytes()
        vocab = Vocab.parse(content)
        assert vocab.to_bytes() == content
        sizes[path.stem] = (len(vocab.records), vocab.size, vocab.rows, len(content))
    assert sizes == {
        "english-4096-strict-nocapcode-v1": (4841, 4096, 4096, 105763),
        "english-8000-strict-nocapcode-v1": (9244, 8000, 8000, 208245),
    }


def test_facts_of_the_real_files(shared):
    """What the format's description says of both: sorted records, true prefixes, ids in file order,
    duplicates of words.
    """
    for path in sorted((shared / "vocabs").glob("*.vocab")):
        vocab = Vocab.parse(path.read_bytes())
        records = vocab.records
        assert (
            vocab.delete == 98
            and vocab.unk is None
            and vocab.mode == 4
            and max(len(record.token) for record in records) == LONGEST_TOKEN
        )
        assert [record.id for record in records if record.score != -1] == list(range(vocab.size))
        assert {record.flag for record in records} == {
            1, 3, 4, 5, 16, 17, 128, 131, 132, 133, 136, 140, 152, 165,
        }
        duplicates = [record for record in records if record.score == -1]
        assert len(duplicates) == {4096: 745, 8000: 1244}[vocab.size]
        plain = {record.id: record.token for record in records if record.score != -1}
        assert all(record.token == bytes([DEL]) + b" " + plain[record.id] for record in duplicates)
        assert all((record.alt1 is None) == (len(record.token) == 1) for record in records)


def test_everything_a_file_can_hold_comes_back(data):
    builtin = Vocab.parse(data)
    assert builtin.to_bytes() == data
    special = builtin.records[-1]._replace(
        token=b"z" * 40, flag=SPECIAL, words=0, alt1=None, alt2=None, id=4096, score=0.0
    )
    deleted = [(b"old", 4098, 0.25), (b"older", 5000, 0.125)]
    rich = dataclasses.replace(
        builtin, records=builtin.records + [special], unk=4097, mode=5, reserve=63, deleted=deleted
    )
    back = Vocab.parse(rich.to_bytes())
    assert back == rich and (back.size, back.rows) == (4098, 4098)
    gap = dataclasses.replace(builtin, unk=5000)
    assert (Vocab.parse(gap.to_bytes()).size, Vocab.parse(gap.to_bytes()).rows) == (4097, 5001)
    assert Vocab.parse(small().to_bytes()) == small()


def test_unk_is_emitted_for_a_byte_without_a_token():
    assert TokenMonster(small()).encode_plain("\x00\x00") == []
    with_unk = TokenMonster(small(unk=6))
    assert with_unk.encode_plain("\x00 \x00") == [6, 2, 6]
    assert with_unk.decode([6, 2, 6]) == " "


# -------------------------------------------------------------------------------------------------- bad files

BAD_HEADERS = {
    "capcode level 2 (full capcode) is not implemented": (0, b"\x02"),
    "capcode level 0 (no capcode) is not implemented": (0, b"\x00"),
    "capcode level 77": (0, b"\x4d"),
    "charset 2 (UTF-16) is not implemented": (1, b"\x02"),
    "charset 0 (raw bytes) is not implemented": (1, b"\x00"),
    "charset 9": (1, b"\x09"),
    "normalization bits 3 are not implemented": (2, b"\x03"),
    "training mode 6": (3, b"\x06"),
    "reserved bytes 64": (4, b"\x40"),
    "where three zero bytes must be": (5, b"\x00\x01"),
    "number of ids 4095": (11, u24(4095)),
    "highest id + 1 is 16777215": (14, u24(NONE)),
    "number of records 16777215": (17, u24(NONE)),
    "number of records 0": (17, u24(0)),
    "delete token 5": (20, u24(5)),
    "longest record 41": (23, b"\x29"),
}


@pytest.mark.parametrize("message", BAD_HEADERS)
def test_header_fields_are_named(data, message):
    at, value = BAD_HEADERS[message]
    with pytest.raises(VocabError, match=re.escape(message)) as caught:
        Vocab.parse(patched(data, at, value))
    found = int(re.match(r"offset (\d+): ", str(caught.value))[1])
    assert found in (at, at - at % 1) or message.startswith("where") and found == 5


def test_record_fields_are_named(data):
    vocab = Vocab.parse(data)
    number = next(i for i, record in enumerate(vocab.records) if record.alt2 is not None)
    start = offset_of(data, number)
    there = start + 1 + data[start]
    other = next(
        i
        for i, record in enumerate(vocab.records)
        if not vocab.records[number].token.startswith(record.token)
    )
    cases = [
        (start, b"\x00", start, "length 0 in the record"),
        (start, b"\x29", start, "length 41 in the record"),
        (there, bytes([SPECIAL | 1]), there, "flag: a special token"),
        (there, bytes([data[there] ^ 4]), there, "flag: the bytes contradict it"),
        (there + 1, b"\xff", there + 1, "nWords"),
        (there + 2, u24(number), there + 2, "alt1: not an earlier prefix"),
        (there + 2, u24(other), there + 2, "alt1: not an earlier prefix"),
        (there + 5, u24(NONE - 1), there + 5, "alt2: not an earlier prefix"),
        (there + 2, u24(NONE), there + 5, "alt2: given without alt1"),
        (there + 8, u24(4096), there + 8, "id: above the highest"),
        (there + 11, struct.pack("<f", float("nan")), there + 11, "score: not a number"),
        (there + 8, u24(0), there + 8, "id: an earlier record has it"),
    ]
    for at, value, offset, message in cases:
        with pytest.raises(VocabError, match=re.escape(message)) as caught:
            Vocab.parse(patched(data, at, value))
        assert str(caught.value).startswith(f"offset {offset}: ")
        assert f"record {number}" in str(caught.value)


def test_order_of_records_is_checked():
    records = small().records
    for wrong in ([records[1], records[0], *records[2:]], [*records, records[-1]]):
        with pytest.raises(VocabError, match="out of order"):
            Vocab.parse(dataclasses.replace(small(), records=wrong).to_bytes())


def test_tables_after_the_records(data):
    begin = offset_of(data, len(Vocab.parse(data).records))
    with pytest.raises(VocabError, match=f"offset {begin + 65}: 7 in the begin-byte table"):
        Vocab.parse(patched(data, begin + 65, b"\x07"))
    with pytest.raises(VocabError, match="within the deleted record 0"):
        Vocab.parse(patched(data, begin + 256, u24(1000000)))
    with pytest.raises(VocabError, match=f"offset {len(data)}: 3 bytes after the end"):
        Vocab.parse(data + b"abc")


def test_files_cut_off_anywhere(data):
    rng = random.Random(1)
    for size in [
        *range(40),
        len(data) - 1,
        len(data) - 3,
        len(data) - 4,
        len(data) - 200,
        *(rng.randrange(len(data)) for _ in range(20)),
    ]:
        with pytest.raises(VocabError, match="offset"):
            Vocab.parse(data[:size])


def test_foreign_files():
    rng = random.Random(2)
    for foreign in (
        b"", b"PK\x03\x04" * 50, bytes(10000), b"\x89PNG\r\n\x1a\n" + bytes(1000),
        b"\x1f\x8b\x08" + bytes(1000), b'{"version": "1.0", "model": {}}' * 50,
        b"\x01\x01\x01" + b"\xff" * 10000, rng.randbytes(5000), b"Plain text, no vocabulary.\n" * 40,
    ):
        with pytest.raises(VocabError):
            Vocab.parse(foreign)


def test_no_huge_allocation(data):
    """A small file that speaks of millions of records, ids or deleted tokens."""
    begin = offset_of(data, len(Vocab.parse(data).records))
    for bad in (
        patched(data, 17, u24(NONE)),
        patched(data, 14, u24(NONE)),
        patched(data, begin + 256, u24(NONE)),
        b"\x01\x01\x01\x04\x00\x00\x00\x00" + b"\xff" * 40,
    ):
        tracemalloc.start()
        with pytest.raises(VocabError):
            Vocab.parse(bad)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 60 * len(data)


def mutate(rng: random.Random, data: bytes) -> bytes:
    """One or a few bits flipped, bytes replaced, a stretch cut out or doubled."""
    mutant = bytearray(data)
    near = rng.choice((40, len(data)))
    for _ in range(rng.choice((1, 1, 1, 4))):
        at = rng.randrange(min(near, len(mutant)))
        kind = rng.randrange(4)
        if kind == 0:
            mutant[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            mutant[at] = rng.choice((0, 1, 0x20, 0x7F, 0xFF, rng.randrange(256)))
        elif kind == 2:
            del mutant[at:at + rng.randrange(1, 20)]
        else:
            mutant[at:at] = mutant[at:at + rng.randrange(1, 20)]
    return bytes(mutant)


def check_mutant(mutant: bytes) -> bool:
    """A mutant is refused with an offset, or it is a vocabulary: then it comes back byte for byte, encodes
    and decodes.
    """
    try:
        vocab = Vocab.parse(mutant)
    except VocabError as error:
        assert re.match(r"offset \d+: ", str(error))
        return False
    assert vocab.to_bytes() == mutant
    tokenizer = Tokenizer(vocab, eos_id=0, bos_id=None, pad_id=0, vocab_size=vocab.rows)
    text = "Because the cat's 19 hats\ncaf\u00e9 \x00 " * 3
    ids = tokenizer.encode_plain(text)
    assert [id for block in tokenizer.fast.encode_blocks(text, size=50) for id in block.tolist()] == ids
    tokenizer.decode(ids + [vocab.rows])
    return True


@pytest.mark.parametrize("seed", range(2))
def test_mutations(seed):
    """Of a small file, which is quick to read; the slow test does the same to the built-in one."""
    rng = random.Random(seed)
    content = small(unk=6, deleted=[(b"old", 7, 0.5)]).to_bytes()
    accepted = sum(check_mutant(mutate(rng, content)) for _ in range(300))
    assert 0 < accepted < 150  # mostly a changed score, which nothing can notice


def test_mutations_of_the_built_in_file(data):
    rng = random.Random(9)
    accepted = sum(check_mutant(mutate(rng, data)) for _ in range(15))
    assert accepted < 15


@pytest.mark.slow
def test_ten_thousand_mutations(data, shared):
    rng = random.Random(3)
    contents = [small(unk=6, deleted=[(b"old", 7, 0.5)]).to_bytes()] * 18 + [data]
    contents += [(shared / "vocabs" / "english-8000-strict-nocapcode-v1.vocab").read_bytes()]
    results = [check_mutant(mutate(rng, rng.choice(contents))) for _ in range(10000)]
    print(
        f"10,000 mutations: {sum(results):,} were vocabularies, {results.count(False):,} refused with "
        "field and offset, nothing else"
    )
    assert 0 < sum(results) < 5000


# --------------------------------------------------------------------------------------------- through `load`

def test_load_names_the_file(tmp_path, data):
    bad = tmp_path / "bad.vocab"
    bad.write_bytes(data[:1000])
    with pytest.raises(UserError, match=re.escape(f"{bad}: offset ")):
        load(bad)
    bad.write_bytes(
        small(
            records=[record._replace(token=record.token.replace(b"\r", b"\v")) for record in small().records]
        ).to_bytes()
    )
    with pytest.raises(UserError, match="token for CR"):
        load(bad)
    with open(bad, "wb") as file:
        file.truncate(65 << 20)  # sparse
    with pytest.raises(UserError, match="a vocabulary has at most"):
        load(bad)


def test_a_model_folder_comes_back(tmp_path, data):
    tokenizer = load("builtin-4096")
    tokenizer.save_pretrained(tmp_path / "model")
    back = load(tmp_path / "model")
    assert (tmp_path / "model" / "tokenmonster.vocab").read_bytes() == data
    assert back.fingerprint == tokenizer.fingerprint and back.vocab_size == 4096
    assert (tmp_path / "model" / "tokenmonster_hf.py").is_file() and (
        tmp_path / "model" / "tokenizer_config.json"
    ).is_file()


def test_a_folders_configuration_overrides(tmp_path, data):
    (tmp_path / "tokenmonster.vocab").write_bytes(data)
    (tmp_path / "config.json").write_text(
        json.dumps({"vocab_size": 8064, "eos_token_id": 8000, "bos_token_id": 8001, "pad_token_id": None})
    )
    tokenizer = load(tmp_path)
    assert (tokenizer.vocab_size, tokenizer.eos_id, tokenizer.bos_id) == (8064, 8000, 8001)
    assert load(tmp_path / "tokenmonster.vocab").fingerprint == tokenizer.fingerprint
    for wrong in (
        {"vocab_size": 100}, {"eos_token_id": 4096}, {"eos_token_id": [1, "two"]}, {"bos_token_id": -1},
        {"vocab_size": "many"},
    ):
        (tmp_path / "config.json").write_text(json.dumps(wrong))
        with pytest.raises(UserError):
            load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 4096, "eos_token_id": None}))
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"eos_token": "<|end|>", "added_tokens_decoder": {"7": {"content": "<|end|>"}}})
    )
    assert load(tmp_path).eos_id == 7
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": [1]}))
    with pytest.raises(UserError, match="tokenizer_config.json"):
        load(tmp_path)
