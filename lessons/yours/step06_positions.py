# SPDX-License-Identifier: Apache-2.0
"""Step 6: positions. Queries and keys are rotated, more at each position (Su et al. 2021)."""
from __future__ import annotations

from torch import Tensor, nn

from step04_heads import attend, merge, split
from step05_grouped import repeat_heads


def rotary_table(length: int, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """cos and sin of the angles n * theta^(-2j/F), for positions n < T and pairs j < F/2.

    Returns two FP32 tensors (T, F). Feature j is paired with feature j + F/2, so column j + F/2 repeats
    column j.
    """
    raise NotImplementedError("rotary_table in lessons/yours/step06_positions.py")


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each pair (a, b) = (x_j, x_{j+F/2}) to (a cos - b sin, b cos + a sin).

    `x` (B, H, T, F), `cos` and `sin` (T, F). Returns (B, H, T, F).
    """
    raise NotImplementedError("rotate in lessons/yours/step06_positions.py")


class Attention(nn.Module):
    """Step 5's grouped heads, with queries and keys rotated before their dot product."""

    def __init__(self, config):
        """`config` has hidden_size, num_attention_heads, num_key_value_heads and head_dim.

        Make `q_proj`, `k_proj`, `v_proj` and `o_proj` in this order, as in step 5.
        """
        super().__init__()
        raise NotImplementedError("Attention.__init__ in lessons/yours/step06_positions.py")

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """`x` (B, T, D), `cos` and `sin` (T, F). Returns (B, T, D)."""
        raise NotImplementedError("Attention.forward in lessons/yours/step06_positions.py")
