# SPDX-License-Identifier: Apache-2.0
"""devices/loss_cpu.py: loss and gradient in blocks equal those of the plain form."""
import pytest
import torch
from torch import Tensor

import devices.device
from devices import loss_cpu
from devices.open import open_device
from model import SIZES, Llama, next_token_loss, next_token_losses
from precision import apply_precision


def logits_and_ids(B: int, T: int, V: int, dtype: torch.dtype, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    """Random logits (B, T, V) and ids (B, T)."""
    draw = torch.Generator().manual_seed(B * T)
    ids = torch.randint(0, V, (B, T), generator=draw)                         # (B, T)
    return (scale * torch.randn(B, T, V, generator=draw)).to(dtype).requires_grad_(), ids


@pytest.mark.parametrize("shape", [(1, 2, 5), (2, 4, 7), (3, 5, 11), (2, 9, 40)])
@pytest.mark.parametrize("factor", [1.0, 0.37])
def test_blocks_equal_the_plain_form(shape, factor, monkeypatch):
    monkeypatch.setattr(loss_cpu, "BLOCK", 4)
    logits, ids = logits_and_ids(*shape, torch.float32)
    found, wanted = loss_cpu.loss_in_blocks(logits, ids)[0], next_token_loss(logits, ids)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)
    ours, plain = (torch.autograd.grad(factor * loss, logits)[0] for loss in (found, wanted))
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-8)
    assert not ours[:, -1].any(), "the last position has no next token"


def test_bfloat16_gradients_are_rounded_once():
    """As in the plain form: both compute in FP32 and round the gradient to bfloat16 at the end."""
    logits, ids = logits_and_ids(2, 150, 300, torch.bfloat16)
    found, wanted = loss_cpu.loss_in_blocks(logits, ids)[0], next_token_loss(logits, ids)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)
    ours, plain = (torch.autograd.grad(loss, logits)[0] for loss in (found, wanted))
    assert ours.dtype == torch.bfloat16
    assert (ours == plain).float().mean() > 0.999
    torch.testing.assert_close(ours, plain, rtol=2**-7, atol=1e-9)


@pytest.mark.parametrize("scale", [1e3, 1e30])
def test_logits_of_any_size(scale):
    logits, ids = logits_and_ids(2, 8, 16, torch.bfloat16, scale)
    torch.testing.assert_close(loss_cpu.loss_in_blocks(logits, ids)[0], next_token_loss(logits, ids))


def test_what_is_not_finite_is_not_hidden():
    logits, ids = logits_and_ids(1, 4, 6, torch.bfloat16)
    with torch.no_grad():
        logits[0, 1, 2] = torch.nan
    loss, _ = loss_cpu.loss_in_blocks(logits, ids)
    assert loss.isnan() and torch.autograd.grad(loss, logits)[0].isnan().any()


def test_choice_follows_dtype_and_gradient(monkeypatch):
    calls = []
    monkeypatch.setattr(devices.device, "loss_in_blocks", lambda *tensors: (calls.append(tensors), None))
    for dtype, needed, in_blocks in (
        (torch.bfloat16, True, True), (torch.bfloat16, False, False), (torch.float32, True, False),
    ):
        calls.clear()
        logits, ids = logits_and_ids(1, 4, 6, dtype)
        loss, _ = open_device("cpu").loss(logits.requires_grad_(needed), ids)
        assert bool(calls) == in_blocks
        assert in_blocks or torch.equal(loss, next_token_loss(logits, ids))


def test_a_bfloat16_model_learns_the_same():
    ids = torch.randint(0, 4096, (2, 40), generator=torch.Generator().manual_seed(1))
    results = []
    for loss_of in (next_token_losses, open_device("cpu").loss):
        torch.manual_seed(0)
        model = apply_precision(Llama(SIZES["tiny"]), "bf16", "cpu")
        loss, _ = loss_of(model(ids), ids)
        loss.backward()
        results.append((loss.detach(), torch.cat([p.grad.flatten() for p in model.parameters()])))
    (loss, gradient), (other_loss, other_gradient) = results
    assert abs(loss - other_loss) < 1e-5
    assert torch.nn.functional.cosine_similarity(gradient, other_gradient, dim=0) > 0.9999
