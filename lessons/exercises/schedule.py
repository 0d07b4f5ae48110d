# SPDX-License-Identifier: Apache-2.0
"""Exercise of lesson 08: warmup and cosine.

Grade it with: pytest lessons/exercises/test_schedule.py
"""
from __future__ import annotations


def learning_rate(step: int, peak: float, warmup_steps: int, steps: int) -> float:
    """The learning rate of step `step`, counted from 0: warmup, then half a cosine.

    A straight line from 0 to `peak` over the first `warmup_steps`, then half a cosine that would reach 0 at
    step number `steps` (Loshchilov and Hutter 2017).
    """
    raise NotImplementedError("learning_rate in lessons/exercises/schedule.py")
