# SPDX-License-Identifier: Apache-2.0
"""What only an XLA device needs: opening its chips as one mesh, and torch_xla's own counters of what a run
did.

One process drives all chips. The program is written as if for one device; the batch is marked as dealt out
over the mesh's axis "data" and weights and moments as whole on every chip, and XLA's partitioner adds the
all-reduces of the gradients (SPMD, Xu et al. 2021).
"""
from __future__ import annotations

import numpy
import torch_xla
import torch_xla.runtime
from torch_xla.debug import metrics
from torch_xla.distributed import spmd

from devices.attention_tpu import choose_attention
from precision import Device


def open_xla(reason: str) -> Device:
    """All chips of this host as one device: `shards` chips on a mesh with one axis, "data"."""
    torch_xla.runtime.use_spmd()
    chips = torch_xla.runtime.global_runtime_device_count()
    mesh = spmd.Mesh(numpy.arange(chips), (chips,), ("data",))
    attend = choose_attention(torch_xla.runtime.device_type(), mesh)
    return Device("xla", torch_xla.device(), reason, shards=chips, mesh=mesh, attend=attend)


def compiled_graphs() -> int:
    """How many graphs XLA has compiled so far in this process."""
    data = metrics.metric_data("CompileTime")
    return data[0] if data else 0


def report() -> str:
    """One line from torch_xla's metrics: graphs, executions, `.item()` calls, and operations that XLA left to
    the host (should be none).
    """
    executions = metrics.metric_data("ExecuteReplicatedTime")
    left = {
        name: metrics.counter_value(name) for name in metrics.counter_names() if name.startswith("aten::")
    }
    items = left.pop("aten::_local_scalar_dense", 0)
    return (
        f"xla: {compiled_graphs()} graphs compiled, {executions[0] if executions else 0} executions, {items} values read by .item(), "
        f"operations left to the host: {', '.join(sorted(left)) or 'none'}"
    )
