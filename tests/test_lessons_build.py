# SPDX-License-Identifier: Apache-2.0
"""lessons/build.py: cells, the small Markdown, and one lesson built for real into a notebook and a page; the
recorded table of lesson 09.
"""
import ast
import base64
import json
import os
import re
import subprocess
import traceback
from html.parser import HTMLParser
from pathlib import Path

import pytest

from in_process import run_script

ROOT = Path(__file__).resolve().parent.parent
LESSONS = sorted((ROOT / "lessons").glob("[0-9][0-9]_*.py"))
XLA_PYTHON = Path(os.environ.get("STENTOR_ORACLES", "none")) / "xla" / "bin" / "python"


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """The module, imported with a home of its own for what lessons write."""
    before = os.environ.get("LESSON_HOME")
    os.environ["LESSON_HOME"] = str(tmp_path_factory.mktemp("home"))
    from lessons import build
    yield build
    os.environ.pop("LESSON_HOME")
    if before is not None:
        os.environ["LESSON_HOME"] = before


class Tags(HTMLParser):
    """Counts tags, and fails on one that is closed but not open."""

    VOID = {"meta", "img", "br"}

    def __init__(self, page: str):
        super().__init__()
        self.open, self.counts, self.addresses = [], {}, []
        self.feed(page)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.addresses += [value for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, (tag, self.open)
        self.open.pop()


def test_markdown(build):
    assert build.markdown_html("# A *b*\n\nsee `x * y` and\n**bold** [here](a.html)") == (
        '<h1>A <em>b</em></h1>\n<p>see <code>x * y</code> and <strong>bold</strong> '
        '<a href="a.html">here</a></p>'
    )
    assert build.markdown_html("- one\n  more\n- two") == "<ul><li>one more</li><li>two</li></ul>"
    assert build.markdown_html("1. one\n2. two") == "<ol><li>one</li><li>two</li></ol>"
    assert build.markdown_html("```text\na < b\n\nc\n```") == "<pre class=text>a &lt; b\n\nc</pre>"
    assert build.markdown_html("> said\n> so") == "<blockquote>said so</blockquote>"
    assert (
        build.markdown_html("| a | b |\n| --- | --- |\n| 1 | 2 |")
        == "<table><tr><th>a</th><th>b</th></tr><tr><td>1</td><td>2</td></tr></table>"
    )


def test_code_is_marked_and_complete(build):
    source = 'for x in range(3):  # three\n    print("<b>", x)'
    marked = build.code_html(source)
    assert (
        "<span class=k>for</span>" in marked
        and "<span class=c># three</span>" in marked
        and "&lt;b&gt;" in marked
    )
    assert re.sub(r"<[^>]+>", "", marked).replace("&lt;", "<").replace("&gt;", ">") == source


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_every_lesson_becomes_cells_and_html_without_leftovers(build, path):
    """All text of the lesson is in a cell, the code parses, and no mark of Markdown is left in the page."""
    text = path.read_text(encoding="utf-8")
    cells = build.cells_of(text)
    assert cells[0].kind == "markdown" and cells[-1].kind == "markdown"
    for cell in cells:
        if cell.kind == "code":
            ast.parse(cell.source)
    page = build.page_of(cells, build.links_of(LESSONS, LESSONS.index(path)))
    assert Tags(page).counts["h1"] == 1
    prose = re.sub(r"<pre.*?</pre>|<code>.*?</code>|<style>.*?</style>", "", page, flags=re.S)
    assert not re.search(r"\*\*|`|^#|^\||\]\(", prose, flags=re.M), re.search(
        r".*(\*\*|`|^#|^\||\]\().*", prose, flags=re.M
    )[0]


def test_a_lesson_is_built_with_its_outputs(build, tmp_path, monkeypatch):
    from lessons import tools
    for name, value in (("FAST", True), ("HOME", tmp_path), ("OUT", tmp_path / "runs")):
        monkeypatch.setattr(tools, name, value)
    done = run_script("lessons/build.py", "07", "--out", tmp_path / "built", folder=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(file.name for file in (tmp_path / "built").iterdir()) == [
        "07_block_size.html",
        "07_block_size.ipynb",
        "glossary.html",
        "index.html",
    ]

    notebook = json.loads((tmp_path / "built" / "07_block_size.ipynb").read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4 and notebook["cells"][0]["source"].startswith("# 7.")
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    printed = "".join(output["text"] for output in outputs if output["output_type"] == "stream")
    assert "20,324,160" in printed and "figure:" not in printed
    pictures = [
        base64.b64decode(output["data"]["image/png"])
        for output in outputs
        if output["output_type"] == "display_data"
    ]
    assert len(pictures) == 3 and all(picture.startswith(b"\x89PNG") for picture in pictures)

    page = (tmp_path / "built" / "07_block_size.html").read_text(encoding="utf-8")
    tags = Tags(page)
    assert tags.counts["img"] == 3 and "20,324,160" in page and "prefers-color-scheme: dark" in page
    assert all(
        address.startswith("data:image/svg+xml;base64,") or re.fullmatch(r"[\w]+\.html", address)
        for address in tags.addresses
    )
    index = (tmp_path / "built" / "index.html").read_text(encoding="utf-8")
    assert len(Tags(index).addresses) == len(LESSONS) + 1 and 'href="glossary.html"' in index
    glossary = (tmp_path / "built" / "glossary.html").read_text(encoding="utf-8")
    assert Tags(glossary).counts["tr"] > 50 and "perplexity" in glossary
    assert page.count("<details>") > 3 and page.count('href="glossary.html"') == 2


def test_an_unknown_lesson_is_one_clear_line(tmp_path):
    done = run_script("lessons/build.py", "99", folder=tmp_path)
    assert (
        done.returncode == 2
        and len(done.stderr.strip().splitlines()) == 1
        and "no lesson begins with 99" in done.stderr
    )


def test_a_cell_that_fails_is_named(build, tmp_path):
    lesson = tmp_path / "01_wrong.py"
    lesson.write_text("# %% [markdown]\n# # Title\n# %%\nx = 1\n# %%\nassert x == 2\n")
    with pytest.raises(AssertionError) as caught:
        build.run_cells(build.cells_of(lesson.read_text(encoding="utf-8")), lesson)
    assert "01_wrong.py, cell 3" in "".join(traceback.format_exception(caught.type, caught.value, caught.tb))


@pytest.mark.ci
@pytest.mark.skipif(not XLA_PYTHON.is_file(),
    reason="STENTOR_ORACLES names no folder with the environment xla (torch_xla 2.9)")
def test_the_recorded_table_of_lesson_09_is_what_xla_counts():
    tree = ast.parse((ROOT / "lessons" / "09_precision.py").read_text(encoding="utf-8"))
    values = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "RECORDED"
    ]
    recorded = ast.literal_eval(values[0])
    environment = {**os.environ, "PJRT_DEVICE": "CPU"}
    done = subprocess.run(
        [str(XLA_PYTHON), str(ROOT / "lessons" / "xla_graphs.py")],
        capture_output=True,
        text=True,
        env=environment,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == recorded
