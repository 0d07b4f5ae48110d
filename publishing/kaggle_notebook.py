# SPDX-License-Identifier: Apache-2.0
"""Notebooks from KAGGLE.md: `python -m publishing.kaggle_notebook [DIR]` writes one .ipynb for each part.

Text becomes text cells, and each block of commands a `%%bash` cell, so KAGGLE.md is the only place to edit.
"""
from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from common import ROOT, Parser, atomic_write, run


def parts(page: str) -> dict[str, str]:
    """Heading -> text of the page's numbered parts ("## 1. Prepare ...")."""
    pieces = re.split(r"^## (\d\. .+)$", page, flags=re.M)
    return {
        heading: re.split(r"^## ", text, flags=re.M)[0] for heading, text in zip(pieces[1::2], pieces[2::2])
    }


def cells(heading: str, text: str) -> list[dict]:
    """The cells of a notebook: text and ```bash blocks in their order."""
    result = []
    for number, piece in enumerate(re.split(r"```bash\n(.*?)```", f"# {heading}\n\n{text}", flags=re.S)):
        if not piece.strip():
            continue
        if number % 2:
            source = "%%bash\nset -e\n" + piece.strip()
            result.append(
                {
                    "cell_type": "code", "metadata": {}, "execution_count": None, "outputs": [],
                    "source": source,
                }
            )
        else:
            result.append({"cell_type": "markdown", "metadata": {}, "source": piece.strip()})
    return result


def write_notebooks(folder: Path) -> list[Path]:
    """Write one notebook for each part of KAGGLE.md into `folder` and return their paths."""
    page = (ROOT / "KAGGLE.md").read_text(encoding="utf-8")
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for heading, text in parts(page).items():
        name = re.sub(r"\W+", "-", heading.lower()).strip("-")
        kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
        notebook = {
            "cells": cells(heading, text), "metadata": {"kernelspec": kernel}, "nbformat": 4,
            "nbformat_minor": 4,
        }
        written.append(folder / f"{name}.ipynb")
        atomic_write(written[-1], json.dumps(notebook, indent=1))
    return written


def main() -> None:
    """Write the notebooks."""
    parser = Parser("Turn KAGGLE.md into notebooks.", "  python -m publishing.kaggle_notebook build/kaggle")
    parser.add_argument("folder", nargs="?", default="build/kaggle",
                        help="folder for the notebooks (default: build/kaggle)")
    for path in write_notebooks(Path(parser.parse_args().folder)):
        print(path)


if __name__ == "__main__":
    sys.exit(run(main))
