# SPDX-License-Identifier: Apache-2.0
"""The picture in README.md, drawn from the recorded run of tiny: `python -m publishing.readme_picture`.

A test compares the file with what this module draws.
"""
from __future__ import annotations

import sys

from common import ROOT, Parser, atomic_write, run
from model import SIZES
from training.curves import levels_of, loss_chart
from training.log import read_log

FILE = ROOT / "docs" / "tiny_curve.svg"
RECORDED = ROOT / "judging" / "reference_tiny.jsonl"


def picture() -> str:
    """The losses of the recorded run, as SVG."""
    rows = list(read_log(RECORDED))
    levels = levels_of(rows, SIZES["tiny"].vocab_size)
    return loss_chart(rows, levels, "tiny: loss over the steps of training")


def main() -> int:
    parser = Parser("Draw the picture in README.md again.", "  python -m publishing.readme_picture",
                    prog="python -m publishing.readme_picture")
    parser.parse_args()
    FILE.parent.mkdir(exist_ok=True)
    atomic_write(FILE, picture())
    print(FILE)
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
