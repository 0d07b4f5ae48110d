# SPDX-License-Identifier: Apache-2.0
"""The decoding step in fewer and larger operations. The plain form is `model(newest, cache)[:, -1]`.

A small model's step is bound by two things: every weight is read once, and every operation costs some
microseconds to start. So:

* the rows of a weight are multiplied in several parts (FP32), or stored in fewer bytes (`sampling.weights`);
* q, k and v come from one product, gate and up (all of `MLP.inputs`) from another;
* the position's rotation is one matrix, the same for every layer and head;
* q, k and v lie in the same memory in every layer, so that its views are made once a step;
* the H/K query heads that share a key/value head go to attention as H/K query positions, so that keys and
  values are read once and not copied.

`python -m bench.decoding` measures it; what each of these gave is in BENCHMARKS.md.
"""
from __future__ import annotations

import math
from typing import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from model import KVCache, Llama

Product = Callable[[Tensor], Tensor]
PARTS = 8                           # parts of a weight on a CPU; from 2 to 32 the time is the same


def in_parts(weight: Tensor) -> Product:
    """The function x (B, in) -> x weight^T (B, out), with the rows of the weight in PARTS equal parts.

    [W1; W2] x = [W1 x; W2 x]. The product of one row with a matrix is as fast as the matrix is read.
    `F.linear` reads it at a third of the memory's speed, and a small matrix in one thread. The batched
    product (parts, out/parts, in) x (parts, in, B) reads it at nearly that speed, and each thread takes some
    of the parts. The parts are a view: nothing is copied.
    """
    parts = math.gcd(len(weight), PARTS) if weight.device.type == "cpu" else 1
    kept = weight.detach().unflatten(0, (parts, -1))                          # (parts, out/parts, in)

    def product(x: Tensor) -> Tensor:
        columns = x.t().expand(parts, -1, -1)                                 # (parts, in, B)
        return torch.bmm(kept, columns).view(len(weight), -1).t()             # (B, out)

    return product


class FastDecoder:
    """`decoder(newest, cache)` equals `model(newest, cache)[:, -1]` for B rows, up to rounding.

    `prepare` turns a weight (out, in) into its product. The decoder holds copies of the weights: make a new
    one when they have changed.
    """

    def __init__(self, model: Llama, prepare: Callable[[Tensor], Product] = in_parts):
        config, decoder = model.config, model.model
        self.heads, self.kv_heads, self.head_dim = (
            config.num_attention_heads, config.num_key_value_heads, config.head_dim)
        self.embedding = decoder.embed_tokens.weight                          # (V, D)
        device, D = self.embedding.device, config.hidden_size
        self.D_eps = torch.tensor(math.sqrt(D * config.rms_norm_eps), device=device)
        self.norm = math.sqrt(D) * decoder.norm.weight                        # (D,)
        self.project = prepare(self.embedding if config.tie_word_embeddings else model.lm_head.weight)
        self.cos, self.sin = decoder.cos, decoder.sin                         # (T, F) each
        self.identity = torch.eye(self.head_dim, device=device)               # (F, F)
        first, second = self.identity.chunk(2, dim=1)                         # (F, F/2)
        self.turned = torch.cat([-second, first], dim=1)                      # (F, F)
        self.mlp_inputs = len(decoder.layers[0].mlp.inputs())
        self.layers = []                       # norm, qkv, output; norm, inputs, activation, down of the MLP
        for layer in decoder.layers:
            attention, mlp = layer.self_attn, layer.mlp
            qkv = torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight])
            inputs = torch.cat([linear.weight for linear in mlp.inputs()])
            self.layers.append((
                math.sqrt(D) * layer.input_layernorm.weight, prepare(qkv), prepare(attention.o_proj.weight),
                math.sqrt(D) * layer.post_attention_layernorm.weight, prepare(inputs),
                mlp.activate, prepare(mlp.down_proj.weight),
            ))

    def rms_norm(self, x: Tensor, weight: Tensor) -> Tensor:
        """x (B, D) / sqrt(|x|^2 / D + eps) * g in four operations instead of nine.

        It is computed as x / sqrt(|x|^2 + D eps) * (sqrt(D) g); `weight` (D,) is sqrt(D) g.
        """
        length = torch.linalg.vector_norm(x, dim=1, keepdim=True).hypot_(self.D_eps)          # (B, 1)
        return (x / length).mul_(weight)                                      # (B, D)

    @torch.inference_mode()
    def __call__(self, newest: Tensor, cache: KVCache) -> Tensor:
        """Newest tokens (B, 1) -> logits (B, V) of the token after them. The cache grows by one position."""
        position = cache.length
        keys = cache.keys[..., :position + 1, :].unbind()                     # for each layer (B, K, S, F)
        values = cache.values[..., :position + 1, :].unbind()
        new_keys = cache.keys[..., position, :].unbind()                      # for each layer (B, K, F)
        new_values = cache.values[..., position, :].unbind()

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
        self, newest: Tensor, cos: Tensor, sin: Tensor, store: Callable[[int, Tensor, Tensor], None],
        keys: Sequence[Tensor], values: Sequence[Tensor], mask: Tensor | None = None
    ) -> Tensor:
        """The work of one position, up to its logits (B, V).

        `cos` and `sin`, (F,) or (1, F), are those of the position. `store(layer, k, v)` puts its key and
        value (B, K, F) into the cache. Attention then reads `keys` and `values`, (B, K, S, F) for each layer,
        where `mask` (1, S) allows it.
        """
        B, H, K, width = len(newest), self.heads, self.kv_heads, self.head_dim
        qkv = torch.empty(B, (H + 2 * K) * width, device=newest.device)       # (B, (H+2K)*F)
        qk, v = qkv.view(B, -1, width).split([H + K, K], dim=1)               # (B, H+K, F), (B, K, F)
        rotated = torch.empty(B, H + K, width, device=newest.device)          # (B, H+K, F)
        q = rotated[:, :H].view(B, K, -1, width)                              # (B, K, H/K, F)
        k = rotated[:, H:]                                                    # (B, K, F)
        rotation = self.identity * cos + self.turned * sin                    # (F, F)
        x = self.embedding[newest[:, 0]]                                      # (B, D)
        for i, layer in enumerate(self.layers):
            attention_norm, to_qkv, to_output, mlp_norm, to_inputs, activate, to_down = layer
            qkv.copy_(to_qkv(self.rms_norm(x, attention_norm)))               # (B, (H+2K)*F)
            torch.matmul(qk, rotation, out=rotated)                           # (B, H+K, F)
            store(i, k, v)
            attended = self.attend(q, keys[i], values[i], mask)               # (B, K, H/K, F)
            x.add_(to_output(attended.reshape(B, -1)))                        # (B, D)
            inputs = to_inputs(self.rms_norm(x, mlp_norm)).chunk(self.mlp_inputs, dim=1)      # (B, M) each
            x.add_(to_down(activate(*inputs)))                                # (B, D)
        return self.project(self.rms_norm(x, self.norm)).float()              # (B, V)
