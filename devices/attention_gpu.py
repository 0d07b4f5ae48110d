# SPDX-License-Identifier: Apache-2.0
"""Attention on a GPU: `model.sdpa`, with copied keys and values where it would store all scores.

FlashAttention (Dao 2023) is torch's only kernel that takes shared key/value heads (`enable_gqa`) and does not
store the scores. It needs 16 bits, no mask, and a GPU of compute capability 8.0; a T4 has 7.5. In all other
cases, for example in the FP32 layers of the cards' recipes, torch would use the plain form, which stores the
scores (B, H, T, T): 43 GB for 64 rows of 20m at 4,096 tokens. With keys and values copied for each query head
it uses the memory-efficient kernel (Rabe and Staats 2021) instead. That takes H/K times their memory; the
numbers are the same. Apple's MPS gets copies too: with shared heads torch 2.6 crashes there (pytorch issue
149132).
"""
from __future__ import annotations

from typing import Callable

import torch
from torch import Tensor

from model import sdpa


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """The function `sdpa` of q (B, H, T, F), k and v (B, K, S, F), where there is FlashAttention."""
    if q.dtype == torch.float32 or mask is not None:
        return attend_with_copies(q, k, v, mask)
    return sdpa(q, k, v)


def attend_with_copies(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """The function `sdpa` of q (B, H, T, F), k and v (B, K, S, F), for every dtype and GPU."""
    group = q.shape[1] // k.shape[1]
    k = k.repeat_interleave(group, dim=1)                                     # (B, H, S, F)
    v = v.repeat_interleave(group, dim=1)                                     # (B, H, S, F)
    return sdpa(q, k, v, mask)


def choose_attention(kind: str) -> Callable[..., Tensor]:
    """The attention function for this GPU, `cuda` or `mps`."""
    return attend if kind == "cuda" and torch.cuda.get_device_capability() >= (8, 0) else attend_with_copies
