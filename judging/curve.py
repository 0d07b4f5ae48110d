# SPDX-License-Identifier: Apache-2.0
"""A run's losses beside the published ones of its size: `python evaluate.py RUN --curve`.

The cards' checkpoint histories are in `cards/cards.json`. The horizontal axis is training tokens, because the
batch sizes differ; the text under the plot names the other differences. A laptop run is also drawn over a
recorded run of the same size (`reference_20m.jsonl` and `reference_tiny.jsonl` beside this file: every tenth
step and all evaluations), to show whether its loss is normal.
"""
from __future__ import annotations

import io
import math
import re
import textwrap
from pathlib import Path

from common import ROOT, UserError, atomic_write
from params import CARD_OF, read_cards
from training.curves import number
from training.log import read_log
from training.read_run import Run, read_run


def published(size: str) -> dict:
    """A size's name, history (tokens, loss), best loss, data, tokens, vocabulary; {} if it has no card."""
    if size not in CARD_OF:
        return {}
    card = read_cards()[CARD_OF[size]]

    def stated(group: str, key: str) -> object:
        statements = card.get(group, {}).get(key)
        return statements[-1].get("value") if statements else None

    history = []
    for step, loss, *_ in (
        card["checkpoint_history"]["table"][0]["rows"] if "checkpoint_history" in card else []
    ):
        digits = re.search(r"\d[\d,]*", str(step))
        if digits:
            history.append(
                (int(digits[0].replace(",", "")) * stated("batch", "tokens_per_optimizer_step"), loss)
            )
    if "sources" in card.get("data", {}):
        words = ", ".join(f"{row[3]}% {row[1]}" for row in card["data"]["sources"][0]["rows"])
    else:
        words = " and ".join(stated("data", "datasets") or ["data not stated"])
    return {
        "name": CARD_OF[size], "history": history, "best": math.log(stated("results", "best_perplexity")),
        "data": words, "tokens": stated("training", "training_tokens"),
        "vocabulary": stated("tokenizer", "name"),
    }


def differences(run: Run, tokens: int, card: dict) -> str:
    """The differences between the two runs, in words."""
    rows, vocabulary = f"{run.settings['seq_len']} x {run.settings['batch_size']}", run.info.get("vocabulary")
    return (
        f"This run: {tokens:,} tokens of {run.info.get('data')}, {rows} a step, "
        f"vocabulary {str(vocabulary)[:12]}. Published: {card['tokens']} tokens of "
        f"{card['data']}, vocabulary {card['vocabulary']}. The validation texts differ too, and losses per "
        "token of different vocabularies cannot be compared: compare the shapes, not the heights."
    )


def losses(rows: list[dict], name: str) -> list[tuple[float, float]]:
    """(training tokens, loss) of the rows that have both as numbers."""
    return [(row["tokens"], row[name]) for row in rows
            if number(row, "tokens") and number(row, name) is not None]


def overlay(folder: Path) -> str:
    """Write curve.svg into a run's folder and return what it shows, in words.

    This run is on the left and the published one on the right, because a laptop run has a thousandth of its
    tokens. Both have the same axis of losses. Raises UserError for a folder that is not a run, or whose log
    has no loss.
    """
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    run = read_run(folder)
    training, validation = losses(run.rows, "loss"), losses(run.rows, "eval_loss")
    if not training:
        raise UserError(f"{folder}: log.jsonl holds no loss yet")
    size = str(run.settings.get("size"))
    card = published(size)
    both = bool(card.get("history"))
    figure = Figure(figsize=(10 if both else 7, 5), layout="constrained")
    FigureCanvasSVG(figure)
    panels = figure.subplots(1, 2 if both else 1, sharey=True, squeeze=False)[0]
    axes = panels[0]
    axes.set(xlabel="training tokens", ylabel="loss (nats per token)", title=run.folder.name)
    axes.plot(*zip(*training), linewidth=0.8, label="this run, training")
    if validation:
        axes.plot(*zip(*validation), marker="o", label="this run, validation")
    reference = ROOT / "judging" / f"reference_{size}.jsonl"
    known = []
    if run.settings.get("recipe") == "laptop" and not run.settings.get("model"):
        known = list(read_log(reference))                         # [] where no run of this size is recorded
    for key, look, split in (("loss", "--", "training"), ("eval_loss", "x", "validation")):
        if known:
            axes.plot(*zip(*losses(known, key)), look, label=f"the recorded laptop run, {split}")
    if not card:
        others = "with the recorded laptop run" if known else "alone"
        text = f"no curve was published for size {size}; the plot shows this run {others}"
    else:
        if both:
            panels[1].set(xlabel="training tokens", title=f"{card['name']}, published")
            panels[1].plot(*zip(*card["history"]), marker=".", label="validation")
        best = f"{card['name']}, best published: perplexity {math.exp(card['best']):.2f}"
        for panel in panels:
            panel.axhline(card["best"], linestyle=":", color="grey", label=best)
        text = differences(run, training[-1][0], card)
        figure.supxlabel("\n".join(textwrap.wrap(text, 110)), fontsize="small")
    losses_shown = [loss for _, loss in training + validation if loss > 0]
    if losses_shown and max(losses_shown) > 5 * min(losses_shown):   # else the end of the curve looks flat
        axes.set_yscale("log", base=2)                            # of both panels: they share the axis
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_ylabel("loss (nats per token, logarithmic)")
    for panel in panels:
        panel.legend()
    image = io.BytesIO()
    figure.savefig(image, format="svg")
    atomic_write(folder / "curve.svg", image.getvalue())
    return f"written: {folder / 'curve.svg'}; {text}"
