# SPDX-License-Identifier: Apache-2.0
"""A solution of lessons/exercises/prefix_matching.py, for teachers."""
from __future__ import annotations

import torch
from torch import Tensor


def prefix_matching(weights: Tensor, ids: Tensor) -> Tensor:
    found = []
    for t in range(len(ids)):
        followed = [s + 1 for s in range(t) if ids[s] == ids[t]]
        if followed:
            found.append(weights[:, t, followed].sum(dim=1))                  # (H,)
    return torch.stack(found).mean(dim=0)                                     # (H,)
