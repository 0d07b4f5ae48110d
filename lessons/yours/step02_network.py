# SPDX-License-Identifier: Apache-2.0
"""Step 2: a network instead of the table. It has far fewer numbers, and it is trained."""
from __future__ import annotations

from torch import Tensor, nn


class Bigram(nn.Module):
    """Token -> vector -> scores of the next token. It still sees only one token."""

    def __init__(self, vocab_size: int, width: int):
        """Make `embed_tokens`, an nn.Embedding (V, D), and `lm_head`, an nn.Linear D -> V without bias."""
        super().__init__()
        raise NotImplementedError("Bigram.__init__ in lessons/yours/step02_network.py")

    def forward(self, ids: Tensor) -> Tensor:
        """`ids` (B, T), int64. Returns the logits (B, T, V)."""
        raise NotImplementedError("Bigram.forward in lessons/yours/step02_network.py")
