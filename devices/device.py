# SPDX-License-Identifier: Apache-2.0
"""The device that a run computes on: what CPU, CUDA and MPS share.

A device that differs is a subclass in another file (`xla.py`, `torchtpu.py`) and overrides what it needs.
"""
from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Callable

import numpy
import torch
import torch.utils.checkpoint
from torch import Tensor

from devices.loss_cpu import loss_in_blocks
from model import next_token_losses, sdpa


@dataclass
class Device:
    """Where a run computes, and how batches get there.

    `kind` is the name that `--device` takes and `reason` says why it was chosen. This is process `rank` of
    `world`. `shards` chips share each batch of this process. `attend` is the attention function to use here,
    and `notes` is what the user should know.
    """

    kind: str
    torch_device: torch.device
    reason: str
    rank: int = 0
    world: int = 1
    shards: int = 1
    attend: Callable[..., Tensor] = sdpa
    notes: list[str] = field(default_factory=list)
    compiles_shapes: bool = False                                 # whether each new shape is a new program

    def put(self, ids: numpy.ndarray) -> Tensor:
        """Token ids (B, T), copied to the device."""
        return torch.from_numpy(ids).to(self.torch_device)

    def loss(self, logits: Tensor, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        """`next_token_losses` of logits (B, T, V) and ids (B, T).

        For a bfloat16 step on a CPU, `loss_in_blocks` gives the same numbers, up to rounding, in less time.
        """
        if self.kind == "cpu" and logits.dtype == torch.bfloat16 and logits.requires_grad:
            return loss_in_blocks(logits, input_ids)
        return next_token_losses(logits, input_ids)

    def gathered(self, tensor: Tensor) -> Tensor:
        """The tensor, in full on every chip; only a mesh of chips divides one."""
        return tensor

    def replicate(self, tensors: list[Tensor]) -> None:
        """Declare that every chip holds these tensors in full; only a mesh of chips needs it."""

    def sync(self) -> None:
        """Run what was recorded since the last call; only a device that records operations needs it."""

    def checkpoint(self) -> Callable[..., Tensor]:
        """checkpoint(function, *inputs): run it now, and again in the backward pass to save memory."""
        return functools.partial(torch.utils.checkpoint.checkpoint, use_reentrant=False)

    def read(self, tensors: list[Tensor]) -> list[Tensor]:
        """The tensors, to be stacked: on the host if each new shape of the stack would be compiled."""
        return [tensor.cpu() for tensor in tensors] if self.compiles_shapes else tensors

    def compiled_graphs(self) -> int:
        """How many graphs were compiled in this process so far; 0 where operations run one by one."""
        return 0

    def summary(self) -> str:
        """One line on what the device did during the run; empty where there is nothing to report."""
        return ""
