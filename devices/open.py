# SPDX-License-Identifier: Apache-2.0
"""Which device a run gets, and why.

`torchrun --nproc-per-node N train.py ...` starts N processes and tells each its number in the environment;
each opens its own device here and joins the group of all.
"""
from __future__ import annotations

import os
from importlib.util import find_spec

import torch

from common import UserError
from devices import attention_cpu, torchtpu
from devices.attention_gpu import choose_attention
from devices.device import Device


def open_device(name: str = "auto") -> Device:
    """The device called `name` (auto, tpu, xla, cuda, mps or cpu), ready to use, in its process group.

    auto takes the first that is here: TPU (TorchTPU found a chip), XLA (torch_xla is installed, and
    PJRT_DEVICE is set or a TPU is attached), CUDA, MPS, CPU. Raises UserError for any other name and for a
    device that is not here.
    """
    attached = "PJRT_DEVICE" in os.environ or os.path.exists("/dev/accel0") or os.path.exists("/dev/vfio/0")
    here = {
        "tpu": torchtpu.chip_found(),
        "xla": attached and find_spec("torch_xla") is not None,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    reason = f"--device {name}"
    if name == "auto":
        name = next(kind for kind in here if here[kind])
        before = list(here)[:list(here).index(name)]
        found = {"tpu": "a TPU, found by TorchTPU", "xla": "PJRT_DEVICE or an attached TPU"}
        reason = found.get(name, f"no {', no '.join(before)} here")
    if name not in here:
        raise UserError(f"unknown device {name!r}; choose from auto, {', '.join(here)}")
    if name == "tpu":
        if not here["tpu"]:
            raise UserError(torchtpu.why_no_chip())
        return torchtpu.open_torchtpu(reason)
    if name == "xla":
        if find_spec("torch_xla") is None:
            raise UserError('device xla needs torch_xla: pip install ".[tpu]"')
        from devices.xla import open_xla                          # imports torch_xla, which is optional
        return open_xla(reason)
    if not here[name]:
        available = ", ".join(kind for kind in here if here[kind])
        raise UserError(f"device {name} is not available here; here is {available}")
    return open_plain(name, reason)


def open_plain(name: str, reason: str) -> Device:
    """The CPU or a GPU; under torchrun after joining the group (NCCL between GPUs, gloo between CPUs)."""
    attend = attention_cpu.attend if name == "cpu" else choose_attention(name)
    device = Device(name, torch.device(name), reason, attend=attend, notes=torchtpu.without_chip())
    if os.environ.get("WORLD_SIZE", "1") != "1":
        if name == "cuda":
            device.torch_device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(device.torch_device)
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group("nccl" if name == "cuda" else "gloo")
        device.rank, device.world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    return device
