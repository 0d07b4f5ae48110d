# SPDX-License-Identifier: Apache-2.0
"""Which pieces of a text could become tokens: each frequent, well-formed substring of 2 to 40 bytes.

Well-formed means TokenMonster's "strict" rules: a token is a piece of a word, one or several whole words, a
number, or a run of white space or punctuation, never a mixture such as `word.` or ` x2`. The text is in
normalized form (`tokenizer.normalize`), where each word and number begins with a space.
"""
from __future__ import annotations

import codecs
import re

import numpy as np

from common import progress
from tokenizer import LONGEST_TOKEN
from tokenizing.records import SHAPES, shape

WHITE = "[ \t\nw]"

# Patterns over shapes (a letter, 0 number, ' apostrophe, ( bracket or quote, w rare white space, . other).
# Each pair: how a token begins, what the complete token must match. The first pair that applies decides.
WORDS = r"(?!.*'') a[a']*( [a']+){0,5}"
WORDLIKE = [(" a", WORDS), (" ?0", " ?0+"), ("'?a", "'?a+")]  # words, numbers, the inside or end of a word
# The same for a token that is not complete yet.
GROWING = [(" a", WORDS + " ?"), *WORDLIKE[1:], ("", r"[^a0\r\x7f]*")]

PAIRS = (b"()", b"[]", b"{}", b'""', b"''")
# The forms in which two or more white-space characters may be beside another character.
LINES = re.compile("[^ \t\nw]?\n\n+\x7f?|\n\n+[^ \t\nw]\x7f")
QUOTE = re.compile(" [(']\x7f?|[ \nw][(']")  # what may be beside a single bracket or quote


def wanted(token: bytes) -> bool:
    r"""Whether a piece of normalized text, 2 bytes or more, may be a token.

    >>> [wanted(piece) for piece in (b" the cat", b" the ", b"ing", b"x2", b".\n\n", b" (\x7f", b"),", b")(")]
    [True, False, True, False, True, True, True, False]
    """
    look = shape(token)
    if "\r" in look:  # kept apart: the id of CR separates documents
        return False
    for start, form in WORDLIKE:
        if re.match(start, look):
            return bool(re.fullmatch(form, look))
    if len(look) == 1:  # one character of several bytes
        return True
    pair = token in PAIRS or b"," in token or token[:1] == b"."
    if len(token) == 2 and not re.match(WHITE, look[1]) and pair:
        return True
    if re.fullmatch(".\x7f", look) or re.fullmatch(f"{WHITE}+", look):
        return True
    if re.search("[a0]", look) or look[-1] == " " or re.search("(?s)>.*<", look):
        return False
    if re.search(WHITE + "{2}", look) and not LINES.fullmatch(look):
        return False
    quotes = len(re.findall("[(']", look))
    return quotes == 0 or quotes == 1 and bool(QUOTE.fullmatch(look))


def may_grow(token: bytes) -> bool:
    """Whether a longer piece that begins with these bytes may be wanted.

    An incomplete character at the end is ignored.
    """
    look = codecs.utf_8_decode(token, "surrogateescape", False)[0].translate(SHAPES)
    form = next(form for start, form in GROWING if re.match(start, look))
    return bool(re.fullmatch(form, look))


def letter_starts(text: bytes) -> np.ndarray:
    """bool (bytes,): a letter or mark begins here."""
    characters = text.decode("utf-8", "surrogateescape")
    codes = np.frombuffer(characters.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    distinct, which = np.unique(codes, return_inverse=True)
    letter = np.array([SHAPES[code] == "a" for code in distinct.tolist()], dtype=bool)
    escaped = (codes >= 0xDC80) & (codes <= 0xDCFF)  # a byte that is not UTF-8
    width = 1 + (codes > 0x7F) + (codes > 0x7FF) + (codes > 0xFFFF) - 2 * escaped
    starts = np.zeros(len(text), dtype=bool)
    starts[np.cumsum(width) - width] = letter[which]
    return starts


def candidates(text: bytes, least: float) -> dict[bytes, int]:
    """The wanted pieces that together cover at least `least` bytes of the text, with their counts.

    All places of the text are counted at once. Places with the same k bytes form a group; the next byte
    splits each group into those of k + 1 bytes. A group is dropped if it is too small, or if no token can
    begin with its bytes, so few places are left after about ten bytes. A piece of several words counts only
    where its last word is complete.
    """
    data = np.frombuffer(text + bytes(LONGEST_TOKEN), dtype=np.uint8)
    letter = np.append(letter_starts(text), np.zeros(LONGEST_TOKEN, dtype=bool))
    fewest = max(2, least / LONGEST_TOKEN)
    found: dict[bytes, int] = {}
    places = np.arange(len(text))
    group = data[:len(text)].astype(np.int64)
    for length in progress(range(2, LONGEST_TOKEN + 1), desc="candidates"):
        longer = group << 8 | data[places + length - 1]
        _, group, count = np.unique(longer, return_inverse=True, return_counts=True)
        whole = np.bincount(group, weights=~letter[places + length], minlength=len(count)).astype(np.int64)
        example = np.zeros(len(count), dtype=np.int64)
        example[group] = places
        alive = count >= fewest
        for number in np.flatnonzero(alive).tolist():
            piece = text[example[number]:example[number] + length]
            several = piece[:1] == b" " and b" " in piece.strip(b" ")
            seen = int(whole[number] if several else count[number])
            if seen * length >= least and seen >= fewest and len(piece) == length and wanted(piece):
                found[piece] = seen
            alive[number] = may_grow(piece)
        stay = alive[group]
        places, group = places[stay], group[stay]
    return found
