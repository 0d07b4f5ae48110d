# SPDX-License-Identifier: Apache-2.0
"""Step 5: grouped heads. Several query heads share one key/value head (Ainslie et al. 2023)."""
from __future__ import annotations

from torch import Tensor, nn

from step04_heads import attend, merge, split


def repeat_heads(x: Tensor, heads: int) -> Tensor:
    """(B, K, T, F) -> (B, H, T, F): head h of the result is head h // (H/K) of `x`."""
    raise NotImplementedError("repeat_heads in lessons/yours/step05_grouped.py")


class GroupedHeads(nn.Module):
    """H query heads, K key/value heads; query head h reads key/value head h // (H/K)."""

    def __init__(self, width: int, heads: int, kv_heads: int, head_dim: int):
        """Make `q_proj` (D -> H*F), `k_proj` and `v_proj` (D -> K*F), `o_proj` (H*F -> D), without bias."""
        super().__init__()
        raise NotImplementedError("GroupedHeads.__init__ in lessons/yours/step05_grouped.py")

    def forward(self, x: Tensor) -> Tensor:
        """`x` (B, T, D). Returns (B, T, D)."""
        raise NotImplementedError("GroupedHeads.forward in lessons/yours/step05_grouped.py")
