# SPDX-License-Identifier: Apache-2.0
"""Step 7: RMSNorm. It gives every vector about the same length (Zhang and Sennrich 2019)."""
from __future__ import annotations

from torch import Tensor, nn


class RMSNorm(nn.Module):
    """y = x / sqrt(mean(x^2) + eps) * weight, the mean over the last axis."""

    def __init__(self, width: int, eps: float):
        """Make `self.weight`, an nn.Parameter of D ones."""
        super().__init__()
        raise NotImplementedError("RMSNorm.__init__ in lessons/yours/step07_norm.py")

    def forward(self, x: Tensor) -> Tensor:
        """`x` (..., D). Returns the same shape."""
        raise NotImplementedError("RMSNorm.forward in lessons/yours/step07_norm.py")
