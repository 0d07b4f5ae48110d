# SPDX-License-Identifier: Apache-2.0
"""Texts from a grammar with memory, with exact probabilities: write one, or read one back.

A grammar is a tuple of nodes. `write` makes every choice with equal probability 1/n, so the text that n
choices produce has the probability

    p(text) = product of 1 / options_i          -log p(text) = sum of log options_i    (nats)

provided that no other choices produce the same text. `readings` finds all choices that could have produced a
text, so a test can check this.

    template      "[One day|One night] {h.name=NAME} lost {h.his} {t.thing=THING}."
    [a|b|c]       a choice; the options may contain choices; an empty option is allowed
    {slot=SORT}   a new value of that sort is drawn and remembered under the slot's name
    {slot}        the remembered value is copied; other names in braces are functions of the remembered values

Chance is `random.Random(seed).random()` alone, whose sequence Python promises to keep: the same seed gives
the same bytes on every Python version and platform.
"""

from __future__ import annotations

import math
import random
import re
from dataclasses import dataclass
from typing import Callable, Iterator, NamedTuple

Slots = dict[str, tuple[str, str]]  # slot -> (sort, value)


@dataclass(frozen=True)
class Text:
    """Fixed text."""

    text: str


@dataclass(frozen=True)
class Choice:
    """One of several node sequences, each as probable as the others."""

    options: tuple[tuple[Node, ...], ...]


@dataclass(frozen=True)
class New:
    """A value drawn from a sort and remembered in a slot."""

    slot: str
    sort: str


@dataclass(frozen=True)
class Copy:
    """Text that follows from the values drawn before; `sort` says what kind of mistake another text is."""

    sort: str
    value: Callable[[Slots], str]


Node = Text | Choice | New | Copy


@dataclass(frozen=True)
class Sort:
    """The values that may be drawn. `distinct`: no value twice in one text."""

    values: tuple[str, ...]
    distinct: bool = True


class Written(NamedTuple):
    """A text and its -log p in nats."""

    text: str
    nats: float


class Reading(NamedTuple):
    """How a text was read."""

    at: int = 0  # characters read
    nats: float = 0.0  # -log p of the choices
    mistakes: tuple[str, ...] = ()  # the sort of each
    spans: tuple[tuple[str, int, int], ...] = ()  # (sort, first character, end) of each drawn or copied value
    slots: Slots = {}
    complete: bool = False  # the grammar and the text ended together


class Grammar:
    """Nodes with the sorts that they draw from, and what may take the place of a copied value by mistake.

    mistakable  sort of a copy -> pattern of the texts that are a wrong value of that sort
    """

    def __init__(self, nodes: tuple[Node, ...], sorts: dict[str, Sort], mistakable: dict[str, str]):
        self.nodes, self.sorts = nodes, sorts
        self.mistakable = {sort: re.compile(pattern) for sort, pattern in mistakable.items()}

    def values(self, sort: str, slots: Slots) -> list[str]:
        """The values of a sort that may be drawn now."""
        if not self.sorts[sort].distinct:
            return list(self.sorts[sort].values)
        used = {value for other, value in slots.values() if other == sort}
        return [value for value in self.sorts[sort].values if value not in used]

    def write(self, seed: int) -> Written:
        """The text of this seed, which is the document's number in the built-in corpus.

        >>> Grammar(parse("[Hello|Hi], {x=WHO}."), {"WHO": Sort(("Ada", "Max"))}, {}).write(seed=1)
        Written(text='Hello, Max.', nats=1.3862943611198906)
        """
        chance, parts, nats = random.Random(seed).random, [], 0.0
        slots: Slots = {}
        waiting = list(reversed(self.nodes))
        while waiting:
            node = waiting.pop()
            if isinstance(node, Text):
                parts.append(node.text)
            elif isinstance(node, Copy):
                parts.append(node.value(slots))
            elif isinstance(node, Choice):
                nats += math.log(len(node.options))
                waiting.extend(reversed(node.options[int(chance() * len(node.options))]))
            else:
                values = self.values(node.sort, slots)
                nats += math.log(len(values))
                value = values[int(chance() * len(values))]
                slots[node.slot] = (node.sort, value)
                parts.append(value)
        return Written("".join(parts), nats)

    def readings(self, text: str, lenient: bool = False) -> Iterator[Reading]:
        """Every way in which the grammar can have written `text`, or, where one fails, a beginning of it.

        With `lenient`, a wrong value in the place of a copied one, and a value drawn twice, are noted as
        mistakes and reading continues with the right one.
        """
        rest = None
        for node in reversed(self.nodes):
            rest = (node, rest)
        waiting = [(rest, Reading())]
        while waiting:
            rest, so_far = waiting.pop()
            if rest is None:
                yield so_far._replace(complete=so_far.at == len(text))
                continue
            node, rest = rest
            if isinstance(node, Choice):
                nats = so_far.nats + math.log(len(node.options))
                for option in node.options:
                    after = rest
                    for inner in reversed(option):
                        after = (inner, after)
                    waiting.append((after, so_far._replace(nats=nats)))
                continue
            found = list(self.step(node, text, so_far, lenient))
            waiting += [(rest, reading) for reading in found]
            if not found:
                yield so_far

    def step(self, node: Node, text: str, so_far: Reading, lenient: bool) -> Iterator[Reading]:
        """The readings after one node that is not a Choice; none if the text differs."""
        at = so_far.at
        if isinstance(node, Text):
            if text.startswith(node.text, at):
                yield so_far._replace(at=at + len(node.text))
        elif isinstance(node, Copy):
            value, mistakes = node.value(so_far.slots), so_far.mistakes
            if not text.startswith(value, at):
                wrong = (
                    lenient and node.sort in self.mistakable and self.mistakable[node.sort].match(text, at)
                )
                if not wrong:
                    return
                value, mistakes = wrong[0], (*mistakes, node.sort)
            spans = (*so_far.spans, (node.sort, at, at + len(value)))
            yield so_far._replace(at=at + len(value), spans=spans, mistakes=mistakes)
        else:
            free = self.values(node.sort, so_far.slots)
            for value in self.sorts[node.sort].values if lenient else free:
                if text.startswith(value, at):
                    yield so_far._replace(
                        at=at + len(value),
                        nats=so_far.nats + math.log(len(free)),
                        mistakes=so_far.mistakes if value in free else (*so_far.mistakes, node.sort),
                        spans=(*so_far.spans, (node.sort, at, at + len(value))),
                        slots={**so_far.slots, node.slot: (node.sort, value)},
                    )

    def read(self, text: str) -> Reading:
        """The reading that gets furthest with the fewest mistakes."""

        def quality(reading: Reading) -> tuple:
            return reading.complete, reading.at, -len(reading.mistakes)

        return max(self.readings(text, lenient=True), key=quality)


PIECE = re.compile(r"[\[\]|]|\{[^}]*\}|[^\[\]|{]+")


def parse(template: str, copies: Callable[[str], Copy] | None = None) -> tuple[Node, ...]:
    """A template as nodes. `copies` makes the node of `{slot}`, by default a copy of its value."""
    levels: list[list[list[Node]]] = [[[]]]
    for piece in PIECE.findall(template):
        if piece == "[":
            levels.append([[]])
        elif piece == "|":
            levels[-1].append([])
        elif piece == "]":
            options = levels.pop()
            levels[-1][-1].append(Choice(tuple(tuple(option) for option in options)))
        elif piece[0] == "{":
            slot, new, sort = piece[1:-1].partition("=")
            levels[-1][-1].append(New(slot, sort) if new else (copies or said)(slot))
        else:
            levels[-1][-1].append(Text(piece))
    return tuple(levels[0][0])


def said(slot: str) -> Copy:
    """The value of a slot, once more."""
    return Copy(slot, lambda slots: slots[slot][1])


def pattern_of(nodes: tuple[Node, ...], grammar: Grammar) -> str:
    """A regular expression for what these nodes can write, whatever was drawn before."""
    parts = []
    for node in nodes:
        if isinstance(node, Text):
            parts.append(re.escape(node.text))
        elif isinstance(node, Choice):
            parts.append("(?:" + "|".join(pattern_of(option, grammar) for option in node.options) + ")")
        elif isinstance(node, New):
            parts.append("(?:" + "|".join(map(re.escape, grammar.sorts[node.sort].values)) + ")")
        else:
            parts.append(f"(?:{grammar.mistakable[node.sort].pattern})")
    return "".join(parts)
