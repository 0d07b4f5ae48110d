# SPDX-License-Identifier: Apache-2.0
"""Step 3: one attention head. A position reads the positions before it."""
from __future__ import annotations

from torch import Tensor, nn


class Head(nn.Module):
    """y(t) = sum over s <= t of weight(t, s) v(s); weight(t) = softmax over s <= t of q(t) . k(s) / sqrt(F).

    (Vaswani et al. 2017, eq. 1)
    """

    def __init__(self, width: int, head_dim: int):
        """Make `self.q_proj`, `self.k_proj` and `self.v_proj`: nn.Linear from D to F, without bias.

        D is `width`, F is `head_dim`.
        """
        super().__init__()
        raise NotImplementedError("Head.__init__ in lessons/yours/step03_head.py")

    def forward(self, x: Tensor) -> Tensor:
        """`x` (B, T, D). Returns (B, T, F)."""
        raise NotImplementedError("Head.forward in lessons/yours/step03_head.py")
