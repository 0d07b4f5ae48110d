# SPDX-License-Identifier: Apache-2.0
"""Attention on a CUDA GPU: `model.sdpa`, with one detour for FP32.

torch's kernels that never hold the scores take shared key/value heads (`enable_gqa`) in 16 bits only. An FP32 layer, of which the cards' recipes have
two, would fall back to the plain form: scores of (B, H, T, T), 43 GB for 64 rows of 20m at 4,096 tokens. With keys and values
copied for each query head the FP32 kernel (Rabe and Staats 2021) takes them: K times H/K heads of memory instead, and the same numbers.
"""
from __future__ import annotations

import torch
from torch import Tensor

from model import sdpa


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """The function `sdpa` of q (B, H, T, F), k and v (B, K, S, F)."""
    if q.dtype == torch.float32:
        group = q.shape[1] // k.shape[1]
        k = k.repeat_interleave(group, dim=1)                                 # (B, H, S, F)
        v = v.repeat_interleave(group, dim=1)                                 # (B, H, S, F)
    return sdpa(q, k, v, mask)
