# SPDX-License-Identifier: Apache-2.0
"""A figure of where the parameters go: one stacked bar per model (`python params.py --all --plot FILE`)."""
from __future__ import annotations

from matplotlib.figure import Figure

from common import save_figure

PARTS = {"embedding": "embedding", "lm_head": "output head", "attention": "attention", "mlp": "MLP"}


def plot(models: dict[str, dict[str, int]], path: str) -> None:
    """Draw name -> `params.count(config)` as bars in percent of each total.

    Raises UserError as `save_figure`.
    """
    labels = [f"{name}  {parts['total'] / 1e6:.1f}M" for name, parts in models.items()]
    figure = Figure(figsize=(9, 1.5 + 0.5 * len(models)), layout="tight")
    axes = figure.subplots()
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
    save_figure(figure, path, "parameters.svg")
