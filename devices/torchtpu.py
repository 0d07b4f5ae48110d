# SPDX-License-Identifier: Apache-2.0
"""A TPU through TorchTPU, PyTorch's native TPU backend: one process per chip, as on several GPUs.

TorchTPU (the package `torch_tpu`, here 0.2.0) replaces torch_xla, whose last release is 2.9. Where it is
installed, `import torch` loads it. It turns `model.sdpa` into its fused attention kernel, so no attention is
chosen here.

We never ran this on a TPU. Its tests put a CPU in the place of the chip (tests/test_torchtpu.py).
"""
from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import torch

from common import UserError
from devices.device import Device

TOPOLOGY = {1: "1,1,1", 4: "2,2,1", 8: "2,4,1"}      # chips of one v5e or v6e host -> the shape of their mesh
FIRST_PORT = 8471                                    # of process 0; the others listen on the next ones


def chip_found() -> bool:
    """Whether TorchTPU has a chip. Without one, creating a tensor there would abort the process."""
    return torch.accelerator.is_available() and torch.accelerator.current_accelerator().type == "tpu"


def why_no_chip() -> str:
    """Why `--device tpu` cannot be used here, and what to do."""
    if find_spec("torch_tpu") is None:
        other = "; for torch_xla, which is installed here, use --device xla" if find_spec("torch_xla") else ""
        return f'device tpu needs TorchTPU and torch 2.11 or newer: pip install ".[torchtpu]"{other}'
    if "torch_tpu" not in sys.modules:
        return "device tpu: TorchTPU is installed but not loaded; unset TORCH_DEVICE_BACKEND_AUTOLOAD"
    return "device tpu: TorchTPU found no chip (it looks in /dev/vfio); attach a TPU, or use --device cpu"


def without_chip() -> list[str]:
    """A note for a run on another device in a process that loaded TorchTPU; empty in any other.

    PyTorch's first backward pass asks every backend for its devices. Without a chip, libtpu then queries
    Google's metadata server for many minutes, unless TPU_SKIP_MDS_QUERY is set.
    """
    if "torch_tpu" not in sys.modules or chip_found():
        return []
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    return ["TorchTPU is installed but found no chip. This run sets TPU_SKIP_MDS_QUERY=1, or its first "
            "backward pass would wait for a metadata server. To keep TorchTPU from being loaded: "
            "TORCH_DEVICE_BACKEND_AUTOLOAD=0"]


def open_torchtpu(reason: str) -> Device:
    """This process's own chip; under torchrun also a member of the group of all chips.

    Raises UserError if the number of processes does not fit the chips of a host.
    """
    device = torch.device("tpu")                     # each process sees its own chip as index 0
    world = int(os.environ.get("WORLD_SIZE", "1"))
    chips = len(list(Path("/dev/vfio").glob("[0-9]*")))
    if world == 1:
        note = f"this run uses 1 of {chips} chips; for all: torchrun --nproc-per-node {chips} train.py ..."
        return Device("tpu", device, reason, notes=[note] if chips > 1 else [], compiles_shapes=True)
    describe_chips(world, chips)
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("tpu_dist")
    return Device("tpu", device, reason, torch.distributed.get_rank(), world, compiles_shapes=True)


def describe_chips(world: int, chips: int) -> None:
    """Set two variables that TorchTPU needs and torchrun does not set: all processes' addresses, the mesh.

    Variables that are already set are kept. The user must set them for several hosts (KAGGLE.md says how) and
    for other chips than v5e and v6e: `python -m torch.tpu.distributed` prints them.
    """
    if "TORCH_TPU_TOPOLOGY" in os.environ and "TORCH_TPU_SLICEBUILDER_ADDRESSES" in os.environ:
        return
    if world != int(os.environ.get("LOCAL_WORLD_SIZE", world)):
        raise UserError("device tpu on several hosts: set TORCH_TPU_TOPOLOGY and "
                        "TORCH_TPU_SLICEBUILDER_ADDRESSES, see KAGGLE.md")
    if world not in TOPOLOGY or 0 < chips < world:
        raise UserError(f"device tpu: {world} processes do not fit; start one per chip, 1, 4 or 8 on a host: "
                        f"torchrun --nproc-per-node {chips or 8} train.py ...")
    addresses = ",".join(f"localhost:{FIRST_PORT + rank}" for rank in range(world))
    os.environ.setdefault("TORCH_TPU_TOPOLOGY", TOPOLOGY[world])
    os.environ.setdefault("TORCH_TPU_SLICEBUILDER_ADDRESSES", addresses)
