# SPDX-License-Identifier: Apache-2.0
"""Which device a run gets, and why.

`torchrun --nproc-per-node N train.py ...` starts N processes and tells each its number in the environment;
each opens its own device here and joins the group of all.
"""
from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Callable

import torch
from torch import Tensor

from common import UserError
from devices.attention_gpu import choose_attention
from devices.device import Device
from model import sdpa


def open_device(name: str = "auto") -> Device:
    """The device called `name` (auto, cpu, cuda, mps or xla), ready to use, as a member of its process group.

    auto takes the first that is here: XLA (torch_xla is installed, and PJRT_DEVICE is set or a TPU is
    attached), CUDA, MPS, CPU. Raises UserError for an unknown name or a device that is not here.
    """
    tpu = "PJRT_DEVICE" in os.environ or os.path.exists("/dev/accel0") or os.path.exists("/dev/vfio/0")
    here = {
        "xla": tpu and find_spec("torch_xla") is not None,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    reason = f"--device {name}"
    if name == "auto":
        name = next(kind for kind in here if here[kind])
        before = list(here)[:list(here).index(name)]
        reason = f"no {', no '.join(before)} here" if before else "PJRT_DEVICE or an attached TPU"
    if name not in here:
        raise UserError(f"unknown device {name!r}; choose from auto, {', '.join(here)}")
    if name == "xla" and find_spec("torch_xla") is None:
        raise UserError('device xla needs torch_xla: pip install ".[tpu]"')
    if name == "xla":                                             # imported only here: torch_xla is optional
        from devices.xla import open_xla
        return open_xla(reason)
    if not here[name]:
        available = ", ".join(kind for kind in here if here[kind])
        raise UserError(f"device {name} is not available here; here is {available}")
    attend = sdpa if name == "cpu" else choose_attention(name)
    if os.environ.get("WORLD_SIZE", "1") != "1":
        return open_in_group(name, reason, attend)
    return Device(name, torch.device(name), reason, attend=attend)


def open_in_group(name: str, reason: str, attend: Callable[..., Tensor]) -> Device:
    """This process's own device, after it joined the group (NCCL between GPUs, gloo between CPUs)."""
    device = torch.device(name)
    if name == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if name == "cuda" else "gloo")
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    return Device(name, device, reason, rank, world, attend=attend)
