# SPDX-License-Identifier: Apache-2.0
"""Exercise of lesson 06: causal attention with grouped heads.

Grade it with: pytest lessons/exercises/test_attention.py
"""
from __future__ import annotations

from torch import Tensor


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(F)) v, causal (Vaswani et al. 2017, eq. 1).

    A position reads itself and the positions before it. `q` is (B, H, T, F), `k` and `v` are
    (B, K, T, F): query head h reads key/value head h // (H/K) (Ainslie et al. 2023). Returns (B, H, T, F).
    """
    raise NotImplementedError("attention in lessons/exercises/attention.py")
