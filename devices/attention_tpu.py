# SPDX-License-Identifier: Apache-2.0
"""Attention on a TPU: the fused Pallas kernel that torch_xla brings, in the place of `model.sdpa`.

On an XLA device `sdpa` is two matrix products with a mask and a softmax between them: the scores (B, H, T, T)
go to memory and come back, some ten times the traffic of all the rest at T = 4,096. The kernel works through
blocks of keys while a block of queries stays on the chip (Dao et al. 2022, algorithm 1), so that no scores
are stored. `python -m bench.tpu_compile` shows the difference by the compiler's figures.

It needs jax for its text (`pip install ".[tpu]"`) and runs on TPUs only. Compiled, never run by us: nothing
here has met a TPU. The kernel's numbers were compared with `attention_written_out` through jax's interpreter
(tests/test_xla.py).
"""
from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Callable

from torch import Tensor

from model import sdpa


class FlashAttention:
    """The function `sdpa` of q (B, H, T, F), k and v (B, K, T, F) by the Pallas kernel, the rows dealt out
    over the chips of `mesh`.
    """

    def __init__(self, mesh: Any):
        self.mesh = mesh
        self.chips = len(mesh.device_ids)

    def fits(self, B: int, T: int) -> bool:
        """Whether the kernel's blocks (2 rows, up to 1,024 positions) divide these shapes. 1,024 is its
        largest, all others divide it.
        """
        rows = B // self.chips
        return (rows == 1 or rows % 2 == 0) and (T % 1024 == 0 or T in (128, 256, 512))

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        from torch_xla.experimental.custom_kernel import flash_attention
        B, H, T, F = q.shape
        if mask is not None or not self.fits(B, T):
            return sdpa(q, k, v, mask)
        group = H // k.shape[1]
        k = k.repeat_interleave(group, dim=1)  # (B, H, T, F): the kernel wants equal heads
        v = v.repeat_interleave(group, dim=1)                                 # (B, H, T, F)
        spec = ("data", None, None, None)
        return flash_attention(q, k, v, causal=True, sm_scale=F**-0.5, partition_spec=spec, mesh=self.mesh)


def choose_attention(hardware: str, mesh: Any) -> Callable[..., Tensor]:
    """What attention runs on XLA devices of this hardware: the kernel on a TPU with jax, else `sdpa`."""
    if hardware == "TPU" and find_spec("jax") is not None:
        return FlashAttention(mesh)
    return sdpa
