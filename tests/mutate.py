# SPDX-License-Identifier: Apache-2.0
"""Mutation check: change the core files in one place each, and report every change that no fast test notices.

    python tests/mutate.py --seed 1 2                  # 60 mutations a seed, from all core files
    python tests/mutate.py --seed 1 --only model.py    # of one file
    python tests/mutate.py --list 20 --seed 1          # print what would be changed, and stop

A mutation changes one comparison, sign, constant, order of operands, axis or default, or removes one
statement, in a copy of this checkout. The fast tier runs there once unchanged, and records which functions of
the core files each test calls. A mutation is then tried by the tests that call its function, the fastest
files first; if these pass, by those that call something else in its file, then by those that start a program.
No other test can notice it, but for those that read the source, and these are not asked. A mutation that
nothing notices needs a test, or a reason why it makes no difference.

Each attempt is a forked copy of this process, which has torch imported already (POSIX only).
"""
from __future__ import annotations

import argparse
import ast
import copy
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Iterator

import pytest
import safetensors.torch  # noqa: F401  so that the forked processes need not import torch

ROOT = Path(__file__).resolve().parent.parent
CORE = ["common", "tokenizer", "model", "params", "precision", "data", "sample", "train", "evaluate"]
COMPARISONS = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
               ast.NotEq: ast.Eq, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is}
OPERATORS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
             ast.Mod: ast.Mult, ast.Pow: ast.Mult}
REMOVABLE = (ast.Assign, ast.AugAssign, ast.Expr, ast.Raise)
SECONDS = 600                                           # a mutation that makes a test hang is noticed


def mutants_of(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """(what changes, the changed node) for each mutation of this node alone."""
    changed = copy.deepcopy(node)
    if isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARISONS:
        changed.ops[0] = COMPARISONS[type(node.ops[0])]()
        yield "comparison", changed
    elif isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        changed.op = OPERATORS[type(node.op)]()
        yield "operator", changed
        if isinstance(node.op, (ast.Sub, ast.Div, ast.MatMult)):
            swapped = copy.deepcopy(node)
            swapped.left, swapped.right = swapped.right, swapped.left
            yield "order of operands", swapped
    elif isinstance(node, ast.BoolOp):
        changed.op = ast.And() if isinstance(node.op, ast.Or) else ast.Or()
        yield "and / or", changed
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Not)):
        yield "sign", changed.operand
    elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
        changed.value = node.value + 1 if type(node.value) is int else node.value * 1.5 + 0.1
        yield "constant", changed
    elif isinstance(node, ast.Constant) and type(node.value) is bool:
        changed.value = not node.value
        yield "default" if node.value is False else "constant", changed
    elif isinstance(node, ast.keyword) and node.arg in ("dim", "axis") and ast.unparse(node.value) != "0":
        changed.value = ast.Constant(0)
        yield "axis", changed


def is_docstring(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def nodes_of(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below this one but those inside f-strings, whose positions Python 3.11 does not know."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.JoinedStr):
            yield child
            yield from nodes_of(child)


def sites(source: str) -> list[tuple[int, str, str, str]]:
    """Every mutation of a module's text: (line, kind, before -> after, the text with it)."""
    lines = source.encode().splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    found = []

    def add(node: ast.AST, kind: str, after: str) -> None:
        begin = starts[node.lineno - 1] + node.col_offset
        end = starts[node.end_lineno - 1] + node.end_col_offset
        before = source.encode()[begin:end].decode()
        changed = source.encode()[:begin] + after.encode() + source.encode()[end:]
        found.append((node.lineno, kind, f"{' '.join(before.split())}  ->  {after}", changed.decode()))

    for node in nodes_of(ast.parse(source)):
        if isinstance(node, REMOVABLE) and not is_docstring(node):
            add(node, "removed", "pass")
        for kind, changed in mutants_of(node):
            text = ast.unparse(changed)
            add(node, kind, text if isinstance(changed, (ast.keyword, ast.Constant)) else f"({text})")
    return found


def function_at(source: str, line: int) -> int | None:
    """The first line of the innermost function around a line, None outside of functions."""
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    first = {node: min([node.lineno, *(found.lineno for found in node.decorator_list)]) for node in functions}
    return max((first[node] for node in functions if first[node] <= line <= node.end_lineno), default=None)


class Calls:
    """A pytest plugin that records of each test: its seconds, whether it starts a program, and which
    functions of the core files (name, first line) it or one of its fixtures calls.
    """

    def __init__(self, folder: Path):
        self.names = {str(folder / f"{name}.py"): f"{name}.py" for name in CORE}
        self.now: set[tuple[str, int]] = set()
        self.of_fixture: dict[Any, set[tuple[str, int]]] = {}     # of those that several tests share
        self.starts, self.tests = False, []
        sys.addaudithook(self.audit)

    def audit(self, event: str, _: tuple) -> None:
        if event in ("subprocess.Popen", "os.fork"):
            self.starts = True

    def trace(self, frame: Any, *_: Any) -> None:
        name = self.names.get(frame.f_code.co_filename)
        if name:
            self.now.add((name, frame.f_code.co_firstlineno))

    @pytest.hookimpl(hookwrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Iterator[None]:
        outside, self.now = self.now, set()
        yield
        self.of_fixture.setdefault(fixturedef, set()).update(self.now)
        self.now = outside

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: Any) -> Iterator[None]:
        self.now, self.starts, started = set(), False, time.monotonic()
        sys.settrace(self.trace)
        yield
        sys.settrace(None)
        fixtures = [found for several in item._fixtureinfo.name2fixturedefs.values() for found in several]
        calls = self.now.union(*(self.of_fixture.get(found, ()) for found in fixtures))
        self.tests.append({"id": item.nodeid, "seconds": time.monotonic() - started, "starts": self.starts,
                           "calls": sorted(calls)})


def in_copy(folder: Path, tests: list[str], record: Path | None = None) -> int:
    """The exit code of pytest on these tests in the copy at `folder`, in a forked process.

    With `record`, all tests run, and what `Calls` found is written into that file.
    """
    child = os.fork()
    if child == 0:
        code = 70
        try:
            os.setsid()
            os.chdir(folder)
            sys.path[:] = [place for place in sys.path if not place or ROOT not in Path(place).parents]
            os.environ.update(OMP_NUM_THREADS="1", PYTHONDONTWRITEBYTECODE="1")
            sys.dont_write_bytecode = True
            nowhere = os.open(os.devnull, os.O_RDWR)
            for descriptor in (0, 1, 2):
                os.dup2(nowhere, descriptor)
            calls = [Calls(folder)] if record else []
            options = ["-n0"] if record else ["-x", "-n0"]
            code = pytest.main(["-q", "-p", "no:cacheprovider", *options, *tests], plugins=calls)
            if record:
                record.write_text(json.dumps(calls[0].tests))
        finally:
            os._exit(code)
    give_up = time.monotonic() + (4 * SECONDS if record else SECONDS)
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > give_up:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return -signal.SIGKILL
        time.sleep(0.05)


def cheapest_first(tests: list[dict]) -> list[str]:
    """The ids of these tests, file by file: a file's own set-up is then made once."""
    seconds: dict[str, float] = {}
    for test in tests:
        file = test["id"].split("::")[0]
        seconds[file] = seconds.get(file, 0) + test["seconds"]
    tests = sorted(tests, key=lambda test: (seconds[test["id"].split("::")[0]], test["id"].split("::")[0],
                                            test["seconds"]))
    return [test["id"] for test in tests]


def noticed(folder: Path, record: list[dict], name: str, function: int | None) -> bool:
    """Whether a test fails in this copy, or does not come back.

    An object that one test made may be used by others, which call none of its functions: after the tests that
    call the function come those that call another one in its file, then those that start a program.
    """
    def called(test: dict, line: int | None) -> bool:
        return any(file == name and line in (None, first) for file, first in test["calls"])

    near = [test for test in record if called(test, function)]
    same_file = [test for test in record if called(test, None) and test not in near]
    starts = [test for test in record if test["starts"] and test not in near and test not in same_file]
    for tests in (near, same_file, starts):
        if tests and in_copy(folder, cheapest_first(tests)) not in (0, 5):
            return True
    return False


def main() -> int:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("--seed", type=int, nargs="+", default=[1], help="of the draws (default: 1)")
    parser.add_argument("--count", type=int, default=60, help="mutations a seed (default: 60)")
    parser.add_argument("--only", metavar="FILE", help="of this core file only")
    parser.add_argument("--list", type=int, metavar="N", help="print N drawn mutations a seed and stop")
    options = parser.parse_args()
    files = [options.only] if options.only else [f"{name}.py" for name in CORE]
    every = [(name, *site) for name in files for site in sites((ROOT / name).read_text(encoding="utf-8"))]
    print(f"{len(every)} places in {len(files)} files", flush=True)
    draws = {seed: random.Random(seed).sample(every, options.list or options.count) for seed in options.seed}
    if options.list:
        for seed, drawn in draws.items():
            print(f"seed {seed}", *(described(*mutation) for mutation in drawn), sep="\n")
        return 0
    survivors = 0
    with tempfile.TemporaryDirectory(prefix="stentor-mutate-") as scratch:
        folder, record = Path(scratch).resolve() / "checkout", Path(scratch) / "calls.json"
        outputs = shutil.ignore_patterns("runs", "corpora", "__pycache__", ".venv*", ".pytest_cache")
        shutil.copytree(ROOT, folder, ignore=outputs)
        if code := in_copy(folder, [], record):
            print(f"without a mutation, the fast tier ends with exit code {code}", file=sys.stderr)
            return 2
        tests = json.loads(record.read_text())
        print(f"{len(tests)} tests, {sum(test['seconds'] for test in tests):.0f} s", flush=True)
        for seed, drawn in draws.items():
            survivors += tried(folder, tests, seed, drawn)
    return 1 if survivors else 0


def described(name: str, line: int, kind: str, text: str, changed: str) -> str:
    """A mutation in one line."""
    return f"{name}:{line} {kind}: {text[:150]}"


def tried(folder: Path, tests: list[dict], seed: int, drawn: list[tuple]) -> int:
    """Try these mutations, print the result of each, and return how many nothing noticed."""
    survivors = []
    for count, (name, line, kind, text, changed) in enumerate(drawn, 1):
        started, original = time.monotonic(), (ROOT / name).read_text(encoding="utf-8")
        (folder / name).write_text(changed, encoding="utf-8")
        caught = noticed(folder, tests, name, function_at(original, line))
        (folder / name).write_text(original, encoding="utf-8")
        report = f"{count:3} {described(name, line, kind, text, changed)}"
        result = "noticed" if caught else "NOT NOTICED"
        print(f"{report}  [{result}, {time.monotonic() - started:.0f} s]", flush=True)
        if not caught:
            survivors.append(report)
    print(f"seed {seed}: {len(drawn) - len(survivors)} of {len(drawn)} noticed", *survivors, sep="\n",
          flush=True)
    return len(survivors)


if __name__ == "__main__":
    sys.exit(main())
