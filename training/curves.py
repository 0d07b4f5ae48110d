# SPDX-License-Identifier: Apache-2.0
"""Line charts as SVG text, and the two of a run: losses and shares over steps.

The charts are drawn here, because a file of a few kilobytes is written at each evaluation, goes into the
report and the model card, and has to be readable on a light and on a dark page: colours of middle lightness,
no background. `loss_chart` and `share_chart` take the rows of log.jsonl; rows of older versions lack some
fields, and give fewer lines.
"""
from __future__ import annotations

import csv
import html
import io
import math
from dataclasses import dataclass
from pathlib import Path

from common import atomic_write
from data import source_name

COLOURS = ("#3b82c4", "#d9822b", "#2f9e62", "#a86bc4", "#d1495b", "#1f9aa8", "#9a8a2c")
GREY = "#7a7a7a"
WIDTH, HEIGHT = 440, 250                                          # of the chart without its legend
LEFT, RIGHT, TOP, BOTTOM = 36, 10, 18, 32                         # margins
LETTER = 6.4                                                      # mean width of a letter of the legend
MOST_POINTS = 600                                                 # in a line; more cannot be seen


@dataclass(frozen=True)
class Line:
    """One line of a chart: its name, its points (x, y), its colour and its look.

    look is "line", "dashed", "points" (pale, without a line), "marked" (a line through marked points) or
    "level" (one y over the full width, its name written on it).
    """

    name: str
    points: list[tuple[float, float]]
    colour: str
    look: str = "line"


# ----------------------------------------------------------------------------------------------- the chart

def ticks(low: float, high: float, log: bool) -> list[float]:
    """Round numbers from low to high: about five in equal steps; if `log`, 1, 2, 5 times powers of ten.

    >>> ticks(0, 100, False), ticks(0.3, 9, True)
    ([0.0, 25.0, 50.0, 75.0, 100.0], [0.5, 1.0, 2.0, 5.0])
    """
    if log:
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        found = [step * 10.0 ** power for power in powers for step in (1, 2, 5)]
        return [float(f"{value:.3g}") for value in found if low <= value <= high]
    step = 10.0 ** math.floor(math.log10((high - low) / 4))
    step *= max(factor for factor in (1, 2, 2.5, 5) if (high - low) / (factor * step) >= 4)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{number * step:.6g}") for number in range(first, last + 1)]


def tick_text(value: float, percent: bool, most: float = 0) -> str:
    """A number on an axis that reaches `most`: 2,000 or 0.5 or 40%, or in millions or billions.

    >>> tick_text(2000, False), tick_text(0.4, True), tick_text(500_000, False, 2e6)
    ('2,000', '40%', '0.5M')
    """
    for unit, letter in ((1e9, "B"), (1e6, "M")):
        if most >= unit:
            return f"{value / unit:g}{letter if value else ''}"
    return f"{value:.0%}" if percent else f"{value:,.0f}" if value >= 1000 else f"{value:g}"


def thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most MOST_POINTS of the points: means of neighbours."""
    size = math.ceil(len(points) / MOST_POINTS)
    groups = [points[start:start + size] for start in range(0, len(points), size)] if size > 1 else []
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group))
            for group in groups] or points


def smoothed(points: list[tuple[float, float]], reach: int) -> list[tuple[float, float]]:
    """The mean of each point and up to `reach` neighbours on each side, the same number on both sides.

    >>> smoothed([(1, 4.0), (2, 1.0), (3, 1.0)], 12)
    [(1, 4.0), (2, 2.0), (3, 1.0)]
    """
    found = []
    for place, (x, _) in enumerate(points):
        near = min(reach, place, len(points) - 1 - place)
        window = points[place - near:place + near + 1]
        found.append((x, sum(y for _, y in window) / len(window)))
    return found


def chart(title: str, lines: list[Line], across: str, up: str, log: bool = False,
          percent: bool = False) -> str:
    """The lines as one SVG element with axes and a legend; a logarithmic chart leaves out values up to 0.

    A screen reader reads `title`; `across` and `up` name the axes; `percent` writes the vertical axis in
    percent, from 0 to 100%.
    """
    kept = []
    for line in lines:
        points = [(x, y) for x, y in line.points if abs(y) < 1e300 and (y > 0 or not log)]
        kept += [(line, points)] if points else []
    xs = [x for line, points in kept if line.look != "level" for x, _ in points] or [0, 1]
    ys = [y for _, points in kept for _, y in points] or [1]
    left, right = min(0, *xs) if len(xs) > 1 else 0, max(xs) or 1
    low, high = (0.0, 1.0) if percent else (min(ys) / 1.15 if log else min(0, *ys, 0), max(ys) * 1.15)
    high = high if high > low else low + 1
    scale = math.log if log else float

    def place(x: float, y: float) -> tuple[float, float]:
        share = (scale(y) - scale(low)) / (scale(high) - scale(low))
        return (round(LEFT + (x - left) / (right - left) * (WIDTH - LEFT - RIGHT), 1),
                round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1))

    parts = []
    for value in ticks(low, high, log):
        _, y = place(left, value)
        parts.append(f'<path d="M{LEFT} {y}H{WIDTH - RIGHT}" stroke="{GREY}" stroke-opacity=".25"/>'
                     f'<text x="{LEFT - 4}" y="{y + 3.5}" text-anchor="end">{tick_text(value, percent)}'
                     "</text>")
    for value in ticks(left, right, False):
        x, _ = place(value, low if log else 0)
        parts.append(f'<text x="{x}" y="{HEIGHT - BOTTOM + 13}" text-anchor="middle">'
                     f"{tick_text(value, False, right)}</text>")
    parts.append(f'<text x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 5}" text-anchor="middle">{html.escape(across)}'
                 f'</text><text x="{LEFT}" y="{TOP - 8}">{html.escape(up)}</text>')
    parts += [drawn(line, [place(x, y) for x, y in points]) for line, points in kept]
    key, height = legend([line for line, _ in kept if line.look != "level"])
    return (f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="0 0 {WIDTH} {HEIGHT + height}" '
            f'role="img" aria-label="{html.escape(title)}" font-family="system-ui,sans-serif" font-size="11" '
            f'fill="{GREY}"><title>{html.escape(title)}</title>{"".join(parts)}{key}</svg>\n')


def drawn(line: Line, places: list[tuple[float, float]]) -> str:
    """A line at these places (x, y) of the picture."""
    look = f'fill="none" stroke="{line.colour}"'
    if line.look == "level":
        y = places[0][1]
        right = f'x="{WIDTH - RIGHT}" text-anchor="end"'          # losses fall: the top right is free,
        side = f'x="{LEFT + 3}"' if y > HEIGHT / 2 else right     # and the bottom left
        return (f'<path d="M{LEFT} {y}H{WIDTH - RIGHT}" {look} stroke-dasharray="1 3"/>'
                f'<text {side} y="{y - 3}">{html.escape(line.name)}</text>')
    if line.look == "points":
        dots = "".join(f"M{x} {y}h0" for x, y in places)
        return f'<path d="{dots}" {look} stroke-opacity=".25" stroke-width="2.4" stroke-linecap="round"/>'
    path = "M" + "L".join(f"{x} {y}" for x, y in places)
    dashes = ' stroke-dasharray="5 3"' if line.look == "dashed" else ""
    marks = "".join(f'<circle cx="{x}" cy="{y}" r="2.2" fill="{line.colour}"/>'
                    for x, y in places if line.look in ("marked", "dashed"))
    return f'<path d="{path}" {look} stroke-width="1.5" stroke-linejoin="round"{dashes}/>{marks}'


def legend(lines: list[Line]) -> tuple[str, int]:
    """The names of the lines beside samples of their looks, in rows below the chart; and its height."""
    parts, x, y = [], LEFT, HEIGHT + 8
    for line in lines:
        width = 26 + LETTER * len(line.name)
        if x > LEFT and x + width > WIDTH:
            x, y = LEFT, y + 15
        parts.append(drawn(line, [(x, y - 3.5), (x + 9, y - 3.5), (x + 18, y - 3.5)])
                     + f'<text x="{x + 22}" y="{y}">{html.escape(line.name)}</text>')
        x += width + 12
    return "".join(parts), y - HEIGHT + 8 if lines else 0


# ------------------------------------------------------------------------------------------------ of a run

def number(row: dict, name: str) -> float | None:
    """The finite number in a row's field, else None."""
    value = row.get(name)
    fits = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if fits else None


def series(rows: list[dict], name: str) -> list[tuple[float, float]]:
    """(step, value) of every row that has a number in this field."""
    return [(row["step"], number(row, name)) for row in rows if number(row, name) is not None]


def by_source(rows: list[dict], name: str) -> dict[str, list[tuple[float, float]]]:
    """Source -> (step, value) of every row whose field `name` is a dictionary of numbers."""
    found: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        values = row.get(name)
        for source in values if isinstance(values, dict) else ():
            if number(values, source) is not None:
                found.setdefault(str(source), []).append((row["step"], number(values, source)))
    return found


def loss_chart(rows: list[dict], levels: dict[str, float], title: str = "loss over the steps") -> str:
    """Training loss (pale points, and their moving average), validation loss, the same of each source.

    `levels` are lines to compare with: name -> nats per token.
    """
    generated = any("entropy" in row for row in rows)
    training, validation = series(rows, "loss"), series(rows, "eval_loss")
    lines = [Line("training, each step", thinned(training), COLOURS[0], "points"),
             Line("training, smoothed", thinned(smoothed(training, 1 + len(training) // 100)), COLOURS[0]),
             Line("validation", validation, COLOURS[4], "marked")]
    sources = by_source(rows, "losses")
    colour = dict(zip(sources, (*COLOURS[1:4], *COLOURS[5:])))
    steps = [row for row in rows if "loss" in row]
    for source, points in by_source(steps, "train_losses").items():
        if source in colour:
            name = source_name(source, generated)
            points = thinned(smoothed(points, 1 + len(points) // 100))
            lines.append(Line(f"{name}, training", points, colour[source]))
    for source, points in sources.items():
        name = f"{source_name(source, generated)}, validation"
        lines.append(Line(name, points, colour.get(source, GREY), "dashed"))
    lines += [Line(f"{name} {level:.2f}", [(0, level)], GREY, "level") for name, level in levels.items()]
    lowest = min([y for line in lines for _, y in line.points if y > 0], default=1)
    highest = max([y for line in lines for _, y in line.points], default=1)
    log = highest > 5 * lowest
    return chart(title, lines, "optimizer step", f"nats per token{', logarithmic' if log else ''}", log)


def levels_of(rows: list[dict], vocab_size: int | None) -> dict[str, float]:
    """What a loss is compared with, where known: a uniform guess, token frequencies, the entropy."""
    found = {"uniform guess, ln V =": math.log(vocab_size)} if vocab_size else {}
    for name, words in (("unigram_entropy", "token frequencies alone:"), ("entropy", "entropy, the bound:")):
        known = [number(row, name) for row in rows if number(row, name)]
        found |= {words: known[-1]} if known else {}
    return found


# What a sampled tale may keep: field of "kept" in an evaluation row -> the words of the chart.
FACTS = {"name": "names", "pronoun": "pronouns", "thing": "things", "faultless": "no mistake"}
SENTENCES = "sentences well-formed"


def kept_shares(row: dict) -> dict[str, float]:
    """Of an evaluation row: the share of tales that keeps each fact, and of well-formed sentences."""
    kept = row.get("kept") if isinstance(row.get("kept"), dict) else {}
    tales, sentences = number(kept, "tales"), number(kept, "sentences")
    found = {fact: (number(kept, fact) or 0.0) / tales for fact in FACTS} if tales else {}
    if tales and sentences:
        found[SENTENCES] = (number(kept, "good_sentences") or 0.0) / sentences
    return found


def share_chart(rows: list[dict]) -> str:
    """What sampled tales keep, and the share of the way to the entropy; "" if the run did not measure it."""
    lines = [Line("way to the entropy", series(rows, "share_of_the_way"), GREY, "dashed")]
    shares = [(row["step"], kept_shares(row)) for row in rows]
    for name, colour in zip((*FACTS, SENTENCES), COLOURS):
        points = [(step, kept[name]) for step, kept in shares if name in kept]
        lines.append(Line(FACTS.get(name, name), points, colour, "marked"))
    clipped = [Line(line.name, [(x, min(1.0, max(0.0, y))) for x, y in line.points], line.colour, line.look)
               for line in lines]
    if not any(line.points for line in lines):
        return ""
    return chart("what was learned, over the steps", clipped, "optimizer step", "share of sampled tales",
                 percent=True)


# --------------------------------------------------------------------------------------------------- files

def learned_columns(row: dict) -> dict[str, float]:
    """The columns of the table after the cards': losses by source, and what was learned."""
    columns = {f"train_loss_{name}": loss for name, loss in row.get("train_losses", {}).items()}
    columns |= {f"eval_loss_{name}": loss for name, loss in row.get("losses", {}).items()}
    names = ("training_mixture", "whole_loss", "entropy", "unigram_entropy", "share_of_the_way", "name_first",
             "name_later")
    columns |= {name: row[name] for name in names if name in row}
    return columns | {f"kept_{fact}": share for fact, share in kept_shares(row).items() if fact in FACTS}


def write_curves(folder: Path, rows: list[dict], tokens_per_epoch: int, vocab_size: int) -> None:
    """Write training_curves.csv (the cards' columns first) and training_curves.svg from the log's rows.

    The table has a line per evaluation, the chart the loss of every step.
    """
    losses = {row["step"]: row["loss"] for row in rows if "loss" in row}
    evals = [row for row in rows if "eval_loss" in row]
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    more = list(dict.fromkeys(name for row in evals for name in learned_columns(row)))
    writer.writerow(["step", "epoch", "train_loss", "eval_loss", "eval_ppl", "note", *more])
    for row in evals:
        columns = learned_columns(row)
        writer.writerow([row["step"], row["tokens"] // tokens_per_epoch, losses.get(row["step"]),
                         row["eval_loss"], row["eval_ppl"], row["note"],
                         *(columns.get(name) for name in more)])
    atomic_write(folder / "training_curves.csv", table.getvalue())
    picture = loss_chart(rows, levels_of(rows, vocab_size), f"{folder.name}: loss over the steps of training")
    atomic_write(folder / "training_curves.svg", picture)
