# SPDX-License-Identifier: Apache-2.0
"""The course runs: every lesson in a fresh process, and in the form that its readers rely on.

Prose is checked as well as code: each number in it is in an `assert` of the cell below, each
`file.py:symbol` exists (test_house.py).
"""
import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from lesson_mutations import MUTATIONS

ROOT = Path(__file__).resolve().parent.parent
LESSONS = sorted((ROOT / "lessons").glob("[0-9][0-9]_*.py"))
NAMES = [lesson.stem for lesson in LESSONS]
ROOMS = sorted(start.parent.name for start in ROOT.glob("*/__init__.py"))
CORE = ("common", "model", "params", "precision", "tokenizer", "data", "sample", "evaluate", "train")
LIBRARIES = {"numpy", "torch", "matplotlib", "safetensors", "extras", "lessons", *ROOMS, *CORE}
HEADER = '''\
import sys
from pathlib import Path

place = Path(globals().get("__file__", "lesson.py")).resolve()         # a notebook has no __file__
sys.path.insert(0, str(next(folder for folder in place.parents if (folder / "model.py").is_file())))
'''


# -------------------------------------------------------------------------------------------------- the cells

def cells_of(source: str) -> list[tuple[str, str]]:
    """("markdown" or "code", text) of each cell of a file in percent format; prose without its comment signs.
    """
    cells = []
    for part in re.split(r"^# %%", source, flags=re.MULTILINE)[1:]:
        title, _, body = part.partition("\n")
        if title.strip() == "[markdown]":
            lines = body.strip("\n").splitlines()
            assert all(line == "#" or line.startswith("# ") for line in lines if line), (
                f"code in a markdown cell: {lines[:3]}"
            )
            cells.append(("markdown", "\n".join(line[2:] for line in lines)))
        else:
            cells.append(("code", body.strip("\n") + "\n"))
    return cells


def test_cells_are_read():
    assert cells_of("# SPDX\n# %% [markdown]\n# # 1. T\n#\n# text\n\n# %%\nx = 1\n") == [
        ("markdown", "# 1. T\n\ntext"),
        ("code", "x = 1\n"),
    ]


# --------------------------------------------------------------------------------------- numbers in the prose

NUMBER = re.compile(r"(?<![\w.,])[-−+]?\d[\d,]*(?:\.\d+)?(?:[eE][-+]?\d+)?(?:\s?%)?(?![\w])")


def numbers_in_prose(markdown: str) -> list[str]:
    """The numbers that a text states: not those of code, equations, headings, citations, list markers and
    names of lessons.
    """
    text = re.sub(r"^```.*?^```", "", markdown, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"`[^`]*`", "`code`", text)
    text = re.sub(r"^#.*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"\([^()]*\b(?:18|19|20)\d\d[^()]*\)", "", text)
    text = re.sub(r"\b[Ll]essons?\s+\d\d(?:(?:,| and| to)\s+\d\d)*", "", text)
    text = re.sub(r"^\s*\d+\. ", "", text, flags=re.MULTILINE)
    return [match.rstrip(",") for match in NUMBER.findall(text)]


def value_of(number: str) -> tuple[float, ...]:
    """The values that a literal in an assert may have to stand for this number: 75% is 75 or 0.75."""
    value = float(re.sub(r"[,%\s+]", "", number).replace("−", "-"))
    return (value, abs(value), value / 100, abs(value) / 100) if "%" in number else (value, abs(value))


def asserted(code: str) -> set[float]:
    """All number literals inside the assert statements of a cell."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Assert):
            found |= {
                float(inner.value)
                for inner in ast.walk(node.test)
                if isinstance(inner, ast.Constant) and type(inner.value) in (int, float)
            }
    return found


def unproved_numbers(cells: list[tuple[str, str]]) -> list[str]:
    """Numbers of the prose that no assert holds: of the next code cell, or of any cell for the prose after
    the last one.
    """
    everywhere = set().union(*(asserted(text) for kind, text in cells if kind == "code"))
    found = []
    for index, (kind, text) in enumerate(cells):
        if kind == "markdown":
            below = next((asserted(code) for later, code in cells[index + 1:] if later == "code"), everywhere)
            found += [
                number
                for number in numbers_in_prose(text)
                if not any(value in below for value in value_of(number))
            ]
    return found


def test_unproved_numbers_are_found():
    prose = (
        "## Section 3\nIt has 1,048,576 weights, falls by 12.5% to -3.5 (Su et al. 2021, section 3.2), as "
        "in lesson 04 and `x[7]`.\n"
        "1. first\n2. with 99 things, 4 times\n```text\n8 + 9\n```"
    )
    assert numbers_in_prose(prose) == ["1,048,576", "12.5%", "-3.5", "99", "4"]
    code = "y = 99\nassert n == 2**20 and n == 1_048_576 and share == 0.125 and abs(x + 3.5) < 0.1"
    assert unproved_numbers([("markdown", prose), ("code", code)]) == ["99", "4"]
    assert unproved_numbers([("code", "assert x == 99"), ("markdown", "99 and 4")]) == ["4"]
    assert unproved_numbers([("code", "assert x == 99"), ("markdown", "99"), ("code", "x = 99")]) == ["99"]


# -------------------------------------------------------------------------------------- the rules of the form

def project_names() -> set[str]:
    """Every function and class that a module of the core or an extra defines at its top level."""
    files = [ROOT / f"{name}.py" for name in CORE] + sorted(
        file for room in ROOMS for file in (ROOT / room).glob("*.py")
    )
    return {
        node.name
        for file in files
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef))
    }


def wrong_definitions(tree: ast.Module, taken: set[str]) -> list[str]:
    """Classes, functions that a module of the project defines too, and naive_ twins that no assert compares
    with anything.

    A twin may be compared through a variable: it counts if it, or a name assigned from a line with it, is in
    an assert.
    """
    found, judged = [], " ".join(ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Assert))
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            found.append(f"class {node.name}")
        if isinstance(node, ast.FunctionDef) and node.name in taken:
            found.append(f"{node.name} is defined by the project")
        if isinstance(node, ast.FunctionDef) and node.name.startswith("naive_"):
            names = {node.name}
            for statement in ast.walk(tree):
                if isinstance(statement, ast.Assign) and re.search(
                    rf"\b{node.name}\b", ast.unparse(statement.value)
                ):
                    names |= {
                        inner.id
                        for target in statement.targets
                        for inner in ast.walk(target)
                        if isinstance(inner, ast.Name)
                    }
            if not any(re.search(rf"\b{name}\b", judged) for name in names):
                found.append(f"{node.name} is never compared")
    return found


def test_wrong_definitions_are_found():
    code = "class A: pass\ndef rotate(x): pass\ndef naive_a(): pass\ndef naive_b(): pass\n"
    code += "y = naive_b()\nassert y == 1"
    assert wrong_definitions(ast.parse(code), {"rotate"}) == [
        "class A",
        "rotate is defined by the project",
        "naive_a is never compared",
    ]


def foreign_imports(tree: ast.Module) -> set[str]:
    """What a lesson imports beyond the standard library, the project and the libraries that it is installed
    with.
    """
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            found.add(node.module.split(".")[0])
    return found - LIBRARIES - set(sys.stdlib_module_names) - {"__future__"}


def test_the_lessons_are_numbered_in_sequence():
    assert [name[:2] for name in NAMES] == [f"{number:02}" for number in range(1, 15)]


@pytest.mark.parametrize("lesson", LESSONS, ids=NAMES)
def test_a_lesson_has_the_form_of_the_course(lesson):
    """Question and prediction first; the header; prose and code; the answer; results; exercises last."""
    source = lesson.read_text(encoding="utf-8")
    cells = cells_of(source)
    prose = [text for kind, text in cells if kind == "markdown"]
    code = [text for kind, text in cells if kind == "code"]
    assert cells[0][0] == "markdown" and prose[0].startswith(f"# {int(lesson.stem[:2])}. ")
    assert "\n**Question.** " in prose[0] and "\n**Prediction.** " in prose[0]
    assert cells[1][0] == "code" and code[0].startswith(HEADER)
    assert any("## Back to the question" in text for text in prose)
    assert "results = {" in code[-1] and f'finish("{lesson.stem}", results)' in code[-1]
    assert cells[-1][0] == "markdown" and "## Exercises" in prose[-1]
    exercises = re.findall(r"^(\d)\. ", prose[-1].split("## Exercises")[1], flags=re.MULTILINE)
    assert exercises in (["1", "2"], ["1", "2", "3"])
    assert f'draw_shapes("{lesson.stem[:2]}_shapes", ' in source, "a lesson draws what flows through it"
    assert re.search(r"`[\w/]+\.py:\w", source), "a lesson points at the real code"
    assert not re.search(r"\b\w+\.py:\d|\b\w+\.py,? line \d", source), (
        "reference by symbol, never by line number"
    )
    assert "seed" in source
    assert not [line for line in source.splitlines() if len(line) > 120], (
        "a line does not fit into a notebook"
    )


@pytest.mark.parametrize("lesson", LESSONS, ids=NAMES)
def test_numbers_in_the_prose_are_asserted(lesson):
    assert unproved_numbers(cells_of(lesson.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("lesson", LESSONS, ids=NAMES)
def test_a_lesson_uses_the_real_modules(lesson):
    tree = ast.parse(lesson.read_text(encoding="utf-8"))
    assert foreign_imports(tree) == set()
    assert wrong_definitions(tree, project_names()) == []


@pytest.mark.parametrize("lesson", LESSONS, ids=NAMES)
def test_prose_stays_within_the_markdown_that_is_built(lesson):
    """`lessons/build.py` renders a small part of Markdown; no LaTeX, no images, no HTML, no nested lists."""
    for kind, text in cells_of(lesson.read_text(encoding="utf-8")):
        if kind == "markdown":
            plain = re.sub(r"`[^`]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
            assert "$" not in plain and "![" not in plain and not re.search(r"</?[a-z]+>", plain), text
            assert not re.search(r"^[ \t]+(?:[-*]|\d+\.) ", plain, flags=re.MULTILINE), (
                f"a nested list: {text}"
            )


def test_each_change_of_the_table_finds_its_text():
    """The rows of lesson_mutations.py; `python tests/mutate_lessons.py` tries what they do."""
    lost = []
    for lesson in LESSONS:
        cells = cells_of(lesson.read_text(encoding="utf-8"))
        code = [text for kind, text in cells if kind == "code"]
        for old, _, *rest in MUTATIONS[lesson.stem[:2]]:
            file, before = (*rest, None, "")[:2]
            places = sum((before if file else old) in text for text in code)
            if places != 1 or file and (ROOT / file).read_text(encoding="utf-8").count(old) != 1:
                lost.append((lesson.stem, old))
    assert not lost


# --------------------------------------------------------------------------------------------------- they run

@pytest.fixture(scope="module")
def home(tmp_path_factory, generated):
    """One folder for what all lessons write. The built-in mathematics is in it before a lesson's time is
    taken: a reader prepares it once.
    """
    folder = tmp_path_factory.mktemp("lessons")
    shutil.copytree(generated, folder / "corpora" / "lesson-math")
    return folder


@pytest.mark.ci
@pytest.mark.parametrize("fast", [True, False], ids=["fast", "full"])
@pytest.mark.parametrize("lesson", LESSONS, ids=NAMES)
def test_a_lesson_runs(lesson, home, fast):
    """In a fresh process. `pytest -m ci tests/test_lessons.py --durations=30` prints how long each takes."""
    environment = {
        **os.environ,
        "LESSON_HOME": str(home),
        "LESSON_FAST": str(int(fast)),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    environment.pop("STENTOR_SHARED", None)                       # offline, and from the project alone
    done = subprocess.run(
        [sys.executable, str(lesson)], cwd=home, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, f"{lesson.name}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    out = home / "runs" / "lessons"
    results = json.loads((out / f"{lesson.stem}.json").read_text(encoding="utf-8"))
    assert results and all(type(value) in (int, float, bool, str) for value in results.values())
    figures = re.findall(r"^figure: (\S+) in ", done.stdout, flags=re.MULTILINE)
    assert set(figures) == set(
        re.findall(r'(?:save_figure\([\w.]+, |draw_shapes\()"([^"]+)"', lesson.read_text(encoding="utf-8"))
    )
    for figure in figures:
        assert figure.startswith(lesson.stem[:2] + "_")
        assert (out / f"{figure}.png").read_bytes().startswith(b"\x89PNG") and "<svg" in (
            out / f"{figure}.svg"
        ).read_text(encoding="utf-8")
