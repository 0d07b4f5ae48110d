# SPDX-License-Identifier: Apache-2.0
"""devices/attention_cpu.py: the form in blocks equals the plain one, and is chosen where its table says."""
import pytest
import torch

from devices import attention_cpu
from devices.open import open_device
from model import SIZES, Llama, attention_written_out, next_token_loss, sdpa
from precision import apply_precision


def inputs(T: int, dtype: torch.dtype, B: int = 2, H: int = 6, K: int = 2, F: int = 8) -> list[torch.Tensor]:
    """q (B, H, T, F), k and v (B, K, T, F), laid out as the projections leave them."""
    draw = torch.Generator().manual_seed(T)
    made = [torch.randn(B, T, heads, F, generator=draw).to(dtype).transpose(1, 2) for heads in (H, K, K)]
    return [tensor.requires_grad_() for tensor in made]


def output_and_gradients(form, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    y = form(*tensors)                                                        # (B, H, T, F)
    direction = torch.sin(torch.arange(y.numel())).view_as(y).to(y.dtype)
    return [y, *torch.autograd.grad(y, tensors, direction)]


@pytest.mark.parametrize("heads", [(6, 2), (3, 3), (4, 1)])
@pytest.mark.parametrize("T", [2, 3, 4, 5, 8, 13])
def test_blocks_equal_the_written_out_form(T, heads, monkeypatch):
    monkeypatch.setattr(attention_cpu, "BLOCK", 4)
    tensors = inputs(T, torch.float64, H=heads[0], K=heads[1])
    found = output_and_gradients(attention_cpu.attend_in_blocks, tensors)
    wanted = output_and_gradients(attention_written_out, tensors)
    for ours, plain in zip(found, wanted):
        torch.testing.assert_close(ours, plain, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("T", [7, 300])
def test_bfloat16_blocks_are_as_exact_as_the_written_out_form(T):
    tensors = inputs(T, torch.bfloat16)
    doubles = [tensor.detach().double().requires_grad_() for tensor in tensors]
    exact = output_and_gradients(attention_written_out, doubles)
    blocks = output_and_gradients(attention_cpu.attend_in_blocks, tensors)
    plain = output_and_gradients(attention_written_out, tensors)
    for reference, ours, other in zip(exact, blocks, plain):
        error, usual = (ours - reference).norm(), (other - reference).norm()
        assert ours.dtype == torch.bfloat16 and error < 1.5 * usual, (error, usual)


def test_choice_follows_dtype_mask_and_memory(monkeypatch):
    calls = []
    monkeypatch.setattr(attention_cpu, "attend_in_blocks", lambda *tensors: calls.append(tensors))
    causal = torch.ones(8, 8, dtype=torch.bool).tril()
    for dtype, T, mask, in_blocks in (
        (torch.bfloat16, 8, None, True),
        (torch.float32, 8, None, False),
        (torch.float16, 8, None, False),
        (torch.bfloat16, 8, causal, False),
        (torch.bfloat16, 1, None, False),
        (torch.bfloat16, 9, None, False),                         # too many weights
    ):
        monkeypatch.setattr(attention_cpu, "MOST_WEIGHTS", 2 * 6 * 8 * 8 // 2)
        calls.clear()
        tensors = inputs(T, dtype)
        y = attention_cpu.attend(*tensors, mask)
        assert bool(calls) == in_blocks, (dtype, T)
        if not in_blocks:
            assert torch.equal(y, sdpa(*tensors, mask))


def test_training_follows_inference():
    """The mask that is kept from one call to the next may first be made in inference mode."""
    attention_cpu.later_positions.cache_clear()
    with torch.inference_mode():
        attention_cpu.attend_in_blocks(*inputs(5, torch.float32))
    output_and_gradients(attention_cpu.attend_in_blocks, inputs(5, torch.float32))


@pytest.mark.parametrize("size", ["tiny", "20m"])
def test_a_bfloat16_model_learns_the_same(size):
    """Loss and gradients of a model on `open_device("cpu").attend` and on `sdpa` differ by rounding alone."""
    ids = torch.randint(0, 4096, (2, 40), generator=torch.Generator().manual_seed(1))
    results = []
    for attend in (sdpa, open_device("cpu").attend):
        torch.manual_seed(0)
        model = apply_precision(Llama(SIZES[size], attend), "bf16", "cpu")
        loss = next_token_loss(model(ids), ids)
        loss.backward()
        results.append((loss.detach(), torch.cat([p.grad.flatten() for p in model.parameters()])))
    (loss, gradient), (other_loss, other_gradient) = results
    assert abs(loss - other_loss) < 1e-2
    assert torch.nn.functional.cosine_similarity(gradient, other_gradient, dim=0) > 0.999
