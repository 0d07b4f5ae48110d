# SPDX-License-Identifier: Apache-2.0
"""torch.compile: one optimisation, beside the plain form `next_token_loss(model(ids), ids)`.

The compiler turns the many small operations between two matrix products into one kernel each. It compiles one
block, and all blocks use the result: compiling the complete model takes much longer and its steps are no
faster (BENCHMARKS.md). The compiled loss reads the logits once and never stores them in FP32.
"""
from __future__ import annotations

import os
import shutil
import sysconfig
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from model import Llama, next_token_losses


def lacking(kind: str) -> str | None:
    """What torch.compile needs on this kind of device and does not find here; None if nothing is missing.

    On CUDA it generates Triton code. Triton needs a C compiler, Python's headers and a GPU of compute
    capability 7.0 or more. On a CPU it generates C++.
    """
    if kind == "tpu":
        return None                                               # TorchTPU brings its compiler
    if kind != "cuda":
        found = any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++", "cl")))
        return None if found else "a C++ compiler (g++)"
    if not find_spec("triton"):
        return "the package triton"
    if not any(map(shutil.which, (os.environ.get("CC", "gcc"), "clang"))):
        return "a C compiler (gcc)"
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        return "Python's headers (python3-dev)"
    return None if torch.cuda.get_device_capability() >= (7, 0) else "a GPU of compute capability 7.0"


class CompiledLoss(nn.Module):
    """ids (B, T) -> their mean next-token loss (scalar) and that of each row (B,), FP32.

    Compiles the model's blocks in place, so that evaluation uses them too. Each shape is compiled by itself
    (`dynamic=False`): a run has two or three.
    """

    def __init__(self, model: Llama):
        super().__init__()
        self.model = model
        for layer in model.model.layers:
            layer.compile(dynamic=False)
        self.loss = torch.compile(next_token_losses, dynamic=False)

    def forward(self, input_ids: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.loss(self.model(input_ids, mask=mask), input_ids)
