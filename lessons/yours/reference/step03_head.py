# SPDX-License-Identifier: Apache-2.0
"""A solution of step 3."""
from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Head(nn.Module):
    def __init__(self, width: int, head_dim: int):
        super().__init__()
        self.q_proj = nn.Linear(width, head_dim, bias=False)
        self.k_proj = nn.Linear(width, head_dim, bias=False)
        self.v_proj = nn.Linear(width, head_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        T = x.shape[1]
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)              # (B, T, F) each
        score = q @ k.transpose(1, 2) / math.sqrt(q.shape[2])                 # (B, T, T)
        later = torch.ones(T, T, dtype=torch.bool).triu(1)                    # (T, T)
        weight = torch.softmax(score.masked_fill(later, -math.inf), dim=-1)   # (B, T, T)
        return weight @ v                                                     # (B, T, F)
