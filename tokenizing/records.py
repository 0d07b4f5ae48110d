# SPDX-License-Identifier: Apache-2.0
"""From tokens to a vocabulary file: flags, alternatives, duplicates and tables follow from the tokens.

Everything in a `.vocab` file but the scores follows from the tokens' bytes: the ids are their order by
(length, bytes), and fixed rules give the rest. From the tokens of the two published vocabularies, these rules
make the published files, byte for byte (tested). The trainer makes every vocabulary that it tries like this.

The rules were found by study of the reference implementation (Alasdair Forsythe's TokenMonster, Go).
"""
from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Mapping

import tokenizer
from tokenizer import DEL, LONGEST_TOKEN, Record, Vocab

WHITE = " \t\n\rw"  # shapes of white space


# --------------------------------------------------------------------------------------- the shape of a token

class _Shapes(dict):
    """Code point -> the character of its class; computed at the first use."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        category = unicodedata.category(character)
        if category[0] in "LM":
            shape = "a"
        elif category[0] == "N":
            shape = "0"
        elif character in " \t\n\r_<>\x7f":
            shape = character
        elif character.isspace() and not 0x1C <= code <= 0x1F:  # Python counts four more than Unicode
            shape = "w"
        elif character in "'\u2019":
            shape = "'"
        elif character == '"' or category in ("Ps", "Pe", "Pi", "Pf"):
            shape = "("
        else:
            shape = "."
        self[code] = shape
        return shape


SHAPES = _Shapes()


def shape(token: bytes) -> str:
    r"""A token with each character replaced by its class, so that rules can be regular expressions.

    a letter or mark, 0 number, ' apostrophe, ( bracket or quote, w rare white space; space, TAB, LF, CR, _
    < > and DEL stay as they are; . is anything else, also a byte that is not UTF-8 (each such byte is one
    character).

    >>> shape("don't (x2)".encode()), shape(b"\xcc\n\x7f")
    ("aaa'a (a0(", '.\n\x7f')
    """
    return token.decode("utf-8", "surrogateescape").translate(SHAPES)


# -------------------------------------------------------------------------- what a token's bytes say about it

@functools.cache
def traits(token: bytes) -> tuple[int, int, int]:
    """Flag bits, nWords (how often a letter, mark or digit follows a space), shortest alternative."""
    look = shape(token)
    words = len(re.findall(" [a0]", look))
    flag = tokenizer.ENDS_LETTER * (look[-1] == "a")
    flag |= tokenizer.STARTS_LETTER * (look[0] == "a")
    flag |= tokenizer.STARTS_SPACE * (look[0] == " ")
    flag |= tokenizer.ENDS_DEL * (token[-1] == DEL)
    flag |= tokenizer.STARTS_DEL * (token[0] == DEL)
    flag |= tokenizer.WHOLE_WORD * bool(re.fullmatch(" a+", look))
    flag |= tokenizer.UNIFORM * bool(len(token) == 1 or re.fullmatch("[ a]a[ a]*|[ 0]0[ 0]*|[^a0]+", look))
    return flag, words, 2 if words >= 2 and re.match(" [a0]", look) else 1


@functools.cache
def cut_value(token: bytes, length: int) -> int:
    """How natural it is to cut a token after `length` bytes, from 1 to 10.

    10 before a new word, 7 to 9 at other boundaries, 1 inside something.

    (The reference has one more rule, for a final 's. It can never be reached: a letter before an apostrophe
    is a 9 already.)
    """
    rest = shape(token[length:])
    left, right = shape(token[:length][-4:])[-1], rest[0]
    if re.match(" [a0]", rest):
        return 10
    if left in "a_" and right not in "a_" or left == "0" and right != "0":
        return 9
    if (left in WHITE) != (right in WHITE):
        return 7 if left in WHITE else 8
    return 9 if right == "\x7f" else 1


def alternatives(token: bytes, shortest: int, numbers: Mapping[bytes, int]) -> tuple[int | None, int | None]:
    """Record numbers of the two best prefixes of `token` that are records: the encoder's alternatives.

    Two slots hold (value, length). Each cut, from the longest on, challenges the weaker slot and needs a
    greater value to take it.
    """
    a = b = (0, 0)
    for length in range(len(token) - 1, shortest - 1, -1):
        if token[:length] not in numbers:
            continue
        cut = (cut_value(token, length), length)
        if a <= b:
            a = cut if cut[0] > a[0] else a
        else:
            b = cut if cut[0] > b[0] else b
    best, second = (b, a) if b > a else (a, b)
    return numbers.get(token[:best[1]]), numbers.get(token[:second[1]])


# ------------------------------------------------------------------------------------------ the complete file

def duplicate_of(token: bytes) -> bytes | None:
    """`DEL SPACE` + a token that begins with a letter, mark or number; None for others and if too long.

    It lets a word that the marker precedes be matched as one token, with the plain word's id.
    """
    if shape(token[:4])[0] in "a0" and len(token) + 2 <= LONGEST_TOKEN:
        return b"\x7f " + token
    return None


def begin_table(tokens: list[bytes]) -> bytes:
    """For each byte, what most tokens that begin with it begin with: letter, space, or other (256 values).

    It needs a strict majority over the other three classes (numbers are the third, with no value) of at
    least 3 tokens; else 0.
    """
    values = [tokenizer.BEGINS_LETTER, tokenizer.BEGINS_SPACE, tokenizer.BEGINS_OTHER, 0]
    counts = [[0, 0, 0, 0] for _ in range(256)]
    for token in tokens:
        look = shape(token[:4])[0]
        counts[token[0]][{"a": 0, " ": 1, "0": 3}.get(look, 2)] += 1
    table = bytearray(256)
    for byte, count in enumerate(counts):
        most = max(count)
        if most > 2 and count.count(most) == 1:
            table[byte] = values[count.index(most)]
    return bytes(table)


def derive(scores: Mapping[bytes, float], mode: int = 4, reserve: int = 0) -> Vocab:
    """The vocabulary of a set of tokens with their scores (the share of the training text that each covered).

    Tokens are in normalized form, 1 to 40 bytes, without the duplicates; `mode` and `reserve` are notes in
    the header. Raises ValueError if a token is already `DEL SPACE` + a letter, mark or number: that is how
    a duplicate looks.
    """
    entries = []
    for id, token in enumerate(sorted(scores, key=lambda token: (len(token), token))):
        if re.match("\x7f [a0]", shape(token)):
            raise ValueError(f"token {token!r} looks like a duplicate; give it without the first two bytes")
        entries.append((token, id, scores[token]))
        if duplicate := duplicate_of(token):
            entries.append((duplicate, id, -1.0))
    entries.sort(key=lambda entry: (len(entry[0]), entry[0]))
    numbers = {token: number for number, (token, _, _) in enumerate(entries)}
    records = []
    for token, id, score in entries:
        flag, words, shortest = traits(token)
        records.append(Record(token, flag, words, *alternatives(token, shortest, numbers), id, score))
    delete = next((id for token, id, _ in entries if token == b"\x7f"), None)
    return Vocab(records, begin_table(list(numbers)), delete, mode=mode, reserve=reserve)
