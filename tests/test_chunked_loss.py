# SPDX-License-Identifier: Apache-2.0
"""The loss in chunks (training/chunked_loss.py) is the plain loss: value and gradients, tied or not, under
autocast, for chunks that do not divide.
"""
import dataclasses
import functools

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from training.chunked_loss import ChunkedLoss
from model import SIZES, Llama, next_token_loss, next_token_losses
from precision import apply_precision

AGAIN = functools.partial(checkpoint, use_reentrant=False)
CONFIG = dataclasses.replace(SIZES["tiny"], num_hidden_layers=2, vocab_size=512)


def gradients(model: Llama, loss: torch.Tensor) -> list[torch.Tensor]:
    model.zero_grad(set_to_none=True)
    loss.backward()
    return [p.grad.clone() for p in model.parameters()]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("recipe, dtype", [("fp32", torch.float32), ("tpu-bf16", torch.bfloat16)])
@pytest.mark.parametrize("chunk", [1, 7, 16, 100])
def test_loss_and_gradients_are_those_of_the_whole(tied, recipe, dtype, chunk):
    """The two differ in the order of their sums and, in bf16, in one rounding for each chunk.

    A sum of n terms in two orders differs by at most (n - 1) eps of the sum of their sizes (Higham 2002,
    section 4.2): n is 64 for the losses, in FP32 whatever the recipe, and 512 for a gradient's products. In
    bf16 each of up to 64 chunks rounds its gradient before it is added; such errors add like a random walk,
    to about sqrt(64) eps.
    """
    torch.manual_seed(0)
    model = apply_precision(Llama(dataclasses.replace(CONFIG, tie_word_embeddings=tied)), recipe, "cpu")
    ids = torch.randint(512, (2, 33))
    whole = next_token_loss(model(ids), ids)
    pieces, rows = ChunkedLoss(model, chunk, AGAIN)(ids)
    torch.testing.assert_close(rows, next_token_losses(model(ids), ids)[1])
    assert pieces.dtype == torch.float32
    assert pieces.item() == pytest.approx(whole.item(), rel=64 * torch.finfo(torch.float32).eps)
    tolerance = {torch.float32: 512, torch.bfloat16: 64**0.5}[dtype] * torch.finfo(dtype).eps
    for a, b in zip(gradients(model, whole), gradients(model, pieces), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance * a.abs().max().item())


def test_no_more_logits_than_a_chunk_are_there():
    """Largest tensor with an axis V that any operation of forward and backward makes, by torch's own
    dispatcher.
    """
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        positions = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and result.dim() > 1 and result.shape[-1] == 512:
                self.positions = max(self.positions, result.numel() // 512)
            return result

    model = apply_precision(Llama(CONFIG), "fp32", "cpu")
    ids = torch.randint(512, (4, 257))
    seen = []
    for loss in (lambda: next_token_loss(model(ids), ids), lambda: ChunkedLoss(model, 64, AGAIN)(ids)[0]):
        with Largest() as mode:
            loss().backward()
        seen.append(mode.positions)
    assert seen[0] >= 4 * 256 and seen[1] == max(4 * 64, CONFIG.hidden_size), seen
