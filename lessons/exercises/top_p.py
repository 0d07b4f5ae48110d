# SPDX-License-Identifier: Apache-2.0
"""Exercise of lesson 11: nucleus sampling.

Grade it with: pytest lessons/exercises/test_top_p.py
"""
from __future__ import annotations

from torch import Tensor


def top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the fewest tokens whose probabilities sum to at least `p`; all others get -inf.

    The most probable tokens are kept first. This is nucleus sampling (Holtzman et al. 2020, section 3.1).
    `logits` (V,). Returns (V,): the logits of the kept tokens at their own places.
    """
    raise NotImplementedError("top_p in lessons/exercises/top_p.py")
