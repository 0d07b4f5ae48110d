# SPDX-License-Identifier: Apache-2.0
"""Grades top_p against sample.py:filtered."""
import math

import pytest
import torch
from lessons.exercises.grading import call, judge

from sample import SampleSettings, filtered


@pytest.mark.parametrize("p", [0.7, 0.8])
def test_top_p(answer, p):
    torch.manual_seed(131)
    logits = 2 * torch.randn(12)
    settings = SampleSettings(temperature=1.0, top_p=p, top_k=0, min_p=0.0, repetition_penalty=1.0)
    kept = filtered(logits, torch.zeros(12, dtype=torch.bool), settings) > -math.inf
    right = logits.masked_fill(~kept, -math.inf)
    best_first, order = torch.softmax(logits, dim=0).sort(descending=True)
    inside = order[best_first.cumsum(0) <= p]

    def only(ids):
        return torch.full_like(logits, -math.inf).scatter(0, ids, logits[ids])

    number = int(kept.sum())
    worst_first, backwards = torch.softmax(logits, dim=0).sort()
    from_below = backwards[worst_first.cumsum(0) - worst_first < p]
    by_place = torch.where(torch.arange(12) < number, logits[order], -math.inf)
    highest_first, by_logit = logits.sort(descending=True)
    before = best_first.cumsum(0) - best_first
    mistakes = {
        "the token that crosses p must be kept, else the kept mass is below p": only(inside),
        "the logits come back sorted; put each at its own place": by_place,
        "only the most probable token is kept; keep tokens until the sum of their probabilities (softmax, "
        "not exp alone) reaches p": only(order[:1]),
        "tokens are compared with the most probable one (min-p); it is the sum that counts": only(
            order[best_first >= p * best_first[0]]),
        "a mask comes back; return the logits, with -inf where the mask says so": kept.double(),
        "the numbers of the kept tokens come back; return the logits at their own places": (
            order[:number].double()),
        "the kept tokens have their probabilities; return their logits": torch.softmax(logits, 0).masked_fill(
            ~kept, -math.inf),
        "tokens are kept by their own probability; it is the sum that counts": logits.masked_fill(
            torch.softmax(logits, 0) < 1 - p, -math.inf),
        "tokens with a probability above p are kept; it is the sum that counts": logits.masked_fill(
            torch.softmax(logits, 0) <= p, -math.inf),
        "the logits are added up; probabilities are needed: take the softmax first": only(
            by_logit[highest_first.cumsum(0) - highest_first < p]),
        "the mask is in sorted order and the logits are not; put the mask at the tokens' own places": (
            logits.masked_fill(before >= p, -math.inf)),
        "a share p of the tokens is kept; keep those that hold a share p of the probability": only(
            order[:int(p * 12)]),
        "p and 1 - p are exchanged": only(order[before < 1 - p]),
        "the tokens that should be removed are kept": only(order[before > p]),
        "the kept tokens have the logits of other tokens": torch.full_like(logits, -math.inf).scatter(
            0, order[:number], logits[:number]),
        "only the kept logits come back; return all V places, with -inf at the others": (
            logits[order[:number]]),
        "log-probabilities come back; return the logits as they were": torch.log_softmax(right, 0),
        "the least probable tokens are kept; sort with descending=True": only(from_below),
        "one token too many is kept: stop when the sum reaches p": only(order[:number + 1]),
        "nothing is removed": logits,
        "probabilities come back; return logits": torch.softmax(logits, 0),
        "probabilities come back, with 0 at the removed tokens; return logits, with -inf there": (
            torch.softmax(right, 0)),
        "the removed tokens got 0, which is a logit like others; use -inf": torch.where(kept, logits, 0.0),
    }
    judge("top_p", call(answer("top_p"), logits, p), right, mistakes)
