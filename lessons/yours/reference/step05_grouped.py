# SPDX-License-Identifier: Apache-2.0
"""A solution of step 5."""
from __future__ import annotations

from torch import Tensor, nn

from step04_heads import attend, merge, split


def repeat_heads(x: Tensor, heads: int) -> Tensor:
    return x.repeat_interleave(heads // x.shape[1], dim=1)                    # (B, H, T, F)


class GroupedHeads(nn.Module):
    def __init__(self, width: int, heads: int, kv_heads: int, head_dim: int):
        super().__init__()
        self.heads, self.head_dim = heads, head_dim
        self.q_proj = nn.Linear(width, heads * head_dim, bias=False)
        self.k_proj = nn.Linear(width, kv_heads * head_dim, bias=False)
        self.v_proj = nn.Linear(width, kv_heads * head_dim, bias=False)
        self.o_proj = nn.Linear(heads * head_dim, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q = split(self.q_proj(x), self.head_dim)                              # (B, H, T, F)
        k = split(self.k_proj(x), self.head_dim)                              # (B, K, T, F)
        v = split(self.v_proj(x), self.head_dim)                              # (B, K, T, F)
        y = attend(q, repeat_heads(k, self.heads), repeat_heads(v, self.heads))  # (B, H, T, F)
        return self.o_proj(merge(y))                                          # (B, T, D)
