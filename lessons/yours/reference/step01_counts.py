# SPDX-License-Identifier: Apache-2.0
"""A solution of step 1."""
from __future__ import annotations

import torch
from torch import Tensor


def count_pairs(ids: Tensor, vocab_size: int) -> Tensor:
    pair = ids[:-1] * vocab_size + ids[1:]                                    # (N-1,)
    counts = torch.bincount(pair, minlength=vocab_size**2)                    # (V*V,)
    return counts.view(vocab_size, vocab_size).float()                        # (V, V)


def probabilities(counts: Tensor, add: float) -> Tensor:
    counts = counts + add                                                     # (V, V)
    return counts / counts.sum(dim=1, keepdim=True)                           # (V, V)


def mean_loss(table: Tensor, ids: Tensor) -> Tensor:
    chosen = table[ids[:-1], ids[1:]]                                         # (N-1,)
    return -chosen.log().mean()                                               # scalar
