# SPDX-License-Identifier: Apache-2.0
"""Step 10: the loss, written out."""
from __future__ import annotations

from torch import Tensor


def next_token_loss(logits: Tensor, ids: Tensor) -> Tensor:
    """The mean of -log p(next token) = logsumexp(logits) - logits[next token], in nats.

    `logits` (B, T, V), `ids` (B, T), int64. The logits at position t predict token t + 1, so a row gives
    T - 1 losses. Returns a scalar. It must be right for logits of 1000 too.
    """
    raise NotImplementedError("next_token_loss in lessons/yours/step10_loss.py")
