# SPDX-License-Identifier: Apache-2.0
"""Which device a run gets, and why; a setting that lets CPU runs keep freed memory.

`torchrun --nproc-per-node N train.py ...` starts N processes, each with its number in the environment. Each
opens its own device here and joins the group of all.
"""
from __future__ import annotations

import ctypes
import os
import sys
from importlib.util import find_spec

import torch

from common import UserError
from devices import attention_cpu, torchtpu
from devices.attention_gpu import choose_attention
from devices.device import Device

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4                             # malloc.h


def open_device(name: str = "auto") -> Device:
    """The device called `name` (auto, tpu, xla, cuda, mps or cpu), ready to use, in its process group.

    auto takes the first that is available: TPU (TorchTPU found a chip), XLA (torch_xla is installed, and
    PJRT_DEVICE is set or a TPU is attached), CUDA, MPS, CPU. Raises UserError for any other name and for a
    device that is not available.
    """
    attached = "PJRT_DEVICE" in os.environ or os.path.exists("/dev/accel0") or os.path.exists("/dev/vfio/0")
    here = {
        "tpu": torchtpu_is_loaded() and torchtpu.chip_found(),
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
        raise UserError(f"device {name} is not available here; choose from {available}")
    return open_plain(name, reason)


def open_plain(name: str, reason: str) -> Device:
    """The CPU or a GPU; under torchrun after joining the group (NCCL between GPUs, gloo between CPUs)."""
    attend = attention_cpu.attend if name == "cpu" else choose_attention(name)
    notes = torchtpu.without_chip() if torchtpu_is_loaded() else []
    device = Device(name, torch.device(name), reason, attend=attend, notes=notes)
    if os.environ.get("WORLD_SIZE", "1") != "1":
        if name == "cuda":
            device.torch_device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(device.torch_device)
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group("nccl" if name == "cuda" else "gloo")
        device.rank, device.world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    return device


def torchtpu_is_loaded() -> bool:
    """Whether `import torch` loaded TorchTPU, as it does where that is installed."""
    return "torch_tpu" in sys.modules


def keep_freed_memory(keep: bool = True) -> bool:
    """On Linux, let a CPU run keep the memory that it frees; STENTOR_KEEP_MEMORY=0 switches this off.

    A training step makes and drops tensors of several megabytes thousands of times. glibc asks the system
    for each block of that size and gives it back when it is freed. The next block is then new, zeroed pages,
    each with a page fault: a fifth of a step's time for tiny. Here glibc is set to serve such blocks from its
    heap and to keep the heap. The price is some tens of megabytes more at the peak; nothing is computed
    differently. `python -m bench.training_step` measures both ways.

    `keep` False restores glibc's defaults. Returns whether the setting was made; elsewhere (musl, macOS,
    Windows) nothing happens.
    """
    if not sys.platform.startswith("linux") or os.environ.get("STENTOR_KEEP_MEMORY") == "0":
        return False
    try:
        libc = ctypes.CDLL("libc.so.6")
        blocks = libc.mallopt(M_MMAP_MAX, 0 if keep else 65_536)
        heap = libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1 if keep else 128 * 1024)
    except (OSError, AttributeError):
        return False
    return blocks == 1 and heap == 1
