# SPDX-License-Identifier: Apache-2.0
"""Exercises that a small model can learn in minutes: the mathematics of the built-in corpus.

Small sums, comparisons, the next number, number words, and copying words. A document is a sheet of four
exercises, each with its answer. Every answer follows from the question, so it adds nothing to the entropy of
a sheet. How a template is read: `corpus/grammar.py`.
"""

from __future__ import annotations

from typing import Callable

from corpus.grammar import Choice, Copy, Grammar, New, Node, Slots, Sort, Text, parse, said

WORDS = "zero one two three four five six seven eight nine ten eleven twelve".split()


def numbers(first: int, last: int) -> Sort:
    """The numbers from first to last; a number may come twice in a text."""
    return Sort(tuple(map(str, range(first, last + 1))), distinct=False)


SORTS = {
    "1-5": numbers(1, 5),
    "1-10": numbers(1, 10),
    "1-12": numbers(1, 12),
    "5-10": numbers(5, 10),
    "1-20": Sort(numbers(1, 20).values),
    "PERSON": Sort(("Mia", "Tom", "Anna", "Ben", "Ella", "Max", "Ruby", "Sam")),
    "GOODS": Sort(("apples", "books", "cards", "coins", "eggs", "shells", "pears", "nuts")),
    "COLOUR": Sort(("red", "blue", "green", "yellow", "white", "black", "brown", "pink")),
}
NUMBER = r"\d+"
MISTAKABLE = {
    "answer": r"[\w ]+",
    "number": NUMBER,
    "PERSON": "[A-Z][a-z]+",
    "GOODS": "[a-z]+",
    "COLOUR": "[a-z]+",
}


def number(slots: Slots, slot: str) -> int:
    """The number that was drawn in a slot."""
    return int(slots[slot][1])


def letters(slots: Slots, names: str) -> list[str]:
    """The words that were drawn in these slots, in this order."""
    return [slots[name][1] for name in names]


# (question, answer, the value of {answer} as a function of the drawn values)
EXERCISES: tuple[tuple[str, str, Callable[[Slots], object]], ...] = (
    ("What is {a=1-5} + {b=1-5}?", "{a} + {b} = {answer}", lambda s: number(s, "a") + number(s, "b")),
    ("What is {a=5-10} - {b=1-5}?", "{a} - {b} = {answer}", lambda s: number(s, "a") - number(s, "b")),
    ("What is two times {a=1-10}?", "2 * {a} = {answer}", lambda s: 2 * number(s, "a")),
    ("Which is larger, {a=1-20} or {b=1-20}?", "{answer}", lambda s: max(number(s, "a"), number(s, "b"))),
    ("Which is smaller, {a=1-20} or {b=1-20}?", "{answer}", lambda s: min(number(s, "a"), number(s, "b"))),
    ("Which number comes after {a=1-12}?", "{answer}", lambda s: number(s, "a") + 1),
    ("Write {a=1-12} as a word.", "{answer}", lambda s: WORDS[number(s, "a")]),
    ("Is {a=1-12} even or odd?", "{answer}", lambda s: "odd" if number(s, "a") % 2 else "even"),
    ("Copy: {a=COLOUR} {b=COLOUR} {c=COLOUR}.", "{answer}", lambda s: " ".join(letters(s, "abc"))),
    ("Turn around: {a=COLOUR} {b=COLOUR} {c=COLOUR}.", "{answer}", lambda s: " ".join(letters(s, "cba"))),
    (
        "{p=PERSON} has {a=1-5} {g=GOODS} and gets {b=1-5} more. How many {g} does {p} have now?",
        "{a} + {b} = {answer} {g}",
        lambda s: number(s, "a") + number(s, "b"),
    ),
    (
        "{p=PERSON} has {a=5-10} {g=GOODS} and gives {b=1-5} to {q=PERSON}. How many {g} are left?",
        "{a} - {b} = {answer} {g}",
        lambda s: number(s, "a") - number(s, "b"),
    ),
)
SHEET = 4  # exercises in a document


def exercise(number: int, question: str, answer: str, result: Callable[[Slots], object]) -> tuple[Node, ...]:
    """One exercise as nodes; its slots carry the exercise's number on the sheet."""

    def copied(slot: str) -> Copy:
        if slot == "answer":
            return Copy("answer", lambda slots: str(result(mine(slots))))
        sort = {"a": "number", "b": "number", "p": "PERSON", "q": "PERSON", "g": "GOODS"}[slot]
        return Copy(sort, said(f"{number}{slot}").value)

    def mine(slots: Slots) -> Slots:
        return {slot[1:]: value for slot, value in slots.items() if slot[0] == str(number)}

    nodes = parse(f"Question: {question} Answer: {answer}.", copied)
    # A drawing node gets the exercise's number before its slot, and its own copy of the sort.
    return tuple(New(f"{number}{node.slot}", f"{number}{node.sort}") if isinstance(node, New) else node
                 for node in nodes)


def sheet_nodes() -> tuple[Node, ...]:
    """A sheet: exercises with a blank between them."""
    nodes: list[Node] = []
    for place in range(SHEET):
        nodes += [Text(" ")] if place else []
        nodes.append(Choice(tuple(exercise(place, *kind) for kind in EXERCISES)))
    return tuple(nodes)


GRAMMAR = Grammar(
    sheet_nodes(),
    {f"{place}{name}": sort for place in range(SHEET) for name, sort in SORTS.items()},
    MISTAKABLE,
)
