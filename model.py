# SPDX-License-Identifier: Apache-2.0
"""The model: a Llama-style decoder, written out by hand.

Its files have the layout that transformers, vLLM and llama.cpp read. Axes, one letter each, in every shape
comment of this project:

    B batch    T positions    D hidden_size    H query heads    K key/value heads    F width of one head
    M width of the MLP    V vocabulary    S positions seen so far (T, plus what a KV cache holds)

Reading order: ModelConfig and SIZES; the parts, in the order of the computation (RMSNorm, rotary embedding,
attention, SwiGLU, block); `Llama`, the loss, initialization, the KV cache; saving and loading model folders,
also those of other programs.
"""
from __future__ import annotations

import dataclasses
import json
import math
import operator
import re
from pathlib import Path
from typing import Callable

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from common import UserError, read_json


# ---------------------------------------------------------------------------------------------- configuration

@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The shape of a model. The fields are the keys of a Llama `config.json`."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rope_theta: float = 10_000.0
    rms_norm_eps: float = 1e-5
    tie_word_embeddings: bool = False

    def problems(self) -> list[str]:
        """Everything that makes this shape impossible, one sentence each; empty if the model can be built."""
        found, valid = [], set()                                  # valid: fields with a possible value
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            limit = 1000 if field.name == "num_hidden_layers" else 2**20
            if field.type == "bool" and not isinstance(value, bool):
                found.append(f"{field.name} must be true or false, not {value!r}")
            elif field.type == "int" and not (type(value) is int and 0 < value <= limit):
                found.append(f"{field.name} must be a whole number from 1 to {limit}, not {value!r}")
            elif field.type == "float" and not (type(value) in (int, float) and 0 < value < 1e15):
                found.append(f"{field.name} must be a positive number, not {value!r}")
            else:
                valid.add(field.name)
        heads, kv_heads = self.num_attention_heads, self.num_key_value_heads
        length, width = self.max_position_embeddings, self.head_dim
        if valid >= {"num_attention_heads", "num_key_value_heads"} and heads % kv_heads:
            found.append(f"num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}")
        if "head_dim" in valid and width % 2:
            found.append(f"head_dim {width} is odd; rotary embedding rotates pairs of features")
        if valid >= {"max_position_embeddings", "head_dim"} and length * width > 2**27:
            found.append(f"max_position_embeddings {length} by head_dim {width} is a rotary table above "
                         "512 MiB")
        return found

    def check(self, where: str = "model") -> ModelConfig:
        """Return self, or raise UserError with all problems at once; `where` names the file or the model."""
        found = self.problems()
        if found:
            raise UserError(f"{where}: impossible configuration: " + "; ".join(found))
        return self

    @classmethod
    def from_json(cls, path: str | Path) -> ModelConfig:
        """Read a Llama `config.json`, also one that transformers wrote (see `plain_llama`).

        Raises UserError for a missing key, and for features that this model lacks: biases, scaled RoPE,
        sliding windows, another activation, quantized weights.
        """
        values = plain_llama(Path(path), read_json(path))
        return cls(**values).check(str(path))


# The seven models of the three cards, and `tiny` for lessons and tests. A new size is one more row.
# Where the cards disagree, the row gives the stated total (`python params.py --audit` shows each case):
# 12m-v1 has 12 layers (its table says 9), 12m an MLP of 768 (its table says 512). Values that no card states:
# theta is 10,000 for the v1 line as for Stentor2, 50,000 for 50m as for 20m; rms_norm_eps is 1e-5 everywhere.
#                        V       D     M   layers   H  K    F     T   theta
SIZES = {
    "tiny":   ModelConfig(4096,  128,  256,   4,    4, 2,  32,  1024, tie_word_embeddings=True),
    "12m-v1": ModelConfig(32768, 192,  576,  12,    3, 3,  64,   512, tie_word_embeddings=True),
    "30m-v1": ModelConfig(32768, 256, 1024,  21,    4, 4,  64,   512, tie_word_embeddings=True),
    "12m":    ModelConfig(8064,  256,  768,  12,    4, 4,  64,  1024, tie_word_embeddings=True),
    "30m":    ModelConfig(8064,  512, 1024,  10,    8, 8,  64,  1024, tie_word_embeddings=True),
    "20m":    ModelConfig(4096,  320, 1280,  12,   10, 2,  32,  4096, 50_000.0),
    "50m":    ModelConfig(4096,  512, 1536,  15,    8, 2,  64,  4096, 50_000.0),
    "150m":   ModelConfig(32768, 768, 2048,  20,    6, 2, 128,  4096, 50_000.0, tie_word_embeddings=True),
}
# Sizes whose initial weights `init_weights` does not scale: stated by the Stentor2 card, our choice for v1.
UNSCALED = [SIZES[name] for name in ("12m-v1", "30m-v1", "12m", "30m")]


# ------------------------------------------------------------------------------------------------------ parts

class RMSNorm(nn.Module):
    """y = x / sqrt(mean(x^2) + eps) * weight, over the last axis (Zhang and Sennrich 2019, eq. 4).

    Whatever the dtype of x, the mean is computed in FP32. The result is cast back before it is multiplied by
    the weight, as in Llama.
    """

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        x32 = x.float()                                                       # (B, T, D)
        mean_square = x32.pow(2).mean(dim=-1, keepdim=True)                   # (B, T, 1)
        normed = x32 * torch.rsqrt(mean_square + self.eps)                    # (B, T, D)
        return self.weight * normed.to(x.dtype)                               # (B, T, D)


def rotary_table(
    length: int, head_dim: int, theta: float, device: torch.device | str | None = None
) -> tuple[Tensor, Tensor]:
    """cos and sin of the angles n * theta^(-2j/F), position n < length, pair j < F/2 (Su et al. 2021, 3.2.2).

    The Llama files of transformers use the half-split form: feature j is paired with feature j + F/2, so each
    row has every angle twice. The frequency is computed in the same steps as in the published code: a
    difference in its last bit, multiplied by the position, changes a logit by more than 1e-4. Returns two
    FP32 tensors (length, F).
    """
    pair = torch.arange(0, head_dim, 2, dtype=torch.float32, device=device)   # (F/2,)
    frequency = 1.0 / theta ** (pair / head_dim)                              # (F/2,)
    position = torch.arange(length, dtype=torch.float32, device=device)       # (T,)
    angle = torch.outer(position, frequency)                                  # (T, F/2)
    angle = torch.cat([angle, angle], dim=-1)                                 # (T, F)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each pair (x_j, x_{j+F/2}) by the angle of its position: x * cos + rotate_half(x) * sin.

    `x` is (B, H, T, F), the tables are (T, F).
    """
    first, second = x.chunk(2, dim=-1)                                        # (B, H, T, F/2)
    turned = torch.cat([-second, first], dim=-1)                              # (B, H, T, F)
    return x * cos + turned * sin                                             # (B, H, T, F)


def attention_written_out(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(F)) v, causal (Vaswani et al. 2017, eq. 1), with all scores in memory.

    The readable form of `sdpa`. `q` is (B, H, T, F), `k` and `v` are (B, K, S, F); query head h reads
    key/value head h // (H/K) (Ainslie et al. 2023, section 2.2). `mask`, (T, S) or (B, 1, T, S), is true
    where a query may read a position. Without a mask the queries are the last T of the S positions.
    """
    group = q.shape[1] // k.shape[1]
    T, S = q.shape[2], k.shape[2]
    k = k.repeat_interleave(group, dim=1)                                     # (B, H, S, F)
    v = v.repeat_interleave(group, dim=1)                                     # (B, H, S, F)
    score = q @ k.transpose(2, 3) / math.sqrt(q.shape[3])                     # (B, H, T, S)
    if mask is None:
        mask = torch.ones(T, S, dtype=torch.bool, device=q.device)            # (T, S)
        mask = mask.tril(S - T)                                               # (T, S)
    score = score.masked_fill(~mask, -math.inf)                               # (B, H, T, S)
    weight = torch.softmax(score, dim=-1)                                     # (B, H, T, S)
    return weight @ v                                                         # (B, H, T, F)


def sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """`attention_written_out` by torch's fused kernel, which does not keep the (T, S) scores in memory.

    Without a mask the queries are all positions (T = S), or the newest one (T = 1), which reads all of them.
    """
    causal = mask is None and q.shape[2] > 1
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=True)


class Attention(nn.Module):
    """Grouped-query attention, H query heads and K key/value heads (Ainslie et al. 2023, section 2.2)."""

    def __init__(self, config: ModelConfig, layer_idx: int, attend: Callable[..., Tensor]):
        super().__init__()
        q_width = config.num_attention_heads * config.head_dim
        kv_width = config.num_key_value_heads * config.head_dim
        self.head_dim = config.head_dim
        self.layer_idx = layer_idx
        self.attend = attend
        self.q_proj = nn.Linear(config.hidden_size, q_width, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, kv_width, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, kv_width, bias=False)
        self.o_proj = residual_output(q_width, config.hidden_size)

    def split_heads(self, x: Tensor) -> Tensor:
        """(B, T, H*F) -> (B, H, T, F)."""
        return x.view(*x.shape[:2], x.shape[2] // self.head_dim, self.head_dim).transpose(1, 2)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None = None, cache: KVCache | None = None
    ) -> Tensor:
        q = self.split_heads(self.q_proj(x))                                  # (B, H, T, F)
        k = self.split_heads(self.k_proj(x))                                  # (B, K, T, F)
        v = self.split_heads(self.v_proj(x))                                  # (B, K, T, F)
        cos = cos.to(q.dtype)                                                 # (T, F)
        sin = sin.to(q.dtype)                                                 # (T, F)
        q = rotate(q, cos, sin)                                               # (B, H, T, F)
        k = rotate(k, cos, sin)                                               # (B, K, T, F)
        if cache is not None:
            k, v = cache.append(self.layer_idx, k, v)                         # (B, K, S, F)
        y = self.attend(q, k, v, mask)                                        # (B, H, T, F)
        y = y.transpose(1, 2).flatten(2)                                      # (B, T, H*F)
        return self.o_proj(y)                                                 # (B, T, D)


class MLP(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x)), silu(z) = z * sigmoid(z) (Shazeer 2020, eq. 6)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = residual_output(config.intermediate_size, config.hidden_size)

    def inputs(self) -> list[nn.Linear]:
        """The layers that read x; `activate` takes their outputs in this order."""
        return [self.gate_proj, self.up_proj]

    def activate(self, gate: Tensor, up: Tensor) -> Tensor:
        """silu(gate) * up, both (..., M); sampling/fast_decoder.py calls it too."""
        return F.silu(gate) * up

    def forward(self, x: Tensor) -> Tensor:
        gate = self.gate_proj(x)                                              # (B, T, M)
        up = self.up_proj(x)                                                  # (B, T, M)
        hidden = self.activate(gate, up)                                      # (B, T, M)
        return self.down_proj(hidden)                                         # (B, T, D)


class Block(nn.Module):
    """One layer: x + attention(norm(x)), then x + mlp(norm(x)).

    The norm comes before each part ("pre-norm"), so the residual stream x itself is never normalized.
    """

    def __init__(self, config: ModelConfig, layer_idx: int, attend: Callable[..., Tensor]):
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config, layer_idx, attend)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None = None, cache: KVCache | None = None
    ) -> Tensor:
        normed = self.input_layernorm(x)                                      # (B, T, D)
        x = x + self.self_attn(normed, cos, sin, mask, cache)                 # (B, T, D)
        normed = self.post_attention_layernorm(x)                             # (B, T, D)
        x = x + self.mlp(normed)                                              # (B, T, D)
        return x                                                              # (B, T, D)


class Decoder(nn.Module):
    """Embedding, blocks, final norm: ids (B, T) to hidden states (B, T, D). Llama's files call it `model`."""

    def __init__(self, config: ModelConfig, attend: Callable[..., Tensor]):
        super().__init__()
        self.config = config
        # checkpoint(function, *inputs): computes each layer again in backward instead of storing its values
        self.recompute: Callable[..., Tensor] | None = None
        table = torch.empty(config.vocab_size, config.hidden_size)            # filled by init_weights
        self.embed_tokens = nn.Embedding.from_pretrained(table, freeze=False)
        self.layers = nn.ModuleList(Block(config, i, attend) for i in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.reset_rotary()

    def reset_rotary(self) -> None:
        """Compute the rotary tables. They follow from the configuration, so they are never saved."""
        device = self.embed_tokens.weight.device
        if device.type == "meta":                                 # no numbers yet; `load_model` calls again
            return
        cos, sin = rotary_table(
            self.config.max_position_embeddings, self.config.head_dim, self.config.rope_theta, device
        )
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, input_ids: Tensor, cache: KVCache | None = None, mask: Tensor | None = None) -> Tensor:
        T = input_ids.shape[1]
        start = 0 if cache is None else cache.length
        limit = self.config.max_position_embeddings
        if cache is not None:
            limit = min(limit, cache.capacity)
        if start + T > limit:
            raise UserError(
                f"{start + T} positions are more than the {limit} that fit (max_position_embeddings, or the "
                "length of the cache)"
            )
        cos = self.cos[start:start + T]                                       # (T, F)
        sin = self.sin[start:start + T]                                       # (T, F)
        if mask is None and start > 0 and T > 1:
            mask = torch.ones(T, start + T, dtype=torch.bool, device=input_ids.device)  # (T, S)
            mask = mask.tril(start)                                           # (T, S)
        x = self.embed_tokens(input_ids)                                      # (B, T, D)
        for layer in self.layers:
            if self.recompute is None or cache is not None:
                x = layer(x, cos, sin, mask, cache)                           # (B, T, D)
            else:
                x = self.recompute(layer, x, cos, sin, mask)                  # (B, T, D)
        if cache is not None:
            cache.length = start + T
        return self.norm(x)                                                   # (B, T, D)


class Llama(nn.Module):
    """The complete model: token ids (B, T), int64, to next-token logits (B, T, V).

    `attend` computes attention: `sdpa` or `attention_written_out`. `init_weights` draws the first weights
    from torch's global generator. `model.state_dict()` has the names and shapes of the Llama layout. Raises
    UserError if the configuration is impossible.
    """

    def __init__(self, config: ModelConfig, attend: Callable[..., Tensor] = sdpa):
        super().__init__()
        self.config = config.check()
        self.model = Decoder(config, attend)
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        init_weights(self, scale_residual=config not in UNSCALED)

    def project(self, x: Tensor) -> Tensor:
        """Hidden states (B, T, D) to logits (B, T, V), by the embedding if tied (Press and Wolf 2017)."""
        if self.config.tie_word_embeddings:
            return F.linear(x, self.model.embed_tokens.weight)                # (B, T, V)
        return self.lm_head(x)                                                # (B, T, V)

    def forward(self, input_ids: Tensor, cache: KVCache | None = None, mask: Tensor | None = None) -> Tensor:
        x = self.model(input_ids, cache, mask)                                # (B, T, D)
        return self.project(x)                                                # (B, T, V)

    def save_pretrained(self, folder: str | Path, eos_token_id: int | None = None,
                        bos_token_id: int | None = None, pad_token_id: int | None = None) -> None:
        """Write the model folder `folder`; see `save_model`. The folder is made if needed."""
        ids = {"bos_token_id": bos_token_id, "eos_token_id": eos_token_id, "pad_token_id": pad_token_id}
        ids = {name: None if id is None else operator.index(id) for name, id in ids.items()}
        save_model(self, Path(folder), ids)

    @classmethod
    def from_pretrained(cls, folder: str | Path, attend: Callable[..., Tensor] = sdpa) -> Llama:
        """Read a model folder; see `load_model` for what is refused."""
        return load_model(Path(folder), attend)


def next_token_loss(logits: Tensor, input_ids: Tensor) -> Tensor:
    """Mean of -log p(next token) = logsumexp(logits) - logits[next] over all positions: nats, FP32, scalar.

    `logits` (B, T, V) come from `input_ids` (B, T). Position t predicts token t + 1, so a row has T - 1
    predictions. The last position has no target, so its target is -100, which cross_entropy skips. Cutting it
    off instead would copy the logits and pad their gradient.
    """
    logits = logits.float()                                                   # (B, T, V)
    target = F.pad(input_ids[:, 1:].long(), (0, 1), value=-100)               # (B, T)
    return F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=-100)


def next_token_losses(logits: Tensor, input_ids: Tensor) -> tuple[Tensor, Tensor]:
    """`next_token_loss` (scalar), and the loss of each row (B,), which has no gradient; both FP32.

    cross_entropy is log_softmax followed by nll_loss, as here, so the first result is bit-equal to
    `next_token_loss`; the losses of the rows cost one more look-up for each position. devices/loss_cpu.py and
    training/chunked_loss.py shift by one token in the same way.
    """
    target = F.pad(input_ids[:, 1:].long(), (0, 1), value=-100)               # (B, T)
    log_p = F.log_softmax(logits.float().flatten(0, 1), dim=1)                # (B*T, V)
    loss = F.nll_loss(log_p, target.flatten(), ignore_index=-100)
    each = F.nll_loss(log_p.detach(), target.flatten(), ignore_index=-100, reduction="none")      # (B*T,)
    return loss, each.view(target.shape).sum(1) / (target.shape[1] - 1)


def shown_perplexity(loss: float, digits: int = 1) -> str:
    """The perplexity e^loss as text, from 1,000 on without decimals, from 10^9 on in scientific notation.

    >>> shown_perplexity(2.0), shown_perplexity(8.0), shown_perplexity(50.0), shown_perplexity(5000.0)
    ('7.4', '2,981', '5.2e+21', 'above 1e+300')
    """
    if loss > 300 * math.log(10):
        return "above 1e+300"
    value = math.exp(loss)
    if value >= 1e9:
        return f"{value:.1e}"
    return f"{value:,.{digits if value < 1000 else 0}f}"


def beside_uniform(loss: float, vocab_size: int) -> str:
    """A warning if a loss is above ln V, the loss of a uniform guess among V tokens; else ""."""
    if loss <= math.log(vocab_size):
        return ""
    return f"worse than knowing nothing: a uniform guess has perplexity {vocab_size:,}"


# --------------------------------------------------------------------------------------------- initialization

def residual_output(in_features: int, out_features: int) -> nn.Linear:
    """A Linear whose output is added to the residual stream; the mark is for `init_weights`."""
    layer = nn.Linear(in_features, out_features, bias=False)
    layer.is_residual_output = True
    return layer


@torch.no_grad()
def init_weights(model: Llama, scale_residual: bool = True, std: float = 0.02) -> None:
    """Draw every matrix from N(0, std) and set every norm to one, as the cards say.

    Draws from torch's global generator, in the order of the state dict. With `scale_residual` (Stentor3,
    Portimbria; GPT-2, Radford et al. 2019, section 2.3) the 2L matrices that add to the residual stream get
    std / sqrt(2L), so that the variance of the stream does not grow with depth. Stentor2 does not scale them.
    """
    if model.model.embed_tokens.weight.is_meta:                   # shapes without values
        return
    residual_std = std / math.sqrt(2 * model.config.num_hidden_layers)
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Embedding)):
            scaled = scale_residual and getattr(module, "is_residual_output", False)
            module.weight.normal_(0.0, residual_std if scaled else std)
        elif isinstance(module, RMSNorm):
            module.weight.fill_(1.0)


# --------------------------------------------------------------------------------------------------- KV cache

class KVCache:
    """Keys and values of the positions seen so far, so that a new token costs the work of one position.

    `config` gives layers, heads and widths; `batch` is B; `length` is the maximum number of positions, whose
    memory is allocated at once. `cache.length` is the number of filled positions: `Decoder.forward` takes it
    as the first new position and increases it. Keys and values are one tensor each,
    (layers, B, K, length, F).
    """

    def __init__(self, config: ModelConfig, batch: int, length: int, device: torch.device | str | None = None,
                 dtype: torch.dtype = torch.float32):
        shape = (config.num_hidden_layers, batch, config.num_key_value_heads, length, config.head_dim)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self.capacity = length
        self.length = 0

    def append(self, layer_idx: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store k and v (B, K, T, F) of T new positions; return all of that layer, (B, K, S, F) each."""
        end = self.length + k.shape[2]
        self.keys[layer_idx, :, :, self.length:end] = k
        self.values[layer_idx, :, :, self.length:end] = v
        return self.keys[layer_idx, :, :, :end], self.values[layer_idx, :, :, :end]


# ---------------------------------------------------------------------------------------------- save and load

def save_model(model: Llama, folder: Path, token_ids: dict[str, int | None]) -> None:
    """Write config.json, generation_config.json and model.safetensors (FP32; no lm_head if it is tied)."""
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", **dataclasses.asdict(model.config),
        # transformers 5 reads theta here, transformers 4 from "rope_theta" among the fields above
        "rope_parameters": {"rope_type": "default", "rope_theta": model.config.rope_theta},
        "hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "attention_dropout": 0.0,
        "initializer_range": 0.02, "pretraining_tp": 1, "use_cache": True, "dtype": "float32", **token_ids,
    }
    generation = {name: token_id for name, token_id in token_ids.items() if token_id is not None}
    weights = {
        name: tensor.detach().to("cpu", torch.float32).contiguous()
        for name, tensor in model.state_dict().items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)                   # safetensors made it private to the owner
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def load_model(folder: Path, attend: Callable[..., Tensor] = sdpa) -> Llama:
    """The model in a folder: `config.json` with `model.safetensors`, or with shards and their index.

    Weights may be FP32, FP16 or BF16; they become FP32. Every name and shape is compared with the
    configuration before any weight is read. Raises UserError that names file, tensor, expected and found
    shape. `check_surplus` names the tensors that may be ignored.
    """
    config = ModelConfig.from_json(folder / "config.json")
    found = tensor_index(folder)
    with torch.device("meta"):                                    # names and shapes only
        model = Llama(config, attend)
    expected = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    for name, shape in expected.items():
        file, found_shape = found.get(name, (folder / "model*.safetensors", "no such tensor"))
        if found_shape != shape:
            raise UserError(
                f"{file}: tensor {name}: expected shape {shape} from config.json, found {found_shape}"
            )
    stored = {}
    for file in sorted({file for file, _ in found.values()}):
        stored.update(load_file(file))
    surplus = {name: tensor for name, tensor in stored.items() if name not in expected}
    check_surplus(folder, config, surplus, stored["model.embed_tokens.weight"])
    weights = {}
    for name in expected:
        # Copied, because `stored` is memory-mapped and the file may change.
        weights[name] = stored[name].to(torch.float32, copy=True)
        if not torch.isfinite(weights[name]).all():
            raise UserError(f"{found[name][0]}: tensor {name} holds values that are not finite numbers")
    model.load_state_dict(weights, assign=True)
    model.model.reset_rotary()
    return model


def tensor_index(folder: Path) -> dict[str, tuple[Path, list[int]]]:
    """Name -> (file, shape) of every tensor in a model folder, from the headers of the files alone.

    Raises UserError for a file that cannot be read or is damaged.
    """
    found = {}
    for file in weight_files(folder):
        try:
            file.open("rb").close()                               # safetensors calls "no permission" damage
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():
                    piece = tensors.get_slice(name)
                    if piece.get_dtype() not in ("F32", "F16", "BF16"):
                        raise UserError(
                            f"{file}: tensor {name} has dtype {piece.get_dtype()}; only F32, F16 and BF16 "
                            "weights are read"
                        )
                    found[name] = (file, list(piece.get_shape()))
        except OSError as error:
            raise UserError(f"{file}: cannot be read: {error.strerror or error}") from None
        except (SafetensorError, ValueError) as error:
            raise UserError(f"{file}: damaged or not a safetensors file: {error}") from None
    return found


def weight_files(folder: Path) -> list[Path]:
    """`model.safetensors`, or the shards that `model.safetensors.index.json` names, all in this folder.

    Raises UserError if there is neither.
    """
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if not index.is_file():
        raise UserError(f"{single}: no such file; a model folder holds config.json and model.safetensors")
    parts = read_json(index).get("weight_map")
    if not isinstance(parts, dict) or not all(
        re.fullmatch(r"[\w.-]{1,200}\.safetensors", str(part)) for part in parts.values()
    ):
        raise UserError(f"{index}: weight_map must map tensor names to .safetensors files of this folder")
    return [folder / part for part in sorted(set(parts.values()))]


# -------------------------------------------------------------------------- folders that other programs wrote

# The values of these keys in a plain Llama, if they are present. Any other value needs a feature that the
# model above lacks.
PLAIN = {
    "model_type": ("llama",),
    "hidden_act": ("silu", "swish"),                              # two names of one function
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "sliding_window": (),                                         # no value but null is plain
    "quantization_config": (),
    "partial_rotary_factor": (1,),
}


def plain_llama(path: Path, values: dict) -> dict:
    """The fields of ModelConfig from `values`, the content of a Llama config.json at `path`.

    A key that is absent or null has the default of transformers. transformers 5 writes the kind of rotary
    embedding and theta under `rope_parameters`; transformers 4 writes the kind under `rope_scaling` and theta
    at the top. `rope_scaling` wins if both are given. Raises UserError that names every value that PLAIN does
    not allow, and every missing field without a default.
    """
    rope = values.get("rope_scaling") or values.get("rope_parameters") or {}
    if not isinstance(rope, dict):
        raise UserError(f"{path}: rope_parameters and rope_scaling must be objects or null, not {rope!r}")
    rope = {key: value for key, value in rope.items() if value is not None}
    stated = {key: value for key, value in values.items() if value is not None}
    foreign = [
        f"{key} {place[key]!r}"
        for place in (stated, rope)
        for key, allowed in PLAIN.items()
        if key in place and place[key] not in allowed
    ]
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        foreign.append(f"rope scaling {kind!r}")
    if foreign:
        raise UserError(
            f"{path}: this model has no {', no '.join(foreign)}; only a plain Llama can be loaded"
        )
    theta = stated.get("rope_theta", rope.get("rope_theta", 10_000.0))
    if rope.get("rope_theta", theta) != theta:
        raise UserError(
            f"{path}: rope_theta is {theta!r} here and {rope['rope_theta']!r} in rope_parameters; "
            "make them equal"
        )
    width, heads = stated.get("hidden_size"), stated.get("num_attention_heads")
    divisible = isinstance(width, int) and isinstance(heads, int) and heads > 0
    defaults = {
        "num_key_value_heads": heads, "head_dim": width // heads if divisible else 0, "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
    }
    complete = {**defaults, **stated, "rope_theta": theta}
    names = [field.name for field in dataclasses.fields(ModelConfig)]
    missing = [name for name in names if complete.get(name) is None]
    if missing:
        raise UserError(f"{path}: missing {', '.join(missing)}; a Llama config.json states them")
    return {name: complete[name] for name in names}


def check_surplus(folder: Path, config: ModelConfig, surplus: dict[str, Tensor], embedding: Tensor) -> None:
    """Raise UserError for a tensor that the model does not have, except two harmless kinds.

    Old exports hold rotary frequencies; some tied models hold an exact copy of the embedding as lm_head. (If
    the copy differs, transformers 4 ignores it and transformers 5 uses it: the folder would mean two models.)
    """
    for name, tensor in surplus.items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            if not torch.equal(tensor, embedding):
                raise UserError(
                    f"{folder}: tensor lm_head.weight differs from model.embed_tokens.weight, but "
                    "config.json says tie_word_embeddings true; set it to false, or remove the tensor"
                )
        elif not name.endswith("rotary_emb.inv_freq"):
            raise UserError(f"{folder}: unexpected tensor {name}; config.json describes a model without it")
