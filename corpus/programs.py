# SPDX-License-Identifier: Apache-2.0
"""Small Python functions with a docstring and examples: the code of the built-in corpus.

The results in the examples were computed by running the function, so they follow from the text before and add
nothing to its entropy. A model can be asked to write such a function; `corpus/checker.py` compares it with
those below.
"""

from __future__ import annotations

import functools
import re
from typing import Callable

from corpus.grammar import Choice, Copy, Grammar, New, Node, Slots, Sort, Text, parse, said

SORTS = {
    "ONE": Sort(("x", "n", "number")),
    "LIST": Sort(("numbers", "values", "items")),
    "WORDS": Sort(("words", "names")),
    "TEXT": Sort(("text", "word")),
    "RESULT": Sort(("result", "answer")),
    "EACH": Sort(("item", "value")),
    "DIGIT": Sort(tuple("0123456789"), distinct=False),
    "COUNT": Sort(tuple("12345"), distinct=False),
    "STRING": Sort(
        tuple(f"'{word}'" for word in "cat dog sun moon tree bird fish milk apple stone river lamp".split()),
        distinct=False,
    ),
}
# name, kinds of its arguments, docstring, body.
# D a digit, C a number from 1 to 5, L a list of digits, W a list of words, T a word.
# <1> and <2> are the parameters, <r> and <e> local names.
FUNCTIONS = (
    ("double", "D", "Return twice <1>.", "return 2 * <1>"),
    ("square", "D", "Return <1> times <1>.", "return <1> * <1>"),
    ("next_number", "D", "Return the number after <1>.", "return <1> + 1"),
    ("add", "DD", "Return the sum of <1> and <2>.", "return <1> + <2>"),
    ("is_even", "D", "Tell whether <1> is even.", "return <1> % 2 == 0"),
    ("larger", "DD", "Return the larger of <1> and <2>.", "if <1> > <2>:\n    return <1>\nreturn <2>"),
    ("smaller", "DD", "Return the smaller of <1> and <2>.", "if <1> < <2>:\n    return <1>\nreturn <2>"),
    (
        "count_down",
        "C",
        "List the numbers from <1> down to 1.",
        "<r> = []\nwhile <1> > 0:\n    <r>.append(<1>)\n    <1> -= 1\nreturn <r>",
    ),
    ("count_up", "C", "List the numbers from 1 to <1>.", "return list(range(1, <1> + 1))"),
    (
        "largest",
        "L",
        "Return the largest of <1>.",
        "<r> = <1>[0]\nfor <e> in <1>:\n    if <e> > <r>:\n        <r> = <e>\nreturn <r>",
    ),
    (
        "smallest",
        "L",
        "Return the smallest of <1>.",
        "<r> = <1>[0]\nfor <e> in <1>:\n    if <e> < <r>:\n        <r> = <e>\nreturn <r>",
    ),
    ("evens", "L", "Keep the even ones of <1>.", "return [<e> for <e> in <1> if <e> % 2 == 0]"),
    ("above", "LD", "Keep those of <1> above <2>.", "return [<e> for <e> in <1> if <e> > <2>]"),
    (
        "contains",
        "LD",
        "Tell whether <2> is in <1>.",
        "for <e> in <1>:\n    if <e> == <2>:\n        return True\nreturn False",
    ),
    ("first", "L", "Return the first of <1>.", "return <1>[0]"),
    ("last", "L", "Return the last of <1>.", "return <1>[-1]"),
    ("backwards", "L", "Return <1> in reverse order.", "return <1>[::-1]"),
    ("in_order", "L", "Return <1> in order.", "return sorted(<1>)"),
    ("length", "L", "Count the <1>.", "<r> = 0\nfor <e> in <1>:\n    <r> += 1\nreturn <r>"),
    ("without_first", "L", "Return <1> without the first.", "return <1>[1:]"),
    ("shout", "T", "Return <1> in capital letters.", "return <1>.upper()"),
    ("initial", "T", "Return the first letter of <1>.", "return <1>[0]"),
    ("letters", "T", "Count the letters of <1>.", "return len(<1>)"),
    ("repeat", "TC", "Return <1> <2> times.", "return <1> * <2>"),
    ("join", "W", "Join the <1> with spaces.", 'return " ".join(<1>)'),
    ("initials", "W", "Return the first letters of the <1>.", "return [<e>[0] for <e> in <1>]"),
)
PARAMETER = {"D": "ONE", "C": "ONE", "L": "LIST", "W": "WORDS", "T": "TEXT"}
EXAMPLES = 2  # calls after each function
MISTAKABLE = {"name": r"\w+", "result": r"[^\n]*"}


def program_nodes(name: str, kinds: str, about: str, body: str) -> tuple[Node, ...]:
    """One function as nodes: choices of its names, then calls with drawn arguments and their results."""
    drawn: set[str] = set()
    sorts = {"1": PARAMETER[kinds[0]], "2": PARAMETER[kinds[-1]], "r": "RESULT", "e": "EACH"}

    def text(source: str) -> list[Node]:
        nodes: list[Node] = []
        for part in re.split(r"(<\w>)", source):
            slot = part[1:-1]
            if part[:1] != "<" or len(part) != 3:
                nodes.append(Text(part))
            elif slot in drawn:
                nodes.append(Copy("name", said(slot).value))
            else:
                drawn.add(slot)
                nodes.append(New(slot, sorts[slot]))
        return nodes

    parameters = ", ".join(f"<{place}>" for place in range(1, len(kinds) + 1))
    lines = "".join(f"    {line}\n" for line in body.split("\n"))
    nodes = text(f'def {name}({parameters}):\n    """{about}"""\n{lines}')
    for call in range(EXAMPLES):
        nodes.append(Text(f"\n>>> {name}("))
        for place, kind in enumerate(kinds):
            nodes += [Text(", ")] if place else []
            nodes += argument(kind, f"{call}.{place}.")
        nodes.append(Text(")\n"))
        nodes.append(
            Copy(
                "result",
                functools.partial(result_of, call=call, kinds=kinds, function=function_of(body, len(kinds))),
            )
        )
    return tuple(nodes)


def argument(kind: str, slot: str) -> list[Node]:
    """The nodes of an argument: a digit, a word, or a list of two to four of them."""
    sort = {"D": "DIGIT", "L": "DIGIT", "C": "COUNT", "T": "STRING", "W": "STRING"}[kind]
    if kind not in "LW":
        return [New(slot + "0", sort)]
    lists = (", ".join(f"{{{slot}{place}={sort}}}" for place in range(count)) for count in (2, 3, 4))
    return [Text("["), *parse(f"[{'|'.join(lists)}]"), Text("]")]


def function_of(body: str, parameters: int) -> Callable:
    """The function with plain names: what it returns does not depend on how its variables are called."""
    plain = re.sub(r"<(\w)>", r"v\1", body)
    scope: dict = {}
    head = ", ".join(f"v{place}" for place in range(1, parameters + 1))
    exec(f"def function({head}):\n" + "".join(f"    {line}\n" for line in plain.split("\n")), scope)
    return scope["function"]


def result_of(slots: Slots, call: int, kinds: str, function: Callable) -> str:
    """The result of a call, as Python shows it."""
    arguments = []
    for place, kind in enumerate(kinds):
        start = f"{call}.{place}."
        values = [plain(value) for slot, (_, value) in slots.items() if slot.startswith(start)]
        arguments.append(values if kind in "LW" else values[0])
    return repr(function(*arguments))


def plain(value: str) -> int | str:
    """The value of a drawn argument: a number, or a word without its quotes."""
    return value[1:-1] if value[0] == "'" else int(value)


GRAMMAR = Grammar((Choice(tuple(program_nodes(*function) for function in FUNCTIONS)),), SORTS, MISTAKABLE)
