# SPDX-License-Identifier: Apache-2.0
"""Python's documentation and library source: real text that every Python installation carries.

    web    English prose: the language reference (`pydoc_data.topics`) and the library's docstrings
    code   the library's source

Each module of the standard library gives its docstrings to `web` or its source to `code`, never both: the
hash of its name decides. The documents are the same for one Python version. `python data.py prepare --source
python-docs` makes a corpus of them.
"""

from __future__ import annotations

import ast
import hashlib
import sys
import sysconfig
from pathlib import Path
from typing import Iterator

KINDS = ("web", "code")
# Share of the modules that give their source. It is several times as long as docstrings, and the mixture
# needs more prose than code.
CODE_SHARE = 0.2
# Packages left out: some installations lack them, or they hold tables, or `topics` has their text.
SKIPPED = {"test", "tests", "encodings", "pydoc_data", "idle_test"}


def python_documents(kind: str) -> Iterator[tuple[str, str]]:
    """Yield (id, text) for "web" or "code", always in the same order; the texts are not cleaned yet."""
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


def standard_modules() -> list[tuple[str, Path]]:
    """(dotted name, file) of every module of the standard library that is written in Python."""
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
    """The docstrings of a module, its classes and its functions, each after its dotted name."""
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
