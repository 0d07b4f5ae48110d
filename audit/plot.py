# SPDX-License-Identifier: Apache-2.0
"""A figure of where the parameters go: one stacked bar per model (`python params.py --all --plot FILE`)."""
from __future__ import annotations

from pathlib import Path

import matplotlib
from matplotlib import pyplot

from common import UserError, output_file

PARTS = {"embedding": "embedding", "lm_head": "output head", "attention": "attention", "mlp": "MLP"}


def plot(models: dict[str, dict[str, int]], path: str) -> None:
    """Draw name -> `params.count(config)` as bars in percent of each total.

    The ending of `path` is the format. Raises UserError for a format that matplotlib cannot write.
    """
    file = output_file("--plot", Path(path), "parameters.svg")
    matplotlib.use("Agg")
    labels = [f"{name}  {parts['total'] / 1e6:.1f}M" for name, parts in models.items()]
    figure, axes = pyplot.subplots(figsize=(9, 1.5 + 0.5 * len(models)), layout="tight")
    left = [0.0] * len(models)
    for part, label in PARTS.items():
        width = [100 * parts[part] / parts["total"] for parts in models.values()]
        bars = axes.barh(labels, width, left=left, label=label)
        shown = [f"{share:.1f}" if share > 4 else "" for share in width]
        axes.bar_label(bars, shown, label_type="center", color="white", fontsize=8)
        left = [start + share for start, share in zip(left, width)]
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("percent of the parameters (norms, under 0.2%, are left out)")
    axes.legend(ncols=len(PARTS), loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False)
    try:
        figure.savefig(file, format=file.suffix[1:] or "png")
    except ValueError as error:
        raise UserError(f"--plot {path}: {error}") from None
    finally:
        pyplot.close(figure)
