# SPDX-License-Identifier: Apache-2.0
"""Attention on a TPU: torch_xla's fused Pallas kernel instead of `model.sdpa`.

On an XLA device `sdpa` is two matrix products with a mask and a softmax between them. The scores (B, H, T, T)
are written to memory and read again: at T = 4,096 some ten times the traffic of everything else. The kernel
keeps a block of queries on the chip and reads the keys block by block (Dao et al. 2022, algorithm 1), so it
stores no scores. `python -m bench.tpu_compile` shows the difference in the compiler's figures.

It needs jax (`pip install ".[tpu]"`) and runs on TPUs only. We compiled it and never ran it on a TPU. Its
numbers were compared with `attention_written_out` in jax's interpreter (tests/test_xla.py).
"""
from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Callable

from torch import Tensor

from model import sdpa


class FlashAttention:
    """The function `sdpa` of q (B, H, T, F), k and v (B, K, T, F) by the Pallas kernel.

    The rows are divided among the chips of `mesh`.
    """

    def __init__(self, mesh: Any):
        self.mesh = mesh
        self.chips = len(mesh.device_ids)

    def fits(self, B: int, T: int) -> bool:
        """Whether the kernel's blocks (2 rows, up to 1,024 positions) divide these shapes."""
        rows = B // self.chips
        return (rows == 1 or rows % 2 == 0) and (T % 1024 == 0 or T in (128, 256, 512))

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        from torch_xla.experimental.custom_kernel import flash_attention
        B, H, T, F = q.shape
        if mask is not None or not self.fits(B, T):
            return sdpa(q, k, v, mask)
        group = H // k.shape[1]
        k = k.repeat_interleave(group, dim=1)                                 # (B, H, T, F)
        v = v.repeat_interleave(group, dim=1)                                 # (B, H, T, F)
        spec = ("data", None, None, None)
        return flash_attention(q, k, v, causal=True, sm_scale=F**-0.5, partition_spec=spec, mesh=self.mesh)


def choose_attention(hardware: str, mesh: Any) -> Callable[..., Tensor]:
    """The attention function for XLA devices: the kernel on a TPU with jax, else `sdpa`."""
    if hardware == "TPU" and find_spec("jax") is not None:
        return FlashAttention(mesh)
    return sdpa
