# SPDX-License-Identifier: Apache-2.0
"""A small Llama in one file: it trains on a text file, writes text, and saves a Llama model folder.

    python lessons/yours/one_file.py my.txt --steps 500 --out my_model
    python sample.py my_model "Once upon a time"
It imports torch and safetensors, and nothing of this project. A token is one byte, so any text file will do.
Axes: B batch, T positions, D hidden_size, H query heads, K key/value heads, F head_dim, V vocab_size"""
import argparse
import dataclasses
import json
import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn


@dataclasses.dataclass(frozen=True)
class Config:
    """The sizes of the model. The names are the keys of a Llama config.json."""
    vocab_size: int = 256
    hidden_size: int = 128
    intermediate_size: int = 256
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 32
    max_position_embeddings: int = 1024
    rope_theta: float = 10_000.0
    rms_norm_eps: float = 1e-5
    tie_word_embeddings: bool = True


class RMSNorm(nn.Module):
    """y = x / sqrt(mean(x^2) + eps) * weight, over the last axis (Zhang and Sennrich 2019, eq. 4)."""
    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps
    def forward(self, x: Tensor) -> Tensor:
        mean_square = x.float().pow(2).mean(dim=-1, keepdim=True)             # (B, T, 1)
        normed = x.float() * torch.rsqrt(mean_square + self.eps)              # (B, T, D)
        return self.weight * normed.to(x.dtype)                               # (B, T, D)


def rotary_table(length: int, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """cos and sin (T, F) of the angles n * theta^(-2j/F), n < T, j < F/2 (Su et al. 2021, section 3.2.2)."""
    frequency = 1.0 / theta ** (torch.arange(0, head_dim, 2).float() / head_dim)  # (F/2,)
    angle = torch.outer(torch.arange(length).float(), frequency).repeat(1, 2)  # (T, F)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each pair (a, b) = (x_j, x_{j+F/2}) to (a cos - b sin, b cos + a sin). cos, sin (T, F)."""
    first, second = x.chunk(2, dim=-1)                                        # (B, H, T, F/2)
    return x * cos + torch.cat([-second, first], dim=-1) * sin                # (B, H, T, F)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(F)) v; a position reads itself and earlier ones (Vaswani et al. 2017, eq. 1)."""
    score = q @ k.transpose(2, 3) / math.sqrt(q.shape[3])                     # (B, H, T, T)
    later = torch.ones(score.shape[2:], dtype=torch.bool).triu(1)             # (T, T)
    weight = torch.softmax(score.masked_fill(later, -math.inf), dim=-1)       # (B, H, T, T)
    return weight @ v                                                         # (B, H, T, F)


class Attention(nn.Module):
    """Grouped-query attention: query head h reads key/value head h // (H/K) (Ainslie et al. 2023)."""
    def __init__(self, config: Config):
        super().__init__()
        D, F = config.hidden_size, config.head_dim
        self.H, self.K = config.num_attention_heads, config.num_key_value_heads
        self.q_proj = nn.Linear(D, self.H * F, bias=False)
        self.k_proj = nn.Linear(D, self.K * F, bias=False)
        self.v_proj = nn.Linear(D, self.K * F, bias=False)
        self.o_proj = nn.Linear(self.H * F, D, bias=False)
    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        B, T, _ = x.shape
        q = self.q_proj(x).view(B, T, self.H, -1).transpose(1, 2)             # (B, H, T, F)
        k = self.k_proj(x).view(B, T, self.K, -1).transpose(1, 2)             # (B, K, T, F)
        v = self.v_proj(x).view(B, T, self.K, -1).transpose(1, 2)             # (B, K, T, F)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)                       # (B, H, T, F), (B, K, T, F)
        k, v = (each.repeat_interleave(self.H // self.K, dim=1) for each in (k, v))  # (B, H, T, F)
        y = attend(q, k, v)                                                   # (B, H, T, F)
        return self.o_proj(y.transpose(1, 2).reshape(B, T, -1))               # (B, T, D)


class MLP(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x)), silu(z) = z * sigmoid(z) (Shazeer 2020, eq. 6)."""
    def __init__(self, config: Config):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))  # (B, T, D)


class Block(nn.Module):
    """One layer: x + attention(norm(x)), then x + mlp(norm(x))."""
    def __init__(self, config: Config):
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config)
    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)             # (B, T, D)
        return x + self.mlp(self.post_attention_layernorm(x))                 # (B, T, D)


class Decoder(nn.Module):
    """The embedding, all blocks, and the last norm. Llama weight files call this part `model`."""
    def __init__(self, config: Config):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.cos, self.sin = rotary_table(config.max_position_embeddings, config.head_dim, config.rope_theta)
    def forward(self, ids: Tensor) -> Tensor:
        T = ids.shape[1]
        x = self.embed_tokens(ids)                                            # (B, T, D)
        for layer in self.layers:
            x = layer(x, self.cos[:T], self.sin[:T])                          # (B, T, D)
        return self.norm(x)                                                   # (B, T, D)


class Llama(nn.Module):
    """Token ids (B, T) in, logits of each next token (B, T, V) out."""
    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        init_weights(self)
    def forward(self, ids: Tensor) -> Tensor:
        head = self.model.embed_tokens if self.config.tie_word_embeddings else self.lm_head
        return self.model(ids) @ head.weight.t()                              # (B, T, V)


def init_weights(model: Llama, std: float = 0.02) -> None:
    """Draw each matrix from N(0, std), those that write to the residual stream from N(0, std / sqrt(2L))."""
    residual_std = std / math.sqrt(2 * model.config.num_hidden_layers)        # 2L matrices add to the stream
    for name, weight in model.named_parameters():
        if weight.dim() == 2:
            to_residual = name.endswith(("o_proj.weight", "down_proj.weight"))
            nn.init.normal_(weight, 0.0, residual_std if to_residual else std)


def next_token_loss(logits: Tensor, ids: Tensor) -> Tensor:
    """Mean of -log p(next token), in nats: logsumexp(logits) - logits[next]."""
    logits = logits[:, :-1].float()                                           # (B, T-1, V)
    chosen = logits.gather(2, ids[:, 1:, None])                               # (B, T-1, 1), the right ones
    return (logits.logsumexp(dim=2, keepdim=True) - chosen).mean()            # scalar


def learning_rate(step: int, steps: int, peak: float, warmup_steps: int) -> float:
    """A straight line from 0 to `peak`, then half a cosine to 0. `step` counts from 0."""
    if step < warmup_steps:
        return peak * step / warmup_steps
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / (steps - warmup_steps)))


def clip_gradients(model: nn.Module, max_norm: float) -> None:
    """Scale all gradients by min(1, max_norm / norm); norm is the length of all gradients as one vector."""
    norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
    for p in model.parameters():
        p.grad.mul_(torch.clamp(max_norm / (norm + 1e-6), max=1.0))


class AdamW:
    """Adam; the weights of Linear layers also shrink a little (Loshchilov and Hutter 2019, algorithm 2)."""
    def __init__(self, model: nn.Module, decay: float):
        linear = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)}
        self.params = list(model.parameters())
        self.decays = [decay if id(p) in linear else 0.0 for p in self.params]
        self.m = [torch.zeros_like(p) for p in self.params]
        self.v = [torch.zeros_like(p) for p in self.params]
    @torch.no_grad()
    def step(self, t: int, lr: float) -> None:
        """Update number `t`, counted from 1. It uses the gradient that is stored in each parameter."""
        b1, b2, eps = 0.9, 0.95, 1e-8
        for p, m, v, decay in zip(self.params, self.m, self.v, self.decays):
            m.mul_(b1).add_((1 - b1) * p.grad)
            v.mul_(b2).add_((1 - b2) * p.grad**2)
            p.mul_(1 - lr * decay)
            p.sub_(lr * (m / (1 - b1**t)) / ((v / (1 - b2**t)).sqrt() + eps))


def train(model: Llama, batch, steps: int, peak: float = 3e-3) -> list[float]:
    """Train on batch(0), batch(1), ...: token ids (B, T), int64. Returns the loss of each step."""
    optimizer, losses, warmup_steps = AdamW(model, decay=0.01), [], max(1, round(0.05 * steps))
    for step in range(steps):
        ids = batch(step)                                                     # (B, T)
        loss = next_token_loss(model(ids), ids)                               # scalar
        model.zero_grad()
        loss.backward()
        clip_gradients(model, max_norm=1.0)
        optimizer.step(step + 1, learning_rate(step, steps, peak, warmup_steps))
        losses.append(loss.item())
    return losses


@torch.no_grad()
def generate(model: Llama, ids: list[int], max_new_tokens: int, temperature: float = 1.0, top_p: float = 1.0,
             seed: int = 0, stop_id: int | None = None) -> list[int]:
    """Returns the new ids only. Temperature 0 is greedy. Top-p: Holtzman et al. 2020, section 3.1."""
    chance, new = torch.Generator().manual_seed(seed), []
    for _ in range(max_new_tokens):
        logits = model(torch.tensor([ids + new]))[0, -1].float()              # (V,)
        scaled = (logits - logits.max()) / max(temperature, 1e-6)             # (V,)
        best_first, order = torch.softmax(scaled, dim=0).sort(descending=True)  # (V,), (V,)
        better = best_first.cumsum(dim=0) - best_first                        # (V,), sum of all better tokens
        token = int(order[torch.multinomial(best_first * (better < top_p), 1, generator=chance)])
        if token == stop_id:
            break
        new.append(token)
    return new


def save(model: Llama, folder: Path) -> None:
    """Write a Llama folder: config, weights, tokenizer. A token id is the byte: A is "<0x41>", id 65."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
              "bos_token_id": None, "eos_token_id": 10, "pad_token_id": 10,   # 10 is "\n": a text is one line
              "tokenizer_class": "PreTrainedTokenizerFast", **dataclasses.asdict(model.config)}
    words = {"version": "1.0", "added_tokens": [], "decoder": {"type": "ByteFallback"}, "model": {
        "type": "BPE", "byte_fallback": True, "merges": [], "vocab": {f"<0x{b:02X}>": b for b in range(256)}}}
    for name, content in [("config.json", config), ("tokenizer.json", words)]:
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train a small Llama on the bytes of a text file.")
    parser.add_argument("text", type=Path, help="a text file of at least a few kilobytes")
    parser.add_argument("--steps", type=int, default=500, help="steps of 16 rows of 256 bytes (500)")
    parser.add_argument("--out", type=Path, default="my_model", help="the folder for the model (my_model)")
    options = parser.parse_args()
    if not options.text.is_file() or options.text.stat().st_size < 256:
        parser.error(f"{options.text}: no such file, or less than 256 bytes")
    rows = torch.tensor(list(options.text.read_bytes())).unfold(0, 256, 1)    # (N - 255, T), overlapping
    torch.manual_seed(42)
    model = Llama(Config())
    losses = train(model, lambda step: rows[torch.randint(len(rows), (16,))], options.steps)
    print(f"nats per byte: {losses[0]:.3f} at the first step, {sum(losses[-20:]) / 20:.3f} over the last 20")
    print(bytes(generate(model, list(b"\n"), 300, temperature=0.8)).decode(errors="replace"))
    save(model, options.out)
