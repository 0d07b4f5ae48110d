# SPDX-License-Identifier: Apache-2.0
"""The loss on a CPU in blocks of positions: one optimisation, beside the plain form `model.next_token_loss`.

The logits are the largest tensor of a step: B * T * V numbers, 8 million for tiny. The plain form makes more
tensors of that size: the logits in FP32, their log-softmax, and a gradient of each. Here a block of positions
takes all these steps while it is in the processor's cache. The gradient follows from the same probabilities,
so it is computed at once, and kept in the dtype of the logits:

    loss = mean of log(sum of exp(logits)) - logits[next]
    its gradient = (softmax(logits) - onehot(next)) / n

bfloat16 logits take this form (`Device.loss`). FP32 logits, which gain less, keep the plain one.
`python -m bench.training_step` measures both.
"""
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

BLOCK = 128                                                       # positions at once


def loss_in_blocks(logits: Tensor, input_ids: Tensor) -> tuple[Tensor, Tensor]:
    """`model.next_token_losses` of logits (B, T, V) and ids (B, T), up to rounding: () and (B,), FP32."""
    B, T, V = logits.shape
    target = input_ids.roll(-1, dims=1)                                       # (B, T)
    weight = torch.full((B, T), 1 / (B * (T - 1)))                            # (B, T)
    weight[:, -1] = 0                                                         # the last one has no next token
    loss, losses = BlockLoss.apply(logits.view(B * T, V), target.view(-1, 1), weight.view(-1, 1))
    return loss, losses.view(B, T).sum(1) * B


class BlockLoss(torch.autograd.Function):
    """weight * -log softmax(logits)[target] of n positions and their sum, which has a gradient."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """`logits` (n, V), `target` and `weight` (n, 1). Returns the sum and its terms (n, 1), FP32."""
        gradient = torch.empty_like(logits)                                   # (n, V)
        losses = torch.empty_like(weight)                                     # (n, 1)
        total = torch.zeros(())
        minus_one = torch.full((BLOCK, 1), -1.0)                              # (BLOCK, 1)
        for start in range(0, len(logits), BLOCK):
            rows = slice(start, start + BLOCK)
            x = logits[rows].float()                                          # (block, V)
            p = torch.softmax(x, dim=1)                                       # (block, V)
            # the largest p is 1 / sum of exp(x - largest x)
            log_sum = x.amax(1, keepdim=True) - p.amax(1, keepdim=True).log()             # (block, 1)
            losses[rows] = weight[rows] * (log_sum - x.gather(1, target[rows]))           # (block, 1)
            total += losses[rows].sum()
            p.scatter_add_(1, target[rows], minus_one[:len(p)])               # (block, V)
            gradient[rows] = p.mul_(weight[rows])                             # (block, V)
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(losses)
        return total, losses

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        """`upstream` is the gradient of the sum: a scalar, 1 unless the loss was scaled."""
        gradient, = ctx.saved_tensors
        return (gradient if upstream == 1 else gradient * upstream), None, None
