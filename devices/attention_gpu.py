# SPDX-License-Identifier: Apache-2.0
"""Attention on a GPU: `model.sdpa`, with a detour around what would hold all scores, or fail.

Of torch's kernels that never hold the scores only FlashAttention (Dao 2023) takes shared key/value heads
(`enable_gqa`). It wants 16 bits, no mask, and a GPU of compute capability 8.0; a T4 has 7.5. Everything else,
the FP32 layers of the cards' recipes too, would fall back to the plain form: scores of (B, H, T, T), 43 GB
for 64 rows of 20m at 4,096 tokens. With keys and values copied for each query head the memory-efficient
kernel (Rabe and Staats 2021) takes them: H/K times their memory instead, and the same numbers. Apple's MPS
gets the copies too: shared heads end the whole program there in torch 2.6 (pytorch issue 149132).
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
    """What this GPU, `cuda` or `mps`, trains with."""
    return attend if kind == "cuda" and torch.cuda.get_device_capability() >= (8, 0) else attend_with_copies
