# SPDX-License-Identifier: Apache-2.0
"""The course as notebooks and pages, in lessons/built/: `python lessons/build.py` runs every lesson once.

    NN_name.ipynb    the cells with their outputs and figures, for Jupyter, Colab or Kaggle
    NN_name.html     one page that needs nothing else, readable in dark and light
    index.html       the list of lessons, with minutes and what each needs
    glossary.html    the words of the course (from TEACHING.md)

A lesson is a Python file in percent format: `# %% [markdown]` begins a cell of prose, `# %%` one of code. The
cells of a lesson run one after the other in one namespace, as in a notebook; what a cell prints, and the
figures it names ("figure: 06_causality in ..."), become its outputs. The prose uses a small part of
Markdown, and `page_of` turns exactly that part into HTML.
"""
from __future__ import annotations

import ast
import base64
import contextlib
import html
import io
import itertools
import json
import keyword
import re
import sys
import time
import tokenize
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from common import Parser, UserError, atomic_write, run  # noqa: E402
from lessons import tools  # noqa: E402


@dataclass
class Cell:
    """A cell of a lesson: kind ("markdown" or "code"), text, and the output of its code once it has run."""

    kind: str
    source: str
    printed: str = ""
    figures: list[str] = field(default_factory=list)


# ------------------------------------------------------------------------------------ cells, and running them

def cells_of(text: str) -> list[Cell]:
    """The cells of a lesson. The text before the first one (the licence line) belongs to no cell.

    >>> text = "# head\\n# %% [markdown]\\n# # Title\\n\\n# %%\\nx = 1\\n"
    >>> [(cell.kind, cell.source) for cell in cells_of(text)]
    [('markdown', '# Title'), ('code', 'x = 1')]
    """
    pieces = re.split(r"^# %%(.*)\n", text, flags=re.M)
    cells = []
    for mark, source in zip(pieces[1::2], pieces[2::2]):
        if "[markdown]" in mark:
            lines = [line.removeprefix("#").removeprefix(" ") for line in source.strip().splitlines()]
            cells.append(Cell("markdown", "\n".join(lines).strip()))
        else:
            cells.append(Cell("code", source.strip()))
    return [cell for cell in cells if cell.source]


def run_cells(cells: list[Cell], path: Path) -> None:
    """Run the code cells in their order, in one namespace, and keep what each prints and draws.

    A traceback names lesson and cell.
    """
    namespace = {"__name__": "__main__", "__file__": str(path)}
    tools.STARTED = time.monotonic()  # a lesson says how long it took, not how long all did
    for number, cell in enumerate(cells, 1):
        if cell.kind != "code":
            continue
        printed = io.StringIO()
        program = compile(cell.source, f"{path.name}, cell {number}", "exec")
        with contextlib.redirect_stdout(printed):
            exec(program, namespace)
        lines = printed.getvalue().splitlines()
        cell.figures = [line.split()[1] for line in lines if line.startswith("figure: ")]
        cell.printed = "\n".join(line for line in lines if not line.startswith("figure: "))


def image(name: str, kind: str) -> str:
    """A figure of a lesson as base64 text; `kind` is png or svg."""
    return base64.b64encode((tools.OUT / f"{name}.{kind}").read_bytes()).decode()


# -------------------------------------------------------------------------------------------------- notebooks

def notebook_of(cells: list[Cell]) -> dict:
    """A notebook (format 4.4) with outputs."""
    written = []
    for number, cell in enumerate(cells, 1):
        if cell.kind == "markdown":
            written.append({"cell_type": "markdown", "metadata": {}, "source": cell.source})
            continue
        outputs = []
        if cell.printed:
            outputs.append({"output_type": "stream", "name": "stdout", "text": cell.printed + "\n"})
        for name in cell.figures:
            outputs.append(
                {
                    "output_type": "display_data",
                    "metadata": {},
                    "data": {"image/png": image(name, "png"), "text/plain": name},
                }
            )
        written.append(
            {
                "cell_type": "code",
                "metadata": {},
                "execution_count": number,
                "outputs": outputs,
                "source": cell.source,
            }
        )
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"cells": written, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 4}


# ------------------------------------------------------------------------------------------------------ pages

def inline(text: str) -> str:
    """Markdown inside a line: `code`, **bold**, *italics*, [links](address).

    >>> inline("a < `b * c` and **d**")
    'a &lt; <code>b * c</code> and <strong>d</strong>'
    """
    pieces = re.split(r"(`[^`]+`)", text)
    for i, piece in enumerate(pieces):
        escaped = html.escape(piece, quote=False)
        if piece.startswith("`") and len(piece) > 2:
            pieces[i] = f"<code>{escaped[1:-1]}</code>"
            continue
        escaped = re.sub(r"\[([^\]]+)\]\(([^)\s]+)\)", r'<a href="\2">\1</a>', escaped)
        escaped = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", escaped, flags=re.S)
        pieces[i] = re.sub(r"(?<!\*)\*([^*\s][^*]*)\*", r"<em>\1</em>", escaped)
    return "".join(pieces).replace("\n", " ")


def table_html(lines: list[str]) -> str:
    """A pipe table; its second line is the rule under the head."""
    rows = [[inline(cell.strip()) for cell in line.strip().strip("|").split("|")] for line in lines]
    head = "".join(f"<th>{cell}</th>" for cell in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows[2:])
    return f"<table><tr>{head}</tr>{body}</table>"


def markdown_html(text: str) -> str:
    """The lessons' part of Markdown as HTML: headings, paragraphs, lists, quotes, fenced blocks, tables."""
    result = []
    fenced = re.split(r"^```\w*\n(.*?)^```$", text, flags=re.M | re.S)
    for number, part in enumerate(fenced):
        if number % 2:
            result.append(f"<pre class=text>{html.escape(part.rstrip(), quote=False)}</pre>")
            continue
        for block in re.split(r"\n\s*\n", part.strip()):
            if block.strip():
                result.append(block_html(block))
    return "\n".join(result)


def block_html(block: str) -> str:
    """One block between blank lines."""
    heading = re.match(r"(#{1,3}) (.+)", block)
    if heading:
        level = len(heading[1])
        return f"<h{level}>{inline(heading[2])}</h{level}>"
    lines = block.splitlines()
    if lines[0].startswith("|"):
        return table_html(lines)
    if lines[0].startswith("> "):
        return (
            "<blockquote>"
            + inline("\n".join(line.removeprefix(">").strip() for line in lines))
            + "</blockquote>"
        )
    for tag, mark in (("ul", r"- "), ("ol", r"\d+\. ")):
        if re.match(mark, lines[0]):
            items = re.split(rf"^{mark}", block, flags=re.M)[1:]
            return (
                f"<{tag}>"
                + "".join(f"<li>{inline(' '.join(item.split()))}</li>" for item in items)
                + f"</{tag}>"
            )
    return f"<p>{inline(block)}</p>"


def code_html(source: str) -> str:
    """Python with comments, texts and keywords marked."""
    lines = source.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    pieces = []
    done = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        kind = {tokenize.COMMENT: "c", tokenize.STRING: "s"}.get(token.type)
        if token.type == tokenize.NAME and keyword.iskeyword(token.string):
            kind = "k"
        if kind:
            first = starts[token.start[0] - 1] + token.start[1]
            last = starts[token.end[0] - 1] + token.end[1]
            pieces.append(html.escape(source[done:first], quote=False))
            pieces.append(f"<span class={kind}>{html.escape(source[first:last], quote=False)}</span>")
            done = last
    return "".join(pieces) + html.escape(source[done:], quote=False)


def folded(source: str) -> list[tuple[str, bool]]:
    """A cell's code in pieces, each with whether the page folds it.

    Folded are the imports (the first cell), the asserts, and the code of the drawing.
    """
    if source.startswith("import sys\nfrom pathlib import Path"):
        return [(source, True)]
    lines = source.splitlines()
    kinds = [False] * len(lines)
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assert) or ast.unparse(node).startswith("draw_shapes("):
            kinds[node.lineno - 1:node.end_lineno] = [True] * (node.end_lineno - node.lineno + 1)
    pieces = []
    for is_folded, group in itertools.groupby(range(len(lines)), key=kinds.__getitem__):
        text = "\n".join(lines[number] for number in group).strip("\n")
        if text:
            pieces.append((text, is_folded))
    return pieces


def code_or_folded(piece: tuple[str, bool]) -> str:
    """A piece of code as HTML: open, or folded under one line."""
    source, is_folded = piece
    shown = f"<pre class=code>{code_html(source)}</pre>"
    if not is_folded:
        return shown
    titles = {"assert": "checks of the numbers in the text", "draw_s": "code of the drawing"}
    title = titles.get(source[:6], "imports")
    return f"<details><summary>{title}</summary>{shown}</details>"


STYLE = """
:root { color-scheme: light dark; --back: #fff; --text: #1d2127; --soft: #f4f5f7; --line: #d8dce2;
  --accent: #0b5fa5;
  --c: #5c6672; --s: #2f6f37; --k: #8a3a8f }
@media (prefers-color-scheme: dark) {
  :root { --back: #15181c; --text: #dfe3e8; --soft: #1e2329; --line: #363d46; --accent: #7db8ec;
    --c: #98a2ae; --s: #94cf9b; --k: #d9a0de }
}
body { margin: 0 auto; padding: 1.5rem; max-width: 60rem; background: var(--back); color: var(--text); font:
1.05rem/1.6 system-ui, sans-serif } a { color: var(--accent) } code, pre { font-family: ui-monospace, Menlo,
Consolas, monospace; font-size: .82em } code { background: var(--soft); padding: .1em .3em; border-radius: 3px
} pre { overflow-x: auto; padding: .8rem; border-radius: 5px; line-height: 1.45 } pre.code { background:
var(--soft); border: 1px solid var(--line) } pre.text { border-left: 3px solid var(--line) } pre.out {
border-left: 3px solid var(--accent); margin-top: -.6rem } img { max-width: 100%; background: #fff; padding:
.4rem; border-radius: 5px; box-sizing: border-box } table { border-collapse: collapse } th, td { border: 1px
solid var(--line); padding: .25rem .6rem; text-align: left } nav { display: flex; justify-content:
space-between; gap: 1rem; margin: 1rem 0 } .c { color: var(--c) } .s { color: var(--s) } .k { color: var(--k)
}
"""


def frame(title: str, body: str) -> str:
    """A complete HTML page that loads nothing from elsewhere."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body>\n{body}\n</body></html>\n"
    )


def title_of(cells: list[Cell]) -> str:
    """The heading of a lesson's first cell."""
    return cells[0].source.splitlines()[0].removeprefix("# ")


def page_of(cells: list[Cell], links: str) -> str:
    """A lesson as an HTML page with the links to its neighbours."""
    parts = [links]
    for cell in cells:
        if cell.kind == "markdown":
            parts.append(markdown_html(cell.source))
            continue
        parts += [code_or_folded(part) for part in folded(cell.source)]
        if cell.printed:
            parts.append(f"<pre class=out>{html.escape(cell.printed, quote=False)}</pre>")
        for name in cell.figures:
            parts.append(
                f'<p><img alt="figure {name}" src="data:image/svg+xml;base64,{image(name, "svg")}"></p>'
            )
    return frame(title_of(cells), "\n".join([*parts, links]))


# ----------------------------------------------------------------------------------------------- command line

def lesson_files() -> list[Path]:
    """All lessons in their order."""
    return sorted((ROOT / "lessons").glob("[0-9][0-9]_*.py"))


def links_of(files: list[Path], number: int) -> str:
    """The line with the lesson before, the list, and the lesson after."""
    before = (
        f'<a href="{files[number - 1].stem}.html">← {files[number - 1].stem}</a>'
        if number
        else "<span></span>"
    )
    after = (
        f'<a href="{files[number + 1].stem}.html">{files[number + 1].stem} →</a>'
        if number + 1 < len(files)
        else "<span></span>"
    )
    middle = '<a href="index.html">all lessons</a><a href="glossary.html">glossary</a>'
    return f"<nav>{before}{middle}{after}</nav>"


def section_of(text: str, title: str) -> str:
    """The text under the heading `## title` of a Markdown text, up to the next heading of that level."""
    return re.split(r"^## ", text.split(f"\n## {title}\n", 1)[1], maxsplit=1, flags=re.M)[0].strip()


def glossary_page() -> str:
    """The glossary of TEACHING.md as a page."""
    text = section_of((ROOT / "TEACHING.md").read_text(encoding="utf-8"), "Glossary")
    body = f"<nav><a href='index.html'>all lessons</a></nav><h1>Glossary</h1>{markdown_html(text)}"
    return frame("Glossary", body)


def index_page(titles: dict[str, str]) -> str:
    """The list of lessons: title, minutes and prerequisites from the table in TEACHING.md."""
    text = section_of((ROOT / "TEACHING.md").read_text(encoding="utf-8"), "The lessons")
    plan = {line[2:4]: [cell.strip() for cell in line.strip("| \n").split("|")]
            for line in text.splitlines() if re.match(r"\| \d\d ", line)}
    rows = []
    for stem, title in titles.items():
        _, minutes, needs, aim = plan.get(stem[:2], ["", "", "", ""])
        rows.append(f'<tr><td><a href="{stem}.html">{html.escape(title)}</a></td><td>{minutes}</td>'
                    f"<td>{inline(needs)}</td><td>{inline(aim)}</td></tr>")
    head = "<tr><th>lesson</th><th>minutes</th><th>needs</th><th>afterwards you can</th></tr>"
    yours = ("<p>Beside these, <code>lessons/yours/</code> leads you to write the model yourself, in twelve "
             "graded steps; its README says how. It goes with lessons 01 to 08.</p>")
    body = ('<h1>Stentor from Scratch: the course</h1><p>Read the lessons in order. New words are in '
            f'the <a href="glossary.html">glossary</a>.</p><table>{head}{"".join(rows)}</table>{yours}')
    return frame("Stentor from Scratch: the course", body)


def build(names: list[str], folder: Path) -> list[Path]:
    """Run the lessons whose names begin with one of `names` and write notebooks and pages into `folder`.

    Without names, run all lessons.
    """
    files = lesson_files()
    chosen = [file for file in files if not names or file.stem.startswith(tuple(names))]
    if not chosen:
        raise UserError(
            f"no lesson begins with {' or '.join(names)}; there are {', '.join(file.stem for file in files)}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    titles = {file.stem: title_of(cells_of(file.read_text(encoding="utf-8"))) for file in files}
    for file in chosen:
        print(f"running {file.name}", file=sys.stderr)
        cells = cells_of(file.read_text(encoding="utf-8"))
        run_cells(cells, file)
        written += [folder / f"{file.stem}.ipynb", folder / f"{file.stem}.html"]
        atomic_write(written[-2], json.dumps(notebook_of(cells), indent=1, ensure_ascii=False) + "\n")
        atomic_write(written[-1], page_of(cells, links_of(files, files.index(file))))
    atomic_write(folder / "index.html", index_page(titles))
    atomic_write(folder / "glossary.html", glossary_page())
    return [*written, folder / "index.html", folder / "glossary.html"]


def main() -> None:
    """Build the course."""
    examples = "  python lessons/build.py\n  python lessons/build.py 06 07 --out pages"
    parser = Parser("Run the lessons and write them as notebooks and pages.", examples)
    parser.add_argument(
        "lessons", nargs="*", metavar="NN", help="only the lessons whose names begin so (default: all)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=ROOT / "lessons" / "built",
        metavar="DIR",
        help="folder of the pages (default: lessons/built)",
    )
    args = parser.parse_args()
    for path in build(args.lessons, args.out):
        print(path)


if __name__ == "__main__":
    sys.exit(run(main))
