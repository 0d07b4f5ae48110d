# SPDX-License-Identifier: Apache-2.0
"""Attention on a CPU: written out in blocks of queries where that is faster, `model.sdpa` elsewhere.

A fused kernel saves memory traffic: it never stores the scores. But the scores of a short row fit in the
processor's cache anyway, and then only the arithmetic counts. In bfloat16 the arithmetic of torch's kernel is
slow, above all in the backward pass. The written-out form is faster: it computes a few large products, and
keeps the attention weights of the forward pass.

So bfloat16 takes the written-out form as long as a layer's weights need at most 64 MiB, and every other dtype
takes the kernel. `python -m bench.attention` measures both on the machine at hand.
"""
from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from model import sdpa

BLOCK = 128                         # queries at once
MOST_WEIGHTS = 2**25                # attention weights that a layer keeps for its backward pass: 64 MiB


def blocks_are_faster(dtype: torch.dtype, B: int, H: int, T: int) -> bool:
    """Whether `attend_in_blocks` takes q (B, H, T, F): if it is bfloat16 and its weights are few enough."""
    return dtype == torch.bfloat16 and T > 1 and B * H * T * T / 2 <= MOST_WEIGHTS


def summary(autocast: torch.dtype | None, B: int, H: int, T: int) -> str:
    """What a run says about its attention, for batches of B rows of T positions under this autocast."""
    in_blocks = blocks_are_faster(autocast or torch.float32, B, H, T)
    return "attention in blocks" if in_blocks else "attention by torch's fused kernel"


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """The function `sdpa` of q (B, H, T, F), k and v (B, K, T, F), in the form that is faster here."""
    B, H, T, _ = q.shape
    if mask is None and blocks_are_faster(q.dtype, B, H, T):
        return attend_in_blocks(q, k, v)                                      # (B, H, T, F)
    return sdpa(q, k, v, mask)                                                # (B, H, T, F)


def attend_in_blocks(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(F)) v, causal, for q (B, H, T, F), k and v (B, K, T, F), any floating dtype.

    As `model.attention_written_out`, with less work: the H/K query heads that read the same key/value head
    are rows of one product, so that keys and values are not copied; and a block of queries leaves out the
    keys after its last position, which is nearly half of all scores in a long row.
    """
    B, H, T, F = q.shape
    K = k.shape[1]
    k, v = k.reshape(B * K, T, F), v.reshape(B * K, T, F)                     # (B*K, T, F)
    blocks = []
    for start in range(0, T, BLOCK):
        end = min(start + BLOCK, T)
        rows = q[:, :, start:end].reshape(B * K, -1, F)                       # (B*K, H/K*block, F)
        keys = k[:, :end].transpose(1, 2)                                     # (B*K, F, end)
        hidden = later_positions(start, end, H // K, q.dtype)                 # (H/K*block, end)
        score = torch.baddbmm(hidden, rows, keys, alpha=1 / math.sqrt(F))     # (B*K, H/K*block, end)
        weight = torch.softmax(score, dim=-1)                                 # (B*K, H/K*block, end)
        blocks.append((weight @ v[:, :end]).view(B, H, end - start, F))       # (B, H, block, F)
    return torch.cat(blocks, dim=2)                                           # (B, H, T, F)


@functools.lru_cache(maxsize=64)
@torch.inference_mode(False)
def later_positions(start: int, end: int, group: int, dtype: torch.dtype) -> Tensor:
    """What is added to the scores of the queries `start` to `end`: -inf where the key comes later, else 0.

    (group * (end - start), end), the same for each of the `group` heads that share a key/value head.
    """
    hidden = torch.full((end - start, end), -math.inf, dtype=dtype)           # (block, end)
    return hidden.triu(start + 1).repeat(group, 1)                            # (group*block, end)
