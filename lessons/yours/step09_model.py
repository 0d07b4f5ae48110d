# SPDX-License-Identifier: Apache-2.0
"""Step 9: the stack of blocks, the output head, and the first weights."""
from __future__ import annotations

from torch import Tensor, nn

from step06_positions import rotary_table
from step07_norm import RMSNorm
from step08_block import Block


class Decoder(nn.Module):
    """The embedding, config.num_hidden_layers blocks, a last norm. Llama files call it `model`."""

    def __init__(self, config):
        """Make `embed_tokens` (nn.Embedding), `layers` (nn.ModuleList of blocks) and `norm`, in this order.

        Store the rotary tables of config.max_position_embeddings positions, outside the state dict.
        """
        super().__init__()
        raise NotImplementedError("Decoder.__init__ in lessons/yours/step09_model.py")

    def forward(self, ids: Tensor) -> Tensor:
        """`ids` (B, T), int64. Returns the hidden states (B, T, D)."""
        raise NotImplementedError("Decoder.forward in lessons/yours/step09_model.py")


class Llama(nn.Module):
    """Token ids in, logits of each next token out."""

    def __init__(self, config):
        """Store `config`, make `model`, a Decoder, then call `init_weights(self)`.

        With config.tie_word_embeddings the embedding is also the output matrix. Otherwise make `lm_head`, an
        nn.Linear from D to V without bias.
        """
        super().__init__()
        raise NotImplementedError("Llama.__init__ in lessons/yours/step09_model.py")

    def forward(self, ids: Tensor) -> Tensor:
        """`ids` (B, T), int64. Returns the logits (B, T, V)."""
        raise NotImplementedError("Llama.forward in lessons/yours/step09_model.py")


def init_weights(model: Llama, std: float = 0.02) -> None:
    """Draw every matrix from N(0, std), in the order of `model.named_parameters()`; norms stay at 1.

    The 2L matrices that add to the residual stream (o_proj and down_proj of L layers) are drawn from
    N(0, std / sqrt(2L)) (Radford et al. 2019, section 2.3). `nn.init.normal_(weight, mean, std)` draws.
    """
    raise NotImplementedError("init_weights in lessons/yours/step09_model.py")
