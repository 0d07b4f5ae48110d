# SPDX-License-Identifier: Apache-2.0
"""Step 4: several heads at once. One projection for all heads, a split, attention, a merge."""
from __future__ import annotations

from torch import Tensor, nn


def split(x: Tensor, head_dim: int) -> Tensor:
    """(B, T, H*F) -> (B, H, T, F): features h*F to (h+1)*F - 1 of a position belong to head h."""
    raise NotImplementedError("split in lessons/yours/step04_heads.py")


def merge(x: Tensor) -> Tensor:
    """(B, H, T, F) -> (B, T, H*F): undoes `split`."""
    raise NotImplementedError("merge in lessons/yours/step04_heads.py")


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Step 3's formula for all heads at once: softmax(q k^T / sqrt(F)) v, causal. All (B, H, T, F)."""
    raise NotImplementedError("attend in lessons/yours/step04_heads.py")


class MultiHead(nn.Module):
    """H heads side by side, then one matrix that mixes their results."""

    def __init__(self, width: int, heads: int, head_dim: int):
        """Make `q_proj`, `k_proj`, `v_proj` (D -> H*F) and `o_proj` (H*F -> D): nn.Linear, without bias."""
        super().__init__()
        raise NotImplementedError("MultiHead.__init__ in lessons/yours/step04_heads.py")

    def forward(self, x: Tensor) -> Tensor:
        """`x` (B, T, D). Returns (B, T, D). Use `split`, `attend` and `merge`."""
        raise NotImplementedError("MultiHead.forward in lessons/yours/step04_heads.py")
