# SPDX-License-Identifier: Apache-2.0
"""A solution of step 4."""
from __future__ import annotations

from torch import Tensor, nn

from one_file import attend


def split(x: Tensor, head_dim: int) -> Tensor:
    B, T, _ = x.shape
    return x.view(B, T, -1, head_dim).transpose(1, 2)                         # (B, H, T, F)


def merge(x: Tensor) -> Tensor:
    B, H, T, F = x.shape
    return x.transpose(1, 2).reshape(B, T, H * F)                             # (B, T, H*F)


class MultiHead(nn.Module):
    def __init__(self, width: int, heads: int, head_dim: int):
        super().__init__()
        self.head_dim = head_dim
        self.q_proj = nn.Linear(width, heads * head_dim, bias=False)
        self.k_proj = nn.Linear(width, heads * head_dim, bias=False)
        self.v_proj = nn.Linear(width, heads * head_dim, bias=False)
        self.o_proj = nn.Linear(heads * head_dim, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q = split(self.q_proj(x), self.head_dim)                              # (B, H, T, F)
        k = split(self.k_proj(x), self.head_dim)                              # (B, H, T, F)
        v = split(self.v_proj(x), self.head_dim)                              # (B, H, T, F)
        return self.o_proj(merge(attend(q, k, v)))                            # (B, T, D)
