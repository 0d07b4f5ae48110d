# SPDX-License-Identifier: Apache-2.0
"""The decoding step of sample.py in fewer and larger operations: one optimisation, beside the plain form `model(newest, cache)[:, -1]`.

A small model's step is bound by two things: every weight is read once, and every operation costs some microseconds to start. So:

* weights are stored as a one-row product likes them: transposed where they widen (FP32), or in fewer bytes (`extras.quantize`);
* q, k and v come from one product, gate and up from another;
* the H/K query heads that share a key/value head go to attention as H/K query positions, so that keys and values are read once and not copied.

`python -m extras.bench_sample` measures it.
"""
from __future__ import annotations

from typing import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from model import KVCache, Llama, RMSNorm

Product = Callable[[Tensor], Tensor]


def transposed(weight: Tensor) -> Product:
    """The function x (B, in) -> x weight^T (B, out) for a weight (out, in), copied so that it lies in memory as (in, out).

    A narrowing weight (down_proj) stays as it is: there the product by rows is the faster one.
    """
    if weight.shape[0] < weight.shape[1]:
        kept = weight.detach()                                                # (out, in)

        def product_by_rows(x: Tensor) -> Tensor:
            return F.linear(x, kept)

        return product_by_rows
    turned = weight.detach().t().contiguous()                                 # (in, out)

    def product(x: Tensor) -> Tensor:
        return x @ turned

    return product


def rms_norm(x: Tensor, norm: RMSNorm) -> Tensor:
    """`norm(x)` by torch's own function: one operation for five."""
    return F.rms_norm(x, x.shape[-1:], norm.weight, norm.eps)


class FastStep:
    """The newest position of B rows: `step(newest, cache)` equals `model(newest, cache)[:, -1]`, up to rounding.

    `prepare` turns a weight (out, in) into its product. Holds copies of the weights: make a new one when they have changed.
    """

    def __init__(self, model: Llama, prepare: Callable[[Tensor], Product] = transposed):
        config, decoder = model.config, model.model
        self.heads, self.kv_heads, self.head_dim = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        self.embedding = decoder.embed_tokens.weight                          # (V, D)
        self.norm = decoder.norm
        self.project = prepare(self.embedding if config.tie_word_embeddings else model.lm_head.weight)
        self.cos = decoder.cos                                                # (T, F)
        first, second = decoder.sin.chunk(2, dim=1)                           # (T, F/2)
        self.sin = torch.cat([-first, second], dim=1)                         # (T, F), with the sign of rotate's first half
        self.layers = []
        for layer in decoder.layers:
            attention, mlp = layer.self_attn, layer.mlp
            qkv = prepare(torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]))
            gate_up = prepare(torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]))
            output, down = prepare(attention.o_proj.weight), prepare(mlp.down_proj.weight)
            self.layers.append((layer.input_layernorm, qkv, output, layer.post_attention_layernorm, gate_up, down))

    @torch.inference_mode()
    def __call__(self, newest: Tensor, cache: KVCache) -> Tensor:
        """Newest tokens (B, 1) -> logits (B, V) of the token after them. The cache grows by one position."""
        B, position = len(newest), cache.length
        cos, sin = self.cos[position], self.sin[position]                     # (F,)
        x = self.embedding[newest[:, 0]]                                      # (B, D)
        for i, (attention_norm, qkv, output, mlp_norm, gate_up, down) in enumerate(self.layers):
            y = qkv(rms_norm(x, attention_norm)).view(B, -1, self.head_dim)   # (B, H+2K, F)
            qk, v = y.split([self.heads + self.kv_heads, self.kv_heads], dim=1)    # (B, H+K, F), (B, K, F)
            qk = qk * cos + qk.roll(self.head_dim // 2, dims=2) * sin         # (B, H+K, F)
            q, k = qk.split([self.heads, self.kv_heads], dim=1)               # (B, H, F), (B, K, F)
            k, v = cache.append(i, k[:, :, None], v[:, :, None])              # (B, K, S, F)
            q = q.unflatten(1, (self.kv_heads, -1))                           # (B, K, H/K, F)
            attended = F.scaled_dot_product_attention(q, k, v)                # (B, K, H/K, F)
            x = x + output(attended.reshape(B, -1))                           # (B, D)
            gate, up = gate_up(rms_norm(x, mlp_norm)).chunk(2, dim=1)         # (B, M)
            x = x + down(F.silu(gate) * up)                                   # (B, D)
        cache.length = position + 1
        return self.project(rms_norm(x, self.norm))                           # (B, V)
