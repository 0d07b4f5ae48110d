# SPDX-License-Identifier: Apache-2.0
"""Grades adamw_step against train.py:AdamW."""
import torch
from lessons.exercises.grading import call, fail, judge

from train import AdamW


def run(step, gradients, w, lr, decay):
    """The weight after one step for each gradient."""
    m, v = torch.zeros_like(w), torch.zeros_like(w)
    for t, g in enumerate(gradients, 1):
        w, m, v = step(w, g, m, v, t, lr, decay)
    return w


def variant(means=(0.9, 0.95), corrections=(0.9, 0.95), old=(1, 1), new=(1, 1), coupled=False, late=0,
            inside=False, squared=True, times_lr=True, order=(0, 1), root=True, sign=1, after=False,
            shrinks=1, power=True, momentum=True, kept=False):
    """AdamW with one part changed. `old` and `new` are factors of the parts of m and v."""
    def step(w, g, m, v, t, lr, decay):
        g = g + decay * w if coupled else g
        m = old[0] * means[0] * m + new[0] * (1 - means[0]) * g
        v = old[1] * means[1] * v + new[1] * (1 - means[1]) * (g * g if squared else g.abs())
        one, two = (torch.tensor(1 - b ** (t + late)) for b in corrections)
        one = one if power else 1 - corrections[0] * t
        below = (v / two + 1e-8).sqrt() if inside else ((v / two).sqrt() if root else v / two) + 1e-8
        shrink = 0 if coupled else shrinks * decay * (lr if times_lr else 1)
        moved = sign * lr * (m if momentum else g) / one / below
        moments = (m / one, v / two) if kept else (m, v)
        w = (w - moved) * (1 - shrink) if after else w * (1 - shrink) - moved
        return w, moments[order[0]], moments[order[1]]
    return step


def test_adamw_step(answer):
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 2, bias=False)
    w, lr, decay = layer.weight.detach().clone(), 0.01, 0.5
    gradients = [1e-4 * torch.randn(2, 3) for _ in range(4)]
    optimizer = AdamW(torch.nn.Sequential(layer), decay)
    for t, g in enumerate(gradients, 1):
        layer.weight.grad = g.clone()
        optimizer.step(t, lr)
    mistakes = {
        "the decay is added to the gradient: that is Adam with L2; shrink w": variant(coupled=True),
        "the decay is not multiplied by the rate: w (1 - lr decay)": variant(times_lr=False),
        "the decay comes after the update; it takes the weight before it": variant(after=True),
        "the weight grows: it is multiplied by 1 - lr decay, not by 1 + lr decay": variant(shrinks=-1),
        "the correction of m has b1 * t; take the power b1^t": variant(power=False),
        "the step follows the gradient; it follows its mean m": variant(momentum=False),
        "the corrected moments come back; return m and v as they were before the correction": variant(
            kept=True),
        "the step goes uphill: subtract lr times the quotient": variant(sign=-1),
        "b1 and b2 are exchanged": variant((0.95, 0.9), (0.95, 0.9)),
        "m runs with b2; its factors are b1 and 1 - b1": variant((0.95, 0.95)),
        "v runs with b1; its factors are b2 and 1 - b2": variant((0.9, 0.9)),
        "the corrections are exchanged: m by 1 - b1^t, v by 1 - b2^t": variant(corrections=(0.95, 0.9)),
        "m is not corrected: divide it by 1 - b1^t": variant(corrections=(0, 0.95)),
        "v is not corrected: divide it by 1 - b2^t": variant(corrections=(0.9, 0)),
        "the factor 1 - b1 of g is missing": variant(new=(10, 1)),
        "the factor 1 - b2 of g squared is missing": variant(new=(1, 20)),
        "m forgets the steps before: m = b1 m + (1 - b1) g": variant(old=(0, 1)),
        "v forgets the steps before: v = b2 v + (1 - b2) g^2": variant(old=(1, 0)),
        "the moments come back in the wrong order: (w, m, v)": variant(order=(1, 0)),
        "the root of v is missing": variant(root=False),
        "the moments of the step before are not used: m = b1 m + (1 - b1) g": variant(
            old=(0, 0)),
        "the moments are not corrected: divide m by 1 - b1^t and v by 1 - b2^t": variant(corrections=(0, 0)),
        "1 - b^t is 0 or below: the first step has t = 1, and b^t is a power, not b * t": variant(late=-1),
        "the step counter is one too high: the first step has t = 1": variant(late=1),
        "eps is under the root; add it after": variant(inside=True),
        "v keeps |g|; it is the mean of g squared": variant(squared=False),
    }
    results = {message: run(step, gradients, w, lr, decay) for message, step in mistakes.items()}
    results["the weight does not decay"] = run(variant(), gradients, w, lr, 0.0)
    found = run(checked(answer("adamw_step")), gradients, w, lr, decay)
    judge("the weight after four steps", found, layer.weight.detach(), results, tolerance=1e-6)


def test_a_gradient_of_zero(answer):
    w, zero = torch.ones(2, 3), torch.zeros(2, 3)
    mistakes = {"eps is not under the fraction bar, and 0 / 0 is nan: divide by sqrt(...) + eps": (
        torch.full((2, 3), float("nan")))}
    found = run(checked(answer("adamw_step")), [zero], w, 0.01, 0.5)
    judge("the weight after a gradient of 0", found, w * (1 - 0.01 * 0.5), mistakes)


def checked(step):
    """The answer's step; it ends the test if it does not return three tensors."""
    def run_one(*inputs):
        found = call(step, *inputs)
        if not (isinstance(found, (tuple, list)) and len(found) == 3):
            fail("adamw_step must return three tensors, the new (w, m, v); it returned "
                 f"{type(found).__name__}")
        return found
    return run_one
