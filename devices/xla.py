# SPDX-License-Identifier: Apache-2.0
"""A TPU through torch_xla: one process drives all chips of the host as one mesh.

The program is written as if for one device. The batch is marked as split over the mesh axis "data", weights
and moments as replicated on every chip. XLA's partitioner then adds the all-reduces of the gradients (SPMD,
Xu et al. 2021). Importing this file imports torch_xla, so `open.py` does it only for `--device xla`.
"""
from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Callable

import numpy
import torch_xla
import torch_xla.runtime
from torch import Tensor
from torch_xla.debug import metrics
from torch_xla.distributed import spmd
from torch_xla.utils.checkpoint import checkpoint

from devices.attention_tpu import choose_attention
from devices.device import Device


@dataclass
class XlaDevice(Device):
    """All chips of the host as one device: `shards` chips on `mesh`, whose only axis is "data"."""

    mesh: Any = None

    def put(self, ids: numpy.ndarray) -> Tensor:
        """Token ids (B, T), the rows split over the chips."""
        tensor = super().put(ids)
        spmd.mark_sharding(tensor, self.mesh, ("data", None))
        return tensor

    def gathered(self, tensor: Tensor) -> Tensor:
        """The tensor in full on every chip: without this, reading it would compile one more graph."""
        spmd.mark_sharding(tensor, self.mesh, (None,) * tensor.dim())
        return tensor

    def replicate(self, tensors: list[Tensor]) -> None:
        """Declare that every chip holds these tensors in full.

        Without it the first step would compile another graph than all later ones.
        """
        for tensor in tensors:
            self.gathered(tensor)
        self.sync()

    def sync(self) -> None:
        """Compile and run, as one graph, what was recorded since the last call."""
        torch_xla.sync()

    def checkpoint(self) -> Callable[..., Tensor]:
        """checkpoint(function, *inputs), by torch_xla's own function."""
        return functools.partial(checkpoint, use_reentrant=True)

    def compiled_graphs(self) -> int:
        """How many graphs XLA compiled in this process so far."""
        data = metrics.metric_data("CompileTime")
        return data[0] if data else 0

    def summary(self) -> str:
        """Graphs, executions, `.item()` calls, and operations that ran on the host (there should be none)."""
        data = metrics.metric_data("ExecuteReplicatedTime")
        executions = data[0] if data else 0
        on_host = {name for name in metrics.counter_names() if name.startswith("aten::")}
        items = metrics.counter_value("aten::_local_scalar_dense") or 0
        others = ", ".join(sorted(on_host - {"aten::_local_scalar_dense"})) or "none"
        return (f"xla: {self.compiled_graphs()} graphs compiled, {executions} executions, "
                f"{items} values read by .item(), operations left to the host: {others}")


def open_xla(reason: str) -> XlaDevice:
    """The chips of this host, ready to use."""
    torch_xla.runtime.use_spmd()
    chips = torch_xla.runtime.global_runtime_device_count()
    mesh = spmd.Mesh(numpy.arange(chips), (chips,), ("data",))
    attend = choose_attention(torch_xla.runtime.device_type(), mesh)
    return XlaDevice("xla", torch_xla.device(), reason, shards=chips, attend=attend, compiles_shapes=True,
                     mesh=mesh)
