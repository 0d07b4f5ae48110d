# SPDX-License-Identifier: Apache-2.0
"""Step 1: a table of pairs. It counts which token follows which."""
from __future__ import annotations

from torch import Tensor


def count_pairs(ids: Tensor, vocab_size: int) -> Tensor:
    """How often each token follows each other one.

    `ids` (N,), int64. Returns FP32 (V, V): entry [a, b] is the number of places where b comes right after a.
    `torch.bincount(a * V + b, minlength=V * V)` counts all pairs without a Python loop.
    """
    raise NotImplementedError("count_pairs in lessons/yours/step01_counts.py")


def probabilities(counts: Tensor, add: float) -> Tensor:
    """p(b | a) = (counts[a, b] + add) / (sum over b of (counts[a, b] + add)): every row sums to 1.

    `counts` (V, V). `add` above 0 gives pairs that were never seen a small probability (Lidstone smoothing).
    Returns FP32 (V, V).
    """
    raise NotImplementedError("probabilities in lessons/yours/step01_counts.py")


def mean_loss(table: Tensor, ids: Tensor) -> Tensor:
    """The mean of -log p(next | this) over the N - 1 pairs of `ids` (N,), in nats.

    `table` (V, V) holds the probabilities. Returns a scalar.
    """
    raise NotImplementedError("mean_loss in lessons/yours/step01_counts.py")
