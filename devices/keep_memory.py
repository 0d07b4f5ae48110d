# SPDX-License-Identifier: Apache-2.0
"""Keep freed memory in the process: one optimisation of a CPU run on Linux, with a switch
(STENTOR_KEEP_MEMORY=0).

A training step makes and drops tensors of several megabytes thousands of times. glibc asks the system for
each block of that size and gives it back when it is freed (mmap, munmap), so the next one is new, zeroed
pages, each with a page fault: a fifth of a step's time for tiny. Told to serve them from its heap and to keep
the heap, it finds warm pages instead. The price is some tens of megabytes more at the peak. `python -m
bench.training_step` measures both ways. Nothing is computed differently.
"""
from __future__ import annotations

import ctypes
import os
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4                             # malloc.h


def keep_freed_memory(keep: bool = True) -> bool:
    """Tell glibc to keep freed blocks, or to do as it does by itself. Returns whether it did; elsewhere
    (musl, macOS, Windows) nothing happens.
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
