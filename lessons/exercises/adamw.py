# SPDX-License-Identifier: Apache-2.0
"""Exercise of lesson 08: one step of AdamW.

Grade it with: pytest lessons/exercises/test_adamw.py
"""
from __future__ import annotations

from torch import Tensor


def adamw_step(
    w: Tensor, g: Tensor, m: Tensor, v: Tensor, t: int, lr: float, decay: float
) -> tuple[Tensor, Tensor, Tensor]:
    """One update of a weight (Loshchilov and Hutter 2019, algorithm 2).

    With b1 = 0.9, b2 = 0.95 and eps = 1e-8:

        m = b1 m + (1 - b1) g;    v = b2 v + (1 - b2) g^2;
        w = w (1 - lr decay) - lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)

    `g` is the gradient, `m` and `v` the moments before this step, `t` the number of this step from 1. Returns
    the new (w, m, v).
    """
    raise NotImplementedError("adamw_step in lessons/exercises/adamw.py")
