# SPDX-License-Identifier: Apache-2.0
"""The model: a Llama-style decoder written out by hand, in the layout that transformers, vLLM and llama.cpp
read.

Axes, one letter each, in every shape comment of this project:

    B batch    T positions    D hidden_size    H query heads    K key/value heads    F width of one head
    M width of the MLP    V vocabulary    S positions seen so far (T, plus what a KV cache holds)

Reading order: ModelConfig and SIZES, then the parts in the order in which a token meets them (RMSNorm, rotary
embedding, attention, SwiGLU, block), then `Llama`, the loss, initialization, the KV cache, and at last how a
model is saved and loaded.
"""
from __future__ import annotations

import dataclasses
import json
import math
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
        """Everything that makes this shape impossible, one sentence each; empty if it can be built."""
        found, sound = [], set()
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
                sound.add(field.name)
        if (
            sound >= {"num_attention_heads", "num_key_value_heads"}
            and self.num_attention_heads % self.num_key_value_heads
        ):
            found.append(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of num_key_value_heads {self.num_key_value_heads}"
            )
        if "head_dim" in sound and self.head_dim % 2:
            found.append(f"head_dim {self.head_dim} is odd; rotary embedding turns pairs of features")
        if (
            sound >= {"max_position_embeddings", "head_dim"}
            and self.max_position_embeddings * self.head_dim > 2**27
        ):
            found.append(
                f"max_position_embeddings {self.max_position_embeddings} by head_dim {self.head_dim} is a rotary table above 512 MiB"
            )
        return found

    def check(self, where: str = "model") -> ModelConfig:
        """Return self. Raises UserError that lists all problems at once."""
        found = self.problems()
        if found:
            raise UserError(f"{where}: impossible configuration: " + "; ".join(found))
        return self

    @classmethod
    def from_json(cls, path: str | Path) -> ModelConfig:
        """Read a Llama `config.json`, also one written by transformers (see `extras/foreign_folder.py`).

        Raises UserError for a missing key and for what this model does not have: biases, scaled RoPE, sliding
        windows, another activation, quantized weights.
        """
        from extras.foreign_folder import plain_llama
        names = [field.name for field in dataclasses.fields(cls)]
        values = plain_llama(Path(path), read_json(path), names)
        return cls(**{name: values[name] for name in names}).check(str(path))


# The seven models of the three cards, and `tiny` for lessons and tests. Where the cards disagree about a
# model, the row here is the one that gives the stated total (`python params.py --audit` shows each case):
# 12m-v1 has 12 layers (its table says 9), 12m an MLP of 768 (says 512). Where a card is silent: theta 10,000
# for the v1 line as for Stentor2, 50,000 for 50m as for 20m, and rms_norm_eps 1e-5 everywhere.
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
# Sizes whose residual outputs start unscaled: the Stentor2 card says so, the v1 line follows it (ours).
UNSCALED = [SIZES[name] for name in ("12m-v1", "30m-v1", "12m", "30m")]


# ------------------------------------------------------------------------------------------------------ parts

class RMSNorm(nn.Module):
    """y = x / sqrt(mean(x^2) + eps) * weight, over the last axis (Zhang and Sennrich 2019, eq. 4).

    The mean is taken in FP32 whatever the input's dtype, and the result is cast back before the product, as
    Llama does.
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
    """cos and sin of the angles n * theta^(-2j/F) for positions n < length and feature pairs j < F/2 (Su et
    al. 2021, section 3.2.2).

    Half-split form, the one of Llama's published weights: feature j is paired with feature j + F/2, so each
    angle stands twice in a row. The frequency is rounded as the published code rounds it: the last bit of it,
    times the position, moves a logit by more than 1e-4. Returns two FP32 tensors (length, F).
    """
    pair = torch.arange(0, head_dim, 2, dtype=torch.float32, device=device)   # (F/2,)
    frequency = 1.0 / theta ** (pair / head_dim)                              # (F/2,)
    position = torch.arange(length, dtype=torch.float32, device=device)       # (T,)
    angle = torch.outer(position, frequency)                                  # (T, F/2)
    angle = torch.cat([angle, angle], dim=-1)                                 # (T, F)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (x_j, x_{j+F/2}) by its position's angle: x * cos + rotate_half(x) * sin. `x` (B, H, T,
    F), tables (T, F).
    """
    first, second = x.chunk(2, dim=-1)                                        # (B, H, T, F/2)
    turned = torch.cat([-second, first], dim=-1)                              # (B, H, T, F)
    return x * cos + turned * sin                                             # (B, H, T, F)


def attention_written_out(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(F)) v, causal (Vaswani et al. 2017, eq. 1). The readable twin of `sdpa`: it holds
    all scores in memory.

    `q` (B, H, T, F), `k` and `v` (B, K, S, F); query head h reads key/value head h // (H/K) (Ainslie et al.
    2023, section 2.2). `mask` (T, S) or (B, 1, T, S), true where a position may be read; without one the
    queries are the last T of the S positions.
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
    """The same function as `attention_written_out` by torch's fused kernel, which never holds the (T, S)
    scores where the device allows.

    Without a mask the queries are either all positions (T = S) or the newest one (T = 1, which may read
    everything).
    """
    causal = mask is None and q.shape[2] > 1
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=True)


class Attention(nn.Module):
    """Grouped-query attention with rotary positions: H query heads share K key/value heads (Ainslie et al.
    2023).
    """

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
        return x.view(x.shape[0], x.shape[1], -1, self.head_dim).transpose(1, 2)

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

    def forward(self, x: Tensor) -> Tensor:
        gate = F.silu(self.gate_proj(x))                                      # (B, T, M)
        up = self.up_proj(x)                                                  # (B, T, M)
        return self.down_proj(gate * up)                                      # (B, T, D)


class Block(nn.Module):
    """One layer: x + attention(norm(x)), then x + mlp(norm(x)). Norm before, so that the residual stream
    itself is never normed.
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
    """Token embedding, the blocks, the last norm: ids (B, T) -> hidden states (B, T, D). Llama's files call
    it `model`.
    """

    def __init__(self, config: ModelConfig, attend: Callable[..., Tensor]):
        super().__init__()
        self.config = config
        # a checkpoint(function, *inputs): trade a second forward for memory
        self.recompute: Callable[..., Tensor] | None = None
        table = torch.empty(config.vocab_size, config.hidden_size)            # filled by init_weights
        self.embed_tokens = nn.Embedding.from_pretrained(table, freeze=False)
        self.layers = nn.ModuleList(Block(config, i, attend) for i in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.reset_rotary()

    def reset_rotary(self) -> None:
        """(Re)compute the rotary tables, which are derived and never saved."""
        device = self.embed_tokens.weight.device
        if device.type == "meta":  # shapes without numbers: `load_model` comes back here when it has them
            return
        cos, sin = rotary_table(
            self.config.max_position_embeddings, self.config.head_dim, self.config.rope_theta, device
        )
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, input_ids: Tensor, cache: KVCache | None = None, mask: Tensor | None = None) -> Tensor:
        T = input_ids.shape[1]
        start = 0 if cache is None else cache.length
        limit = (
            self.config.max_position_embeddings
            if cache is None
            else min(self.config.max_position_embeddings, cache.capacity)
        )
        if start + T > limit:
            raise UserError(
                f"{start + T} positions are more than the {limit} that fit (max_position_embeddings, or the length of the cache)"
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
    """The whole model: token ids (B, T), int64, in; next-token logits (B, T, V) out.

    `attend` is attention's inner product, `sdpa` or `attention_written_out`. Weights start as `init_weights`
    says, from torch's global seed. `model.state_dict()` has the names and shapes of the Llama layout. Raises
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
        """Hidden states (B, T, D) -> logits (B, T, V), by the embedding itself where the two are tied (Press
        and Wolf 2017).
        """
        if self.config.tie_word_embeddings:
            return F.linear(x, self.model.embed_tokens.weight)                # (B, T, V)
        return self.lm_head(x)                                                # (B, T, V)

    def forward(self, input_ids: Tensor, cache: KVCache | None = None, mask: Tensor | None = None) -> Tensor:
        x = self.model(input_ids, cache, mask)                                # (B, T, D)
        return self.project(x)  # (B, T, V)

    def save_pretrained(
        self,
        folder: str | Path,
        eos_token_id: int | None = None,
        bos_token_id: int | None = None,
        pad_token_id: int | None = None,
    ) -> None:
        """Write `config.json`, `generation_config.json` and `model.safetensors` (FP32) into `folder`, made if
        needed. See `save_model`.
        """
        save_model(
            self,
            Path(folder),
            {"bos_token_id": bos_token_id, "eos_token_id": eos_token_id, "pad_token_id": pad_token_id},
        )

    @classmethod
    def from_pretrained(cls, folder: str | Path, attend: Callable[..., Tensor] = sdpa) -> Llama:
        """Read a model folder. See `load_model`, which says what is refused."""
        return load_model(Path(folder), attend)


def next_token_loss(logits: Tensor, input_ids: Tensor) -> Tensor:
    """Mean over all positions of -log p(next token), in nats: logsumexp(logits) - logits[next] (FP32,
    scalar).

    `logits` (B, T, V) from `input_ids` (B, T); position t is judged on token t + 1, so T - 1 predictions a
    row. The last position has no target (-100 is skipped), which is cheaper than to cut it off: a slice of
    the logits would be copied, and its gradient padded.
    """
    logits = logits.float()                                                   # (B, T, V)
    target = F.pad(input_ids[:, 1:], (0, 1), value=-100)                      # (B, T)
    return F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=-100)


def next_token_loss_written_out(logits: Tensor, input_ids: Tensor) -> Tensor:
    """`next_token_loss` in plain operations; tested equal to it."""
    logits = logits[:, :-1].float()                                           # (B, T-1, V)
    target = input_ids[:, 1:, None]                                           # (B, T-1, 1)
    chosen = logits.gather(2, target)                                         # (B, T-1, 1)
    total = torch.logsumexp(logits, dim=2, keepdim=True)                      # (B, T-1, 1)
    return (total - chosen).mean()


# --------------------------------------------------------------------------------------------- initialization

def residual_output(in_features: int, out_features: int) -> nn.Linear:
    """A Linear whose result is added to the residual stream. It is marked here, where it is made, for
    `init_weights`.
    """
    layer = nn.Linear(in_features, out_features, bias=False)
    layer.is_residual_output = True
    return layer


@torch.no_grad()
def init_weights(model: Llama, scale_residual: bool = True, std: float = 0.02) -> None:
    """Every matrix from N(0, std), every norm at one, as the cards say. Draws from torch's global generator,
    in the order of the state dict.

    With `scale_residual` (Stentor3, Portimbria; GPT-2, Radford et al. 2019, section 2.3) the 2L matrices that
    add to the residual stream get std / sqrt(2L), so that the stream's variance does not grow with depth. The
    Stentor2 line does without.
    """
    if model.model.embed_tokens.weight.is_meta:                   # shapes without numbers: nothing to draw
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
    """Keys and values of the positions already seen, so that a new token costs one position of work.
    Allocated once, never grown.

    `config` gives layers, heads and widths, `batch` is B, `length` the most positions it will hold.
    `cache.length` is how many it holds now; `Decoder.forward` reads it as the first new position and advances
    it. One tensor each for keys and values, (layers, B, K, length, F).
    """

    def __init__(self, config: ModelConfig, batch: int, length: int, device: torch.device | str | None = None,
                 dtype: torch.dtype = torch.float32):
        shape = (config.num_hidden_layers, batch, config.num_key_value_heads, length, config.head_dim)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self.capacity = length
        self.length = 0

    def append(self, layer_idx: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store k and v (B, K, T, F) of the newest T positions of one layer; return all of that layer's, (B,
        K, S, F) each.
        """
        end = self.length + k.shape[2]
        self.keys[layer_idx, :, :, self.length:end] = k
        self.values[layer_idx, :, :, self.length:end] = v
        return self.keys[layer_idx, :, :, :end], self.values[layer_idx, :, :, :end]


# ---------------------------------------------------------------------------------------------- save and load

def save_model(model: Llama, folder: Path, token_ids: dict[str, int | None]) -> None:
    """Write config.json, generation_config.json and model.safetensors; weights in FP32, and no lm_head where
    it is tied.
    """
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", **dataclasses.asdict(model.config),
        # transformers 5 reads theta here, 4 above
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
    (folder / "model.safetensors").chmod(0o644)  # the library writes files that only their owner can read
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def load_model(folder: Path, attend: Callable[..., Tensor] = sdpa) -> Llama:
    """A Llama from `config.json` and `model.safetensors` (or the shards of `model.safetensors.index.json`);
    FP32, FP16 or BF16, kept as FP32.

    Every name and shape is compared with the configuration before any weight is read. Raises UserError that
    names file, key, expected and found shape. Ignored: rotary tables of old exports, and a tied model's exact
    copy of the embedding under lm_head.
    """
    from extras.foreign_folder import check_surplus
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
    check_surplus(
        folder,
        config,
        {name: tensor for name, tensor in stored.items() if name not in expected},
        stored["model.embed_tokens.weight"],
    )
    weights = {}
    for name in expected:
        # a copy: what was read is a window on the file, which may change
        weights[name] = stored[name].to(torch.float32, copy=True)
        if not torch.isfinite(weights[name]).all():
            raise UserError(f"{found[name][0]}: tensor {name} holds values that are not finite numbers")
    model.load_state_dict(weights, assign=True)
    model.model.reset_rotary()
    return model


def tensor_index(folder: Path) -> dict[str, tuple[Path, list[int]]]:
    """Name -> (file, shape) of every tensor in a model folder, from the files' headers alone. Raises
    UserError for a damaged file.
    """
    from extras.foreign_folder import weight_files
    found = {}
    for file in weight_files(folder):
        try:
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():
                    piece = tensors.get_slice(name)
                    if piece.get_dtype() not in ("F32", "F16", "BF16"):
                        raise UserError(
                            f"{file}: tensor {name} has dtype {piece.get_dtype()}; only F32, F16 and BF16 weights are read"
                        )
                    found[name] = (file, list(piece.get_shape()))
        except (SafetensorError, OSError, ValueError) as error:
            raise UserError(f"{file}: damaged or no safetensors file: {error}") from None
    return found
