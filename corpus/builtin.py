# SPDX-License-Identifier: Apache-2.0
"""The built-in corpus: documents that every Python installation carries or can compute. No download, no data
file.

    web    English prose: the language reference in `pydoc_data.topics` and the docstrings of the standard
           library
    code   the source of the standard library
    math   generated exercises with worked solutions

Each module of the standard library gives its docstrings to `web` or its source to `code`, never both: the
hash of its name decides. web and code are the same for one Python version; math is the same for all, which is
why the golden trace is trained on it.
"""
from __future__ import annotations

import ast
import hashlib
import math
import random
import sys
import sysconfig
from pathlib import Path
from typing import Any, Iterator

KINDS = ("web", "code", "math")
# of the modules: source is several times as long as docstrings, and the mixture wants more prose than code
CODE_SHARE = 0.2
# absent from some installations, tables, or given as topics already
SKIPPED = {"test", "tests", "encodings", "pydoc_data", "idle_test"}
MATH_DOCUMENTS = 6000


def builtin_documents(kind: str, seed: int = 42) -> Iterator[tuple[str, str]]:
    """Yield (id, text) for "web", "code" or "math", always in the same order; the texts are not cleaned yet.

    >>> next(builtin_documents("math"))[0]
    'math/0'
    """
    if kind == "math":
        for number in range(MATH_DOCUMENTS):
            yield f"math/{number}", exercise_sheet(Draw(seed * 1_000_003 + number))
        return
    if kind == "web":
        from pydoc_data.topics import topics
        for name, text in sorted(topics.items()):
            yield f"topics/{name}", text
    for name, path in standard_modules():
        is_code = module_share(name) < CODE_SHARE
        if is_code != (kind == "code"):
            continue
        try:
            source = path.read_text(encoding="utf-8")
            text = source if kind == "code" else docstrings(name, source)
        except (SyntaxError, ValueError):  # the library keeps a few files that are wrong on purpose
            continue
        if text.strip():
            yield f"{kind}/{name}", text


# ------------------------------------------------------------------------------- the standard library as text

def standard_modules() -> list[tuple[str, Path]]:
    """(dotted name, file) of every module of the standard library that is written in Python, sorted by name.
    """
    library = Path(sysconfig.get_paths()["stdlib"])
    modules = []
    for top in sys.stdlib_module_names:
        single = library / f"{top}.py"
        paths = [single] if single.is_file() else (library / top).rglob("*.py")
        for path in paths:
            parts = path.relative_to(library).with_suffix("").parts
            if SKIPPED.isdisjoint(parts):
                modules.append((".".join(parts).removesuffix(".__init__"), path))
    return sorted(modules)


def module_share(name: str) -> float:
    """A number in [0, 1) that depends on a module's name only."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") / 2**32


def docstrings(name: str, source: str) -> str:
    """The docstrings of a module, its classes and its functions in their order, each after the dotted name of
    what it describes.
    """
    parts = []

    def visit(node: ast.AST, name: str) -> None:
        text = ast.get_docstring(node)
        if text:
            parts.append(f"{name}\n{text}\n")
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                visit(child, f"{name}.{child.name}")

    visit(ast.parse(source), name)
    return "\n".join(parts)


# ------------------------------------------------------------------------------------------------ mathematics

class Draw:
    """Random choices made from `random.random()` alone, whose sequence for a seed Python promises to keep."""

    def __init__(self, seed: int):
        self.random = random.Random(seed).random

    def number(self, low: int, high: int) -> int:
        """A whole number from low to high, both included."""
        return low + int(self.random() * (high - low + 1))

    def choice(self, options: Any) -> Any:
        return options[self.number(0, len(options) - 1)]


PEOPLE = [
    "Ada",
    "Ben",
    "Carla",
    "David",
    "Emma",
    "Farid",
    "Grace",
    "Hugo",
    "Ines",
    "Jonas",
    "Kim",
    "Lena",
    "Marco",
    "Nora",
    "Omar",
    "Paula",
]
THINGS = [
    "apples",
    "books",
    "cards",
    "coins",
    "cookies",
    "eggs",
    "marbles",
    "oranges",
    "pencils",
    "shells",
    "stamps",
    "stickers",
]


def add_problem(draw: Draw) -> tuple[str, str, Any]:
    a, tens, ones = draw.number(10, 9999), draw.number(1, 99) * 10, draw.number(1, 9)
    b = tens + ones
    return f"What is {a} + {b}?", f"{a} + {tens} = {a + tens} and {a + tens} + {ones} = {a + b}.", a + b


def subtract_problem(draw: Draw) -> tuple[str, str, Any]:
    tens, ones, rest = draw.number(1, 99) * 10, draw.number(1, 9), draw.number(1, 9000)
    a, b = tens + ones + rest, tens + ones
    return f"What is {a} - {b}?", f"{a} - {tens} = {a - tens} and {a - tens} - {ones} = {rest}.", rest


def multiply_problem(draw: Draw) -> tuple[str, str, Any]:
    a, tens, ones = draw.number(3, 199), draw.number(1, 9) * 10, draw.number(1, 9)
    parts = f"{a} * {tens} = {a * tens} and {a} * {ones} = {a * ones}"
    return (
        f"Compute {a} * {tens + ones}.",
        f"{parts}, so {a * tens} + {a * ones} = {a * (tens + ones)}.",
        a * (tens + ones),
    )


def divide_problem(draw: Draw) -> tuple[str, str, Any]:
    b, quotient = draw.number(2, 25), draw.number(3, 120)
    rest = draw.number(0, b - 1)
    a = b * quotient + rest
    return (
        f"Divide {a} by {b} with remainder.",
        f"{b} * {quotient} = {b * quotient} and {a} - {b * quotient} = {rest}.",
        f"{quotient} remainder {rest}",
    )


def fraction_problem(draw: Draw) -> tuple[str, str, Any]:
    a, b, c, d = draw.number(1, 9), draw.number(2, 12), draw.number(1, 9), draw.number(2, 12)
    top, bottom = a * d + c * b, b * d
    common = math.gcd(top, bottom)
    steps = f"The common denominator is {b} * {d} = {bottom}, and {a} * {d} + {c} * {b} = {top}, which gives {top}/{bottom}."
    if common > 1:
        steps += f" Both can be divided by {common}: {top} / {common} = {top // common} and {bottom} / {common} = {bottom // common}."
    return f"Add the fractions {a}/{b} and {c}/{d}.", steps, f"{top // common}/{bottom // common}"


def equation_problem(draw: Draw) -> tuple[str, str, Any]:
    x, a, b = draw.number(2, 30), draw.number(2, 15), draw.number(1, 60)
    letter = draw.choice("nxyz")
    steps = f"Subtract {b} from both sides: {a * x + b} - {b} = {a * x}. Divide by {a}: {a * x} / {a} = {x}."
    return f"Solve {a}{letter} + {b} = {a * x + b} for {letter}.", steps, f"{letter} = {x}"


def percent_problem(draw: Draw) -> tuple[str, str, Any]:
    percent, base = draw.number(1, 19) * 5, draw.number(1, 90) * 20
    product = percent * base
    return (
        f"What is {percent}% of {base}?",
        f"{percent} * {base} = {product} and {product} / 100 = {product // 100}.",
        product // 100,
    )


def order_problem(draw: Draw) -> tuple[str, str, Any]:
    a, b, c, d = draw.number(1, 50), draw.number(2, 12), draw.number(10, 20), draw.number(1, 9)
    steps = f"Brackets first: {c} - {d} = {c - d}. Then the product: {b} * {c - d} = {b * (c - d)}. At last the sum: "
    return (
        f"Evaluate {a} + {b} * ({c} - {d}).",
        steps + f"{a} + {b * (c - d)} = {a + b * (c - d)}.",
        a + b * (c - d),
    )


def sequence_problem(draw: Draw) -> tuple[str, str, Any]:
    first, step, shown = draw.number(1, 60), draw.number(2, 25), draw.number(4, 6)
    terms = [first + step * i for i in range(shown)]
    steps = f"Each number is {step} more than the one before: {terms[1]} - {terms[0]} = {step}. So {terms[-1]} + {step} = {terms[-1] + step}."
    return f"Which number comes next: {', '.join(map(str, terms))}?", steps, terms[-1] + step


def divisor_problem(draw: Draw) -> tuple[str, str, Any]:
    common = draw.number(2, 30)
    a, b = common * draw.number(2, 30), common * draw.number(2, 30)
    steps, x, y = [], max(a, b), min(a, b)
    while y:
        steps.append(f"{x} = {y} * {x // y} + {x % y}")
        x, y = y, x % y
    return (
        f"Find the greatest common divisor of {a} and {b}.",
        "Divide until nothing remains: " + ", ".join(steps) + ".",
        x,
    )


def factor_problem(draw: Draw) -> tuple[str, str, Any]:
    number = draw.number(12, 2000)
    factors, rest, p = [], number, 2
    while rest > 1:
        while rest % p:
            p += 1
        factors.append(p)
        rest //= p
    product = " * ".join(map(str, factors))
    kind = "a prime number" if len(factors) == 1 else "a composite number"
    return f"Write {number} as a product of primes.", f"{product} = {number}, so {number} is {kind}.", product


def rectangle_problem(draw: Draw) -> tuple[str, str, Any]:
    a, b = draw.number(2, 60), draw.number(2, 60)
    place = draw.choice(["garden", "room", "field", "poster", "playground"])
    if draw.number(0, 1):
        return (
            f"A {place} is {a} m long and {b} m wide. What is its area?",
            f"The area is {a} * {b} = {a * b}.",
            f"{a * b} square metres",
        )
    steps = f"Length and width together are {a} + {b} = {a + b}, and 2 * {a + b} = {2 * (a + b)}."
    return (
        f"A {place} is {a} m long and {b} m wide. How long is the fence around it?",
        steps,
        f"{2 * (a + b)} metres",
    )


def average_problem(draw: Draw) -> tuple[str, str, Any]:
    count, mean = draw.number(3, 5), draw.number(10, 90)
    values = [mean + draw.number(-9, 9) for _ in range(count - 1)]
    values.append(count * mean - sum(values))
    total = " + ".join(map(str, values))
    return (
        f"What is the average of {', '.join(map(str, values))}?",
        f"The sum is {total} = {count * mean}. There are {count} numbers: {count * mean} / {count} = {mean}.",
        mean,
    )


def give_problem(draw: Draw) -> tuple[str, str, Any]:
    giver, taker, thing = draw.choice(PEOPLE[::2]), draw.choice(PEOPLE[1::2]), draw.choice(THINGS)
    had, gave, found = draw.number(30, 200), draw.number(2, 29), draw.number(2, 60)
    question = f"{giver} has {had} {thing} and gives {gave} of them to {taker}. Later {giver} finds {found} more {thing}. "
    steps = f"After the gift {giver} has {had} - {gave} = {had - gave} {thing}. Then {had - gave} + {found} = {had - gave + found}."
    return question + f"How many {thing} does {giver} have now?", steps, f"{had - gave + found} {thing}"


def shop_problem(draw: Draw) -> tuple[str, str, Any]:
    who, thing, other = draw.choice(PEOPLE), draw.choice(THINGS[::2]), draw.choice(THINGS[1::2])
    n, price, m, cost = draw.number(2, 12), draw.number(2, 9), draw.number(2, 12), draw.number(2, 9)
    total = n * price + m * cost
    paid = total + draw.number(1, 40)
    question = f"{who} buys {n} {thing} at {price} dollars each and {m} {other} at {cost} dollars each, and pays with {paid} dollars. "
    steps = (
        f"The {thing} cost {n} * {price} = {n * price} dollars and the {other} {m} * {cost} = {m * cost} dollars. "
        f"Together that is {n * price} + {m * cost} = {total} dollars, and {paid} - {total} = {paid - total}."
    )
    return question + "How much money comes back?", steps, f"{paid - total} dollars"


def share_problem(draw: Draw) -> tuple[str, str, Any]:
    who, thing, people, each = (
        draw.choice(PEOPLE),
        draw.choice(THINGS),
        draw.number(3, 12),
        draw.number(2, 30),
    )
    left = draw.number(0, people - 1)
    total = people * each + left
    question = f"{who} shares {total} {thing} fairly among {people} children. How many does each child get, and how many are left?"
    return (
        question,
        f"{people} * {each} = {people * each} and {total} - {people * each} = {left}.",
        f"{each} each, {left} left",
    )


def travel_problem(draw: Draw) -> tuple[str, str, Any]:
    what, speed, hours = (
        draw.choice(["A train", "A bus", "A car", "A ship", "A cyclist"]),
        draw.number(3, 24) * 5,
        draw.number(2, 9),
    )
    distance = speed * hours
    if draw.number(0, 1):
        return (
            f"{what} travels {hours} hours at {speed} km per hour. How far is that?",
            f"{speed} * {hours} = {distance}.",
            f"{distance} km",
        )
    return (
        f"{what} travels {distance} km at {speed} km per hour. How long does it take?",
        f"{distance} / {speed} = {hours}.",
        f"{hours} hours",
    )


def age_problem(draw: Draw) -> tuple[str, str, Any]:
    young, old, age = draw.choice(PEOPLE[::2]), draw.choice(PEOPLE[1::2]), draw.number(5, 20)
    times, years = draw.number(2, 4), draw.number(2, 15)
    question = (
        f"{young} is {age} years old. {old} is {times} times as old. How old will {old} be in {years} years?"
    )
    return (
        question,
        f"{old} is {times} * {age} = {times * age} now, and {times * age} + {years} = {times * age + years}.",
        times * age + years,
    )


HEADINGS = (
    ("Problem", "Solution", "Answer"),
    ("Question", "Working", "Answer"),
    ("Exercise", "Solution", "Result"),
)
PROBLEMS = (
    add_problem,
    subtract_problem,
    multiply_problem,
    divide_problem,
    fraction_problem,
    equation_problem,
    percent_problem,
    order_problem,
    sequence_problem,
    divisor_problem,
    factor_problem,
    rectangle_problem,
    average_problem,
    give_problem,
    shop_problem,
    share_problem,
    travel_problem,
    age_problem,
)


def exercise_sheet(draw: Draw) -> str:
    """One document: two to six exercises, each with its worked solution and its answer."""
    question, working, answer = draw.choice(HEADINGS)
    parts = []
    for _ in range(draw.number(2, 6)):
        asked, worked, result = draw.choice(PROBLEMS)(draw)
        parts.append(f"{question}: {asked}\n{working}: {worked}\n{answer}: {result}\n")
    return "\n".join(parts)
