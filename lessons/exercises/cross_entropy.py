# SPDX-License-Identifier: Apache-2.0
"""Exercise of lesson 01: the loss of next-token prediction.

Grade it with: pytest lessons/exercises/test_cross_entropy.py
"""
from __future__ import annotations

from torch import Tensor


def cross_entropy(logits: Tensor, input_ids: Tensor) -> Tensor:
    """The mean of -log p(next token), in nats: log(sum(exp(logits))) - logits[next].

    `logits` (B, T, V) come from `input_ids` (B, T), int64. Position t predicts token t + 1, so each row gives
    T - 1 predictions. Returns a scalar. It must hold for logits of 1000 as well (a sum of exp overflows;
    torch.logsumexp does not).
    """
    raise NotImplementedError("cross_entropy in lessons/exercises/cross_entropy.py")
