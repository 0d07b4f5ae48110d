# SPDX-License-Identifier: Apache-2.0
"""Exercise of lesson 13: how much a head looks at what followed the current token earlier.

Grade it with: pytest lessons/exercises/test_prefix_matching.py
"""
from __future__ import annotations

from torch import Tensor


def prefix_matching(weights: Tensor, ids: Tensor) -> Tensor:
    """The prefix-matching score of each head (Olsson et al. 2022).

    It is the mean of the weight that position t gives to what followed the token of t earlier. `weights`
    (H, T, T): row t holds the weights with which position t reads the others. `ids` (T,). A position counts
    if its token occurred before it. Its weight is the sum over the positions s + 1 with s < t and
    ids[s] = ids[t]. Returns the mean over the positions that count, (H,).
    """
    raise NotImplementedError("prefix_matching in lessons/exercises/prefix_matching.py")
