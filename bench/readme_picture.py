# SPDX-License-Identifier: Apache-2.0
"""The two pictures in README.md: the curve of the recorded run of tiny, and its token explorer.

    python -m bench.readme_picture              draw both again from what was recorded
    python -m bench.readme_picture runs/tiny    record what this run's snapshots say of a tale, then draw

The curve is drawn from judging/reference_tiny.jsonl, the explorer from docs/tiny_tokens.json. A test compares
both files with what this module draws.
"""
from __future__ import annotations

import html
import json
import sys
from pathlib import Path
from typing import Iterator

from common import ROOT, Parser, UserError, atomic_write, read_json, run
from model import SIZES, Llama
from publishing.report import document, states
from sampling.explore import colour_by_surprise, reading, surprise_legend, word_starts
from tokenizer import load as load_tokenizer
from training.curves import GREY, WIDTH, levels_of, loss_chart
from training.log import read_log
from training.read_run import read_run

RECORDED = ROOT / "judging" / "reference_tiny.jsonl"
TOKENS = ROOT / "docs" / "tiny_tokens.json"
CURVE = ROOT / "docs" / "tiny_curve.svg"
EXPLORER = ROOT / "docs" / "tiny_explorer.svg"

SHOWN = 58                                                        # tokens of the tale
LETTER, LINE = 7.3, 21                                            # width of a character, height of a line
PAPER = {"green": "#a6e3ae", "yellow": "#ece59b", "orange": "#fbc98d", "red": "#f7aaa2"}


def curve() -> str:
    """The losses of the recorded run, as SVG."""
    rows = list(read_log(RECORDED))
    levels = levels_of(rows, SIZES["tiny"].vocab_size)
    return loss_chart(rows, levels, "tiny: loss over the steps of training")


def record(folder: Path) -> dict:
    """The first tokens of a validation tale, and the surprise of each at three snapshots of a run.

    They are the first two snapshots and the last. Returns {"tokens": texts, "steps": {label: surprises}},
    each surprise as a share of that of a uniform guess. A token that only changes the case of the next one
    has no text and is left out. Raises UserError where the run has fewer than three snapshots, or its corpus
    is gone.
    """
    run = read_run(folder)
    found = states(run)
    tokenizer = load_tokenizer(folder / "best")
    ids = document(run, tokenizer)
    if len(found) < 3 or not ids:
        raise UserError(f"{folder}: three snapshots and the corpus are needed; train it again")
    texts, steps = [], {}
    for label, snapshot in (found[0], found[1], found[-1]):
        choices = reading(Llama.from_pretrained(snapshot).eval(), tokenizer, ids[:SHOWN])
        texts = [choice.text for choice in choices if choice.text]
        steps[label] = [round(choice.share, 3) for choice in choices if choice.text]
    return {"tokens": texts, "steps": steps}


def placed(tokens: list[str]) -> Iterator[tuple[float, int]]:
    """(x, line) of each token. A line ends only where a word ends; a space that begins one is cut off."""
    widths = [LETTER * len(token) for token in tokens]
    starts = word_starts(tokens)
    x, line = 0.0, 0
    for first, after in zip(starts, [*starts[1:], len(tokens)]):
        if x + sum(widths[first:after]) > WIDTH:
            x, line = -LETTER * tokens[first].startswith(" "), line + 1
        for width in widths[first:after]:
            yield x, line
            x += width


def explorer() -> str:
    """The recorded tokens at each snapshot, coloured by their surprise, as SVG."""
    recorded = read_json(TOKENS)
    places, parts, top = list(placed(recorded["tokens"])), [], 4
    for label, shares in recorded["steps"].items():
        parts.append(f'<text x="0" y="{top + 12}" fill="{GREY}" font-family="system-ui,sans-serif">'
                     f"{html.escape(label)}</text>")
        top += 20
        for token, share, (x, line) in zip(recorded["tokens"], shares, places):
            y, width = top + LINE * line, LETTER * len(token)
            parts.append(f'<rect x="{x:.1f}" y="{y}" width="{width - 1:.1f}" height="18" rx="2" '
                         f'fill="{PAPER[colour_by_surprise(share)]}"/>'
                         f'<text x="{x:.1f}" y="{y + 13}" textLength="{width - 1:.1f}" '
                         f'lengthAdjust="spacingAndGlyphs" xml:space="preserve">{html.escape(token)}</text>')
        top += LINE * (places[-1][1] + 1) + 10
    x = 0.0
    for text, colour in [("surprise:", None),
                         *((words, PAPER[name]) for name, words in surprise_legend())]:
        width = 6.6 * len(text) + 12
        box = f'<rect x="{x:.1f}" y="{top}" width="{width - 4:.1f}" height="18" rx="2" fill="{colour}"/>'
        parts.append((box if colour else "") + f'<text x="{x + (5 if colour else 0):.1f}" y="{top + 13}" '
                     f'font-family="system-ui,sans-serif" font-size="11" '
                     f'fill="{"#1b1b1b" if colour else GREY}">{text}</text>')
        x += width
    title = "tiny: a tale that it never saw, token by token, at three steps of training"
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top + 22}" role="img" '
            f'aria-label="{title}" font-family="ui-monospace,monospace" font-size="12" fill="#1b1b1b">'
            f"<title>{title}</title>{''.join(parts)}</svg>\n")


def main() -> int:
    parser = Parser("Draw the pictures in README.md again.",
                    "  python -m bench.readme_picture\n  python -m bench.readme_picture runs/tiny",
                    prog="python -m bench.readme_picture")
    parser.add_argument("run", nargs="?", type=Path, metavar="RUN",
                        help="a finished run of tiny whose tokens are recorded first")
    args = parser.parse_args()
    CURVE.parent.mkdir(exist_ok=True)
    if args.run:
        atomic_write(TOKENS, json.dumps(record(args.run), ensure_ascii=False, indent=1) + "\n")
    atomic_write(CURVE, curve())
    atomic_write(EXPLORER, explorer())
    print(f"{CURVE}\n{EXPLORER}")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
