# SPDX-License-Identifier: Apache-2.0
"""Exercise of lesson 05: rotary position embedding.

Grade it with: pytest lessons/exercises/test_rotary.py
"""
from __future__ import annotations

from torch import Tensor


def rotary(x: Tensor, theta: float) -> Tensor:
    """Rotate each pair of features by an angle that grows with the position (Su et al. 2021, 3.2.2).

    The pair (x_j, x_{j + F/2}) of the vector at position n is rotated by the angle n * theta^(-2j/F).
    (a, b) rotated by the angle w is (a cos w - b sin w, b cos w + a sin w). `x` (B, H, T, F), position n = 0
    ... T - 1. Returns (B, H, T, F).
    """
    raise NotImplementedError("rotary in lessons/exercises/rotary.py")
