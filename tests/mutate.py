# SPDX-License-Identifier: Apache-2.0
"""Mutation check: change the core files in one place each, and report every change that no fast test notices.

    python tests/mutate.py --seed 1                    # 60 mutations, drawn from all places of all core files
    python tests/mutate.py --seed 1 --only model.py    # of one file
    python tests/mutate.py --list 20 --seed 1          # print what would be changed, and stop

A mutation changes one comparison, sign, constant, order of operands, axis or default, or removes one
statement. Each is tried in a copy of this checkout: first by the test files that import the module, then, if
these pass, by the complete fast tier. A mutation that nothing notices needs a test, or a reason why it makes
no difference.
"""
from __future__ import annotations

import argparse
import ast
import copy
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Iterator

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


def tests_naming(module: str) -> list[str]:
    """The test files that import this module, those with its name first."""
    pattern = re.compile(rf"^(?:import|from) {module}\b", re.MULTILINE)
    files = [path for path in sorted((ROOT / "tests").glob("test_*.py")) if pattern.search(path.read_text())]
    files.sort(key=lambda path: f"test_{module}" not in path.name)
    return [f"tests/{path.name}" for path in files]


def noticed(folder: Path, tests: list[str]) -> bool:
    """Whether a fast test fails in this copy, or does not come back."""
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests],
            cwd=folder, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        return True
    return done.returncode not in (0, 5)


def main() -> int:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("--seed", type=int, default=1, help="of the draw (default: 1)")
    parser.add_argument("--count", type=int, default=60, help="mutations (default: 60)")
    parser.add_argument("--only", metavar="FILE", help="of this core file only")
    parser.add_argument("--list", type=int, metavar="N", help="print N drawn mutations and stop")
    parser.add_argument("--nearest", action="store_true", help="only the test files that import the module")
    options = parser.parse_args()
    files = [options.only] if options.only else [f"{name}.py" for name in CORE]
    every = [(name, *site) for name in files for site in sites((ROOT / name).read_text(encoding="utf-8"))]
    print(f"{len(every)} places in {len(files)} files; seed {options.seed}", flush=True)
    drawn = random.Random(options.seed).sample(every, options.list or options.count)
    survivors = []
    with tempfile.TemporaryDirectory(prefix="stentor-mutate-") as scratch:
        folder = Path(scratch) / "checkout"
        if not options.list:
            outputs = shutil.ignore_patterns("runs", "corpora", "__pycache__", ".venv*", ".pytest_cache")
            shutil.copytree(ROOT, folder, ignore=outputs)
        for count, (name, line, kind, text, changed) in enumerate(drawn, 1):
            report = f"{count:3} {name}:{line} {kind}: {text[:150]}"
            if options.list:
                print(report)
                continue
            started, original = time.monotonic(), (ROOT / name).read_text(encoding="utf-8")
            (folder / name).write_text(changed)
            caught = noticed(folder, tests_naming(name[:-3])) or (not options.nearest and noticed(folder, []))
            (folder / name).write_text(original)
            result = "noticed" if caught else "NOT NOTICED"
            print(f"{report}  [{result}, {time.monotonic() - started:.0f} s]", flush=True)
            if not caught:
                survivors.append(report)
    if not options.list:
        print(f"{len(drawn) - len(survivors)} of {len(drawn)} noticed", *survivors, sep="\n")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
