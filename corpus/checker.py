# SPDX-License-Identifier: Apache-2.0
"""What a model has learned of the built-in corpus: its texts are read back with the corpus's grammar.

    tale        well-formed up to where; names, pronouns, things and kinds stay what they were
    program     parses; runs; the results in its examples are right
    exercises   the answers are right

No text of a model is executed: a program counts as running if it is one of the grammar's functions, whose
results are known.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass

from corpus import exercises, programs, tales
from corpus.grammar import Reading, pattern_of

GROUPS = {
    "name": ("name", "HERO", "NAME"),
    "pronoun": tuple(form for pair in tales.PRONOUNS.items() for form in pair),
    "thing": ("thing", "THING"),
    "look": ("look", "LOOK"),
    "kind": ("kind", "home", "KIND"),
}
SENTENCE = re.compile(
    "|".join(
        f"(?:{pattern})"
        for pattern in dict.fromkeys(pattern_of(sentence, tales.GRAMMAR) for sentence in tales.SENTENCES)
    )
)
END = re.compile(r"(?<=[.!?]) (?=[A-Z\"])|(?<=[.!?]\") (?=[A-Z\"])")
INTRODUCED = re.compile(
    rf"named ({tales.ANY_NAME})|({tales.ANY_NAME})(?= the {tales.ANY_KIND}|, a [a-z]+ {tales.ANY_KIND},)"
)
NEW_THING = re.compile(rf"\b(?:a|his|her|my) {tales.ANY_LOOK} ({tales.ANY_THING})")
PRONOUN = re.compile(r"\b(he|she|his|her|him)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Tale:
    """What was found in a tale."""

    words: int
    mentions: int  # of the hero's name, after the first
    sentences: int
    good_sentences: int  # sentences that some tale could contain, with any names
    name: bool  # every name is one that was introduced, in its place
    pronoun: bool  # every pronoun fits the animal that it means
    thing: bool  # every thing is one that was introduced
    look: bool  # a thing that was red stays red
    kind: bool  # every animal keeps its kind and its home
    faultless: bool  # complete, and no mistake of any sort

    @property
    def counts(self) -> bool:
        """Whether the tale is long enough to judge: at least 60 words and two later mentions of the hero."""
        return self.words >= 60 and self.mentions >= 2


def check_tale(text: str) -> Tale:
    """Read a tale, with its opening.

    What follows a sentence that the grammar cannot read is judged word by word.
    """
    reading = tales.GRAMMAR.read(text)
    wrong = {group for group, sorts in GROUPS.items() for mistake in reading.mistakes if mistake in sorts}
    wrong |= loose_mistakes(text, reading)
    hero = reading.slots.get("h.name", ("", ""))[1]
    sentences = END.split(text)
    return Tale(
        words=len(text.split()),
        mentions=max(0, len(re.findall(rf"\b{hero}\b", text)) - 1) if hero else 0,
        sentences=len(sentences),
        good_sentences=sum(SENTENCE.fullmatch(sentence) is not None for sentence in sentences),
        faultless=reading.complete and not reading.mistakes,
        **{group: group not in wrong for group in GROUPS},
    )


def loose_mistakes(text: str, reading: Reading) -> set[str]:
    """Mistakes after the point that the grammar could read.

    Names and things that nobody introduced, and pronouns that fit nobody.
    """
    rest, wrong = text[reading.at:], set()
    names = {value for sort, value in reading.slots.values() if sort in ("HERO", "NAME")}
    names |= {name for found in INTRODUCED.findall(rest) for name in found if name}
    things = {value for sort, value in reading.slots.values() if sort == "THING"}
    things |= set(NEW_THING.findall(rest))
    if set(re.findall(tales.ANY_NAME, rest)) - names:
        wrong.add("name")
    if set(re.findall(tales.ANY_THING, rest)) - things:
        wrong.add("thing")
    fitting = {
        form for name in names for form in (("he", "his", "him") if name in tales.BOYS else ("she", "her"))
    }
    if {form.lower() for form in PRONOUN.findall(rest)} - fitting:
        wrong.add("pronoun")
    return wrong


@dataclass(frozen=True)
class Program:
    """What was found in a program with its examples."""

    parses: bool  # as Python, up to the examples
    runs: bool  # it is one of the grammar's functions
    examples: int
    right: int  # examples whose result is the function's


def check_program(text: str) -> Program:
    """Parse the function, and compare the results in its examples with the right ones."""
    reading = programs.GRAMMAR.read(text)
    function, _, calls = text.partition("\n\n>>> ")
    try:
        ast.parse(function)
        parses = bool(function.strip())
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        parses = False
    runs = parses and reading.at >= len(function) and "name" not in reading.mistakes
    results = sum(sort == "result" for sort, _, _ in reading.spans)
    wrong = sum(sort == "result" for sort in reading.mistakes)
    return Program(parses, runs, calls.count(">>> ") + bool(calls), results - wrong if runs else 0)


def right_answers(text: str) -> int:
    """How many answers on a sheet of exercises are right.

    Exercises after one that the grammar cannot read count as wrong.
    """
    reading = exercises.GRAMMAR.read(text)
    answers = sum(sort == "answer" for sort, _, _ in reading.spans)
    return answers - sum(sort == "answer" for sort in reading.mistakes)
