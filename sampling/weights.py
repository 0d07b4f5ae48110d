# SPDX-License-Identifier: Apache-2.0
"""Weights in fewer bytes for decoding: BF16 and INT8 beside FP32.

A decoding step reads every weight once. With half or a quarter of the bytes it is up to two or four times as
fast, if the processor can multiply what it reads. The forms:

    fp32          as trained
    bf16          the weights and their inputs rounded to 8 significant bits
    int8          each row of a weight is integers -127..127 times one scale; inputs are BF16
    int8-dynamic  torch's dynamic quantization: inputs are INT8 too, each row with its own scale

Norms, the residual stream and the embedding's rows stay FP32 in all of them. A tied embedding gets smaller
copies for the head. `python -m bench.weight_forms` measures speed and loss of each form.
"""
from __future__ import annotations

import threading
import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common import UserError
from model import Llama
from sampling.cuda_graph import GraphDecoder
from sampling.fast_decoder import FastDecoder, Product, in_parts

ONEDNN_CHOICE = threading.Lock()
INT8_WIDTH = 16         # columns that torch's INT8 kernel reads at a time; widths must be multiples of it


def bf16_product(weight: Tensor, onednn: bool = True) -> Product:
    """x (B, in) -> x weight^T (B, out) in BF16, with weight and x rounded to BF16.

    On a CPU with BF16 units torch leaves this product to oneDNN, which reorders the weight at every call.
    That is right for the rows of a prompt, but takes more than half of the time of one row. `onednn=False`
    uses torch's own kernel, which takes the rows one by one. The choice is a setting of the process, so a
    lock protects it.
    """
    rounded = weight.detach().bfloat16()                                      # (out, in)

    def product(x: Tensor) -> Tensor:
        with ONEDNN_CHOICE:
            torch.backends.mkldnn.enabled = onednn
            try:
                return F.linear(x.bfloat16(), rounded)                        # (B, out)
            finally:
                torch.backends.mkldnn.enabled = True

    return product


def bf16_row_product(weight: Tensor) -> Product:
    """`bf16_product` for the few rows of a decoding step on a CPU."""
    return bf16_product(weight, onednn=False)


def int8_product(weight: Tensor) -> Product:
    """x weight^T with weight row r as integers times max |w_r| / 127: symmetric, one scale for each output.

    Zeros fill the columns up to a multiple of INT8_WIDTH.
    """
    scale = weight.detach().abs().amax(dim=1).clamp(min=1e-12) / 127          # (out,)
    missing = -weight.shape[1] % INT8_WIDTH
    integers = (weight.detach() / scale[:, None]).round().to(torch.int8)      # (out, in)
    integers = F.pad(integers, (0, missing))                                  # (out, in + missing)
    scale = scale.bfloat16()

    def product(x: Tensor) -> Tensor:
        x = x.bfloat16()                                                      # (B, in)
        if missing:
            x = F.pad(x, (0, missing))                                        # (B, in + missing)
        return torch._weight_int8pack_mm(x.contiguous(), integers, scale)     # (B, out)

    return product


def int8_dynamic_product(weight: Tensor) -> Product:
    """`int8_product` by torch's dynamic quantization: one scale for each output, and one for each row of x.

    torch takes one scale for all of x, from its least and its greatest value. So each row is divided by its
    largest magnitude, and two more columns hold +1 and -1, with weight 0: the range is always -1..1, and no
    row depends on the others.
    """
    layer = nn.Linear(weight.shape[1] + 2, weight.shape[0], bias=False)
    layer.weight = nn.Parameter(F.pad(weight.detach(), (0, 2)))               # (out, in + 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces that this moves to the package torchao
        config = {nn.Linear: torch.ao.quantization.per_channel_dynamic_qconfig}
        layer = torch.ao.quantization.quantize_dynamic(nn.Sequential(layer), config)[0]
    ends = torch.tensor([[1.0, -1.0]])                                        # (1, 2)

    def product(x: Tensor) -> Tensor:
        largest = x.abs().amax(dim=1, keepdim=True).clamp(min=1e-12)          # (B, 1)
        x = torch.cat([x / largest, ends.expand(len(x), -1)], dim=1)          # (B, in + 2)
        return layer(x) * largest                                             # (B, out)

    return product


FORMS: dict[str, Callable[[Tensor], Product]] = {
    "fp32": in_parts, "bf16": bf16_product, "int8": int8_product, "int8-dynamic": int8_dynamic_product,
}


class Quantized(nn.Module):
    """A Linear layer that calls `product`: x (..., in), FP32 -> (..., out), FP32."""

    def __init__(self, product: Product):
        super().__init__()
        self.product = product

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x.flatten(0, -2)).float().unflatten(0, x.shape[:-1])


def quantized(model: Llama, form: str) -> tuple[Llama, FastDecoder]:
    """`model` with its Linear layers in `form` (a key of FORMS), and the decoder that belongs to it.

    fp32 changes nothing. Raises UserError for an unknown form, or one that the device does not have.
    """
    if form not in FORMS:
        raise UserError(f"unknown form of weights {form!r}; choose from {', '.join(FORMS)}")
    on_cpu = model.model.embed_tokens.weight.device.type == "cpu"
    if form.startswith("int8") and not on_cpu:
        raise UserError(f"--weights {form} is for the CPU; on this device use fp32 or bf16")
    prepare = FORMS[form]
    if on_cpu:
        decoder = FastDecoder(model, bf16_row_product if form == "bf16" else prepare)
    else:
        decoder = GraphDecoder(model, prepare)
    if form != "fp32":
        for module in list(model.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, nn.Linear):
                    setattr(module, name, Quantized(prepare(child.weight)))
        if model.config.tie_word_embeddings:
            model.project = Quantized(prepare(model.model.embed_tokens.weight)).forward
    return model, decoder
