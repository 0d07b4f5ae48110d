# SPDX-License-Identifier: Apache-2.0
"""A solution of lessons/exercises/rotary.py, for teachers."""
from __future__ import annotations

import torch
from torch import Tensor


def rotary(x: Tensor, theta: float) -> Tensor:
    T, F = x.shape[2], x.shape[3]
    frequency = theta ** (-torch.arange(0, F, 2) / F)                         # (F/2,)
    angle = torch.outer(torch.arange(T), frequency)                           # (T, F/2)
    a, b = x.chunk(2, dim=-1)                                                 # (B, H, T, F/2)
    turned = (a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin())
    return torch.cat(turned, dim=-1)                                          # (B, H, T, F)
