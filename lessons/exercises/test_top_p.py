# SPDX-License-Identifier: Apache-2.0
"""Grades top_p against sample.py:filtered."""
import math

import pytest
import torch
from lessons.exercises.grading import call, judge

from sample import SampleSettings, filtered


def finite(logits):
    """-inf as a number that can be compared."""
    return logits.masked_fill(logits == -math.inf, -1e4)


@pytest.mark.parametrize("p", [0.3, 0.8])
def test_top_p(answer, p):
    torch.manual_seed(0)
    logits = 2 * torch.randn(12)
    settings = SampleSettings(temperature=1.0, top_p=p, top_k=0, min_p=0.0, repetition_penalty=1.0)
    kept = filtered(logits, torch.zeros(12, dtype=torch.bool), settings) > -math.inf
    right = logits.masked_fill(~kept, -math.inf)
    best_first, order = torch.softmax(logits, dim=0).sort(descending=True)
    inside = order[best_first.cumsum(0) <= p]
    short = torch.full_like(logits, -math.inf).scatter(0, inside, logits[inside])
    number = int(kept.sum())
    by_place = torch.where(torch.arange(12) < number, logits[order], -math.inf)
    mistakes = {
        "the token that crosses p must be kept, else the kept mass is below p (and may be nothing)": finite(
            short
        ),
        "the logits come back sorted; put each at its own place": finite(by_place),
        "tokens are kept by their own probability; it is the sum that counts": finite(
            logits.masked_fill(torch.softmax(logits, 0) < 1 - p, -math.inf)
        ),
        "probabilities come back; return logits": torch.softmax(logits, 0),
        "the removed tokens got 0, which is a logit like others; use -inf": torch.where(kept, logits, 0.0),
    }
    found = call(answer("top_p"), logits, p)
    judge("top_p", finite(found) if isinstance(found, torch.Tensor) else found, finite(right), mistakes)
