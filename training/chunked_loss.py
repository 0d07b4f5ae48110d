# SPDX-License-Identifier: Apache-2.0
"""The loss without storing all logits: one optimisation, beside `next_token_loss(model(ids), ids)`.

With a vocabulary of 32,768 the logits are 43 times as large as the hidden states (150m: D = 768). For a row
of 4,096 tokens they take 0.5 GiB in FP32, and the loss holds several tensors of that size. So the last
product and the loss are computed for some positions at a time, and again in the backward pass: only hidden
states are stored. The price is computing the product with the output matrix once more.
"""
from __future__ import annotations

import contextlib
from typing import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model import Llama


class ChunkedLoss(nn.Module):
    """ids (B, T) -> their mean next-token loss (scalar) and that of each row (B,), FP32.

    The products are computed in the model's precision, for `chunk` positions at a time.
    `checkpoint(function, *inputs)` drops the intermediate results and computes them again in the backward
    pass, as for recomputed layers.
    """

    def __init__(self, model: Llama, chunk: int, checkpoint: Callable[..., Tensor]):
        super().__init__()
        self.model, self.chunk, self.checkpoint = model, chunk, checkpoint

    def forward(self, input_ids: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        low = self.model.precision.autocast
        products = torch.autocast(input_ids.device.type, dtype=low) if low else contextlib.nullcontext()
        with products:
            x = self.model.model(input_ids, mask=mask)                        # (B, T, D)
            hidden = x[:, :-1].split(self.chunk, dim=1)                       # pieces (B, chunk, D)
            target = input_ids[:, 1:].split(self.chunk, dim=1)                # pieces (B, chunk)
            rows = torch.zeros(len(x), device=x.device)                       # (B,)
            for piece, wanted in zip(hidden, target):
                rows = rows + self.checkpoint(summed_losses, self.model, piece, wanted)   # (B,)
        rows = rows / (input_ids.shape[1] - 1)                                # (B,)
        return rows.mean(), rows.detach()


def summed_losses(model: Llama, x: Tensor, target: Tensor) -> Tensor:
    """Sum of -log p(target) of each row over one piece: x (B, chunk, D), target (B, chunk) -> (B,)."""
    logits = model.project(x).float()                                         # (B, chunk, V)
    losses = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none")    # (B*chunk,)
    return losses.view(target.shape).sum(1)                                   # (B,)
