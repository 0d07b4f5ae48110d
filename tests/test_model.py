# SPDX-License-Identifier: Apache-2.0
"""model.py by itself: each part against its formula, the cache against no cache, and every folder that must
be refused.
"""
import dataclasses
import json
import math
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import model as model_module
from common import UserError
from model import (
    SIZES,
    KVCache,
    Llama,
    ModelConfig,
    RMSNorm,
    attention_written_out,
    init_weights,
    next_token_loss,
    rotary_table,
    rotate,
    sdpa,
)

ROOT = Path(__file__).resolve().parent.parent
SMALL = ModelConfig(40, 16, 24, 2, 4, 2, 6, 32)                      # D 16 is not H * F = 24, and K is not H


def small(seed: int = 0, attend=sdpa, **changes) -> Llama:
    """A model of SMALL's shape with weights ten times as large as at the start of training, so that every
    part shows in the logits.
    """
    torch.manual_seed(seed)
    model = Llama(dataclasses.replace(SMALL, **changes), attend)
    init_weights(model, scale_residual=False, std=0.2)
    return model.eval()


def random_ids(batch: int, length: int, vocab: int = SMALL.vocab_size, seed: int = 1) -> torch.Tensor:
    return torch.randint(vocab, (batch, length), generator=torch.Generator().manual_seed(seed))


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# -------------------------------------------------------------------------------------------------- attention

@pytest.mark.parametrize("heads, kv_heads", [(4, 4), (6, 2), (4, 1)], ids=["MHA", "GQA", "MQA"])
def test_sdpa_equals_attention_written_out(heads, kv_heads):
    q, k, v = normal(2, heads, 9, 8), normal(2, kv_heads, 9, 8, seed=1), normal(2, kv_heads, 9, 8, seed=2)
    assert torch.allclose(sdpa(q, k, v), attention_written_out(q, k, v), atol=1e-6)
    newest = q[:, :, -1:]  # one query, all nine keys: a step with a cache
    assert torch.allclose(sdpa(newest, k, v), attention_written_out(newest, k, v), atol=1e-6)
    assert torch.allclose(sdpa(newest, k, v), sdpa(q, k, v)[:, :, -1:], atol=1e-6)
    part = torch.ones(4, 9, dtype=torch.bool).tril(5)  # the last four of nine positions: a chunk with a cache
    expected = attention_written_out(q, k, v)[:, :, -4:]
    assert torch.allclose(attention_written_out(q[:, :, -4:], k, v), expected, atol=1e-6)
    assert torch.allclose(attention_written_out(q[:, :, -4:], k, v, part), expected, atol=1e-6)
    assert torch.allclose(sdpa(q[:, :, -4:], k, v, part), expected, atol=1e-6)


def test_sdpa_equals_attention_written_out_with_a_mask_per_row():
    q, k, v = normal(2, 6, 5, 8), normal(2, 3, 5, 8, seed=1), normal(2, 3, 5, 8, seed=2)
    mask = torch.rand(2, 1, 5, 5, generator=torch.Generator().manual_seed(3)) > 0.5
    mask |= torch.eye(5, dtype=torch.bool)  # every position reads itself, so that no row is empty
    assert torch.allclose(sdpa(q, k, v, mask), attention_written_out(q, k, v, mask), atol=1e-6)
    assert not torch.allclose(sdpa(q, k, v, mask), sdpa(q, k, v), atol=1e-2)


def test_a_query_head_reads_the_key_head_of_its_group():
    """Head h reads h // (H/K): zero values in key/value head 1 of 2 silence query heads 2 and 3 of 4, and
    only those.
    """
    q, k, v = normal(1, 4, 5, 8), normal(1, 2, 5, 8, seed=1), normal(1, 2, 5, 8, seed=2)
    v[:, 1] = 0
    for attend in (sdpa, attention_written_out):
        silent = attend(q, k, v).abs().amax(dim=(0, 2, 3)) == 0
        assert silent.tolist() == [False, False, True, True]


def test_gradients_of_both_attentions_are_equal():
    grads = []
    for attend in (sdpa, attention_written_out):
        q, k, v = (normal(1, heads, 7, 8, seed=heads).requires_grad_() for heads in (4, 2, 2))
        attend(q, k, v).pow(2).sum().backward()
        grads.append([q.grad, k.grad, v.grad])
    for one, other in zip(*grads):
        assert torch.allclose(one, other, atol=1e-5)


def test_the_model_is_the_same_with_either_attention():
    ids = random_ids(2, 20)
    assert torch.allclose(small()(ids), small(attend=attention_written_out)(ids), atol=1e-5)


# ----------------------------------------------------------------------------------------- norm, rotary, loss

def test_rms_norm_is_its_formula_in_fp32():
    x = normal(3, 5, 16) * 7
    norm = RMSNorm(16, 1e-5)
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    formula = x.double() / (x.double().pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * norm.weight.double()
    assert torch.allclose(norm(x).double(), formula, atol=1e-6)
    assert torch.equal(norm(torch.zeros(1, 16)), torch.zeros(1, 16))          # eps is under the root


def test_rms_norm_takes_its_mean_in_fp32_whatever_comes_in():
    """At values of 300 the squares leave FP16 (65,504), and a BF16 mean would be off by 1 part in 256."""
    x = normal(3, 5, 256) * 300
    for dtype in (torch.float16, torch.bfloat16):
        norm = RMSNorm(256, 1e-5).to(dtype)
        low = x.to(dtype)
        formula = low.double() / (low.double().pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
        assert norm(low).dtype == dtype
        assert torch.equal(norm(low), formula.float().to(dtype))


def test_rotary_scores_depend_on_the_distance_only():
    """q at m and k at n meet in the same score wherever m - n is the same (Su et al. 2021, equation 11)."""
    cos, sin = rotary_table(64, 16, 10_000.0)
    q, k = (
        rotate(normal(1, 1, 1, 16).expand(1, 1, 64, 16), cos, sin),
        rotate(normal(1, 1, 1, 16, seed=1).expand(1, 1, 64, 16), cos, sin),
    )
    score = (q @ k.transpose(2, 3))[0, 0]
    for distance in (-20, -1, 0, 3, 40):
        diagonal = score.diagonal(distance)
        assert torch.allclose(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-4)
    assert score.diagonal(0)[0] - score.diagonal(5)[0] != 0


def test_rotary_turns_the_pair_j_and_j_plus_half_by_position_times_theta():
    theta, F = 50_000.0, 8
    cos, sin = rotary_table(10, F, theta)
    x = normal(1, 1, 10, F)
    turned = rotate(x, cos, sin)
    for n in (0, 1, 9):
        for j in range(F // 2):
            angle = n * theta ** (-2 * j / F)
            a, b = x[0, 0, n, j].item(), x[0, 0, n, j + F // 2].item()
            assert turned[0, 0, n, j].item() == pytest.approx(
                a * math.cos(angle) - b * math.sin(angle), abs=1e-5
            )
            assert turned[0, 0, n, j + F // 2].item() == pytest.approx(
                b * math.cos(angle) + a * math.sin(angle), abs=1e-5
            )
    assert torch.allclose(turned.norm(dim=-1), x.norm(dim=-1), atol=1e-5)


def next_token_loss_written_out(logits, input_ids):
    """`next_token_loss` in plain operations."""
    logits = logits[:, :-1].float()                                           # (B, T-1, V)
    target = input_ids[:, 1:, None]                                           # (B, T-1, 1)
    chosen = logits.gather(2, target)                                         # (B, T-1, 1)
    total = torch.logsumexp(logits, dim=2, keepdim=True)                      # (B, T-1, 1)
    return (total - chosen).mean()


def test_next_token_loss_equals_its_written_out_form_and_its_definition():
    logits, ids = normal(3, 7, 40) * 5, random_ids(3, 7)
    loss = next_token_loss(logits, ids)
    assert torch.allclose(loss, next_token_loss_written_out(logits, ids), atol=1e-6)
    one_by_one = [
        -math.log(torch.softmax(logits[b, t].double(), -1)[ids[b, t + 1]].item())
        for b in range(3)
        for t in range(6)
    ]
    assert loss.item() == pytest.approx(sum(one_by_one) / 18, abs=1e-5)
    assert next_token_loss(torch.zeros(1, 5, 40), random_ids(1, 5)).item() == pytest.approx(
        math.log(40), abs=1e-6
    )
    assert next_token_loss(logits.bfloat16(), ids).dtype == torch.float32


# -------------------------------------------------------------------------------------------------- the whole

@pytest.mark.parametrize("attend", [sdpa, attention_written_out])
def test_no_position_sees_a_later_one(attend):
    model, ids = small(attend=attend), random_ids(2, 16)
    changed = ids.clone()
    changed[:, 9] = (changed[:, 9] + 1) % SMALL.vocab_size
    before, after = model(ids), model(changed)
    assert torch.equal(before[:, :9], after[:, :9])
    # and each of the others does see it
    assert (before[:, 9:] - after[:, 9:]).abs().amax(dim=(0, 2)).min() > 1e-4


def test_order_matters():
    model, ids = small(), random_ids(1, 16)
    swapped = ids[:, [1, 0, *range(2, 16)]]
    assert (model(ids)[:, -1] - model(swapped)[:, -1]).abs().max() > 1e-4


@pytest.mark.parametrize("size", ["tiny", "20m", "30m"])
def test_a_model_starts_at_the_loss_of_a_guess(size):
    """The first number to check in any run. Logits of N(0, s^2) cost ln V + s^2 / 2 on average; here s^2 = D
    * 0.02^2, which is 0.10 for 30m.
    """
    config = dataclasses.replace(SIZES[size], num_hidden_layers=2)
    torch.manual_seed(0)
    model = Llama(config)
    ids = random_ids(4, 128, config.vocab_size)
    with torch.no_grad():
        loss = next_token_loss(model(ids), ids).item()
    assert abs(loss - math.log(config.vocab_size) - config.hidden_size * 0.02**2 / 2) < 0.06


@pytest.mark.parametrize("scaled", [True, False])
def test_initial_standard_deviations(scaled):
    """Each tensor's, measured: 0.02, or 0.02 / sqrt(2L) where it is added to the residual stream and the card
    scales that; norms are ones.
    """
    config = dataclasses.replace(SIZES["tiny"], num_hidden_layers=8, tie_word_embeddings=False)
    torch.manual_seed(0)
    model = Llama(config)
    init_weights(model, scale_residual=scaled)
    for name, weight in model.named_parameters():
        if weight.dim() == 1:
            assert torch.equal(weight, torch.ones_like(weight)), name
            continue
        adds = name.endswith(("o_proj.weight", "down_proj.weight"))
        expected = 0.02 / math.sqrt(2 * 8) if adds and scaled else 0.02
        tolerance = 5 / math.sqrt(2 * weight.numel())  # five standard errors of a standard deviation
        assert weight.std().item() == pytest.approx(expected, rel=tolerance), name
        assert abs(weight.mean().item()) < 5 * expected / math.sqrt(weight.numel()), name


def test_a_new_model_is_scaled_and_follows_the_global_seed():
    torch.manual_seed(3)
    one = Llama(SMALL)
    torch.manual_seed(3)
    two = Llama(SMALL)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters()))
    torch.manual_seed(0)
    deep = Llama(dataclasses.replace(SIZES["tiny"], num_hidden_layers=8))
    assert deep.model.layers[0].mlp.down_proj.weight.std().item() == pytest.approx(0.02 / 4, rel=0.05)


def test_residual_outputs_are_marked_where_they_are_made():
    marked = [
        name for name, module in small().named_modules() if getattr(module, "is_residual_output", False)
    ]
    assert marked == [
        f"model.layers.{i}.{part}" for i in range(2) for part in ("self_attn.o_proj", "mlp.down_proj")
    ]


def llama_layout(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a Llama file, written down once more from the published layout."""
    D, M, F = config.hidden_size, config.intermediate_size, config.head_dim
    q, kv = config.num_attention_heads * F, config.num_key_value_heads * F
    layout = {"model.embed_tokens.weight": (config.vocab_size, D), "model.norm.weight": (D,)}
    for i in range(config.num_hidden_layers):
        layer = {
            "input_layernorm": (D,), "post_attention_layernorm": (D,), "self_attn.q_proj": (q, D),
            "self_attn.k_proj": (kv, D), "self_attn.v_proj": (kv, D), "self_attn.o_proj": (D, q),
            "mlp.gate_proj": (M, D), "mlp.up_proj": (M, D), "mlp.down_proj": (D, M),
        }
        layout.update({f"model.layers.{i}.{name}.weight": shape for name, shape in layer.items()})
    if not config.tie_word_embeddings:
        layout["lm_head.weight"] = (config.vocab_size, D)
    return layout


@pytest.mark.parametrize("size", SIZES)
def test_the_state_dict_is_the_llama_layout(size):
    config = SIZES[size]
    with torch.device("meta"):
        model = Llama(config)
    assert {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()} == llama_layout(config)


@pytest.mark.parametrize("size, total, tensors",
    [("20m", 20_324_160, 111), ("30m", 30_353_920, 92), ("150m", 151_026_432, 182)])
def test_published_totals(size, total, tensors):
    with torch.device("meta"):
        model = Llama(SIZES[size])
    assert sum(weight.numel() for weight in model.parameters()) == total
    assert len(model.state_dict()) == tensors


def test_theta_of_each_line():
    expected = {
        "tiny": 1e4, "12m-v1": 1e4, "30m-v1": 1e4, "12m": 1e4, "30m": 1e4, "20m": 5e4, "50m": 5e4,
        "150m": 5e4,
    }
    assert {size: SIZES[size].rope_theta for size in expected} == expected


# --------------------------------------------------------------------------------------------------- KV cache

CHUNKS = {
    "one pass": [24],
    "token by token": [1] * 24,
    "prefill, then steps": [21, 1, 1, 1],
    "chunks": [1, 7, 2, 8, 1, 5],
}


@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_cached_logits_equal_uncached_ones(size):
    """Every size, two layers of it: any way to cut the same 24 positions gives the logits of one pass without
    a cache.
    """
    config = dataclasses.replace(SIZES[size], num_hidden_layers=2, vocab_size=512)
    torch.manual_seed(0)
    model = Llama(config).eval()
    init_weights(model, scale_residual=False, std=1 / math.sqrt(config.hidden_size))
    ids = random_ids(2, 24, 512)
    expected = model(ids)
    for name, chunks in CHUNKS.items():
        cache = KVCache(config, 2, 24)
        parts = [model(part, cache) for part in ids.split(chunks, dim=1)]
        assert (torch.cat(parts, dim=1) - expected).abs().max() < 1e-4, name
        assert cache.length == 24


@torch.no_grad()
def test_the_cache_works_up_to_the_context_limit_and_is_never_grown():
    model, ids = small(), random_ids(1, 32)
    cache = KVCache(model.config, 1, 32)
    before = cache.keys.data_ptr(), cache.values.data_ptr(), cache.keys.shape
    model(ids[:, :31], cache)
    assert torch.allclose(model(ids[:, 31:], cache), model(ids)[:, 31:], atol=1e-5)
    assert before == (cache.keys.data_ptr(), cache.values.data_ptr(), cache.keys.shape)
    assert cache.keys.shape == (2, 1, 2, 32, 6)                      # (layers, B, K, length, F)
    with pytest.raises(UserError, match="33 positions are more than the 32"):
        model(ids[:, :1], cache)
    assert cache.length == 32


@torch.no_grad()
def test_more_positions_than_the_context_or_the_cache_hold_are_refused():
    model = small()
    with pytest.raises(
        UserError, match="33 positions are more than the 32 that fit .max_position_embeddings"
    ):
        model(random_ids(1, 33))
    cache = KVCache(model.config, 1, 10)
    with pytest.raises(UserError, match="11 positions are more than the 10"):
        model(random_ids(1, 11), cache)
    assert cache.length == 0


@torch.no_grad()
def test_a_mask_of_the_caller_is_kept_in_a_chunk_with_a_cache():
    """Rows of different lengths, padded on the left: what a row ignores cannot change its logits."""
    model, ids = small(), random_ids(1, 12)
    answers = []
    for filler in (0, 7):
        padded = ids.clone()
        padded[:, :3] = filler
        may_read = torch.ones(12, 12, dtype=torch.bool).tril()
        may_read[3:, :3] = False
        cache = KVCache(model.config, 1, 12)
        model(padded[:, :6], cache, may_read[:6, :6])
        answers.append(model(padded[:, 6:], cache, may_read[6:]))
    assert torch.equal(*answers)


@torch.no_grad()
def test_a_model_set_to_recompute_still_uses_the_cache():
    model, ids = small(), random_ids(1, 12)
    model.model.recompute = lambda function, *inputs: function(*inputs)
    expected = model(ids)
    cache = KVCache(model.config, 1, 12)
    parts = [model(part, cache) for part in ids.split([8, 4], dim=1)]
    assert torch.allclose(torch.cat(parts, dim=1), expected, atol=1e-5)


def test_recomputing_changes_neither_loss_nor_gradients():
    from torch.utils.checkpoint import checkpoint
    ids, results = random_ids(2, 16), []
    for recompute in (None, lambda function, *inputs: checkpoint(function, *inputs, use_reentrant=False)):
        model = small().train()
        model.model.recompute = recompute
        loss = next_token_loss(model(ids), ids)
        loss.backward()
        results.append([loss.detach(), *(weight.grad for weight in model.parameters())])
    assert all(torch.equal(one, other) for one, other in zip(*results))


# ---------------------------------------------------------------------------------------------- save and load

@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_what_is_saved_is_loaded(tied, tmp_path):
    model, ids = small(tie_word_embeddings=tied), random_ids(2, 20)
    model.save_pretrained(tmp_path / "a" / "b", eos_token_id=2, pad_token_id=2)
    again = Llama.from_pretrained(tmp_path / "a" / "b")
    assert again.config == model.config
    assert torch.equal(again(ids), model(ids))
    assert all(weight.requires_grad and weight.device.type == "cpu" for weight in again.parameters())
    stored = load_file(tmp_path / "a" / "b" / "model.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in stored.items()} == llama_layout(model.config)
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}
    assert ("lm_head.weight" in stored) == (not tied)


def test_the_files_of_a_folder(tmp_path):
    os.umask(before := os.umask(0o022))
    small().save_pretrained(tmp_path, eos_token_id=2)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
    ]
    if os.name == "posix" and before == 0o022:
        assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {0o644}
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert [config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")] == [None, 2, None]
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == SMALL.rope_theta
    assert (config["model_type"], config["architectures"], config["dtype"]) == (
        "llama",
        ["LlamaForCausalLM"],
        "float32",
    )
    assert dataclasses.asdict(SMALL).items() <= config.items()
    assert json.loads((tmp_path / "generation_config.json").read_bytes()) == {"eos_token_id": 2}
    header = (tmp_path / "model.safetensors").read_bytes()[8:200]
    assert b'"__metadata__":{"format":"pt"}' in header


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_files_become_fp32(dtype, tmp_path):
    model = small()
    model.save_pretrained(tmp_path)
    halves = {name: tensor.to(dtype) for name, tensor in model.state_dict().items()}
    save_file(halves, tmp_path / "model.safetensors")
    again = Llama.from_pretrained(tmp_path)
    for name, tensor in again.state_dict().items():
        assert tensor.dtype == torch.float32 and torch.equal(tensor, halves[name].float())


def test_a_model_in_low_precision_is_saved_in_fp32(tmp_path):
    model = small().to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    assert {tensor.dtype for tensor in load_file(tmp_path / "model.safetensors").values()} == {torch.float32}


def test_a_loaded_model_does_not_depend_on_its_file(tmp_path):
    """Training from a folder writes into that folder again: the weights in memory must not be a window on the
    old file.
    """
    model, ids = small(), random_ids(1, 8)
    model.save_pretrained(tmp_path)
    loaded = Llama.from_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    with open(file, "r+b") as stream:
        stream.write(b"\xff" * file.stat().st_size)
    assert torch.equal(loaded(ids), model(ids))
    loaded.save_pretrained(tmp_path)
    assert torch.equal(Llama.from_pretrained(tmp_path)(ids), model(ids))


def test_rotary_tables_and_a_tied_copy_in_the_file_are_ignored(tmp_path):
    """Old exports hold both. A head that differs is refused: transformers 4 would ignore it, 5 would use it.
    """
    model, ids = small(tie_word_embeddings=True), random_ids(1, 8)
    model.save_pretrained(tmp_path)
    extra = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(3),
        "lm_head.weight": model.model.embed_tokens.weight.detach().clone(),
    }
    save_file({**model.state_dict(), **extra}, tmp_path / "model.safetensors")
    assert torch.equal(Llama.from_pretrained(tmp_path)(ids), model(ids))
    extra["lm_head.weight"][3, 3] += 1
    save_file({**model.state_dict(), **extra}, tmp_path / "model.safetensors")
    assert "lm_head.weight differs from model.embed_tokens.weight" in refusal(tmp_path)


def sharded(folder: Path, **changes) -> dict:
    """Split a saved folder into two files and an index, as transformers does; return the index."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, held in parts.items():
        save_file({name: weights[name] for name in held}, folder / file)
    index = {
        "metadata": {},
        "weight_map": {name: file for file, held in parts.items() for name in held},
        **changes,
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return index


def test_shards_load(tmp_path):
    model, ids = small(), random_ids(1, 8)
    model.save_pretrained(tmp_path)
    sharded(tmp_path)
    assert torch.equal(Llama.from_pretrained(tmp_path)(ids), model(ids))


# ----------------------------------------------------------------------------------- folders that are refused

@pytest.fixture
def folder(tmp_path):
    small().save_pretrained(tmp_path)
    return tmp_path


def edit_config(folder: Path, remove: tuple[str, ...] = (), **changes) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config.update(changes)
    for key in remove:
        del config[key]
    (folder / "config.json").write_text(json.dumps(config))


def edit_weights(folder: Path, remove: str | None = None, **changes: torch.Tensor) -> None:
    weights = {**load_file(folder / "model.safetensors"), **changes}
    weights.pop(remove, None)
    save_file(weights, folder / "model.safetensors")


def refusal(folder: Path) -> str:
    """The one line that loading this folder ends with."""
    with pytest.raises(UserError) as error:
        Llama.from_pretrained(folder)
    line = str(error.value)
    assert "\n" not in line and str(folder) in line
    return line


def test_a_missing_tensor_is_named_with_file_and_shape(folder):
    edit_weights(folder, remove="model.layers.1.mlp.up_proj.weight")
    assert refusal(folder) == (f"{folder / 'model*.safetensors'}: tensor model.layers.1.mlp.up_proj.weight: "
                               "expected shape [24, 16] from config.json, found no such tensor")


def test_a_wrong_shape_is_named_with_file_expected_and_found(folder):
    edit_weights(folder, **{"model.layers.0.self_attn.k_proj.weight": torch.zeros(24, 16)})
    assert refusal(folder) == (
        f"{folder / 'model.safetensors'}: tensor model.layers.0.self_attn.k_proj.weight: "
        "expected shape [12, 16] from config.json, found [24, 16]"
    )


def test_an_unexpected_tensor_is_named(folder):
    edit_weights(folder, **{"model.layers.0.self_attn.q_proj.bias": torch.zeros(24)})
    assert (
        "unexpected tensor model.layers.0.self_attn.q_proj.bias; config.json describes a model without it"
        in refusal(folder)
    )


def test_an_untied_model_without_its_head(folder):
    edit_weights(folder, remove="lm_head.weight")
    assert "tensor lm_head.weight: expected shape [40, 16] from config.json, found no such tensor" in refusal(
        folder
    )


@pytest.mark.parametrize("dtype", [torch.int64, torch.float64, torch.float8_e4m3fn, torch.bool])
def test_a_wrong_dtype_is_named(dtype, folder):
    edit_weights(folder, **{"model.norm.weight": torch.ones(16).to(dtype)})
    assert "tensor model.norm.weight has dtype" in refusal(folder)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_not_finite(value, folder):
    weight = torch.ones(16)
    weight[7] = value
    edit_weights(folder, **{"model.norm.weight": weight})
    assert "tensor model.norm.weight holds values that are not finite numbers" in refusal(folder)


def test_a_truncated_file_at_any_length(folder):
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    for length in (0, 1, 7, 8, 9, 100, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        assert f"{file}: damaged or not a safetensors file" in refusal(folder)
    file.write_bytes(whole + b"\0")
    assert "damaged" in refusal(folder)


def test_files_that_are_not_there(folder):
    (folder / "model.safetensors").rename(folder / "other")
    assert refusal(folder).startswith(f"{folder / 'model.safetensors'}: no such file")
    (folder / "model.safetensors").mkdir()
    assert "no such file" in refusal(folder)
    (folder / "config.json").unlink()
    assert refusal(folder) == f"{folder / 'config.json'}: no such file"
    with pytest.raises(UserError, match="no such file"):
        Llama.from_pretrained(folder / "nowhere")


@pytest.mark.parametrize("text, part",
    [("", "not valid JSON"), ("{", "not valid JSON"), ("[]", "expected a JSON object"),
    ("\xff", "not valid JSON"),
    ("[" * 100_000, "not valid JSON"),
    ('{"vocab_size": ' + "9" * 5000 + "}", "not valid JSON")])
def test_a_config_that_is_no_json_object(text, part, folder):
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    assert part in refusal(folder)


@pytest.mark.parametrize("key",
    ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "max_position_embeddings"])
def test_a_missing_key_of_the_config_is_named(key, folder):
    edit_config(folder, remove=(key,))
    assert f"missing {key}" in refusal(folder)


@pytest.mark.parametrize("key, value, part", [
    ("vocab_size", 10**6,
    "tensor model.embed_tokens.weight: expected shape [1000000, 16] from config.json, found [40, 16]"),
    ("vocab_size", 10**12, "vocab_size must be a whole number from 1 to 1048576, not 1000000000000"),
    ("num_attention_heads", 2**20,
    "model.layers.0.self_attn.q_proj.weight: expected shape [6291456, 16] from config.json, found [24, 16]"),
    ("num_hidden_layers", 100,
     "tensor model.layers.2.input_layernorm.weight: expected shape [16] from config.json, "
     "found no such tensor"),
    ("num_hidden_layers", 10**9, "num_hidden_layers must be a whole number from 1 to 1000, not 1000000000"),
    ("max_position_embeddings", 2**21, "max_position_embeddings must be a whole number from 1 to 1048576"),
    ("head_dim", 2**20,
    "self_attn.q_proj.weight: expected shape [4194304, 16] from config.json, found [24, 16]"),
    ("rms_norm_eps", 10**400, "rms_norm_eps must be a positive number"),
], ids=lambda value: f"{value:.0e}" if isinstance(value, int) and value < 10**300 else str(value)[:25])
def test_huge_sizes_in_a_config_are_named(key, value, part, folder):
    edit_config(folder, **{key: value})
    assert part in refusal(folder)


@pytest.mark.parametrize("changes, part", [
    ({"attention_bias": True}, "no attention_bias True"),
    ({"mlp_bias": True}, "no mlp_bias True"),
    ({"sliding_window": 4096}, "no sliding_window 4096"),
    ({"quantization_config": {"quant_method": "gptq"}}, "no quantization_config"),
    ({"model_type": "mistral"}, "no model_type 'mistral'"),
    ({"hidden_act": "gelu"}, "no hidden_act 'gelu'"),
    ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "no rope scaling 'linear'"),
    ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}, "rope_parameters": None},
    "no rope scaling 'llama3'"),
    ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 10_000.0}},
    "no rope scaling 'yarn'"),
    ({"rope_parameters": [1]}, "rope_parameters and rope_scaling must be objects"),
    ({"rope_theta": 50_000.0}, "rope_theta is 50000.0 here and 10000.0 in rope_parameters"),
    ({"attention_bias": True, "sliding_window": 8}, "no attention_bias True, no sliding_window 8"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_what_cannot_be_represented_is_refused_by_name(changes, part, folder):
    edit_config(folder, **changes)
    assert part in refusal(folder)


@pytest.mark.parametrize("changes, parts", [
    ({"num_key_value_heads": 3}, ["num_attention_heads 4 is not a multiple of num_key_value_heads 3"]),
    ({"head_dim": 7}, ["head_dim 7 is odd"]),
    ({"head_dim": 7, "num_key_value_heads": 3}, ["head_dim 7 is odd", "num_key_value_heads 3"]),
    ({"vocab_size": 40.0}, ["vocab_size must be a whole number from 1 to 1048576, not 40.0"]),
    ({"vocab_size": "40", "hidden_size": -1, "head_dim": True},
    ["vocab_size must", "hidden_size must", "head_dim must"]),
    ({"rms_norm_eps": math.nan}, ["rms_norm_eps must be a positive number"]),
    ({"tie_word_embeddings": 1}, ["tie_word_embeddings must be true or false"]),
    ({"head_dim": None, "hidden_size": "16"}, ["hidden_size must"]),
    ({"head_dim": None, "hidden_size": [16]}, ["hidden_size must"]),
    ({"head_dim": None, "num_attention_heads": 0}, ["num_attention_heads must"]),
    ({"num_key_value_heads": {}}, ["num_key_value_heads must"]),
], ids=str)
def test_an_impossible_configuration_gives_all_its_problems_at_once(changes, parts, folder):
    edit_config(folder, **changes)
    line = refusal(folder)
    assert all(part in line for part in parts), line
    assert line.count(str(folder)) == 1


def test_a_configuration_built_by_hand_is_checked_too():
    with pytest.raises(UserError, match="head_dim 5 is odd"):
        Llama(dataclasses.replace(SMALL, head_dim=5))
    assert all(config.problems() == [] for config in SIZES.values())
    long = dataclasses.replace(SMALL, max_position_embeddings=2**20, head_dim=256)
    assert long.problems() == [
        "max_position_embeddings 1048576 by head_dim 256 is a rotary table above 512 MiB"
    ]


def test_defaults_of_a_config_written_by_others(folder):
    """transformers: no num_key_value_heads means as many as heads, no head_dim hidden / heads, no eps 1e-6,
    theta in either place or 10,000.
    """
    edit_config(
        folder,
        remove=(
            "num_key_value_heads", "head_dim", "rms_norm_eps", "rope_theta", "rope_parameters",
            "tie_word_embeddings",
        ),
    )
    config = ModelConfig.from_json(folder / "config.json")
    assert (config.num_key_value_heads, config.head_dim) == (4, 4)
    assert (config.rms_norm_eps, config.rope_theta, config.tie_word_embeddings) == (1e-6, 1e4, False)
    edit_config(
        folder, num_key_value_heads=None, head_dim=None, rope_scaling=None,
        rope_parameters={"rope_type": "default", "rope_theta": 5e4},
    )
    config = ModelConfig.from_json(folder / "config.json")
    assert (config.num_key_value_heads, config.head_dim, config.rope_theta) == (4, 4, 5e4)
    edit_config(folder, remove=("rope_parameters",), rope_scaling={"rope_type": "default", "rope_theta": 7e4})
    assert ModelConfig.from_json(folder / "config.json").rope_theta == 7e4
    edit_config(folder, rope_scaling={"rope_type": None, "rope_theta": 6e4})      # null is as if not given
    assert ModelConfig.from_json(folder / "config.json").rope_theta == 6e4


@pytest.mark.parametrize("depth, part", [
    (1, "unexpected tensor model.layers.1.input_layernorm.weight"),
    (3, "model.layers.2.input_layernorm.weight: expected shape [16] from config.json, found no such tensor"),
])
def test_another_depth_than_the_weights_have(depth, part, folder):
    edit_config(folder, num_hidden_layers=depth)
    assert part in refusal(folder)


@pytest.mark.parametrize("part",
    ["../model-00001-of-00002.safetensors", "/etc/passwd", "a/b.safetensors", "..", ".", "", 7, None])
def test_an_index_may_only_name_files_of_its_folder(part, folder):
    index = sharded(folder)
    index["weight_map"]["model.norm.weight"] = part
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "weight_map must map tensor names to .safetensors files of this folder" in refusal(folder)


@pytest.mark.parametrize("part", ["gone.safetensors", "x" * 5000, "nul\0.safetensors", "config.json"])
def test_an_index_that_names_what_is_no_weight_file(part, folder):
    index = sharded(folder)
    index["weight_map"]["model.norm.weight"] = part
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "safetensors" in refusal(folder)


@pytest.mark.parametrize("changes", [{"weight_map": None}, {"weight_map": []}, {"weight_map": {}}])
def test_an_index_without_a_map(changes, folder):
    sharded(folder, **changes)
    refusal(folder)


# ---------------------------------------------------------------------------------------------------- imports

def test_importing_the_model_brings_torch_numpy_and_safetensors_only(folder):
    """Compared, in a fresh process, with what those three bring themselves. Loading must not wake the parts
    of torch that take seconds either.
    """
    program = (
        "import sys, torch, numpy, safetensors.torch; before = set(sys.modules); import model; "
        "print(*{name.split('.')[0] for name in set(sys.modules) - before}); after = set(sys.modules); "
        f"model.Llama.from_pretrained({str(folder)!r}); print(len(set(sys.modules) - after)); "
        "print(*sys.modules)"
    )
    printed = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    brought, loading, everything = (set(line.split()) for line in printed.splitlines())
    # 2.9 imports its symbolic shapes, with sympy, for the meta device
    if tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 13):
        assert int(loading.pop()) < 50
    assert brought - set(sys.stdlib_module_names) == {"model", "common"}
    assert not everything & {"transformers", "matplotlib", "datasets", "tokenizers", "pandas", "scipy"}


def test_the_module_names_what_the_contract_names():
    for name in (
        "SIZES", "ModelConfig", "Llama", "KVCache", "RMSNorm", "sdpa", "attention_written_out",
        "next_token_loss", "init_weights",
    ):
        assert hasattr(model_module, name), name
    assert list(SIZES)[:8] == ["tiny", "12m-v1", "30m-v1", "12m", "30m", "20m", "50m", "150m"]
