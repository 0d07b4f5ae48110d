# SPDX-License-Identifier: Apache-2.0
"""The built-in corpus: generated documents whose entropy is known exactly. No download, no data file.

    web    tales        (corpus/tales.py)       in the place of the cards' web pages
    code   programs     (corpus/programs.py)    in the place of the cards' source code
    math   exercises    (corpus/exercises.py)   in the place of the cards' mathematics

Document number n depends on n alone. So there is no last document, and every Python version and platform
gives the same bytes. Each document knows its -log p in nats; on average no model can have a lower loss. Real
text of the same kinds: `corpus/python_docs.py`, your own files, or the hub.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Iterator

from corpus import exercises, programs, tales
from corpus.grammar import Grammar, Written
from data import BUILTIN_KINDS

GENERATOR = "tales-5"  # changes whenever the same number gives another text


@dataclass(frozen=True)
class Kind:
    """One of the three kinds: its name, its grammar, and the documents of a default preparation."""

    name: str
    grammar: Grammar
    documents: int


KINDS = {
    "web": Kind(BUILTIN_KINDS["web"], tales.GRAMMAR, 26_000),
    "code": Kind(BUILTIN_KINDS["code"], programs.GRAMMAR, 12_000),
    "math": Kind(BUILTIN_KINDS["math"], exercises.GRAMMAR, 8_000),
}


class Known(str):
    """A text with its -log p in nats."""

    nats: float

    @classmethod
    def of(cls, written: Written) -> Known:
        text = cls(written.text)
        text.nats = written.nats
        return text


def builtin_documents(kind: str, first: int = 0) -> Iterator[Known]:
    """Yield the documents of "web", "code" or "math" from number `first` on, without end.

    >>> next(builtin_documents("math")).nats > 0
    True
    """
    number = first
    while True:
        yield Known.of(KINDS[kind].grammar.write(number))
        number += 1


# -------------------------------------------------------------------------------- the text for a vocabulary

HARD = [*tales.NAMES, *tales.HOMES, *tales.SORTS["THING"].values]
VOCABULARY_SEED = 10**9  # documents that no preparation reaches


def vocabulary_documents(kind: str, count: int) -> Iterator[str]:
    """The built-in documents as a text to train a vocabulary on: the words, but no phrases and no full names.

    If a vocabulary is trained on the tales themselves, phrases and names become tokens, and a model has
    little left to copy. We measured that it then learns to keep a name much later, or not at all. So the
    words of each document come in a random order, and a name, kind or thing is replaced by the beginning of
    one and the end of another ("Nora" and "Hugo" give "Nogo" and "Hura"). Pieces of names become tokens,
    complete names do not.
    """
    heads, tails = [word[:2] for word in HARD], [word[2:] for word in HARD]
    hard = re.compile(r"\b(?:" + "|".join(HARD) + r")\b")
    chance = random.Random(VOCABULARY_SEED).random

    def mixed(_: re.Match) -> str:
        while True:
            word = heads[int(chance() * len(heads))] + tails[int(chance() * len(tails))]
            if word not in HARD:
                return word

    for number in range(count):
        words = hard.sub(mixed, KINDS[kind].grammar.write(VOCABULARY_SEED + number).text).split(" ")
        yield " ".join(word for _, word in sorted((chance(), word) for word in words))
