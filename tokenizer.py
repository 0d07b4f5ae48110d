# SPDX-License-Identifier: Apache-2.0
"""TokenMonster from scratch: `.vocab` file, normalization, ungreedy encoder, decoder, special ids.

A text becomes tokens in two steps. Normalization first brings it into a form in which every word begins with
a space: Unicode's NFD, and where a word has no space before it, the marker DEL SPACE ("a space to delete").
The bytes of that form are called D here. Then the encoder cuts D into tokens. A greedy tokenizer takes the
longest token at each place. TokenMonster is ungreedy, it looks one token ahead: it tries the longest token
and its two best shorter alternatives, each with the longest token that could follow, scores these pairs (up
to six), and keeps the first token of the best pair.

    text --normalize--> D --encode--> ids --decode--> the text in NFD

`TokenMonster.turns` is that loop in readable form. `FastEncoder` computes the same with numpy, for all
positions at once. The code between the two `core` lines needs the standard library and numpy only: each model
folder carries a copy of it in `tokenmonster_hf.py`, so a published model does not need this project.
"""
from __future__ import annotations

# --- core: begin
import codecs
import functools
import io
import math
import re
import struct
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import NamedTuple

import numpy as np


class VocabError(ValueError):
    """A `.vocab` file that cannot be read. The message names the field and its offset in the file."""


# ------------------------------------------------------------------------------------------ the .vocab file

NONE = 0xFFFFFF  # "absent" in a three-byte field
DEL = 0x7F  # the marker: the decoder drops this byte and the one after it
LONGEST_TOKEN = 40  # bytes
SHORT = 160  # characters; a shorter text takes less time with the plain loop than with numpy

# Flag bits of a record: what the scores need to know about a token's ends. UNIFORM: letters only, numbers
# only or others only.
ENDS_LETTER, STARTS_LETTER, STARTS_SPACE, ENDS_DEL, STARTS_DEL, WHOLE_WORD, SPECIAL, UNIFORM = (
    1 << bit for bit in range(8))
_VISIBLE_ENDS = STARTS_SPACE | STARTS_DEL | ENDS_DEL  # a reader can check these three without Unicode

# Values of the begin-byte table: what most tokens with this first byte are; 0 where that is undecided.
BEGINS_LETTER, BEGINS_OTHER, BEGINS_SPACE = 1, 10, 12


class Record(NamedTuple):
    """One token. Records are numbered from 0 by their place in the file; the number is not the id."""

    token: bytes  # as it is matched, after normalization
    flag: int  # the bits above
    words: int  # nWords: how often a letter, mark or digit directly follows a space
    alt1: int | None  # number of the record of the best shorter alternative, a prefix of this token
    alt2: int | None  # number of the record of the second best
    id: int
    score: float  # share of the training text that the token covered; -1 marks a duplicate


_HEADER = struct.Struct("<5B3s3s3s3s3s3sB")
_RECORD = struct.Struct("<BB3s3s3sf")  # what follows the length and the bytes of a token
_DELETED = struct.Struct("<3sf")


def _u24(number: int | None) -> bytes:
    return (NONE if number is None else number).to_bytes(3, "little")


@dataclass(frozen=True)
class Vocab:
    """The content of a `.vocab` file: capcode level 1 ("nocapcode"), charset UTF-8, normalization NFD.

    The file has no magic number and no checksum. All integers are little-endian:

        offset 0   one byte each: capcode level, charset, normalization bits, training mode, reserved bytes,
                   three times zero
               8   three bytes each: UNK id, number of ids, highest id + 1, number of records, id of DEL
               23  one byte: length of the longest record
               24  the records: length (1), bytes, flag (1), nWords (1), alt1 (3), alt2 (3), id (3), score (4,
                   a float)
                   the begin-byte table (256), the number of deleted records (3), the deleted records:
                   length, bytes, id, score

    Records are sorted by (length, bytes). An alternative is a prefix of its token, so it comes before the
    token. A word has two records: "cat", and its duplicate DEL " cat" with the same id, so that a word with
    the marker in front can be one token.
    """

    records: list[Record]
    begin: bytes  # the begin-byte table
    delete: int | None  # id of the token DEL
    unk: int | None = None  # id for a byte without a token; without it such bytes are lost
    mode: int = 4  # the training mode; 4 is "strict". Encoding does not use it, nor the next field
    reserve: int = 0  # bits: which single bytes training kept
    deleted: list[tuple[bytes, int, float]] = field(default_factory=list)  # removed tokens; not used

    @functools.cached_property
    def size(self) -> int:
        """Number of different ids, UNK included."""
        return len({record.id for record in self.records} | ({self.unk} - {None}))

    @functools.cached_property
    def rows(self) -> int:
        """Highest id + 1, the length of the table id -> bytes."""
        return max([record.id for record in self.records] + [-1 if self.unk is None else self.unk]) + 1

    def to_bytes(self) -> bytes:
        """The file, byte for byte as the reference writes it."""
        longest = max(len(record.token) for record in self.records)
        counts = (self.unk, self.size, self.rows, len(self.records), self.delete)
        parts = [_HEADER.pack(1, 1, 1, self.mode, self.reserve, bytes(3), *map(_u24, counts), longest)]
        for token, flag, words, alt1, alt2, id, score in self.records:
            fields = _RECORD.pack(flag, words, _u24(alt1), _u24(alt2), _u24(id), score)
            parts += [bytes([len(token)]), token, fields]
        parts += [self.begin, _u24(len(self.deleted))]
        for token, id, score in self.deleted:
            parts += [bytes([len(token)]), token, _DELETED.pack(_u24(id), score)]
        return b"".join(parts)

    @classmethod
    def parse(cls, data: bytes) -> Vocab:
        """Read a file. Raises VocabError.

        Needs a few times the file's size in memory, whatever the file claims.
        """
        return _Reader(data).vocab()


class _Reader:
    """Reads the fields of a file in order. Every field is validated."""

    def __init__(self, data: bytes):
        self.data, self.at = data, 0

    def check(self, good: bool, offset: int, what: str) -> None:
        if not good:
            raise VocabError(f"offset {offset}: {what}")

    def bytes(self, count: int, name: str) -> bytes:
        piece = self.data[self.at:self.at + count]
        self.check(len(piece) == count, self.at,
                   f"the file ends within the {name}: it is truncated, or not a .vocab file")
        self.at += count
        return piece

    def fields(self, layout: struct.Struct, name: str) -> list:
        values = layout.unpack(self.bytes(layout.size, name))
        return [int.from_bytes(value, "little") if isinstance(value, bytes) else value for value in values]

    def token(self, name: str) -> bytes:
        length = self.bytes(1, name)[0]
        self.check(1 <= length <= LONGEST_TOKEN, self.at - 1,
                   f"length {length} in the {name}; it must be 1..{LONGEST_TOKEN}")
        return self.bytes(length, name)

    def vocab(self) -> Vocab:
        check = self.check
        (capcode, charset, normal, mode, reserve, zero,
         unk, size, rows, count, delete, longest) = self.fields(_HEADER, "header")
        for offset, name, value, known in (
                (0, "capcode level", capcode, ("no capcode", "nocapcode", "full capcode")),
                (1, "charset", charset, ("raw bytes", "UTF-8", "UTF-16"))):
            check(value < 3, offset, f"{name} {value}; it must be 0, 1 or 2: this is not a .vocab file")
            check(value == 1, offset,
                  f"{name} {value} ({known[value]}) is not implemented, only 1 ({known[1]})")
        check(normal == 1, 2, f"normalization bits {normal} are not implemented, only 1 (NFD)")
        check(mode <= 5, 3, f"training mode {mode}; it must be 0..5")
        check(reserve < 64, 4, f"reserved bytes {reserve}; it must be below 64")
        check(zero == 0, 5, f"{zero:#x} where three zero bytes must be")
        room = (len(self.data) - self.at) // (2 + _RECORD.size)
        check(1 <= count <= room, 17,
              f"number of records {count}; a file of {len(self.data)} bytes has room for 1..{room}")
        check(rows <= 1 << 20, 14, f"highest id + 1 is {rows}; at most {1 << 20} are read")
        records = self.records(count, rows)
        begin = self.bytes(256, "begin-byte table")
        for byte, value in enumerate(begin, self.at - 256):
            check(value in (0, 1, 10, 12), byte,
                  f"{value} in the begin-byte table; it must be 0, 1, 10 or 12")
        deleted = []
        for number in range(self.fields(struct.Struct("3s"), "number of deleted records")[0]):
            name = f"deleted record {number}"
            deleted.append((self.token(name), *self.fields(_DELETED, name)))
        check(self.at == len(self.data), self.at,
              f"{len(self.data) - self.at} bytes after the end of the vocabulary")
        vocab = Vocab(records, begin, None if delete == NONE else delete, None if unk == NONE else unk,
                      mode, reserve, deleted)
        marker = next((record.id for record in records if record.token == b"\x7f"), None)
        last = len(records[-1].token)
        for offset, name, value, true in (
                (11, "number of ids", size, vocab.size), (14, "highest id + 1", rows, vocab.rows),
                (20, "delete token", vocab.delete, marker), (23, "longest record", longest, last)):
            check(value == true, offset, f"{name} {value}; the records say {true}")
        return vocab

    def records(self, count: int, rows: int) -> list[Record]:
        records: list[Record] = []
        owners: set[int] = set()
        last = (0, b"")

        def is_prefix(alternative: int, number: int, token: bytes) -> bool:
            if alternative == NONE:
                return True
            return alternative < number and token.startswith(records[alternative].token)

        for number in range(count):
            start, name = self.at, f"record {number}"
            token = self.token(name)
            flag, words, alt1, alt2, id, score = self.fields(_RECORD, name)
            ends = STARTS_SPACE * (token[0] == 0x20) + STARTS_DEL * (token[0] == DEL)
            ends += ENDS_DEL * (token[-1] == DEL)
            at = start + 1 + len(token)
            checks = (
                ((len(token), token) > last, start,
                 "out of order: records are sorted by (length, bytes), none twice"),
                (flag == SPECIAL or not flag & SPECIAL, at, "flag: a special token has the bit 64 alone"),
                (flag == SPECIAL or flag & _VISIBLE_ENDS == ends, at, "flag: the bytes contradict it"),
                (words <= len(token) // 2, at + 1, "nWords: more than the token has room for"),
                (is_prefix(alt1, number, token), at + 2, "alt1: not an earlier prefix"),
                (is_prefix(alt2, number, token), at + 5, "alt2: not an earlier prefix"),
                (alt2 == NONE or alt1 != NONE, at + 5, "alt2: given without alt1"),
                (id < rows, at + 8, "id: above the highest"),
                (score == -1 or id not in owners, at + 8,
                 "id: an earlier record has it, and this is not a duplicate"),
                (math.isfinite(score), at + 11, "score: not a number"),
            )
            for good, offset, what in checks:
                if not good:
                    raise VocabError(f"offset {offset}: {name}, {token!r}: {what}")
            if score != -1:
                owners.add(id)
            records.append(Record(token, flag, words, None if alt1 == NONE else alt1,
                                  None if alt2 == NONE else alt2, id, score))
            last = (len(token), token)
        return records


# ------------------------------------------------------------------------------------- from text to bytes D

OTHER, LETTER, NUMBER, MARK, SPACE, APOSTROPHE = range(6)  # kinds of characters
ATTACHES = 8  # added to the kind of a character that attaches to the one before it


def kind_of(character: str) -> int:
    """The kind of a character: letter, number, mark (by general category), U+0020, apostrophe, or other."""
    special = {" ": SPACE, "'": APOSTROPHE, "\u2019": APOSTROPHE}
    category = unicodedata.category(character)[0]
    return special.get(character) or {"L": LETTER, "N": NUMBER, "M": MARK}.get(category, OTHER)


def needs_marker(kind: int, previous: int, previous2: int) -> bool:
    """Whether DEL SPACE goes before a character, by its kind and the kinds of the two before it.

    A letter gets no marker after a space, letter or mark, nor after an apostrophe that follows a letter
    (don't). A number gets none after a space or number ("a1" becomes DEL " a" DEL " 1"). Nothing else gets
    one. Only U+0020 counts as a space.
    """
    if kind == LETTER:
        return not (previous in (SPACE, LETTER, MARK) or previous == APOSTROPHE and previous2 == LETTER)
    return kind == NUMBER and previous not in (SPACE, NUMBER)


_NEEDS_MARKER = np.array([[[needs_marker(kind, one, two) for two in range(6)] for one in range(6)]
                          for kind in range(6)])
_KINDS = np.full(0x110000, 255, dtype=np.uint8)  # code point -> kind; filled as code points are met

# Starters that can attach to a character before them; the stream-safe rule counts them with combining marks.
_ATTACHING = """9BE 9D7 B3E B56-B57 BBE BD7 CC2 CD5-CD6 D3E D57 DCF DDF 102E 1161-1175 11A8-11C2 1B35 3133
3135-3136 313A-313F 314F-3163 FF9E-FF9F FFA3 FFA5-FFA6 FFAA-FFAF FFC2-FFC7 FFCA-FFCF FFD2-FFD7 FFDA-FFDC
11127 1133E 11357 114B0 114BA 114BD 115AF 11930"""
_ATTACHING = [[int(code, 16) for code in part.split("-")] for part in _ATTACHING.split()]
_ATTACHING = {code for bounds in _ATTACHING for code in range(bounds[0], bounds[-1] + 1)}


def attached(character: str) -> int:
    """How many code points at the start of a character's NFD attach to the character before it."""
    if character in "\u0344\u0f73\u0f75\u0f81":
        return 2
    return int(unicodedata.combining(character) > 0 or ord(character) in _ATTACHING)


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


def _kinds(codes: np.ndarray) -> np.ndarray:
    new = np.unique(codes[_KINDS[codes] == 255])
    _KINDS[new] = [kind_of(chr(code)) + ATTACHES * (attached(chr(code)) > 0) for code in new]
    return _KINDS[codes]


def stream_safe(text: str) -> str:
    """Put U+034F before the 31st attached code point in a row, as the reference counts them.

    This is Unicode's stream-safe text format (UAX 15, section 13).
    """
    places = np.flatnonzero(_kinds(_code_points(text)) & ATTACHES)
    if not (places[13:] - places[:-13] == 13).any():  # no 14 in a row, so no 31: nearly all texts
        return text
    safe, run = [], 0
    for character in text:
        if run + attached(character) > 30:
            safe.append("\u034f")
            run = 0
        safe.append(character)
        run += attached(character)
        if not attached(character):
            run = len(unicodedata.normalize("NFD", character)) - 1
    return "".join(safe)


def _pieces(text: str | bytes, document: bool, size: int) -> Iterator[str]:
    """The text in pieces of about `size` characters, whose NFD, joined, is that of the complete text.

    Each piece begins with a starter. Bytes that are not UTF-8 become lone surrogates (surrogateescape), which
    are characters of kind OTHER.
    """
    utf8 = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    decoder = io.IncrementalNewlineDecoder(utf8, translate=document)
    held = ""
    for start in range(0, len(text), size):
        piece = text[start:start + size]
        held += decoder.decode(piece.encode("utf-8", "surrogatepass") if isinstance(piece, str) else piece)
        cut = len(held) - 1
        while cut > 0 and attached(held[cut]):
            cut -= 1
        if cut > 0:
            yield held[:cut]
            held = held[cut:]
    yield held + decoder.decode(b"", final=True)


def normalize_pieces(text: str | bytes, document: bool = False, size: int = 1 << 16) -> Iterator[bytes]:
    """The bytes D of a text, piece by piece: NFD, markers, UTF-8. Memory does not grow with the text.

    The kinds of all characters are looked up at once; shifted by one and two they are the kinds before each
    character. A DEL in the text becomes U+0014. `document=True` maps CRLF and CR to LF first.
    """
    before = np.array([OTHER, OTHER], dtype=np.uint8)
    for piece in _pieces(text, document, size):
        codes = _code_points(unicodedata.normalize("NFD", stream_safe(piece)))
        kinds = np.concatenate([before, _kinds(codes) % ATTACHES])
        before = kinds[-2:]
        places = np.flatnonzero(_NEEDS_MARKER[kinds[2:], kinds[1:-1], kinds[:-2]])
        markers = np.tile(np.array([DEL, 0x20], dtype=np.uint32), len(places))
        marked = np.insert(np.where(codes == DEL, np.uint32(0x14), codes), np.repeat(places, 2), markers)
        yield marked.tobytes().decode("utf-32-le", "surrogatepass").encode("utf-8", "surrogateescape")


def normalize(text: str | bytes, document: bool = False) -> bytes:
    """The bytes D of a text.

    >>> normalize("don't a1 (x)").replace(b"\\x7f", b"*")
    b"* don't a* 1 (* x)"
    """
    return b"".join(normalize_pieces(text, document))


# ---------------------------------------------------------------------------------------------- the encoder

class Branch(NamedTuple):
    """A pair of tokens that was tried. The first would be emitted; the second could follow."""

    name: str  # 1, 2, 3: candidate, first, second alternative; 1b, 2b, 3b: with a delete token between
    first: int  # record number
    length: int  # bytes of D that the first token covers
    second: int  # record number
    score: int


class Turn(NamedTuple):
    """One turn of the loop: at `start` the candidate `record` competed with its alternatives."""

    start: int  # position in D
    virtual: int  # 1 if the candidate begins with a space that is not in D: a delete token came before
    record: int | None  # None: no token begins with this byte
    branches: list[Branch]  # what was tried; empty where there was no choice
    winner: Branch | None
    ids: list[int]  # what was emitted


class TokenMonster:
    """Encoder and decoder of one vocabulary."""

    def __init__(self, vocab: Vocab):
        self.vocab = vocab
        self.width = len(vocab.records[-1].token)  # bytes of the longest token
        self.prefixes: dict[bytes, int] = {}  # prefix of a token -> its record number, -1 if not a token
        for number, record in enumerate(vocab.records):
            for length in range(1, len(record.token)):
                self.prefixes.setdefault(record.token[:length], -1)
            self.prefixes[record.token] = number
        self.table = [b""] * (vocab.rows + 1)  # id -> bytes for the decoder; last: ids past the table
        for record in vocab.records:  # in file order, so that an id with a duplicate gets DEL SPACE + word
            self.table[record.id] = record.token

    def longest(self, data: bytes, start: int, end: int) -> int | None:
        """Number of the longest record that is a prefix of `data[start:end]`."""
        found = None
        for stop in range(start + 1, min(end, start + self.width) + 1):
            number = self.prefixes.get(data[start:stop])
            if number is None:
                break
            if number >= 0:
                found = number
        return found

    def weigh(self, data: bytes, start: int, covered: int, virtual: int, number: int, first: int, second: int,
              b: int) -> Branch:
        """The pair `first`, `second` with its score.

        `number` says which alternative the first is, `b` whether this is a b branch. A covered byte counts 1,
        a complete word 100, and 100 more if a space or punctuation follows. Cutting a word in two costs 103,
        DEL after DEL 100. An alternative pair that reaches no further than the candidate alone (`covered`)
        is of no use and loses.
        """
        one, two = self.vocab.records[first], self.vocab.records[second]
        length, ahead = len(one.token) - virtual, len(two.token) - b
        words = one.words - virtual  # may be -1
        after = self.vocab.begin[data[start + length + ahead]]
        score = length + ahead + (one.flag & UNIFORM > 0) + (two.flag & UNIFORM > 0)
        score += max(0, words - 1) + max(0, two.words - 1) + 100 * (words + two.words)
        score += {BEGINS_SPACE: 101, BEGINS_OTHER: 100}.get(after, 0)
        score -= 3 * bool(two.flag & ENDS_LETTER and after == BEGINS_LETTER)
        score -= 100 * bool(one.flag & ENDS_DEL and two.flag & STARTS_DEL)
        score -= 103 * bool(one.flag & ENDS_LETTER and (b or two.flag & STARTS_LETTER))
        score += -1 if b else two.flag & STARTS_SPACE > 0
        if number > 1 and length + ahead <= covered:
            score -= 10000 if length + ahead == covered else 100
        return Branch(f"{number}{'b' * b}", first, length, second, score)

    def branches(self, data: bytes, start: int, end: int, record: int, virtual: int) -> list[Branch]:
        """The pairs that can be formed at `start`, in the order that decides ties: 1, 2, 3, 1b, 2b, 3b.

        A b branch is for a second token from the inside of a word that continues after it: a delete token is
        emitted after the first, as if a space followed. The second may begin with that space, if it then
        reaches further.
        """
        records = self.vocab.records
        covered = len(records[record].token) - virtual
        plain, deleting = [], []
        for number, first in enumerate((record, records[record].alt1, records[record].alt2), 1):
            if first is None:
                break
            middle = start + len(records[first].token) - virtual
            second = self.longest(data, middle, end)
            if second is None:
                continue
            plain.append(self.weigh(data, start, covered, virtual, number, first, second, 0))
            ahead = len(records[second].token)
            inside = records[second].flag & STARTS_LETTER and records[second].words == 0
            in_word = inside and self.vocab.begin[data[middle + ahead]] == BEGINS_LETTER
            if in_word and self.vocab.delete is not None:
                second = self.longest(b" " + data[middle:min(end, middle + self.width - 1)], 0, self.width)
                if second is not None and len(records[second].token) > ahead + 1:
                    deleting.append(self.weigh(data, start, covered, virtual, number, first, second, 1))
        return plain + deleting

    def turns(self, data: bytes) -> Iterator[Turn]:
        """The loop over the bytes D. The first of the best pair is emitted, the second is the next candidate.

        The state is (start, virtual) alone: nothing before `start` matters, and the candidate is the longest
        record there.
        """
        records, begin = self.vocab.records, self.vocab.begin
        end = len(data)
        data += b"\0"  # sentinel for looking ahead
        start, virtual, record = 0, 0, None
        while start < end:
            if record is None:
                record = self.longest(data, start, end)
            if record is None:
                yield Turn(start, 0, None, [], None, [] if self.vocab.unk is None else [self.vocab.unk])
                start += 1
                continue
            stop = start + len(records[record].token) - virtual
            settled = stop >= end or records[record].flag & WHOLE_WORD and begin[data[stop]] == BEGINS_SPACE
            branches = [] if settled else self.branches(data, start, end, record, virtual)
            if not branches:
                yield Turn(start, virtual, record, [], None, [records[record].id])
                start, virtual, record = stop, 0, None
                continue
            winner = max(branches, key=lambda branch: branch.score)  # of equal scores, the first
            deleting = winner.name.endswith("b")
            ids = [records[winner.first].id] + [self.vocab.delete] * deleting
            yield Turn(start, virtual, record, branches, winner, ids)
            start, virtual, record = start + winner.length, int(deleting), winner.second

    def encode_plain(self, text: str | bytes, document: bool = False) -> list[int]:
        """Ids of a text by the readable loop."""
        return [id for turn in self.turns(normalize(text, document)) for id in turn.ids]

    # ------------------------------------------------------------------------------------------ the decoder

    def token_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of all ids, markers included. An id that is not in the table has none."""
        rows = self.vocab.rows
        return b"".join([self.table[id if 0 <= id < rows else rows] for id in ids])

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, in NFD: the joined bytes as UTF-8, without each DEL and the byte after it."""
        return re.sub(rb"\x7f.?", b"", self.token_bytes(ids), flags=re.DOTALL).decode("utf-8", "replace")


# ------------------------------------------------------------------------------- the encoder, with numpy

BLOCK = 1 << 14  # bytes of D that are encoded at once
# Number of the alternative and whether a delete token follows, by the rank that `_block` keeps in the low
# three bits of 8 * score: 5 for branch 1, then 4 and 3 for 2 and 3; 2, 1, 0 for 1b, 2b, 3b.
OPTION = np.array([2, 1, 0, 2, 1, 0])
DELETING = np.array([1, 1, 1, 0, 0, 0])


class FastEncoder:
    """The records of a vocabulary as numpy tables, and an encoder equal to `TokenMonster.turns`.

    The state of that loop is (start, virtual) alone. So the turn from every state can be computed without
    knowing which states the text visits, all in one numpy expression. Then a short Python loop hops from
    state to state and collects the ids. Most of what is computed is never visited, and it is still ten times
    as fast as computing only the visited states in Python.

        1. the longest record at every position: all positions walk one trie together, a letter at a time
        2. at every position, how good its longest record is as a second token
        3. at every position, the six branches; which token is emitted, and the state that follows
        4. the same for the few states after a delete token
        5. the hops

    Blocks bound the memory: a state looks at most 2 x 40 + 1 bytes ahead.

    The last record of the tables is empty and means "none". The score of a pair is the sum of three shares:
    one of the first token; one of the second token, in three variants by how the first one ends (with a
    letter, with DEL, or otherwise); and one of the byte after both.
    """

    def __init__(self, monster: TokenMonster):
        vocab, prefixes = monster.vocab, monster.prefixes
        none = len(vocab.records)
        rows = [(flag, words, len(token), id, none if alt1 is None else alt1, none if alt2 is None else alt2)
                for token, flag, words, alt1, alt2, id, _ in vocab.records]
        rows.append((0, 0, 1, -1 if vocab.unk is None else vocab.unk, none, none))
        flag, words, length, self.id, alt1, alt2 = np.ascontiguousarray(np.array(rows).T)
        bits = [flag >> bit & 1 for bit in range(8)]
        ends_letter, starts_letter, starts_space, ends_del, starts_del, whole_word, _, uniform = bits
        self.longest_token = monster.width
        self.gap = 2 * self.longest_token + 2  # positions after a text that looking ahead can reach
        self.delete = -1 if vocab.delete is None else vocab.delete
        self.none, self.never, self.length = none, -(1 << 20), length
        self.whole_word = whole_word > 0
        # may be the second token of a b branch
        self.inside = (starts_letter > 0) & (words == 0) & (vocab.delete is not None)
        self.options = np.stack([np.arange(none + 1), alt1, alt2], axis=1).ravel()  # 3 * record + alternative
        self.ending = ends_letter + 2 * ends_del
        # indexed by `virtual`
        self.first = [length - v + uniform + np.maximum(0, words - v - 1) + 100 * (words - v) for v in (0, 1)]
        plain = self.first[0] + starts_space
        # indexed by `ending` of the first token
        self.second = [plain, plain - 103 * starts_letter, plain - 100 * starts_del]
        plain = self.first[0] - 2  # 1 for its space, which is not covered, and 1 as in `weigh`
        self.second_b = [plain, plain - 103, plain - 100 * starts_del]
        for tables in (self.first, self.second, self.second_b):  # int32: half the memory to read
            for number, table in enumerate(tables):
                table[none] = self.never
                tables[number] = table.astype(np.int32)
        kinds = {BEGINS_LETTER: 1, BEGINS_SPACE: 2, BEGINS_OTHER: 3}
        self.following = np.array([kinds.get(value, 0) for value in vocab.begin])
        # indexed by `following`, + 4 after a letter
        self.after = np.array([0, 0, 101, 100, 0, -3, 101, 100], dtype=np.int32)
        self.after_letter = 4 * ends_letter
        self._plant(prefixes)

    def _plant(self, prefixes: dict[bytes, int]) -> None:
        """Build the trie of all prefixes of tokens: node + letter -> next node.

        A node is the offset of its row in the table. Row 0 is the dead end, row 1 the root. A prefix has a
        later row than its own prefixes. A letter is the number, from 1 on, of a byte that occurs in a token.
        """
        used = sorted({prefix[-1] for prefix in prefixes})
        self.row = len(used) + 1
        self.letter_of = np.zeros(256, dtype=np.int64)
        self.letter_of[used] = np.arange(1, self.row)
        node = {prefix: number * self.row for number, prefix in enumerate([b"", *prefixes], 1)}
        self.root, self.space = node[b""], node.get(b" ", 0)
        self.trie = np.zeros((len(node) + 1) * self.row, dtype=np.int64)
        parents = np.array([node[prefix[:-1]] for prefix in prefixes])
        self.trie[parents + self.letter_of[[prefix[-1] for prefix in prefixes]]] = list(node.values())[1:]
        best = {b"": self.none}
        for prefix, number in prefixes.items():
            best[prefix] = number if number >= 0 else best[prefix[:-1]]
        self.best = np.array([self.none, *best.values()])  # the longest record on the way to a node

    def longest(self, letters: np.ndarray, place: np.ndarray, node: int) -> np.ndarray:
        """Number of the longest record at each of `place`. All walk from `node`, one letter at a time."""
        deepest = np.full(len(place), node)
        nodes, here, result = deepest, np.arange(len(place)), deepest.copy()
        while len(here):
            nodes = self.trie[nodes + letters[place]]
            deepest = np.maximum(deepest, nodes)  # a dead end is 0
            place = place + 1
            alive = nodes > 0
            if 2 * np.count_nonzero(alive) <= len(alive):  # half are finished: drop them
                result[here] = deepest
                nodes, deepest, here, place = nodes[alive], deepest[alive], here[alive], place[alive]
        return self.best[result // self.row]

    def _block(self, data: bytes, size: int, virtual: int, last: bool,
               texts: Sequence[tuple[int, int]] | None = None) -> tuple[np.ndarray, np.ndarray, int, int]:
        """Encode the first `size` bytes of `data`; the rest is look-ahead, which the `last` block lacks.

        `texts` are the (start, end) of the texts that `data` holds, with zeros for the look-ahead after each;
        without it, it is one text. Returns ids, where each starts, and the state (start, virtual) in which
        the next block starts.
        """
        count = size + self.longest_token + 1  # places where a second token may begin
        data = np.frombuffer(data.ljust(count + self.longest_token + 1, b"\0"), dtype=np.uint8)
        texts = texts or [(0, size if last else len(data))]
        ends = np.full(len(data), texts[-1][1])
        letters, following = self.letter_of[data], self.following[data]
        for (start, end), (following_start, _) in zip(texts, [*texts[1:], (len(data), 0)]):
            ends[start:following_start] = end
            letters[end:following_start] = 0  # no token reaches past the end
        # The second token at every place: of the text (0), and of a space followed by the text (1).
        place = np.arange(count)
        second = np.full((2, count), self.none)
        second[0] = self.longest(letters, place, self.root)
        inside = np.flatnonzero(self.inside[second[0]] & (following[place + self.length[second[0]]] == 1))
        found = self.longest(letters, inside, self.space)
        longer = self.length[found] > self.length[second[0, inside]] + 1
        second[1, inside[longer]] = found[longer]
        # Where it ends, and its share of the score plus that of the byte after it; three variants in a row.
        stop = place + self.length[second] - [[0], [1]]
        after = self.after[self.after_letter[second] + following[stop]]
        variants = (self.second, self.second_b)
        shares = [np.concatenate([table[second[b]] + after[b] for table in variants[b]]) for b in (0, 1)]
        # indexed by state: 2 * start + virtual
        ids, deletes, follow = np.zeros((3, 2 * size), dtype=np.int64)

        def turn(start: np.ndarray, record: np.ndarray, virtual: int) -> None:
            """One turn of the loop at each of `start`: what is emitted, and which state follows."""
            whole = start + self.length[record] - virtual
            best = np.full(len(start), 8 * self.never, dtype=np.int32)
            for number in range(3):
                first = self.options[3 * record + number]
                middle = start + self.length[first] - virtual
                variant = count * self.ending[first] + middle
                for b in (0, 1):
                    score = self.first[virtual][first] + shares[b][variant]
                    if number:
                        reach = stop[b][middle]
                        score -= 100 * (reach < whole) + 10000 * (reach == whole)
                    best = np.maximum(best, 8 * score + 5 - number - 3 * b)
            before_space = self.whole_word[record] & (following[whole] == 2)
            settled = (whole >= ends[start]) | before_space | (best < 4 * self.never)
            best[settled] = 5  # no choice: emit the candidate
            number, deleting = OPTION[best & 7], DELETING[best & 7]
            first = self.options[3 * record + number]
            state = 2 * start + virtual
            ids[state] = self.id[first]
            deletes[state] = deleting
            follow[state] = 2 * (start + self.length[first] - virtual) + deleting

        turn(place[:size], second[0, :size], 0)
        known = np.zeros(2 * size, dtype=bool)
        wanted = np.append(follow[::2], virtual)
        # states after a delete token
        while len(wanted := np.unique(wanted[(wanted % 2 == 1) & (wanted < 2 * size)])):
            wanted = wanted[~known[wanted]]
            known[wanted] = True
            turn(wanted // 2, second[1, wanted // 2], 1)
            wanted = follow[wanted]
        path, next_state = [], follow.tolist()
        for start, end in texts:
            state, stop_at = 2 * start + virtual, 2 * min(end, size)
            while state < stop_at:
                path.append(state)
                state = next_state[state]
        path = np.array(path, dtype=np.int64)
        ids = np.stack([ids[path], np.where(deletes[path], self.delete, -1)], axis=1).ravel()
        return ids[ids >= 0], np.repeat(path // 2, 2)[ids >= 0], state // 2, state % 2

    def encode_normalized(self, pieces: Iterable[bytes],
                          size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Arrays (ids, starts) for the pieces of a text's D, `size` positions at a time.

        A token covers D from its start up to the next token's start. A delete token that was put in covers
        nothing and has the start of the token before it.
        """
        held, done, virtual = b"", 0, 0
        need = size + 2 * self.longest_token + 2
        for piece in pieces:
            held += piece
            while len(held) >= need:
                ids, starts, used, virtual = self._block(held[:need], size, virtual, last=False)
                yield ids, starts + done
                held, done = held[used:], done + used
        if held:
            ids, starts, _, _ = self._block(held, len(held), virtual, last=True)
            yield ids, starts + done

    def encode_blocks(self, text: str | bytes, document: bool = False,
                      size: int = BLOCK) -> Iterator[np.ndarray]:
        """The ids of a text of any length in int64 arrays; memory does not grow with the text."""
        for ids, _ in self.encode_normalized(normalize_pieces(text, document), size):
            yield ids

    def encode_many(self, texts: Sequence[str], document: bool = False) -> list[list[int]]:
        """The ids of each text. Short texts share a block of about BLOCK bytes."""
        results, block, held = [], [], 0
        for text in texts:
            data = normalize(text, document)
            if block and held + len(data) > BLOCK:
                results += self._many(block)
                block, held = [], 0
            if len(data) > BLOCK:
                results.append(self.encode(text, document))
            else:
                block.append(data)
                held += len(data) + self.gap
        return results + (self._many(block) if block else [])

    def _many(self, texts: list[bytes]) -> list[list[int]]:
        """The ids of each normalized text, encoded in one block."""
        starts = list(accumulate((len(text) + self.gap for text in texts), initial=0))
        places = [(start, start + len(text)) for start, text in zip(starts, texts)]
        data = b"".join(text.ljust(len(text) + self.gap, b"\0") for text in texts)
        ids, where, _, _ = self._block(data, len(data), 0, True, places)
        return [part.tolist() for part in np.split(ids, np.searchsorted(where, starts[1:-1]))]

    def encode(self, text: str | bytes, document: bool = False) -> list[int]:
        """The ids of a text."""
        return [id for ids in self.encode_blocks(text, document) for id in ids.tolist()]
# --- core: end


import hashlib
import json
import os
from collections import Counter
from pathlib import Path

from common import UserError, run
from vocab_files.bpe import BPE
from vocab_files.by_name import by_name
from vocab_files.tokenizer_files import VOCAB_FILE, configured_ids, write_tokenizer_files

DEFAULT = "builtin-4096"  # the vocabulary in vocabs/, made by our trainer from the built-in corpus
LONGEST_FILE = 64 << 20  # bytes; the largest published vocabulary, 100,256 tokens, has 3 million


class StreamDecoder:
    """Decodes ids one by one. The results of `feed`, joined, are the decoded text.

    A character is never broken; one that stays unfinished at the end is left out. Two things are carried
    over: whether a DEL came last, so that the next byte is dropped, and the bytes of an unfinished character.
    """

    def __init__(self, tokenizer: TokenMonster):
        self.tokenizer, self.drop = tokenizer, False
        self.characters = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, ids: Iterable[int]) -> str:
        """The text that these ids complete."""
        kept = re.sub(rb"\x7f.", b"", b"\x7f" * self.drop + self.tokenizer.token_bytes(ids), flags=re.DOTALL)
        self.drop = kept.endswith(b"\x7f")
        return self.characters.decode(kept.removesuffix(b"\x7f"))


class Tokenizer(TokenMonster):
    """A vocabulary with its special ids: what `load` returns and the other scripts use.

    `vocab_size` is the number of rows of the embedding, `eos_id` the separator after each document,
    `stop_ids` all ids that end a text, `prefix_ids` the ids before each text (empty here; a foreign BPE may
    have some). The encoder does not know the names of special tokens: in a text they are ordinary text.
    """

    def __init__(self, vocab: Vocab, eos_id: int, bos_id: int | None, pad_id: int, vocab_size: int,
                 stop_ids: Iterable[int] = ()):
        super().__init__(vocab)
        self.eos_id, self.bos_id, self.pad_id, self.vocab_size = eos_id, bos_id, pad_id, vocab_size
        self.stop_ids = {eos_id, *stop_ids}
        self.prefix_ids: list[int] = []  # nothing is put before a text

    @functools.cached_property
    def fingerprint(self) -> str:
        """sha256 of the vocabulary file and the special ids: equal fingerprints, equal ids."""
        special = json.dumps({"bos": self.bos_id, "eos": self.eos_id, "pad": self.pad_id})
        return hashlib.sha256(self.vocab.to_bytes() + special.encode()).hexdigest()

    @functools.cached_property
    def single_bytes(self) -> bytes:
        """The bytes that are tokens themselves."""
        return bytes(record.token[0] for record in self.vocab.records if len(record.token) == 1)

    @functools.cached_property
    def fast(self) -> FastEncoder:
        """The numpy form of the encoder."""
        return FastEncoder(self)

    def encode(self, text: str | bytes, document: bool = False) -> list[int]:
        """The ids of a text, equal to the reference's for any text.

        `document=True` maps CRLF and CR to LF first, as training does. So no text gives the id of CR, the
        separator.
        """
        return self.encode_plain(text, document) if len(text) < SHORT else self.fast.encode(text, document)

    def encode_many(self, texts: Sequence[str], document: bool = False) -> list[list[int]]:
        """The ids of each of many texts. For short texts this is several times as fast as one by one."""
        return self.fast.encode_many(texts, document)

    def decode(self, ids: Iterable[int], skip_special: bool = False) -> str:
        """The text of ids; `skip_special` drops the special ids before the tokens' bytes are joined."""
        special = {*self.stop_ids, self.bos_id, self.pad_id}
        return super().decode([id for id in map(int, ids) if id not in special] if skip_special else ids)

    def stream(self) -> StreamDecoder:
        """A decoder for ids that come one by one."""
        return StreamDecoder(self)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a model folder's tokenizer files: vocabulary, configuration, the class for transformers."""
        usual = special_ids(self.vocab)["vocab_size"]
        rows = None if self.vocab_size == usual else self.vocab_size
        write_tokenizer_files(folder, self.vocab.to_bytes(), self.eos_id, self.bos_id, self.pad_id, rows)


def special_ids(vocab: Vocab) -> dict[str, int | None]:
    """The special ids of a vocabulary; a model folder's own (`configured_ids`) replace them.

    EOS ends a document, so it separates two documents. A file of 8,000 tokens belongs to the Stentor2 line:
    EOS and BOS follow its tokens, PAD is EOS, and rows are added up to a multiple of 128 (8,000 + 2 + 62).
    Any other has no spare row (Stentor3: 4,096 in all): EOS and PAD are the token of CR, which no cleaned
    text contains.
    """
    if vocab.rows == 8000:
        return {"eos_id": 8000, "bos_id": 8001, "pad_id": 8000, "vocab_size": 8064}
    separator = next((record.id for record in vocab.records if record.token == b"\r"), None)
    return {"eos_id": separator, "bos_id": None, "pad_id": separator, "vocab_size": vocab.rows}


def find(name: str | Path = DEFAULT, network: bool = True) -> Path:
    """The vocabulary file for a path, a model folder or a name. Raises UserError if there is none.

    A folder may also be a run, or a prepared corpus, which keeps a copy of its vocabulary. A name is looked
    up in `vocabs/`, $STENTOR_VOCABS, the folder of the tokenmonster package and, unless `network` is False,
    on the hub.
    """
    path = Path(os.path.expanduser(DEFAULT if name == "builtin" else name))
    if path.is_dir():
        names = (VOCAB_FILE, "tokenizer.json", "tokenizer.model")
        places = (path, path / "best", path / "last", path / "tokenizer")
        found = [place / file for place in places for file in names if (place / file).is_file()]
        if not found:
            raise UserError(f"{path}: no tokenizer in this folder (expected {', '.join(names)})")
        return found[0]
    if path.is_file():
        return path
    if path.suffix in (".vocab", ".json", ".model") or len(path.parts) > 1:
        raise UserError(f"{path}: no such file")
    return by_name(str(path), network)


def read_vocab(path: Path) -> tuple[Vocab, dict]:
    """The vocabulary in a `.vocab` file, and its special ids (arguments of `Tokenizer`).

    Raises UserError for a file that is not a vocabulary, and for special ids that do not fit it.
    """
    if path.stat().st_size > LONGEST_FILE:
        raise UserError(f"{path}: {path.stat().st_size} bytes; a vocabulary has at most {LONGEST_FILE}")
    try:
        vocab = Vocab.parse(path.read_bytes())
    except VocabError as error:
        raise UserError(f"{path}: {error}") from None
    special = special_ids(vocab)
    if path.name == VOCAB_FILE:
        special |= configured_ids(path.parent)
    rows = special["vocab_size"]
    ids = [special["eos_id"], special["pad_id"], special["bos_id"] or 0, *special.get("stop_ids", ())]
    if rows < vocab.rows or not all(id is not None and 0 <= id < rows for id in ids):
        raise UserError(f"{path}: {vocab.rows} ids, which do not fit {special} "
                        "(a token for CR or an eos_token_id is needed)")
    return vocab, special


def load(name: str | Path = DEFAULT) -> Tokenizer:
    """The tokenizer of a vocabulary file, a model folder or a name (see `find`).

    Raises UserError for a file that is not a vocabulary, and for special ids that do not fit it.
    """
    path = find(name)
    if path.suffix in (".json", ".model"):
        return BPE(path)
    vocab, special = read_vocab(path)
    return Tokenizer(vocab, **special)


def lost_characters(tokenizer: Tokenizer, text: str) -> int:
    """How many characters (NFD) of a text are lost in encoding: the vocabulary has no token for their bytes.

    The published vocabularies have no token for most bytes of scripts other than Latin.
    """
    text = text.encode("utf-8", "replace").decode()  # a lone surrogate is not a character
    text = unicodedata.normalize("NFD", text.replace("\r\n", "\n").replace("\r", "\n"))
    if isinstance(tokenizer, Tokenizer) and not text.encode().translate(None, tokenizer.single_bytes):
        return 0  # a byte that is a token is never lost
    back = tokenizer.decode(tokenizer.encode(text, document=True))
    return (Counter(text) - Counter(unicodedata.normalize("NFD", back))).total()


def lost_text(tokenizer: Tokenizer, texts: Iterable[str], least: float = 0.0) -> str | None:
    """A sentence about the characters of all texts that are lost, if their share is above `least`."""
    lost = total = 0
    for text in texts:
        lost += lost_characters(tokenizer, text)
        total += len(unicodedata.normalize("NFD", text))
    return lost_sentence(lost, total) if lost > least * total else None


def lost_sentence(lost: int, total: int) -> str:
    """The sentence of `lost_text`.

    >>> lost_sentence(6, 7)
    '6 of 7 characters (86%) have no token in this vocabulary and are dropped'
    """
    share = f"{100 * lost / total:.0f}%" if lost >= 0.005 * total else "under 0.5%"
    return f"{lost:,} of {total:,} characters ({share}) have no token in this vocabulary and are dropped"


def main() -> int | None:
    """The command line: info, encode, decode, train (tokenizing/view.py)."""
    from tokenizing import view
    return view.main()


if __name__ == "__main__":
    raise SystemExit(run(main))
