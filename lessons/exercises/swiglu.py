# SPDX-License-Identifier: Apache-2.0
"""Exercise of lesson 04: the SwiGLU feed-forward layer.

Grade it with: pytest lessons/exercises/test_swiglu.py
"""
from __future__ import annotations

from torch import Tensor


def swiglu(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """down (silu(gate x) * (up x)), with silu(z) = z sigmoid(z) (Shazeer 2020, eq. 6).

    `x` (B, T, D); the weights have the layout of torch, (out, in): `gate` and `up` (M, D), `down` (D, M).
    Returns (B, T, D).
    """
    raise NotImplementedError("swiglu in lessons/exercises/swiglu.py")
