# SPDX-License-Identifier: Apache-2.0
"""Weights in fewer bytes for decoding: BF16 and INT8 beside FP32, and the loss that they cost.

A decoding step reads every weight once, so half or a quarter of the bytes is up to two or four times the
speed, where the processor can multiply what it reads. The forms:

    fp32          as trained
    bf16          weights and what they are multiplied with rounded to 8 significant bits
    int8          each row of a weight as whole numbers -127..127 times one scale; what it is multiplied with
                  is BF16
    int8-dynamic  torch's dynamic quantization (torch.ao.quantization.quantize_dynamic): what it is multiplied
    with is INT8 too, scaled anew each time

Norms, the residual stream and the embedding's rows stay FP32 in all of them; a tied embedding gets a second,
small copy for the head.
"""
from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common import UserError
from sampling.cuda_graph import GraphDecoder
from sampling.fast_decoder import FastDecoder, Product, shared_out
from model import Llama


def bf16_product(weight: Tensor) -> Product:
    """x (B, in) -> x weight^T (B, out) in BF16, with weight and x rounded to BF16."""
    rounded = weight.detach().bfloat16()                                      # (out, in)

    def product(x: Tensor) -> Tensor:
        return F.linear(x.bfloat16(), rounded)

    return product


def int8_product(weight: Tensor) -> Product:
    """The same with row r of the weight as whole numbers times max |w_r| / 127 (symmetric, one scale for each
    output).
    """
    scale = weight.detach().abs().amax(dim=1).clamp(min=1e-12) / 127          # (out,)
    whole = (weight.detach() / scale[:, None]).round().to(torch.int8)         # (out, in)
    scale = scale.bfloat16()

    def product(x: Tensor) -> Tensor:
        return torch._weight_int8pack_mm(x.bfloat16(), whole, scale)          # (B, out)

    return product


def int8_dynamic_product(weight: Tensor) -> Product:
    """The same by torch's own dynamic quantization, with one scale for each output of the weight and one for
    all of x.
    """
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight = nn.Parameter(weight.detach())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is announced to move to the package torchao
        config = {nn.Linear: torch.ao.quantization.per_channel_dynamic_qconfig}
        return torch.ao.quantization.quantize_dynamic(nn.Sequential(layer), config)[0]


FORMS: dict[str, Callable[[Tensor], Product]] = {
    "fp32": shared_out, "bf16": bf16_product, "int8": int8_product, "int8-dynamic": int8_dynamic_product,
}


class Quantized(nn.Module):
    """A Linear that is its product alone: x (..., in), FP32 -> (..., out), FP32."""

    def __init__(self, product: Product):
        super().__init__()
        self.product = product

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x.flatten(0, -2)).float().unflatten(0, x.shape[:-1])


def quantized(model: Llama, form: str) -> tuple[Llama, FastDecoder]:
    """`model`, its Linear layers replaced by `form` (a key of FORMS; fp32 changes nothing), and the decoding
    step that belongs to it.
    """
    if form not in FORMS:
        raise UserError(f"unknown form of weights {form!r}; choose from {', '.join(FORMS)}")
    on_cpu = model.model.embed_tokens.weight.device.type == "cpu"
    if form.startswith("int8") and not on_cpu:
        raise UserError(f"--weights {form} is for the CPU; on this device use fp32 or bf16")
    prepare = FORMS[form]
    step = FastDecoder(model, prepare) if on_cpu else GraphDecoder(model, prepare)
    if form != "fp32":
        for module in list(model.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, nn.Linear):
                    setattr(module, name, Quantized(prepare(child.weight)))
        model.project = Quantized(step.project).forward
    return model, step


BYTES = {"fp32": 4, "bf16": 2, "int8": 1, "int8-dynamic": 1}


def bytes_read(model: Llama, form: str) -> int:
    """Bytes of weights that one decoding step reads: every matrix once (of an untied embedding only a row),
    norms in FP32. `model` as loaded.
    """
    matrices = sum(parameter.numel() for parameter in model.parameters() if parameter.dim() == 2)
    norms = sum(parameter.numel() for parameter in model.parameters() if parameter.dim() == 1)
    if not model.config.tie_word_embeddings:
        matrices -= model.model.embed_tokens.weight.numel()
    return matrices * BYTES[form] + norms * 4
