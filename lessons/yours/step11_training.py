# SPDX-License-Identifier: Apache-2.0
"""Step 11: learning rate, clipping, AdamW, and the training loop."""
from __future__ import annotations

from torch import Tensor, nn

from step10_loss import next_token_loss


def learning_rate(step: int, steps: int, peak: float, warmup_steps: int) -> float:
    """The rate of step `step`, counted from 0 (Loshchilov and Hutter 2017).

    A straight line from 0 to `peak` over the first `warmup_steps`, then half a cosine that would reach 0 at
    step number `steps`.
    """
    raise NotImplementedError("learning_rate in lessons/yours/step11_training.py")


def clip_gradients(model: nn.Module, max_norm: float) -> None:
    """Scale all gradients in place by min(1, max_norm / (norm + 1e-6)) (Pascanu et al. 2013).

    norm is the root of the sum of the squares of all gradients of the model together.
    """
    raise NotImplementedError("clip_gradients in lessons/yours/step11_training.py")


class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2).

    With b1 = 0.9, b2 = 0.95 and eps = 1e-8:

        m = b1 m + (1 - b1) g;    v = b2 v + (1 - b2) g^2
        w = w (1 - lr decay) - lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)

    Only the weights of nn.Linear modules decay; embeddings and norms do not.
    """

    def __init__(self, model: nn.Module, decay: float):
        """Store the parameters, their decays, and two moments (m and v, zeros at first) for each."""
        raise NotImplementedError("AdamW.__init__ in lessons/yours/step11_training.py")

    def step(self, t: int, lr: float) -> None:
        """Do update number `t`, counted from 1, with the gradient in each `p.grad`, under torch.no_grad."""
        raise NotImplementedError("AdamW.step in lessons/yours/step11_training.py")


def train(model: nn.Module, batch, steps: int, peak: float = 3e-3) -> list[float]:
    """Train on batch(0), batch(1), ..., batch(steps - 1), each int64 (B, T). Returns the loss of each step.

    Each step: the loss, its gradients (clear the old ones), clipping to a norm of 1, one AdamW update with a
    decay of 0.01. The warmup takes 5% of the steps, rounded, at least 1.
    """
    raise NotImplementedError("train in lessons/yours/step11_training.py")
