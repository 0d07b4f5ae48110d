# SPDX-License-Identifier: Apache-2.0
"""The loss without all logits at once: one optimisation, beside the plain form `next_token_loss(model(ids), ids)`.

For a vocabulary of 32,768 the logits are 43 times the hidden states (150m: D = 768). A row of 4,096 tokens has 0.5 GiB of them in FP32, and
the loss holds several tensors of that size. So the last product and the loss are made for some positions at a time, and made again in the
backward pass: only hidden states are kept. The price is one more product with the output matrix, a third more of that product's work.
"""
from __future__ import annotations

import contextlib
from typing import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model import Llama


class ChunkedLoss(nn.Module):
    """ids (B, T) -> their mean next-token loss (FP32, scalar), under the model's own precision recipe. `chunk` positions at a time.

    `checkpoint(function, *inputs)` forgets what lies between and computes it again in the backward pass, as for recomputed layers.
    """

    def __init__(self, model: Llama, chunk: int, checkpoint: Callable[..., Tensor]):
        super().__init__()
        self.model, self.chunk, self.checkpoint = model, chunk, checkpoint

    def forward(self, input_ids: Tensor, mask: Tensor | None = None) -> Tensor:
        low = self.model.recipe.autocast
        products = torch.autocast(input_ids.device.type, dtype=low) if low else contextlib.nullcontext()
        with products:
            x = self.model.model(input_ids, mask=mask)                        # (B, T, D)
            hidden = x[:, :-1].split(self.chunk, dim=1)                       # pieces (B, chunk, D)
            target = input_ids[:, 1:].split(self.chunk, dim=1)                # pieces (B, chunk)
            total = torch.zeros((), device=x.device)
            for piece, wanted in zip(hidden, target):
                total = total + self.checkpoint(summed_loss, self.model, piece, wanted)
        return total / input_ids[:, 1:].numel()


def summed_loss(model: Llama, x: Tensor, target: Tensor) -> Tensor:
    """Sum of -log p(target) over the positions of one piece: x (B, chunk, D), target (B, chunk)."""
    logits = model.project(x).float()                                         # (B, chunk, V)
    return F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="sum")
