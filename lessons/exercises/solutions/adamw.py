# SPDX-License-Identifier: Apache-2.0
"""A solution of lessons/exercises/adamw.py, for teachers."""
from __future__ import annotations

from torch import Tensor


def adamw_step(
    w: Tensor, g: Tensor, m: Tensor, v: Tensor, t: int, lr: float, decay: float
) -> tuple[Tensor, Tensor, Tensor]:
    m = 0.9 * m + 0.1 * g
    v = 0.95 * v + 0.05 * g * g
    step = (m / (1 - 0.9**t)) / ((v / (1 - 0.95**t)).sqrt() + 1e-8)
    return w * (1 - lr * decay) - lr * step, m, v
