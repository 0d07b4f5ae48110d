# SPDX-License-Identifier: Apache-2.0
"""Exercise of lesson 14: a power law with a known floor, fitted as a straight line.

Grade it with: pytest lessons/exercises/test_power_law.py
"""
from __future__ import annotations

from torch import Tensor


def power_law(sizes: Tensor, losses: Tensor, floor: float) -> Tensor:
    """Fit loss = floor + a * size^(-alpha) (Hoffmann et al. 2022, eq. 10, with one term).

    On logarithmic axes this is a straight line, log(loss - floor) = log(a) - alpha * log(size): take the line
    with the least squares. `sizes` and `losses` (n,), float64, every loss above the floor. Returns a and
    alpha, (2,), float64.
    """
    raise NotImplementedError("power_law in lessons/exercises/power_law.py")
