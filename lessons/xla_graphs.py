# SPDX-License-Identifier: Apache-2.0
"""The table of lesson 09: how many graphs XLA compiles while a tiny Llama trains, at one shape and at many.

    python lessons/xla_graphs.py

This needs torch_xla, but no TPU: with PJRT_DEVICE=CPU the same compiler works for the CPU. It prints JSON:
for each case the number of graphs compiled until the end of each step, and the versions.
"""
from __future__ import annotations

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("PJRT_DEVICE", "CPU")

CASES = {
    "one length": [32] * 8,  # of the rows in each step; no two cases share one, as graphs are kept
    "two lengths by turns": [24, 16] * 4,
    "a new length every step": [48, 47, 46, 45, 44, 43, 42, 41],
}


def graphs(lengths: list[int]) -> list[int]:
    """Train one step for each length; return the number of graphs compiled until the end of each step."""
    import torch
    import torch_xla
    from torch_xla.debug import metrics

    from model import SIZES, Llama, next_token_loss
    from train import AdamW
    torch.manual_seed(9)
    device = torch_xla.device()
    model = Llama(SIZES["tiny"]).to(device)
    optimizer = AdamW(model, weight_decay=0.01)
    torch_xla.sync()
    metrics.clear_all()
    counts = []
    for step, length in enumerate(lengths):
        ids = torch.randint(0, 4096, (2, length)).to(device)
        next_token_loss(model(ids), ids).backward()
        # the rate changes in each step and must not compile anything
        optimizer.step(step + 1, 1e-3 * (step + 1))
        model.zero_grad(set_to_none=True)
        torch_xla.sync(wait=True)
        counts.append(metrics.metric_data("CompileTime")[0])
    return counts


def main() -> None:
    """Measure all cases and print them."""
    import torch
    import torch_xla
    found = {name: graphs(lengths) for name, lengths in CASES.items()}
    print(
        json.dumps(
            {
                "graphs": found,
                "torch": torch.__version__.split("+")[0],
                "torch_xla": torch_xla.__version__.split("+")[0],
            }
        )
    )


if __name__ == "__main__":
    main()
