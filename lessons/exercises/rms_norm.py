# SPDX-License-Identifier: Apache-2.0
"""Exercise of lesson 04: RMSNorm.

Grade it with: pytest lessons/exercises/test_rms_norm.py
"""
from __future__ import annotations

from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """y = x / sqrt(mean(x^2) + eps) * weight, the mean over the last axis (Zhang and Sennrich 2019, eq. 4).

    `x` (B, T, D), `weight` (D,). Returns (B, T, D).
    """
    raise NotImplementedError("rms_norm in lessons/exercises/rms_norm.py")
