# SPDX-License-Identifier: Apache-2.0
"""Grades the twelve steps against the real modules, then the complete model and its training.

pytest lessons/yours                    all steps
pytest lessons/yours -k step_04         one step
pytest lessons/yours --start 5          the steps before 5 are taken from the reference
"""

from __future__ import annotations

import math
from numbers import Real

import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor, nn

import model as real
import sample
import train
from corpus.documents import builtin_source
from corpus.prepare import prepare
from data import Corpus
from lessons.exercises.grading import call, fail, judge

B, T, H, K, F, D, V = 4, 5, 6, 2, 8, 24, 11
SMALL = real.ModelConfig(V, D, 40, 2, H, K, F, 32, tie_word_embeddings=True)
NAMES = ("q_proj", "k_proj", "v_proj", "o_proj")


def fill(name: str, module: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
    """Load these weights into a student's module. A wrong name or shape ends the test with one line."""
    if not isinstance(module, nn.Module):
        fail(f"{name} is not an nn.Module; keep `class {name}(nn.Module)` and `super().__init__()`")
    found = {key: tuple(weight.shape) for key, weight in module.state_dict().items()}
    for key, weight in weights.items():
        if key not in found:
            names = ", ".join(found)
            fail(f"{name} has no {key}; use the names in the docstring of __init__. Found: {names}")
        if found[key] != tuple(weight.shape):
            fail(f"{name}: {key} has shape {found[key]}; expected {tuple(weight.shape)}")
    for key in found.keys() - weights.keys():
        bias = "; use bias=False"
        reason = bias if key.endswith("bias") else "; keep a table as an attribute or with persistent=False"
        fail(f"{name} has {key}, which does not belong there{reason}")
    module.load_state_dict(weights)
    return module


def drawn(**shapes: tuple[int, ...]) -> dict[str, Tensor]:
    """Random weights by name; `q_proj=(8, 24)` gives q_proj.weight."""
    return {f"{name}.weight": torch.randn(shape) / shape[-1] ** 0.5 for name, shape in shapes.items()}


def softmax_of(
    score: Tensor, v: Tensor, mask: Tensor | None = None, fill_with: float = -math.inf, dim: int = -1
):
    """softmax(score, where `mask` is true) v, for the typical mistakes."""
    score = score if mask is None else score.masked_fill(~mask, fill_with)
    return torch.softmax(score, dim=dim) @ v


# ----------------------------------------------------------------------------------------- 1 and 2: one token


def test_step_01_count_pairs(part):
    ids = torch.tensor([3, 1, 1, 4, 3, 1, 0, 1, 4, 4])
    right = torch.zeros(5, 5)
    for a, b in zip(ids.tolist(), ids.tolist()[1:]):
        right[a, b] += 1
    mistakes = {
        "rows and columns are swapped: the row is the token that comes first": right.t(),
        "every pair is counted only once; count how often it occurs": (right > 0).float(),
        "the ids are counted, not the pairs": torch.bincount(ids, minlength=5).float(),
    }
    judge("count_pairs", call(part("count_pairs"), ids, 5), right, mistakes)


def test_step_01_probabilities(part):
    counts, add = torch.tensor([[0.0, 3.0, 1.0], [2.0, 0.0, 0.0], [0.0, 0.0, 5.0]]), 0.5
    smooth = counts + add
    mistakes = {
        "the columns sum to 1; divide each row by its own sum": smooth / smooth.sum(dim=0, keepdim=True),
        "nothing was added: a pair never seen must keep a small probability": (
            counts / counts.sum(1, keepdim=True)
        ),
        "`add` is added to the sum once; add it to each of the V entries": (
            smooth / (counts.sum(1, keepdim=True) + add)
        ),
        "all entries together sum to 1; each row must sum to 1": smooth / smooth.sum(),
    }
    right = smooth / smooth.sum(1, keepdim=True)
    judge("probabilities", call(part("probabilities"), counts, add), right, mistakes)


def test_step_01_mean_loss(part):
    table = torch.softmax(torch.randn(5, 5, generator=torch.Generator().manual_seed(0)), dim=1)
    ids = torch.tensor([3, 1, 1, 4, 3, 1, 0])
    chosen, backwards = table[ids[:-1], ids[1:]], table[ids[1:], ids[:-1]]
    losses = -chosen.log()
    mistakes = {
        "the losses are summed; take their mean": losses.sum(),
        "the sign is wrong: a loss is minus the logarithm": -losses.mean(),
        "this is in bits; use the natural logarithm": losses.mean() / math.log(2),
        "row and column are swapped: the row is this token, the column the next one": -backwards.log().mean(),
        "this is the logarithm of the mean; take the mean of the logarithms": -chosen.mean().log(),
        "this is the mean probability; take the mean of minus its logarithm": chosen.mean(),
    }
    judge("mean_loss", call(part("mean_loss"), table, ids), losses.mean(), mistakes)


def test_step_02_bigram(part):
    torch.manual_seed(2)
    weights = drawn(embed_tokens=(V, D), lm_head=(V, D))
    module = fill("Bigram", call(part("Bigram"), V, D), weights)
    ids = torch.randint(V, (B, T))
    x = weights["embed_tokens.weight"][ids]
    logits = x @ weights["lm_head.weight"].t()
    mistakes = {
        "it returns probabilities; return the logits, the loss does the softmax": logits.softmax(dim=-1),
        "the embedding is used twice; the output has its own matrix lm_head": (
            x @ weights["embed_tokens.weight"].t()
        ),
        "it returns the vectors; lm_head turns them into scores": x,
    }
    judge("Bigram", call(module, ids), logits, mistakes)


# ------------------------------------------------------------------------------------------ 3 to 6: attention


def attention_mistakes(q: Tensor, k: Tensor, v: Tensor) -> dict[str, Tensor]:
    """Typical mistakes of attention with queries, keys and values (..., T, F)."""
    causal = torch.ones(q.shape[-2], q.shape[-2], dtype=torch.bool).tril()
    plain = q @ k.transpose(-1, -2)
    score = plain / math.sqrt(q.shape[-1])
    weight = torch.softmax(score, dim=-1)
    return {
        "later positions are read too: set their scores to -inf before the softmax": softmax_of(score, v),
        "the scores of later positions are 0, and exp(0) is 1: use -inf": softmax_of(score, v, causal, 0.0),
        "later positions are masked after the softmax, so the weights do not sum to 1: mask before": (
            (weight * causal) @ v
        ),
        "the scores are not divided by sqrt(F)": softmax_of(plain, v, causal),
        "the scores are divided by F; divide by sqrt(F)": softmax_of(plain / q.shape[-1], v, causal),
        "the softmax is over the queries; it must be over the keys, the last axis": (
            softmax_of(score, v, causal, -1e9, -2)
        ),
        "a position does not read itself; use triu(1), which keeps the diagonal free": (
            softmax_of(score, v, causal.tril(-1))
        ),
        "the mask is the wrong way round: a position reads itself and later ones": (
            softmax_of(score, v, causal.t())
        ),
        "queries and keys are swapped": softmax_of(score.transpose(-1, -2), v, causal),
    }


def test_step_03_head(part):
    torch.manual_seed(3)
    weights = drawn(q_proj=(F, D), k_proj=(F, D), v_proj=(F, D))
    module = fill("Head", call(part("Head"), D, F), weights)
    x = torch.randn(B, T, D)
    q, k, v = (x @ weight.t() for weight in weights.values())
    right = real.attention_written_out(q[:, None], k[:, None], v[:, None])[:, 0]
    judge("Head", call(module, x), right, attention_mistakes(q, k, v))


def test_step_04_split(part):
    x = torch.arange(B * T * H * F).float().view(B, T, H * F)
    right = x.view(B, T, H, F).transpose(1, 2)
    mistakes = {
        "view(B, H, T, F) mixes positions and heads: view(B, T, H, F) first, then transpose(1, 2)": (
            x.view(B, H, T, F)
        ),
        "the axes are still (B, T, H, F): swap T and H": x.view(B, T, H, F),
        "head h got every H-th feature; it gets F neighbours: view(B, T, H, F), not (B, T, F, H)": (
            x.view(B, T, F, H).permute(0, 3, 1, 2)
        ),
    }
    judge("split", call(part("split"), x, F), right, mistakes)


def test_step_04_merge(part):
    x = torch.arange(B * T * H * F).float().view(B, H, T, F)
    right = x.transpose(1, 2).reshape(B, T, H * F)
    mistakes = {
        "T and H were not swapped back before the reshape: positions and heads are mixed": (
            x.reshape(B, T, H * F)
        ),
        "the features of the heads are interleaved; head 0 comes first, then head 1": (
            x.permute(0, 2, 3, 1).reshape(B, T, H * F)
        ),
    }
    judge("merge", call(part("merge"), x), right, mistakes)


def test_step_04_attend(part):
    torch.manual_seed(4)
    q, k, v = torch.randn(3, B, H, T, F)
    right = real.attention_written_out(q, k, v)
    judge("attend", call(part("attend"), q, k, v), right, attention_mistakes(q, k, v))


def attention_of(config: real.ModelConfig, weights: dict[str, Tensor]) -> real.Attention:
    """The real attention with these weights."""
    module = real.Attention(config, 0, real.attention_written_out)
    module.load_state_dict(weights)
    return module


def unturned(length: int) -> tuple[Tensor, Tensor]:
    """Rotary tables that rotate by 0."""
    return torch.ones(length, F), torch.zeros(length, F)


def test_step_04_multi_head(part):
    torch.manual_seed(5)
    weights = drawn(q_proj=(H * F, D), k_proj=(H * F, D), v_proj=(H * F, D), o_proj=(D, H * F))
    module, x = fill("MultiHead", call(part("MultiHead"), D, H, F), weights), torch.randn(B, T, D)
    config = real.ModelConfig(V, D, 40, 2, H, H, F, 32)
    right = attention_of(config, weights)(x, *unturned(T))
    q, k, v = (x @ weights[f"{name}.weight"].t() for name in NAMES[:3])
    heads = [each.view(B, T, H, F).transpose(1, 2) for each in (q, k, v)]
    merged = real.attention_written_out(*heads).transpose(1, 2).flatten(2)
    one = real.attention_written_out(q[:, None], k[:, None], v[:, None])[:, 0]
    mistakes = {
        "o_proj is missing: the merged heads go through one more matrix": merged,
        "this is one wide head: split q, k and v before attention": one @ weights["o_proj.weight"].t(),
    }
    judge("MultiHead", call(module, x), right, mistakes)


def test_step_05_repeat_heads(part):
    x = torch.arange(B * K * T * F).float().view(B, K, T, F)
    mistakes = {
        "the heads come as 0 1 0 1 0 1; it must be 0 0 0 1 1 1: use repeat_interleave": (
            x.repeat(1, H // K, 1, 1)
        ),
        "nothing is repeated: the result needs H heads": x,
    }
    judge("repeat_heads", call(part("repeat_heads"), x, H), x.repeat_interleave(H // K, dim=1), mistakes)


def test_step_05_grouped_heads(part):
    torch.manual_seed(6)
    weights = drawn(q_proj=(H * F, D), k_proj=(K * F, D), v_proj=(K * F, D), o_proj=(D, H * F))
    module, x = fill("GroupedHeads", call(part("GroupedHeads"), D, H, K, F), weights), torch.randn(B, T, D)

    def heads(name: str) -> Tensor:
        return (x @ weights[f"{name}.weight"].t()).view(B, T, -1, F).transpose(1, 2)  # (B, heads, T, F)

    def variant(repeat_k, repeat_v) -> Tensor:
        y = real.attention_written_out(heads("q_proj"), repeat_k(heads("k_proj")), repeat_v(heads("v_proj")))
        return y.transpose(1, 2).flatten(2) @ weights["o_proj.weight"].t()  # (B, T, D)

    def by_group(y: Tensor) -> Tensor:
        return y.repeat_interleave(H // K, dim=1)

    def in_turn(y: Tensor) -> Tensor:
        return y.repeat(1, H // K, 1, 1)

    order = "query head h must read key/value head h // (H/K), so the order is 0 0 0 1 1 1"
    mistakes = {
        f"keys and values are repeated as 0 1 0 1 0 1; {order}": variant(in_turn, in_turn),
        f"the keys are in the wrong order; {order}": variant(in_turn, by_group),
        f"the values are in the wrong order; {order}": variant(by_group, in_turn),
        "keys and values are swapped": (
            real.attention_written_out(heads("q_proj"), by_group(heads("v_proj")), by_group(heads("k_proj")))
            .transpose(1, 2).flatten(2) @ weights["o_proj.weight"].t()
        ),
    }
    judge("GroupedHeads", call(module, x), attention_of(SMALL, weights)(x, *unturned(T)), mistakes)


def test_step_06_rotary_table(part):
    found = call(part("rotary_table"), 7, F, 100.0)
    if not (isinstance(found, (tuple, list)) and len(found) == 2):
        fail("rotary_table must return two tensors, cos and sin")
    cos, sin = real.rotary_table(7, F, 100.0)
    others = {
        "the exponent is -j/F; it is -2j/F for j = 0 ... F/2 - 1": real.rotary_table(7, F, 10.0),
        "the first position is 1; it must be 0": tuple(x[1:] for x in real.rotary_table(8, F, 100.0)),
        "each angle comes twice in a row; the second half of the columns repeats the first": tuple(
            x[:, : F // 2].repeat_interleave(2, dim=1) for x in (cos, sin)
        ),
        "only F/2 columns: repeat them for the second half": (cos[:, : F // 2], sin[:, : F // 2]),
        "sin and cos are swapped: return cos, sin": (sin, cos),
    }
    judge("cos", found[0], cos, {message: table[0] for message, table in others.items()})
    judge("sin", found[1], sin, {message: table[1] for message, table in others.items()})


def test_step_06_rotate(part):
    torch.manual_seed(7)
    x, (cos, sin) = torch.randn(B, H, T, F), real.rotary_table(T, F, 100.0)
    a, b = x.chunk(2, dim=-1)
    mistakes = {
        "the rotation goes the wrong way: check the sign of the sine": real.rotate(x, cos, -sin),
        "the pairs are neighbours (2j, 2j + 1); pair feature j with feature j + F/2": (
            x * cos + torch.stack([-x[..., 1::2], x[..., ::2]], dim=-1).flatten(-2) * sin
        ),
        "the minus sign is missing: (a cos - b sin, b cos + a sin)": (
            x * cos + torch.cat([b, a], dim=-1) * sin
        ),
        "nothing is rotated": x,
    }
    judge("rotate", call(part("rotate"), x, cos, sin), real.rotate(x, cos, sin), mistakes)


def test_step_06_attention(part):
    torch.manual_seed(8)
    weights = drawn(q_proj=(H * F, D), k_proj=(K * F, D), v_proj=(K * F, D), o_proj=(D, H * F))
    module, x = fill("Attention", call(part("Attention"), SMALL), weights), torch.randn(B, T, D)
    cos, sin = real.rotary_table(T, F, 100.0)
    mine = attention_of(SMALL, weights)

    def variant(turn_q: bool, turn_k: bool, turn_v: bool) -> Tensor:
        q, k, v = (mine.split_heads(mine.get_submodule(name)(x)) for name in NAMES[:3])
        turns = ((q, turn_q), (k, turn_k), (v, turn_v))
        q, k, v = (real.rotate(y, cos, sin) if turn else y for y, turn in turns)
        return mine.o_proj(real.attention_written_out(q, k, v).transpose(1, 2).flatten(2))

    mistakes = {
        "the values are rotated too; rotate only queries and keys": variant(True, True, True),
        "the keys are not rotated": variant(True, False, False),
        "the queries are not rotated": variant(False, True, False),
        "nothing is rotated: rotate q and k": variant(False, False, False),
    }
    judge("Attention", call(module, x, cos, sin), mine(x, cos, sin), mistakes)


# ------------------------------------------------------------------------------------------ 7 to 9: the model


def test_step_07_norm(part):
    torch.manual_seed(9)
    x, weight, eps = 3 * torch.randn(B, T, D) + 1, torch.rand(D) + 0.5, 0.1
    module = fill("RMSNorm", call(part("RMSNorm"), D, eps), {"weight": weight})
    norm = real.RMSNorm(D, eps)
    norm.weight.data = weight
    square, centred = x.pow(2), x - x.mean(dim=-1, keepdim=True)
    mean = square.mean(dim=-1, keepdim=True)
    mistakes = {
        "the mean is over all axes; take it over the last one": x / (square.mean() + eps).sqrt() * weight,
        "the squares are summed; take their mean": x / (square.sum(-1, keepdim=True) + eps).sqrt() * weight,
        "eps is added after the root; it belongs under it": x / (mean.sqrt() + eps) * weight,
        "eps is missing": x / mean.sqrt() * weight,
        "the weight is missing": x / (mean + eps).sqrt(),
        "the mean of x is subtracted: that is LayerNorm": (
            centred / (centred.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight
        ),
        "the root is missing": x / (mean + eps) * weight,
    }
    judge("RMSNorm", call(module, x), norm(x), mistakes)


def test_step_08_mlp(part):
    torch.manual_seed(10)
    mlp, x = real.MLP(SMALL), torch.randn(B, T, D)
    module = fill("MLP", call(part("MLP"), SMALL), mlp.state_dict())
    gate, up, down = mlp.gate_proj(x), mlp.up_proj(x), mlp.down_proj
    mistakes = {
        "silu is on the up branch; it belongs on the gate": down(gate * functional.silu(up)),
        "sigmoid where silu should be: silu(z) is z times sigmoid(z)": down(torch.sigmoid(gate) * up),
        "this is ReLU; use silu": down(functional.relu(gate) * up),
        "the gate has no silu": down(gate * up),
        "the branches are added; multiply them": down(functional.silu(gate) + up),
        "the up branch is missing": down(functional.silu(gate)),
        "silu comes after the product; it belongs on the gate alone": down(functional.silu(gate * up)),
    }
    judge("MLP", call(module, x), mlp(x), mistakes)


def test_step_08_block(part):
    torch.manual_seed(11)
    block, x = real.Block(SMALL, 0, real.attention_written_out), torch.randn(B, T, D)
    for norm in (block.input_layernorm, block.post_attention_layernorm):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
    module = fill("Block", call(part("Block"), SMALL), block.state_dict())
    cos, sin = real.rotary_table(T, F, 100.0)
    one, two, mlp = block.input_layernorm, block.post_attention_layernorm, block.mlp

    def attention(x: Tensor) -> Tensor:
        return block.self_attn(x, cos, sin)

    h = x + attention(one(x))
    mistakes = {
        "the first addition is missing: x + attention(norm(x))": (
            attention(one(x)) + mlp(two(attention(one(x))))
        ),
        "the second addition is missing: x + mlp(norm(x))": mlp(two(h)),
        "attention reads x without its norm": x + attention(x) + mlp(two(x + attention(x))),
        "the MLP reads x without its norm": h + mlp(h),
        "the MLP reads the block's input; it must read the sum x + attention(norm(x))": h + mlp(two(x)),
        "the norms come after the parts; put them before, and do not normalize the stream itself": (
            two(one(x + attention(x)) + mlp(one(x + attention(x))))
        ),
        "the two norms are swapped": (x + attention(two(x))) + mlp(one(x + attention(two(x)))),
    }
    judge("Block", call(module, x, cos, sin), block(x, cos, sin), mistakes)


@pytest.mark.parametrize("tied", [True, False])
def test_step_09_model(part, tied):
    torch.manual_seed(12)
    config = real.ModelConfig(V, D, 40, 2, H, K, F, 32, tie_word_embeddings=tied)
    mine, ids = real.Llama(config, real.attention_written_out), torch.randint(V, (B, T))
    with torch.no_grad():
        for weight in mine.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    module = fill("Llama", call(part("Llama"), config), mine.state_dict())
    inner = mine.model
    x = inner.embed_tokens(ids)
    scaled = math.sqrt(D) * x
    for layer in inner.layers:
        x, scaled = layer(x, inner.cos[:T], inner.sin[:T]), layer(scaled, inner.cos[:T], inner.sin[:T])
    once = inner.layers[0](inner.embed_tokens(ids), inner.cos[:T], inner.sin[:T])
    mistakes = {
        "the last norm is missing": mine.project(x),
        "only the first block is used": mine.project(inner.norm(once)),
        "the embedding is multiplied by sqrt(D); Llama does not": mine.project(inner.norm(scaled)),
        "it returns probabilities; return logits": torch.softmax(mine(ids), dim=-1),
        "it returns the hidden states; the output matrix turns them into logits": inner.norm(x),
    }
    if not tied:
        message = "the embedding makes the logits; without tie_word_embeddings lm_head must make them"
        mistakes[message] = functional.linear(inner.norm(x), inner.embed_tokens.weight)
    judge("Llama", call(module, ids), mine(ids), mistakes)


def test_step_09_first_weights(part):
    config = real.ModelConfig(64, 32, 48, 8, H, K, F, 32, tie_word_embeddings=False)
    module, mine = call(part("Llama"), config), real.Llama(config)
    torch.manual_seed(13)
    call(part("init_weights"), module)
    torch.manual_seed(13)
    real.init_weights(mine)
    found, right = module.state_dict(), mine.state_dict()
    for name in right:
        if found[name].dim() == 1 and not torch.equal(found[name], right[name]):
            fail(f"init_weights: {name} must stay at 1")
        spread, wanted = float(found[name].std()), float(right[name].std())
        if found[name].dim() == 2 and not 0.7 < spread / wanted < 1.4:
            scaled = name.endswith(("o_proj.weight", "down_proj.weight"))
            reason = "N(0, std / sqrt(2L)), L = 8" if scaled else "N(0, std)"
            fail(f"init_weights: {name} has standard deviation {spread:.4f}; expected {wanted:.4f}: {reason}")
    if not all(torch.equal(found[name], right[name]) for name in right):
        fail("init_weights: the standard deviations are right, but the numbers come in another order: draw "
             "once for each matrix, in the order of model.named_parameters()")


# ----------------------------------------------------------------------------------------- 10 to 12: training


def test_step_10_loss(part):
    torch.manual_seed(14)
    logits, ids = 2 * torch.randn(3, T, V), torch.randint(V, (3, T))
    right = real.next_token_loss(logits, ids)
    own = "the logits at position t are compared with token t; compare them with token t + 1"
    mistakes = {
        f"{own} (there is no shift)": functional.cross_entropy(logits.flatten(0, 1), ids.flatten()),
        f"{own} (both lost their last position)": (
            functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, :-1].flatten())
        ),
        f"{own} (both lost their first position)": (
            functional.cross_entropy(logits[:, 1:].flatten(0, 1), ids[:, 1:].flatten())
        ),
        "the shift goes the wrong way: logits without the last position, ids without the first": (
            functional.cross_entropy(logits[:, 1:].flatten(0, 1), ids[:, :-1].flatten())
        ),
        "the losses are summed; take the mean": right * 3 * (T - 1),
        "the sum is divided by B*T; there are B*(T-1) predictions": right * (T - 1) / T,
        "this is in bits; use the natural logarithm": right / math.log(2),
        "the sign is wrong": -right,
        "logsumexp is missing: the logits are not yet log probabilities": (
            -logits[:, :-1].gather(2, ids[:, 1:, None]).mean()
        ),
    }
    judge("next_token_loss", call(part("next_token_loss"), logits, ids), right, mistakes)
    large, pair = torch.tensor([[[1000.0, 0.0], [0.0, 1000.0]]]), torch.tensor([[0, 1]])
    overflow = {
        "exp overflows for logits of 1000: use logsumexp": torch.tensor(math.inf),
        "exp overflows for logits of 1000, and inf / inf is nan: use logsumexp": torch.tensor(math.nan),
    }
    found = call(part("next_token_loss"), large, pair)
    judge("next_token_loss of logits of 1000", found, real.next_token_loss(large, pair), overflow)
    low, three = torch.tensor([[[0.0, 0.0], [-1000.0, -990.0], [0.0, 0.0]]]), torch.tensor([[0, 1, 0]])
    underflow = {
        "exp(-1000) is 0, and log(0) is -inf: use logsumexp": torch.tensor(-math.inf),
        "exp(-1000) is 0, and 0 / 0 is nan: use logsumexp": torch.tensor(math.nan),
    }
    found = call(part("next_token_loss"), low, three)
    judge("next_token_loss of logits of -1000", found, real.next_token_loss(low, three), underflow)


def test_step_11_learning_rate(part):
    steps, warmup, peak = 40, 4, 3e-3
    rise = [step / warmup for step in range(warmup)]

    def half_cosine(step: int, length: int) -> float:
        return 0.5 * (1 + math.cos(math.pi * step / length))

    def cosine(length: int, first: int = warmup) -> list[float]:
        return [half_cosine(step - first, length) for step in range(warmup, steps)]

    right = rise + cosine(steps - warmup)
    mistakes = {
        "the warmup begins above 0; step 0 has rate 0": [r + 1 / warmup for r in rise] + right[warmup:],
        "the warmup is missing": [half_cosine(step, steps) for step in range(steps)],
        "the warmup is missing; below warmup_steps the rate is peak * step / warmup_steps": (
            [half_cosine(step - warmup, steps - warmup) for step in range(steps)]
        ),
        "the cosine begins at step 0; it must begin after the warmup": rise + cosine(steps, 0),
        "the cosine reaches 0 at the last step; it would reach 0 at step number `steps`": (
            rise + cosine(steps - warmup - 1)
        ),
        "the rate falls in a straight line; it must be half a cosine": (
            rise + [1 - (step - warmup) / (steps - warmup) for step in range(warmup, steps)]
        ),
        "the cosine takes `steps` steps; it must take steps - warmup_steps": rise + cosine(steps),
    }
    found = [call(part("learning_rate"), step, steps, peak, warmup) for step in range(steps)]
    for rate in found:
        if not isinstance(rate, Real) and not (isinstance(rate, Tensor) and rate.numel() == 1):
            fail(f"learning_rate must return a number; it returned {type(rate).__name__}")
    wrong = {message: torch.tensor(rates) for message, rates in mistakes.items()}
    found = torch.tensor([float(rate) for rate in found]) / peak
    judge("rate / peak by step", found, torch.tensor(right), wrong)


def test_step_11_clip_gradients(part):
    def clipped(scale: float) -> Tensor:
        module = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False))
        for i, p in enumerate(module.parameters()):
            p.grad = scale * torch.arange(1.0, 1 + p.numel()).view(p.shape) * (i + 1)
        call(part("clip_gradients"), module, 1.0)
        return torch.cat([p.grad.flatten() for p in module.parameters()])

    large, small = torch.tensor([1.0, 2, 3, 4, 2, 4]), 0.01 * torch.tensor([1.0, 2, 3, 4, 2, 4])
    mistakes = {
        "each matrix is clipped separately; use the norm of all gradients together": (
            torch.cat([large[:4] / large[:4].norm(), large[4:] / large[4:].norm()])
        ),
        "each number is clipped; scale all gradients by one factor instead": large.clamp(max=1.0),
        "nothing was clipped: change p.grad in place": large,
        "the root is missing: the norm is the root of the sum of squares": large / large.pow(2).sum(),
        "the norm is the sum of the norms of the matrices; use the root of the sum of all squares": (
            large / (large[:4].norm() + large[4:].norm())
        ),
    }
    judge("clip_gradients", clipped(1.0), large / large.norm(), mistakes)
    longer = {"a gradient shorter than max_norm was made longer; leave it as it is": small / small.norm()}
    judge("clip_gradients of a short gradient", clipped(0.01), small, longer)


class TwoKinds(nn.Module):
    """A matrix that decays and an embedding that does not."""

    def __init__(self):
        super().__init__()
        self.linear, self.embed = nn.Linear(3, 2, bias=False), nn.Embedding(2, 3)


def adamw_variant(coupled=False, corrected="mv", late=0, inside=False, squared=True, swapped=False,
                  decay_lr=True):
    """One update of AdamW with one part changed. `corrected` names the moments that are corrected."""

    def step(w, g, m, v, t, lr, decay):
        g = g + decay * w if coupled else g
        b1, b2 = (0.95, 0.9) if swapped else (0.9, 0.95)
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * (g * g if squared else g.abs())
        one = 1 - b1 ** (t + late) if "m" in corrected else 1
        two = 1 - b2 ** (t + late) if "v" in corrected else 1
        below = (v / two + 1e-8).sqrt() if inside else (v / two).sqrt() + 1e-8
        shrink = 1 - (0 if coupled else decay * (lr if decay_lr else 1))
        return w * shrink - lr * m / one / below, m, v

    return step


ADAMW_MISTAKES = {
    "the decay is added to the gradient (Adam with L2); multiply the weight by 1 - lr decay instead": {
        "coupled": True
    },
    "the moments are not corrected: divide m by 1 - b1^t and v by 1 - b2^t": {"corrected": ""},
    "m is not corrected: divide it by 1 - b1^t": {"corrected": "v"},
    "v is not corrected: divide it by 1 - b2^t": {"corrected": "m"},
    "t is one too high: the first update has t = 1": {"late": 1},
    "eps is inside the root; add it after the root": {"inside": True},
    "v is the mean of |g|; it must be the mean of g squared": {"squared": False},
    "b1 and b2 are swapped": {"swapped": True},
    "the decay is not multiplied by the rate: w (1 - lr decay)": {"decay_lr": False},
}


def test_step_11_adamw(part):
    torch.manual_seed(15)
    start, lr, decay = TwoKinds(), 0.01, 0.5
    gradients = [(1e-4 * torch.randn(2, 3), 1e-4 * torch.randn(2, 3)) for _ in range(4)]

    def trained(optimizer_of, update) -> tuple[Tensor, Tensor]:
        module = TwoKinds()
        module.load_state_dict(start.state_dict())
        optimizer = optimizer_of(module, decay)
        for t, (one, two) in enumerate(gradients, 1):
            module.linear.weight.grad, module.embed.weight.grad = one.clone(), two.clone()
            update(optimizer, t)
        return module.linear.weight.detach(), module.embed.weight.detach()

    def by_hand(step, decay=decay, w=start.linear.weight.detach(), which=0) -> Tensor:
        m = v = torch.zeros_like(w)
        for t, pair in enumerate(gradients, 1):
            w, m, v = step(w, pair[which], m, v, t, lr, decay)
        return w

    linear, embed = trained(train.AdamW, lambda optimizer, t: optimizer.step(t, lr))
    found = trained(
        lambda module, decay: call(part("AdamW"), module, decay),
        lambda optimizer, t: call(optimizer.step, t, lr),
    )
    mistakes = {message: by_hand(adamw_variant(**changed)) for message, changed in ADAMW_MISTAKES.items()}
    mistakes["the weight does not decay"] = by_hand(adamw_variant(), decay=0.0)
    mistakes["nothing changed: update the parameters in place"] = start.linear.weight
    judge("a Linear weight after four updates", found[0], linear, mistakes)
    decayed = by_hand(adamw_variant(), w=start.embed.weight.detach(), which=1)
    judge(
        "an embedding after four updates",
        found[1],
        embed,
        {"the embedding decays; only weights of nn.Linear may decay": decayed},
    )


def batches(step: int) -> Tensor:
    """Rows of a repeating pattern, another one at each step."""
    chance = torch.Generator().manual_seed(step)
    return torch.randint(V, (4, 8), generator=chance).repeat(1, 3)  # (B, T)


def test_step_11_train(part):
    torch.manual_seed(16)
    weights = real.Llama(SMALL).state_dict()

    def model_of() -> nn.Module:
        module = real.Llama(SMALL, real.attention_written_out)
        module.load_state_dict(weights)
        return module

    right = training_losses(model_of())
    found = call(part("train"), model_of(), batches, 12, 0.02)
    if not (isinstance(found, list) and all(isinstance(loss, float) for loss in found)):
        fail("train must return a list of numbers: loss.item() of each step")
    if len(found) != 12:
        fail(f"train: {len(found)} losses for 12 steps")
    variants = {
        "the rate is constant: call learning_rate(step, ...) at each step": {"rate": lambda step: 0.02},
        "the warmup is missing: it takes 5% of the steps": {"rate": lambda step: cosine_rate(step, 0)},
        "the rate of the next step is used: learning_rate counts from 0": {
            "rate": lambda step: cosine_rate(step + 1)
        },
        "the gradients are not clipped": {"max_norm": math.inf},
        "the update counts from 0; AdamW counts from 1": {"first": 0},
        "nothing decays: the decay is 0.01": {"decay": 0.0},
        "the gradients of earlier steps are still there: clear them before backward": {"keep": True},
        "the weights do not change: is the optimizer's step called?": {"rate": lambda step: 0.0},
    }
    mistakes = {
        message: torch.tensor(training_losses(model_of(), **change)) for message, change in variants.items()
    }
    judge("train", torch.tensor(found), torch.tensor(right), mistakes, tolerance=2e-5)


def cosine_rate(step: int, warmup: int = 1) -> float:
    """The rate of step `step` of 12, with a peak of 0.02."""
    if step < warmup:
        return 0.02 * step / warmup
    return 0.01 * (1 + math.cos(math.pi * (step - warmup) / (12 - warmup)))


def training_losses(
    module: nn.Module, rate=cosine_rate, max_norm=1.0, first=1, decay=0.01, keep=False
) -> list[float]:
    """The losses of 12 steps by the parts of train.py."""
    optimizer, losses = train.AdamW(module, decay), []
    for step in range(12):
        loss = real.next_token_loss(module(batches(step)), batches(step))
        if not keep:
            module.zero_grad()
        loss.backward()
        train.clip_gradients(list(module.parameters()), max_norm)
        optimizer.step(max(1, step + first), rate(step))
        losses.append(loss.item())
    return losses


class Fixed(nn.Module):
    """A model that gives the same logits at every position."""

    def __init__(self, logits: Tensor):
        super().__init__()
        self.logits = logits

    def forward(self, ids: Tensor) -> Tensor:
        return self.logits.expand(*ids.shape, -1)  # (B, T, V)


def test_step_12_greedy(part):
    torch.manual_seed(17)
    model = real.Llama(SMALL)
    right = sample.generate(model, [3, 1], 12, temperature=0)
    found = call(part("generate"), model, [3, 1], 12, temperature=0.0)
    if found == [3, 1, *right]:
        fail("generate: the prompt is returned too; return the new ids only")
    if not (isinstance(found, list) and all(isinstance(token, int) for token in found)):
        fail("generate must return a list of int")
    if found != right:
        fail(f"generate at temperature 0: {found}; expected {right}: take the most probable token, from the "
             "logits of the last position")
    shorter = call(part("generate"), model, [3, 1], 12, temperature=0.0, stop_id=right[-1])
    if shorter == right[: right.index(right[-1]) + 1]:
        fail("generate: stop_id was returned; it ends the text and must not be returned")
    if shorter != right[: right.index(right[-1])]:
        fail(f"generate with stop_id {right[-1]}: {shorter}; expected {right[: right.index(right[-1])]}")


@pytest.mark.parametrize("temperature, top_p", [(1.0, 1.0), (0.5, 1.0), (1.0, 0.6)])
def test_step_12_chances(part, temperature, top_p):
    logits = torch.tensor([1.6, 0.2, 0.9, -0.8, 0.5])
    drawn_ids = call(part("generate"), Fixed(logits), [0], 1500, temperature=temperature, top_p=top_p, seed=1)
    again = call(part("generate"), Fixed(logits), [0], 20, temperature=temperature, top_p=top_p, seed=1)
    if again != drawn_ids[:20]:
        fail("generate: the same seed must give the same text")
    if call(part("generate"), Fixed(logits), [0], 40, temperature, top_p, seed=2) == drawn_ids[:40]:
        fail("generate: another seed must give another text")
    found = torch.bincount(torch.tensor(drawn_ids), minlength=5) / len(drawn_ids)

    def chances(temperature: float, top_p: float, crossing: bool = True) -> Tensor:
        p = torch.softmax(logits / temperature, dim=0)
        best_first, order = p.sort(descending=True)
        before = best_first.cumsum(0) - (best_first if crossing else 0)
        kept = order[before < top_p]
        return torch.zeros(5).scatter(0, kept, p[kept]) / p[kept].sum()

    expected = {
        "": chances(temperature, top_p),
        "the temperature multiplies the logits; divide by it": chances(1 / temperature, top_p),
        "the temperature has no effect": chances(1.0, top_p),
        "top_p has no effect": chances(temperature, 1.0),
        "the token that crosses top_p must be kept": chances(temperature, top_p, crossing=False),
        "all tokens are equally probable: draw from softmax(logits)": torch.full((5,), 0.2),
        "it always takes the most probable token; above temperature 0 it must draw": torch.eye(5)[0],
    }
    distance = {message: float((found - p).abs().sum()) for message, p in expected.items()}
    nearest = min(distance, key=distance.get)  # the first of equals, so "" before a mistake
    if nearest and distance[nearest] < distance[""]:
        fail(f"generate at temperature {temperature}, top_p {top_p}: {nearest}")
    if distance[""] > 0.12:
        fail(f"generate at temperature {temperature}, top_p {top_p}: shares {found.tolist()}; "
             f"expected {expected[''].tolist()}")


# ----------------------------------------------------------------------------------------- the complete model


def test_step_13_your_model_is_the_real_one(part, tmp_path, monkeypatch):
    """With the weights of a trained `tiny` your model gives its logits; your loop gives the real losses."""
    folder = prepare([builtin_source("web")], tmp_path / "corpus", source_token_budget=30_000)
    monkeypatch.chdir(tmp_path)
    history = train.train(
        size="tiny", data=str(folder), out=str(tmp_path / "run"), steps=20, seq_len=64, batch_size=4,
        learning_rate=3e-3, schedule="cosine", precision="fp32", device="cpu", seed=42, eval_steps=20,
        max_eval_samples=4,
    )
    trained = real.Llama.from_pretrained(history.folder / "best")
    mine = fill("Llama", call(part("Llama", 9), trained.config), trained.state_dict())
    corpus = Corpus(folder, 64, 4, 20, seed=42)
    ids = torch.from_numpy(corpus.batch(0))
    judge("the logits of your model", call(mine, ids), trained(ids), {}, tolerance=1e-4)
    torch.manual_seed(42)
    start = real.Llama(trained.config).state_dict()  # the first weights of the run above
    mine = fill("Llama", call(part("Llama", 9), trained.config), start)
    losses = call(part("train", 11), mine, lambda step: torch.from_numpy(corpus.batch(step)), 20)
    judge("the losses of 20 steps", torch.tensor(losses), torch.tensor(history.losses), {}, tolerance=1e-4)
