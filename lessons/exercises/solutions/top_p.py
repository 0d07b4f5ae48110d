# SPDX-License-Identifier: Apache-2.0
"""A solution of lessons/exercises/top_p.py, for teachers."""
from __future__ import annotations

import math

import torch
from torch import Tensor


def top_p(logits: Tensor, p: float) -> Tensor:
    probability, order = torch.softmax(logits, dim=0).sort(descending=True)   # (V,)
    before = probability.cumsum(dim=0) - probability  # (V,) mass of the more probable tokens
    kept = order[before < p]                                                  # (n,)
    return torch.full_like(logits, -math.inf).scatter(0, kept, logits[kept])  # (V,)
