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


def variant(coupled=False, corrected=True, late=0, inside=False, squared=True, exchanged=False, times_lr=True,
            order=(0, 1), root=True, fresh=False):
    """AdamW with one part changed."""
    def step(w, g, m, v, t, lr, decay):
        g = g + decay * w if coupled else g
        b1, b2 = (0.95, 0.9) if exchanged else (0.9, 0.95)
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * (g * g if squared else g.abs())
        m, v = ((1 - b1) * g, (1 - b2) * g * g) if fresh else (m, v)
        one, two = (1 - b1 ** (t + late), 1 - b2 ** (t + late)) if corrected else (1, 1)
        below = (v / two + 1e-8).sqrt() if inside else ((v / two).sqrt() if root else v / two) + 1e-8
        shrink = 0 if coupled else decay * (lr if times_lr else 1)
        moments = (m, v)
        return w * (1 - shrink) - lr * m / one / below, moments[order[0]], moments[order[1]]
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
        "b1 and b2 are exchanged": variant(exchanged=True),
        "the moments come back in the wrong order: (w, m, v)": variant(order=(1, 0)),
        "the root of v is missing": variant(root=False),
        "the moments of the step before are not used: m = b1 m + (1 - b1) g": variant(fresh=True),
        "the moments are not corrected: divide m by 1 - b1^t and v by 1 - b2^t": variant(corrected=False),
        "the step counter is one too high: the first step has t = 1": variant(late=1),
        "eps is under the root; add it after": variant(inside=True),
        "v keeps |g|; it is the mean of g squared": variant(squared=False),
    }
    results = {message: run(step, gradients, w, lr, decay) for message, step in mistakes.items()}
    results["the weight does not decay"] = run(variant(), gradients, w, lr, 0.0)
    step = answer("adamw_step")

    def checked(*inputs):
        found = call(step, *inputs)
        if not (isinstance(found, tuple) and len(found) == 3):
            fail("adamw_step must return three tensors: the new (w, m, v)")
        return found

    found = run(checked, gradients, w, lr, decay)
    judge("the weight after four steps", found, layer.weight.detach(), results)
