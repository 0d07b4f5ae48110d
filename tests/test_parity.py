# SPDX-License-Identifier: Apache-2.0
"""Logits of our Llama against transformers' LlamaForCausalLM, loaded from the folder that we wrote.
transformers is an oracle of the tests only.

Tolerances (FP32, largest difference of any logit): 1e-4 up to 256 positions, 1e-3 beyond, where the rounding
of longer sums alone gives 1e-4 to 3e-4. The next token must be the same wherever the two best differ by more
than 2e-3.
"""
import dataclasses

import pytest
import torch
from torch import nn

from model import SIZES, KVCache, Llama, ModelConfig, rotary_table

pytest.importorskip(
    "transformers",
    reason="transformers is not installed: it is the oracle of the parity tests (pip install transformers)",
)

SHORT = 256


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Small products are faster without a second thread, and machines differ less."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def large_weights(model: Llama, seed: int = 0) -> None:
    """Random weights at which everything matters: uneven attention (scores of std 1), logits of std 2, norms
    far from one.

    Much larger ones measure only how rounding grows: at twice these scores two correct programs differ by
    2e-4 at full depth.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Embedding) or module is getattr(model, "lm_head", None):
                module.weight.normal_(0.0, 2.0 / module.weight.shape[1] ** 0.5, generator=generator)
            elif isinstance(module, nn.Linear):
                module.weight.normal_(0.0, 1.0 / module.weight.shape[1] ** 0.5, generator=generator)
            elif hasattr(module, "eps"):
                module.weight.uniform_(0.5, 1.5, generator=generator)


def make(config: ModelConfig, **changes) -> Llama:
    model = Llama(dataclasses.replace(config, **changes)).eval()
    large_weights(model)
    return model


def oracle_of(folder):
    """LlamaForCausalLM from our folder, in FP32, attention in its written-out form. Every key must be used
    and none may be left over.
    """
    from transformers import LlamaForCausalLM

    oracle, info = LlamaForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not any(info.values()), info
    return oracle.eval()


def random_ids(config: ModelConfig, batch: int, length: int) -> torch.Tensor:
    return torch.randint(config.vocab_size, (batch, length), generator=torch.Generator().manual_seed(1))


def cached_logits(model: Llama, ids: torch.Tensor, chunks: list[int]) -> torch.Tensor:
    cache = KVCache(model.config, ids.shape[0], ids.shape[1])
    return torch.cat([model(part, cache) for part in ids.split(chunks, dim=1)], dim=1)


def oracle_cached_logits(oracle, ids: torch.Tensor, chunks: list[int]) -> torch.Tensor:
    past, parts = None, []
    for part in ids.split(chunks, dim=1):
        answer = oracle(part, past_key_values=past, use_cache=True)
        past = answer.past_key_values
        parts.append(answer.logits)
    return torch.cat(parts, dim=1)


def agree(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float) -> float:
    """Assert equal logits and equal next tokens; return the largest difference."""
    assert ours.shape == theirs.shape and ours.std() > 1
    difference = (ours - theirs).abs().max().item()
    assert difference <= tolerance
    best = theirs.topk(2, dim=-1).values
    clear = best[..., 0] - best[..., 1] > 2e-3
    assert clear.float().mean() > 0.9
    assert torch.equal(ours.argmax(-1)[clear], theirs.argmax(-1)[clear])
    return difference


@torch.no_grad()
def compare(
    model: Llama, folder, batch: int, length: int, chunks: list[int], tolerance: float
) -> tuple[float, float]:
    model.save_pretrained(folder, eos_token_id=2)
    oracle = oracle_of(folder)
    ids = random_ids(model.config, batch, length)
    plain = agree(model(ids), oracle(ids, use_cache=False).logits, tolerance)
    cached = agree(cached_logits(model, ids, chunks), oracle_cached_logits(oracle, ids, chunks), tolerance)
    return plain, cached


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("size", SIZES)
def test_logits_equal_transformers_up_to_256_positions(size, tied, tmp_path):
    """Every size at two layers (one with the other kind of head) and with 2,048 rows of its vocabulary; the
    full sizes follow in .ci/run.

    With and without a cache: a long prefill, a chunk, then token by token.
    """
    depth = 2 if tied == SIZES[size].tie_word_embeddings else 1
    model = make(SIZES[size], num_hidden_layers=depth, vocab_size=2048, tie_word_embeddings=tied)
    compare(model, tmp_path, 1, SHORT, [SHORT - 24, 20, 1, 1, 1, 1], 1e-4)


def test_logits_equal_transformers_in_a_batch_at_full_depth(tmp_path):
    compare(make(SIZES["tiny"]), tmp_path, 3, 200, [1, 99, 50, 50], 1e-4)


@pytest.mark.parametrize("size", SIZES)
def test_rotary_tables_are_bit_equal(size):
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
    config = SIZES[size]
    theirs = LlamaRotaryEmbedding(
        LlamaConfig(
            hidden_size=config.hidden_size,
            num_attention_heads=config.num_attention_heads,
            head_dim=config.head_dim,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        )
    )
    length = config.max_position_embeddings
    cos, sin = theirs(torch.zeros(1), torch.arange(length)[None])
    ours = rotary_table(length, config.head_dim, config.rope_theta)
    assert torch.equal(ours[0], cos[0]) and torch.equal(ours[1], sin[0])


@torch.no_grad()
def test_the_comparison_notices_what_is_wrong(tmp_path):
    """Each of these mistakes moves a logit by far more than the tolerance, so the tests above could not pass
    with it.
    """
    right = make(SIZES["tiny"], num_hidden_layers=2)
    ids = random_ids(right.config, 1, 128)
    expected = right(ids)
    for change in ({"rope_theta": 20_000.0}, {"rms_norm_eps": 1e-2}):
        wrong = Llama(dataclasses.replace(right.config, **change))
        wrong.load_state_dict(right.state_dict())
        assert (wrong(ids) - expected).abs().max() > 1e-2

    def tiled(q, k, v, mask=None):
        """Query head h reads key/value head h % K: the other, wrong, way of sharing."""
        group = q.shape[1] // k.shape[1]
        return nn.functional.scaled_dot_product_attention(
            q, k.repeat(1, group, 1, 1), v.repeat(1, group, 1, 1), is_causal=True
        )

    wrong = Llama(right.config, tiled)
    wrong.load_state_dict(right.state_dict())
    assert (wrong(ids) - expected).abs().max() > 1e-2


@pytest.mark.ci
@pytest.mark.parametrize("size", SIZES)
def test_logits_equal_transformers_at_full_depth(size, tmp_path):
    model = make(SIZES[size])
    plain, cached = compare(model, tmp_path, 1, SHORT, [SHORT - 8, 5, 1, 1, 1], 1e-4)
    print(
        f"{size}: {model.config.num_hidden_layers} layers, {SHORT} positions: plain {plain:.1e}, cached "
        f"{cached:.1e}"
    )


@pytest.mark.ci
@pytest.mark.parametrize("size", SIZES)
def test_logits_equal_transformers_up_to_the_full_context(size, tmp_path):
    """Four layers, so that scores and logits of 4,096 positions fit in a small machine's memory and time."""
    model = make(SIZES[size], num_hidden_layers=4)
    length = model.config.max_position_embeddings
    plain, cached = compare(model, tmp_path, 1, length, [length // 2, length // 2 - 3, 1, 1, 1], 1e-3)
    print(f"{size}: 4 layers, {length} positions: plain {plain:.1e}, cached {cached:.1e}")


@pytest.mark.ci
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("shards", ["one file", "sharded"])
@torch.no_grad()
def test_folders_written_by_transformers_load_here(tied, shards, tmp_path):
    """The reverse: `from_pretrained` reads what transformers saves, in FP32 and in BF16, as one file or
    several.
    """
    from transformers import LlamaConfig, LlamaForCausalLM
    torch.manual_seed(0)
    theirs = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=96, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=tied,
            initializer_range=0.2, rope_parameters={"rope_type": "default", "rope_theta": 50_000.0},
        )
    ).eval()
    ids = torch.arange(64)[None]
    for dtype in (torch.float32, torch.bfloat16):
        folder = tmp_path / str(dtype)
        theirs.to(dtype).save_pretrained(folder, max_shard_size="50KB" if shards == "sharded" else "50GB")
        assert (folder / "model.safetensors.index.json").exists() == (shards == "sharded")
        # not `theirs`: `.to` has rounded its frequencies too
        again = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        agree(Llama.from_pretrained(folder)(ids), again(ids).logits, 1e-4)
