# SPDX-License-Identifier: Apache-2.0
"""Functions that all lessons use: folders, a prepared corpus, a text table, figures, results.

A lesson is run as a script (`python lessons/01_map.py`), cell by cell in an editor, or as a notebook that
`lessons/build.py` made. LESSON_FAST=1 trims steps and repetitions, as the tests do; LESSON_HOME is the folder
for what a lesson writes (default: the project's root).
"""
from __future__ import annotations

import json
import math
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any, Sequence

import matplotlib

from common import ROOT, atomic_write

matplotlib.use("Agg")                                             # draws into files, so no window is needed
matplotlib.rcParams.update(
    {
        "figure.figsize": (6.4, 3.6),
        "figure.constrained_layout.use": True,
        "svg.hashsalt": "lesson",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "font.size": 9,
    }
)

if hasattr(signal, "SIGPIPE") and re.match(r"\d\d_", Path(sys.argv[0]).name):
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `python lessons/NN_name.py | head` just ends

FAST = os.environ.get("LESSON_FAST") == "1"
LONG = os.environ.get("LESSON_LONG") == "1"                       # lessons 13 and 14: minutes, not a minute
HOME = Path(os.environ.get("LESSON_HOME") or ROOT)
OUT = HOME / "runs" / "lessons"
STORED = ROOT / "lessons" / "stored"                              # what LESSON_LONG=1 found
STARTED = time.monotonic()


def corpus(*kinds: str, tokens: int | None = None, vocab: str | None = None) -> Path:
    """The folder of the built-in corpus of these kinds ("math" if none is named); prepared once.

    It has at most `tokens` training tokens of each kind, and the vocabulary `vocab` if it is given.
    """
    from corpus.documents import builtin_source
    from corpus.prepare import prepare
    kinds = kinds or ("math",)
    limits = [str(limit) for limit in (tokens, vocab) if limit]
    folder = HOME / "corpora" / "-".join(["lesson", *kinds, *limits])
    if (folder / "manifest.json").is_file():
        return folder
    share = 0.2 if tokens else 0.05  # of few documents, a larger part for validation, so that there is one
    return prepare(
        [builtin_source(kind) for kind in kinds], folder, vocab, source_token_budget=tokens,
        validation_share=share
    )


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print rows under a header: text to the left, numbers to the right."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(line[column]) for line in [list(header), *cells]) for column in range(len(header))]
    numbers = [
        all(isinstance(row[column], (int, float)) or str(row[column])[:1] in "+-0123456789" for row in rows)
        for column in range(len(header))
    ]
    for line in [list(header), ["-" * width for width in widths], *cells]:
        padded = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numbers)
        ]
        print("  ".join(padded).rstrip())


def save_figure(figure: Any, name: str) -> None:
    """Write a figure as OUT/name.png and OUT/name.svg and close it."""
    import matplotlib.pyplot as plt
    OUT.mkdir(parents=True, exist_ok=True)
    figure.savefig(OUT / f"{name}.png", dpi=150)
    figure.savefig(OUT / f"{name}.svg", metadata={"Date": None})
    plt.close(figure)
    print(f"figure: {name} in {OUT / name}.png")


def keep(lesson: str, results: dict[str, Any]) -> None:
    """Write the results of a long form to STORED/lesson.json, with the command that made them.

    Numbers keep four digits after the point.
    """
    import torch
    rounded = json.loads(json.dumps(results), parse_float=lambda number: round(float(number), 4))
    command = f"LESSON_LONG=1 OMP_NUM_THREADS=1 python lessons/{lesson}.py"
    kept = {"made_by": command, "torch": torch.__version__, "results": rounded}
    STORED.mkdir(exist_ok=True)
    atomic_write(STORED / f"{lesson}.json", json.dumps(kept, indent=1) + "\n")


def draw_shapes(name: str, boxes: dict[str, tuple[float, float]],
                arrows: Sequence[tuple[str, str, str]]) -> None:
    """Draw a data flow and save it as figure `name`.

    boxes: {text: (column, row)}, rows counted downwards. arrows: (from, to, label), each end the text of a
    box; the label is the shape of what flows, written beside the middle of the arrow.
    """
    import matplotlib.pyplot as plt
    columns, rows = zip(*boxes.values())
    figure, axes = plt.subplots(figsize=(1.6 * (max(columns) + 1), 0.85 * (max(rows) + 1)))
    frame = {"boxstyle": "round,pad=0.4", "facecolor": "#e8f0f8", "edgecolor": "#0b5fa5"}
    drawn = {text: axes.text(*place, text, ha="center", va="center", bbox=frame)
             for text, place in boxes.items()}
    for start, end, label in arrows:
        (x, y), (to_x, to_y) = boxes[start], boxes[end]
        axes.annotate("", (to_x, to_y), (x, y), arrowprops={
            "arrowstyle": "->", "color": "#5c6672", "patchA": drawn[start], "patchB": drawn[end],
            "shrinkA": 4, "shrinkB": 4})
        side = {"ha": "left", "va": "center"} if x == to_x else {"ha": "center", "va": "bottom"}
        axes.text((x + to_x) / 2 + 0.04 * (x == to_x), (y + to_y) / 2 - 0.06 * (x != to_x), label,
                  color="#8a3a8f", fontsize=8, **side)
    axes.set(xlim=(-0.6, max(columns) + 0.6), ylim=(max(rows) + 0.5, -0.5))
    axes.axis("off")
    save_figure(figure, name)


def finish(lesson: str, results: dict[str, Any]) -> None:
    """Print what a lesson measured and write it to OUT/LESSON.json.

    Raises ValueError for a number that is not finite.
    """
    broken = [
        name for name, value in results.items() if isinstance(value, float) and not math.isfinite(value)
    ]
    if broken:
        raise ValueError(f"{lesson}: not finite: {', '.join(broken)}")
    OUT.mkdir(parents=True, exist_ok=True)
    atomic_write(OUT / f"{lesson}.json", json.dumps(results, indent=2) + "\n")
    table(
        ["result", "value"],
        [
            [name, f"{value:.6g}" if isinstance(value, float) else str(value)]
            for name, value in results.items()
        ],
    )
    print(f"{lesson}: done in {time.monotonic() - STARTED:.1f} seconds")
