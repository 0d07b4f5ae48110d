# SPDX-License-Identifier: Apache-2.0
"""The decoding step of sample.py in fewer and larger operations: one optimisation, beside the plain form
`model(newest, cache)[:, -1]`.

A small model's step is bound by two things: every weight is read once, and every operation costs some
microseconds to start. So:

* the rows of a weight are shared out between the threads (FP32), or stored in fewer bytes
  (`sampling.weights`);
* q, k and v come from one product, gate and up from another;
* the H/K query heads that share a key/value head go to attention as H/K query positions, so that keys and
  values are read once and not copied.

`python -m bench.decoding` measures it.
"""
from __future__ import annotations

import math
from typing import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from model import KVCache, Llama

Product = Callable[[Tensor], Tensor]


def shared_out(weight: Tensor) -> Product:
    """The function x (B, in) -> x weight^T (B, out) with the rows of the weight in equal parts, one for each
    thread: [W1; W2] x = [W1 x; W2 x].

    The product of one row with a matrix is as fast as the matrix is read. `F.linear` leaves that to one
    thread where the matrix is small; a batched product (parts, out/parts, in) x (parts, in, B) gives each
    thread a part. The parts are a view: nothing is copied.
    """
    threads = torch.get_num_threads() if weight.device.type == "cpu" else 1
    parts = threads if len(weight) % threads == 0 else 1
    kept = weight.detach().unflatten(0, (parts, -1))                          # (parts, out/parts, in)

    def product(x: Tensor) -> Tensor:
        columns = x.t().expand(parts, -1, -1)                                 # (parts, in, B)
        return torch.bmm(kept, columns).view(len(weight), -1).t()             # (B, out)

    return product


class FastDecoder:
    """The newest position of B rows: `decoder(newest, cache)` equals `model(newest, cache)[:, -1]`, up to
    rounding.

    `prepare` turns a weight (out, in) into its product. Holds copies of the weights: make a new one when they
    have changed.
    """

    def __init__(self, model: Llama, prepare: Callable[[Tensor], Product] = shared_out):
        config, decoder = model.config, model.model
        self.heads, self.kv_heads, self.head_dim = (
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
        )
        self.embedding = decoder.embed_tokens.weight                          # (V, D)
        device, D = self.embedding.device, config.hidden_size
        self.M = config.intermediate_size
        self.D_eps = torch.tensor(math.sqrt(D * config.rms_norm_eps), device=device)
        self.norm = math.sqrt(D) * decoder.norm.weight                        # (D,)
        self.project = prepare(self.embedding if config.tie_word_embeddings else model.lm_head.weight)
        self.cos = decoder.cos                                                # (T, F)
        first, second = decoder.sin.chunk(2, dim=1)                           # (T, F/2)
        self.sin = torch.cat([-first, second], dim=1)  # (T, F), with the sign of rotate's first half
        self.other_half = torch.arange(self.head_dim, device=device).roll(
            self.head_dim // 2
        )  # (F,), the partner of each feature
        self.layers = []  # norm, qkv, output, norm, gate and up, down
        for layer in decoder.layers:
            attention, mlp = layer.self_attn, layer.mlp
            qkv = prepare(
                torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight])
            )
            gate_up = prepare(torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]))
            output, down = prepare(attention.o_proj.weight), prepare(mlp.down_proj.weight)
            norms = (
                math.sqrt(D) * layer.input_layernorm.weight,
                math.sqrt(D) * layer.post_attention_layernorm.weight,
            )
            self.layers.append((norms[0], qkv, output, norms[1], gate_up, down))

    def rms_norm(self, x: Tensor, weight: Tensor) -> Tensor:
        """x (B, D) over sqrt(|x|^2 / D + eps), times g, written as x / sqrt(|x|^2 + D eps) * (sqrt(D) g):
        four operations for nine.
        """
        length = torch.hypot(torch.linalg.vector_norm(x, dim=1, keepdim=True), self.D_eps)    # (B, 1)
        return x / length * weight                                            # (B, D)

    @torch.inference_mode()
    def __call__(self, newest: Tensor, cache: KVCache) -> Tensor:
        """Newest tokens (B, 1) -> logits (B, V) of the token after them. The cache grows by one position."""
        position = cache.length
        keys = cache.keys[..., :position + 1, :].unbind()                     # for each layer (B, K, S, F)
        values = cache.values[..., :position + 1, :].unbind()
        new_keys, new_values = (
            cache.keys[..., position, :].unbind(),
            cache.values[..., position, :].unbind(),
        )  # (B, K, F)

        def store(i: int, k: Tensor, v: Tensor) -> None:
            new_keys[i].copy_(k)
            new_values[i].copy_(v)

        logits = self.through_layers(newest, self.cos[position], self.sin[position], store, keys, values)
        cache.length = position + 1
        return logits

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Attention of q (B, K, H/K, F) to k and v (B, K, S, F)."""
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    def through_layers(
        self,
        newest: Tensor,
        cos: Tensor,
        sin: Tensor,
        store: Callable[[int, Tensor, Tensor], None],
        keys: Sequence[Tensor],
        values: Sequence[Tensor],
        mask: Tensor | None = None,
    ) -> Tensor:
        """The work of one position. `cos` and `sin`, (F,) or (1, F), are its own; `store(layer, k, v)` puts
        its key and value (B, K, F) into the cache; attention then reads `keys` and `values`, (B, K, S, F) for
        each layer, where `mask` (1, S) allows. Returns logits (B, V).
        """
        B, H, K = len(newest), self.heads, self.kv_heads
        x = self.embedding[newest[:, 0]]                                      # (B, D)
        for i, (attention_norm, qkv, output, mlp_norm, gate_up, down) in enumerate(self.layers):
            y = qkv(self.rms_norm(x, attention_norm)).view(B, -1, self.head_dim)              # (B, H+2K, F)
            qk = y[:, :H + K]                                                 # (B, H+K, F)
            qk = torch.addcmul(qk * cos, qk.index_select(2, self.other_half), sin)
            store(i, qk[:, H:], y[:, H + K:])
            q = qk[:, :H].view(B, K, -1, self.head_dim)                       # (B, K, H/K, F)
            attended = self.attend(q, keys[i], values[i], mask)               # (B, K, H/K, F)
            x = x + output(attended.reshape(B, -1))                           # (B, D)
            y = gate_up(self.rms_norm(x, mlp_norm))                           # (B, 2M)
            x = x + down(F.silu(y[:, :self.M]) * y[:, self.M:])               # (B, D)
        return self.project(self.rms_norm(x, self.norm)).float()              # (B, V)
