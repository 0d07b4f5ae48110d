# SPDX-License-Identifier: Apache-2.0
"""Weights in fewer bytes for decoding: BF16 and INT8 beside FP32, and the loss that they cost.

    python -m sampling.weights RUN TEXT_FILE        bytes, loss on a validation text and tokens/s of each form

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

import sys
import time
import warnings
from pathlib import Path
from typing import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import evaluate
import sample
from common import Parser, UserError, run
from sampling.cuda_graph import GraphStep
from sampling.fast_step import FastStep, Product, shared_out
from model import KVCache, Llama


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


def quantized(model: Llama, form: str) -> tuple[Llama, FastStep]:
    """`model`, its Linear layers replaced by `form` (a key of FORMS; fp32 changes nothing), and the decoding
    step that belongs to it.
    """
    if form not in FORMS:
        raise UserError(f"unknown form of weights {form!r}; choose from {', '.join(FORMS)}")
    on_cpu = model.model.embed_tokens.weight.device.type == "cpu"
    if form.startswith("int8") and not on_cpu:
        raise UserError(f"--weights {form} is for the CPU; on this device use fp32 or bf16")
    prepare = FORMS[form]
    step = FastStep(model, prepare) if on_cpu else GraphStep(model, prepare)
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


def seconds_per_token(source: sample.Source, tokens: int) -> float:
    """The mean time of `tokens` greedy decoding steps after a short prompt."""
    cache = KVCache(source.model.config, 1, tokens + 2)
    newest = torch.tensor([[source.tokenizer.eos_id]])                        # (1, 1)
    began = time.perf_counter()
    for i in range(tokens + 1):
        logits = source.step(newest, cache)                                   # (1, V)
        newest = logits.argmax(dim=1, keepdim=True)                           # (1, 1)
        if i == 0:
            began = time.perf_counter()  # the first step warms the caches of processor and library
    return (time.perf_counter() - began) / tokens


def main() -> int:
    parser = Parser(
        "Measure what BF16 and INT8 weights cost and gain.",
        "  python -m sampling.weights runs/20m validation.txt",
    )
    parser.add_argument("run", help="run folder or model folder")
    parser.add_argument("text", help="a text that the model has not seen")
    parser.add_argument("--tokens", type=int, default=64, help="how many tokens to time (default: 64)")
    args = parser.parse_args()
    text = Path(args.text).read_text(encoding="utf-8", errors="replace")
    longest = sample.open_source(args.run).model.config.max_position_embeddings - 2
    if not 0 < args.tokens <= longest:
        raise UserError(f"--tokens {args.tokens} must be 1 to {longest}, what fits into this model's context")
    model, base = sample.open_source(args.run).model, None
    print(f"{'weights':14}{'MB read':>9}{'loss':>9}{'cost':>9}{'tokens/s':>10}")
    for form in FORMS:
        source = sample.open_source(args.run, form)
        loss = evaluate.perplexity(source.model, source.tokenizer, text)["loss"]
        base = loss if base is None else base
        speed = 1 / seconds_per_token(source, args.tokens)
        print(f"{form:14}{bytes_read(model, form) / 1e6:9.1f}{loss:9.4f}{loss - base:+9.4f}{speed:10.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
