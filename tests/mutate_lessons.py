# SPDX-License-Identifier: Apache-2.0
"""Can each assert of the lessons fail? For each, one change of code or data that makes it fail.

    python tests/mutate_lessons.py               # all lessons; prints the table, assert by assert
    python tests/mutate_lessons.py 05 06         # two of them

Every part of an `assert a and b` counts as an assert. A mutation (tests/lesson_mutations.py) replaces one
piece of text, in a lesson or in a file of the project. The lesson runs once, in its full form, and every
assert must hold. Before the cell that a mutation changes, the process forks: the child changes the text,
runs this cell and the next one (or more, where the mutation says so), and reports the asserts that fail. No
file of the project changes.
The exit code is 1 if there is an assert that no mutation fails, or a mutation that fails no assert.
"""
from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import sys
import tempfile
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "tests"))
os.environ.setdefault("LESSON_HOME", tempfile.mkdtemp(prefix="lessons-"))

from lesson_mutations import MUTATIONS  # noqa: E402
from lessons import tools  # noqa: E402
from lessons.build import cells_of, lesson_files  # noqa: E402


@dataclass(frozen=True)
class Mutation:
    """A piece of text and what replaces it.

    file: None for the lesson itself, else a file of the project; then `before` is a piece of the cell before
    which the file changes. cells: how many further cells the child runs.
    """

    lesson: str
    old: str
    new: str
    file: str | None = None
    before: str = ""
    cells: int = 1


def parts_of(test: ast.expr) -> list[ast.expr]:
    """The operands of `a and b and c`, or the expression itself."""
    return test.values if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And) else [test]


class Watched(ast.NodeTransformer):
    """Replaces `assert a and b` in a cell by `__check__(0, lambda: a); __check__(1, lambda: b)`."""

    count = 0

    def visit_Assert(self, node: ast.Assert) -> list[ast.stmt]:
        """The calls in the place of one assert."""
        calls = []
        for part in parts_of(node.test):
            test = ast.Lambda(ast.arguments([], [], None, [], [], None, []), part)
            check = ast.Call(ast.Name("__check__", ast.Load()), [ast.Constant(self.count), test], [])
            calls.append(ast.Expr(check))
            self.count += 1
        return [ast.fix_missing_locations(ast.copy_location(call, node)) for call in calls]


class Asserts(ast.NodeVisitor):
    """The parts of all asserts of a cell, as text, in the order in which `Watched` counts them."""

    def __init__(self, source: str):
        self.texts: list[str] = []
        self.visit(ast.parse(source))

    def visit_Assert(self, node: ast.Assert) -> None:
        """Note the parts of one assert."""
        self.texts += [ast.unparse(part) for part in parts_of(node.test)]


def run_cell(source: str, namespace: dict[str, Any], name: str, check: Callable[[int, Callable], None],
             only_to_last_assert: bool = False) -> None:
    """Execute a cell whose asserts call `check(number in the cell, test)`."""
    namespace["__check__"] = check
    tree = Watched().visit(ast.parse(source))
    if only_to_last_assert:
        last = max((number for number, node in enumerate(tree.body) if "__check__" in ast.unparse(node)),
                   default=-1)
        tree.body = tree.body[:last + 1]
    exec(compile(tree, name, "exec"), namespace)


def plain_functions(module: types.ModuleType) -> dict[str, types.FunctionType]:
    """Qualified name -> function, of all functions and methods that a module defines, under any decorator."""
    found, places = {}, [vars(module)]
    places += [vars(value) for value in vars(module).values()
               if isinstance(value, type) and value.__module__ == module.__name__]
    for place in places:
        for value in place.values():
            value = getattr(value, "__func__", getattr(value, "fget", value))
            value = getattr(value, "__wrapped__", value)
            if isinstance(value, types.FunctionType) and value.__module__ == module.__name__:
                found[value.__qualname__] = value
    return found


def mutate_file(name: str, old: str, new: str) -> None:
    """Give the functions of a loaded module the code of its mutated text."""
    module = sys.modules[name.removesuffix(".py").replace("/", ".")]
    text = (ROOT / name).read_text(encoding="utf-8")
    if text.count(old) != 1:
        raise ValueError(f"{name} has {text.count(old)} times: {old}")
    changed = types.ModuleType(module.__name__)
    changed.__dict__.update(__file__=module.__file__, __package__=module.__package__)
    exec(compile(text.replace(old, new), name, "exec"), changed.__dict__)
    originals = plain_functions(module)
    for qualified, function in plain_functions(changed).items():
        if qualified in originals:
            originals[qualified].__code__ = function.__code__
            originals[qualified].__defaults__ = function.__defaults__


def child(mutation: Mutation, cells: list[str], first: int, namespace: dict[str, Any]) -> dict[str, Any]:
    """What fails in the cells from `first` on with this mutation: {"failed": [...], "error": text}."""
    failed: list[list[int]] = []
    error = ""
    try:
        if mutation.file:
            mutate_file(mutation.file, mutation.old, mutation.new)
        for number in range(first, min(first + 1 + mutation.cells, len(cells))):
            source = cells[number]
            if number == first and not mutation.file:
                source = source.replace(mutation.old, mutation.new)

            def check(part, test, number=number):
                try:
                    held = bool(test())
                except Exception:  # an assert that cannot be computed any more does not hold
                    held = False
                if not held and [number, part] not in failed:
                    failed.append([number, part])

            run_cell(source, namespace, f"cell {number}", check, number == first + mutation.cells)
    except BaseException as fault:  # noqa: BLE001 - reported in the table
        error = f"{type(fault).__name__}: {fault}"[:200]
    return {"failed": failed, "error": error}


def in_child(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The result of `work()` in a forked process, by a pipe as JSON."""
    out, into = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(out)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            result = work()
        with os.fdopen(into, "w") as pipe:
            pipe.write(json.dumps(result))
        os._exit(0)
    os.close(into)
    with os.fdopen(out) as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    return json.loads(text or '{"failed": [], "error": "the process ended"}')


def place_of(mutation: Mutation, cells: list[str]) -> int:
    """The number of the cell that the mutation changes, or before which it changes a file."""
    piece = mutation.before if mutation.file else mutation.old
    found = [number for number, source in enumerate(cells) if piece in source]
    if len(found) != 1:
        raise ValueError(f"lesson {mutation.lesson}: {len(found)} cells contain: {piece}")
    return found[0]


def try_lesson(path: Path, mutations: list[Mutation]) -> tuple[list[tuple[str, list[int]]], list[dict]]:
    """(assert, numbers of the mutations that fail it) for each; and what each mutation did.

    Without the asserts that are not reached here, because a library is not installed.
    """
    cells = [cell.source for cell in cells_of(path.read_text(encoding="utf-8")) if cell.kind == "code"]
    table = {(number, part): (text, []) for number, source in enumerate(cells)
             for part, text in enumerate(Asserts(source).texts)}
    at: dict[int, list[int]] = {}
    for number, mutation in enumerate(mutations):
        at.setdefault(place_of(mutation, cells), []).append(number)
    outcomes: list[dict[str, Any]] = [{} for _ in mutations]
    reached: set[tuple[int, int]] = set()
    namespace: dict[str, Any] = {"__name__": "__main__", "__file__": str(path)}

    def check(part, test):
        reached.add((place, part))
        if not test():
            raise SystemExit(f"{path.name}: without any mutation this does not hold: {table[place, part][0]}")

    for place, source in enumerate(cells):
        for number in at.get(place, []):
            outcomes[number] = in_child(lambda: child(mutations[number], cells, place, namespace))
            for key in map(tuple, outcomes[number]["failed"]):
                table[key][1].append(number)
        with contextlib.redirect_stdout(io.StringIO()):
            run_cell(source, namespace, f"{path.name}, cell {place}", check)
    return [table[key] for key in table if key in reached], outcomes


def no_figure(figure: Any, name: str) -> None:
    """In the place of `save_figure`: the asserts do not need the pictures."""
    import matplotlib.pyplot as plt
    plt.close(figure)


def main() -> int:
    """Run the lessons named on the command line and print the table."""
    tools.save_figure = no_figure
    left = 0
    for path in lesson_files():
        lesson = path.stem[:2]
        mutations = [Mutation(lesson, *entry) for entry in MUTATIONS.get(lesson, [])]
        if sys.argv[1:] and lesson not in sys.argv[1:]:
            continue
        table, outcomes = try_lesson(path, mutations)
        print(f"\n{path.name}: {len(table)} asserts, {len(mutations)} mutations")
        for text, numbers in table:
            print(f"  {text[:100]}")
            for number in sorted(numbers, key=lambda number: len(outcomes[number]["failed"]))[:1]:
                mutation = mutations[number]
                where = f"{mutation.file}: " if mutation.file else ""
                print(f"      fails with {where}{mutation.old.strip()!r} -> {mutation.new.strip()!r}")
            if not numbers:
                left += 1
                print("      NOTHING MAKES IT FAIL")
        for mutation, outcome in zip(mutations, outcomes):
            if not outcome["failed"]:
                left += 1
                print(f"  FAILS NOTHING: {mutation.old!r} -> {mutation.new!r} {outcome['error']}")
        sys.stdout.flush()
    print(f"\n{left} left to mend" if left else "\nevery assert can fail")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
