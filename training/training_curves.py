# SPDX-License-Identifier: Apache-2.0
"""The table and the plot that stand in a run folder: training_curves.csv (the cards' columns) and training_curves.svg."""
from __future__ import annotations

import csv
import io
from pathlib import Path

from common import atomic_write


def write_curves(folder: Path, rows: list[dict], tokens_per_epoch: int) -> None:
    """Write both from the rows of log.jsonl: a line of the table per evaluation, the plot with every step's loss."""
    losses = {row["step"]: row["loss"] for row in rows if "loss" in row}
    evals = [row for row in rows if "eval_loss" in row]
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["step", "epoch", "train_loss", "eval_loss", "eval_ppl", "note"])
    for row in evals:
        writer.writerow([row["step"], row["tokens"] // tokens_per_epoch, losses.get(row["step"]), row["eval_loss"], row["eval_ppl"], row["note"]])
    atomic_write(folder / "training_curves.csv", table.getvalue())

    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    figure = Figure(figsize=(7, 4))
    FigureCanvasSVG(figure)
    axes = figure.add_subplot(xlabel="optimizer step", ylabel="loss (nats per token)", title=folder.name)
    axes.plot(losses.keys(), losses.values(), linewidth=0.8, label="training")
    axes.plot([row["step"] for row in evals], [row["eval_loss"] for row in evals], marker="o", label="validation")
    axes.legend(loc="upper right")                                # losses fall, so that corner is free
    image = io.BytesIO()
    figure.savefig(image, format="svg")
    atomic_write(folder / "training_curves.svg", image.getvalue())
