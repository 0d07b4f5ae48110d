# SPDX-License-Identifier: Apache-2.0
"""Which arithmetic runs in which dtype.

A `Precision` says three things: the low dtype of matrix products (autocast), which modules compute in FP32
instead, and whether the loss is scaled. The weights themselves are always FP32 masters. No parameter changes
its name, so a saved file does not show in which precision it was trained. The two precision recipes of the
cards are data here (`PRECISIONS`).

What "FP32 layer" means. The cards cast such a layer's input to FP32 and switch autocast off inside, and so do
we: its inputs, weights, sums and outputs are FP32. The cards' printed code switches off the autocast named
"cuda"; under an XLA autocast that has no effect (tests/test_xla.py shows it), so we do what their text says:
switch off the autocast of the device at hand.

What it does not mean, on a TPU. Two things there are bfloat16 although FP32 is written, in the cards' runs as
in ours:
* the multiplications of an FP32 product, whose inputs the matrix unit rounds to bfloat16 while it adds in
  FP32. A switch for the whole program changes that (six passes instead of one): torch_xla's
  `set_mat_mul_precision("highest")`, or `torch.set_float32_matmul_precision("highest")` under TorchTPU, whose
  default is "medium". The cards do not name it and we leave it alone;
* under torch_xla, the sum over chips of a bfloat16 layer's weight gradients: autocast makes them bfloat16
  products, and XLA adds the chips' parts before the cast to FP32. All chips get the same sum, but of eight
  parts with 8 bits of precision each. Gradients of norms, embedding and FP32 layers are added in FP32. Under
  TorchTPU DistributedDataParallel adds all gradients in FP32.

On CUDA with autocast to bf16, the matrix units round the inputs of FP32 products to TF32, which keeps 10 bits
where a TPU's bfloat16 keeps 7, and add in FP32. Attention in an FP32 layer does not use TF32: its kernel
multiplies in FP32. `fp32` and `t4-fp16` use FP32 products throughout.
"""
from __future__ import annotations

import types
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from common import UserError
from model import Block, Llama, RMSNorm


@dataclass(frozen=True)
class Precision:
    """One way to mix dtypes.

    `autocast` None means FP32 throughout; `fp32_layers` is "none", "first+last" or "first two".
    """

    autocast: torch.dtype | None
    fp32_norms: bool = False
    fp32_layers: str = "none"
    loss_scaling: bool = False


# No card lifts a softmax: the attention kernel takes low-precision inputs and computes its softmax in FP32.
# tpu-bf16 is the recipe of Stentor3 and Portimbria, t4-fp16 that of Stentor2, where the loss scaling is ours.
PRECISIONS = {
    "tpu-bf16": Precision(torch.bfloat16, fp32_norms=True, fp32_layers="first+last"),
    "t4-fp16": Precision(torch.float16, fp32_norms=True, fp32_layers="first two", loss_scaling=True),
    "fp32": Precision(None),
    "bf16": Precision(torch.bfloat16),
}


def critical_layers(precision: Precision, num_layers: int) -> list[int]:
    """Indices of the blocks that compute entirely in FP32."""
    chosen = {"none": set(), "first+last": {0, num_layers - 1}, "first two": {0, min(1, num_layers - 1)}}
    return sorted(chosen[precision.fp32_layers])


def forward_in_fp32(module: nn.Module, x: Tensor, *others: Any) -> Tensor:
    """The module's own forward on an FP32 input with autocast off; returns the dtype of the input."""
    with torch.autocast(x.device.type, enabled=False):
        y = type(module).forward(module, x.float().contiguous(), *others)
    return y.to(x.dtype)


def forward_rounded(norm: RMSNorm, x: Tensor) -> Tensor:
    """The norm's own forward, its result in the dtype of the products that read it.

    Autocast would round it once for each of them: three times before attention, twice before the MLP.
    """
    y, kind = RMSNorm.forward(norm, x), x.device.type
    return y.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else y


def forward_in_autocast(model: Llama, input_ids: Tensor, *others: Any, **named: Any) -> Tensor:
    """The model's own forward with matrix products in its low dtype, which the logits have too."""
    with torch.autocast(input_ids.device.type, dtype=model.precision.autocast):
        return type(model).forward(model, input_ids, *others, **named)


def apply_precision(model: Llama, precision: str | Precision, device: torch.device | str) -> Llama:
    """Move `model` to `device` with FP32 weights, make its forward follow `precision`, and return it.

    `precision` is a key of PRECISIONS or a Precision. It replaces any that was applied before. Raises
    UserError for an unknown key.
    """
    if isinstance(precision, str):
        if precision not in PRECISIONS:
            raise UserError(f"unknown precision {precision!r}; choose from {', '.join(PRECISIONS)}")
        precision = PRECISIONS[precision]
    for module in model.modules():
        module.__dict__.pop("forward", None)                      # an earlier call may have set it
    model.to(device=device, dtype=torch.float32)
    # TF32 or FP32 (see the docstring of this file); it holds for every product of this process
    if torch.device(device).type == "cuda":
        torch.set_float32_matmul_precision("high" if precision.autocast == torch.bfloat16 else "highest")
    model.precision = precision
    if precision.autocast is not None:
        model.forward = types.MethodType(forward_in_autocast, model)
    for index in critical_layers(precision, len(model.model.layers)):
        layer = model.model.layers[index]
        layer.forward = types.MethodType(forward_in_fp32, layer)
    for module in model.modules():
        if isinstance(module, RMSNorm) and precision.fp32_norms:
            module.forward = types.MethodType(forward_in_fp32, module)
        elif isinstance(module, RMSNorm) and precision.autocast:
            module.forward = types.MethodType(forward_rounded, module)
    return model


def lifted_counts(model: Llama) -> dict[str, int]:
    """How many norms, layers and softmaxes were lifted to FP32: the counts that the cards publish."""
    lifted = [
        module
        for module in model.modules()
        if getattr(module.__dict__.get("forward"), "__func__", None) is forward_in_fp32
    ]
    return {
        "fp32_norms": sum(isinstance(module, RMSNorm) for module in lifted),
        "fp32_layers": sum(isinstance(module, Block) for module in lifted),
        "fp32_softmax": 0,
    }


FIRST_SCALE = 2.0**16
GROWTH_INTERVAL = 2000


def next_scale(scale: float, good_steps: int, finite: bool) -> tuple[float, int]:
    """Dynamic loss scaling for FP16 (Micikevicius et al. 2018, section 3.2): the next (scale, good_steps).

    The smallest normal number of FP16 is 6e-5, and gradients can be smaller. So the loss is multiplied by
    `scale` before the backward pass, and the gradients are divided by it. A gradient that is not finite
    halves the scale, and its step is skipped; GROWTH_INTERVAL good steps in a row double it.
    """
    if not finite:
        return max(scale / 2, 1.0), 0
    if good_steps + 1 == GROWTH_INTERVAL:
        return scale * 2, 0
    return scale, good_steps + 1


def choose_precision(kind: str, fp16_card: bool) -> tuple[str, str]:
    """(key of PRECISIONS, reason) for a device of `kind`; `fp16_card`: the card of this size trained in fp16.

    The GPU's compute capability decides. `torch.cuda.is_bf16_supported()` is also true where bfloat16 is
    emulated and slow, for instance on a T4.
    """
    if kind in ("xla", "tpu"):
        return "tpu-bf16", "a TPU multiplies in bfloat16"
    if kind == "cuda":
        major, minor = torch.cuda.get_device_capability()
        if major < 8:
            return "t4-fp16", f"compute capability {major}.{minor} has no bfloat16 units"
        if fp16_card:
            return "t4-fp16", "the recipe of this size's card"
        return "tpu-bf16", f"compute capability {major}.{minor} has bfloat16 units"
    if kind == "cpu" and cpu_multiplies_bf16():
        return "bf16", "this processor has bfloat16 matrix instructions"
    return "fp32", f"{'this processor' if kind == 'cpu' else kind} has no fast bfloat16 product"


def cpu_multiplies_bf16() -> bool:
    """Whether the processor has AMX tiles or AVX-512 BF16; without them bfloat16 is slower than FP32."""
    names = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    checks = (getattr(torch.cpu, name, None) for name in names)
    return any(check() for check in checks if check)
