# SPDX-License-Identifier: Apache-2.0
"""One of several processes that train together: `torchrun --nproc_per_node=N train.py ...` starts them and
says so in the environment.
"""
from __future__ import annotations

import os
from typing import Callable

import torch
from torch import Tensor

from precision import Device


def open_in_group(name: str, reason: str, attend: Callable[..., Tensor]) -> Device:
    """This process's own device, cpu or cuda, after it has joined the group of all of them (NCCL between
    GPUs, gloo between CPUs).
    """
    local = int(os.environ["LOCAL_RANK"])
    if name == "cuda":
        torch.cuda.set_device(local)
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if name == "cuda" else "gloo")
    device = torch.device(name, local) if name == "cuda" else torch.device(name)
    return Device(name, device, reason, rank=torch.distributed.get_rank(), world=torch.distributed.get_world_size(), attend=attend)
