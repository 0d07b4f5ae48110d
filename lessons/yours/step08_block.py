# SPDX-License-Identifier: Apache-2.0
"""Step 8: the SwiGLU layer, and the block that Llama repeats."""
from __future__ import annotations

from torch import Tensor, nn

from step06_positions import Attention
from step07_norm import RMSNorm


class MLP(nn.Module):
    """down(silu(gate(x)) * up(x)), silu(z) = z * sigmoid(z) (Shazeer 2020, eq. 6)."""

    def __init__(self, config):
        """Make `gate_proj`, `up_proj` (D -> M) and `down_proj` (M -> D): nn.Linear without bias.

        D is config.hidden_size, M is config.intermediate_size.
        """
        super().__init__()
        raise NotImplementedError("MLP.__init__ in lessons/yours/step08_block.py")

    def forward(self, x: Tensor) -> Tensor:
        """`x` (B, T, D). Returns (B, T, D)."""
        raise NotImplementedError("MLP.forward in lessons/yours/step08_block.py")


class Block(nn.Module):
    """x = x + attention(norm(x)), then x = x + mlp(norm(x)): two parts that add to the residual stream."""

    def __init__(self, config):
        """Make `input_layernorm`, `self_attn`, `post_attention_layernorm`, `mlp`, in this order.

        The names are those of Llama's weight files. eps is config.rms_norm_eps.
        """
        super().__init__()
        raise NotImplementedError("Block.__init__ in lessons/yours/step08_block.py")

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """`x` (B, T, D), `cos` and `sin` (T, F). Returns (B, T, D)."""
        raise NotImplementedError("Block.forward in lessons/yours/step08_block.py")
