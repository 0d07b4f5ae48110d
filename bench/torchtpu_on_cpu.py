# SPDX-License-Identifier: Apache-2.0
"""Run a script of this project with TorchTPU on a machine without a TPU: the CPU replaces the chip.

    python -m bench.torchtpu_on_cpu train.py --size tiny --device tpu

TPU_LIBRARY_PATH names the library with TorchTPU's compiler and runtime. Here it is a CPU plugin with the same
interface (PJRT), from the package `fastatomstruct-xla-cpu`. It has no TPU kernels, so attention runs as plain
operations, and it allows only one process. This is for developers' checks.
"""
from __future__ import annotations

import ctypes
import os
import runpy
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Callable

from common import ROOT, UserError, run

# Positions in the table of functions that every PJRT plugin exports (pjrt_c_api.h; the order never changes).
CLIENT_COMPILE, EXECUTABLE_NUM_OUTPUTS, EXECUTABLE_OUTPUT_MEMORY_KINDS = 20, 44, 47
BEFORE_FUNCTIONS = 40                                 # bytes: the table's size, extensions and version
HOOKS = []                                            # keeps Python objects alive that C uses


class Arguments(ctypes.Structure):
    """The arguments of each function begin with two fields, then its own, each 8 bytes here."""

    _fields_ = [("size", ctypes.c_size_t), ("extension", ctypes.c_void_p), ("own", ctypes.c_size_t * 6)]


Function = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.POINTER(Arguments))


def plugin() -> Path:
    """The CPU plugin's library. Raises UserError if it or TorchTPU is not installed."""
    missing = [name for name in ("torch_tpu", "fastatomstruct_xla_cpu") if find_spec(name) is None]
    if missing:
        raise UserError(f"{', '.join(missing)}: not installed; they are in tests/oracles/torchtpu.txt")
    return Path(find_spec("fastatomstruct_xla_cpu").submodule_search_locations[0]) / "libpjrt_cpu.so"


def slot(index: int) -> ctypes.c_void_p:
    """One entry of the plugin's table of functions."""
    library = ctypes.CDLL(os.environ["TPU_LIBRARY_PATH"])
    library.GetPjrtApi.restype = ctypes.c_void_p
    return ctypes.c_void_p.from_address(library.GetPjrtApi() + BEFORE_FUNCTIONS + 8 * index)


def hook(index: int, function: Callable[[Any], int | None]) -> Callable[[Any], int | None]:
    """Call `function(arguments)` in place of the plugin's function, which is returned.

    Both return None, or the address of an error.
    """
    entry = slot(index)
    before = Function(entry.value)
    HOOKS.append(Function(function))
    entry.value = ctypes.cast(HOOKS[-1], ctypes.c_void_p).value
    return before


def replace_chip() -> None:
    """Make the CPU the device `tpu` of this process. Call it before torch is imported."""
    os.environ["TPU_LIBRARY_PATH"] = str(plugin())
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"
    import torch
    from torch_tpu import _loader
    from torch_tpu._internal.utils import hardware
    hardware.get_tpu_device_count = lambda: 1
    _loader._init_device("tpu")
    torch.backends.cuda.enable_flash_sdp(False)       # this switch chooses TorchTPU's kernel, too
    count_outputs = Function(slot(EXECUTABLE_NUM_OUTPUTS).value)

    def output_memory_kinds(arguments: Any) -> None:
        """All outputs are in "device" memory: torch.compile asks, and the plugin cannot answer."""
        own = arguments.contents.own
        asked = Arguments(size=32, own=(own[0], 0, 0, 0, 0, 0))
        count_outputs(asked)
        kinds = (ctypes.c_char_p * asked.own[1])(*[b"device"] * asked.own[1])
        sizes = (ctypes.c_size_t * asked.own[1])(*[6] * asked.own[1])
        HOOKS.extend([kinds, sizes])
        own[1], own[2], own[3] = asked.own[1], ctypes.addressof(kinds), ctypes.addressof(sizes)

    hook(EXECUTABLE_OUTPUT_MEMORY_KINDS, output_memory_kinds)


def main() -> int:
    """Run the script that the command line names, with the flags after it."""
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(__doc__)
        return 0
    replace_chip()
    sys.argv = [str(ROOT / sys.argv[1]), *sys.argv[2:]]
    runpy.run_path(sys.argv[0], run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
