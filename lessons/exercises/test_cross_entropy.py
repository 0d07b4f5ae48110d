# SPDX-License-Identifier: Apache-2.0
"""Grades cross_entropy against model.py:next_token_loss."""
import math

import torch
import torch.nn.functional as F
from lessons.exercises.grading import call, judge

from model import next_token_loss


def test_cross_entropy(answer):
    torch.manual_seed(0)
    logits, ids = 2 * torch.randn(3, 6, 11), torch.randint(11, (3, 6))
    right = next_token_loss(logits, ids)
    unshifted = F.cross_entropy(logits.flatten(0, 1), ids.flatten())
    backwards = F.cross_entropy(logits[:, 1:].flatten(0, 1), ids[:, :-1].flatten())
    mistakes = {
        "position t is judged on its own token; shift, so that it is judged on token t + 1": unshifted,
        "the shift goes the other way: logits without the last position, ids without the first": backwards,
        "the losses are summed; take the mean": right * 15,
        "the sum is divided by B*T; there are B*(T-1) predictions": right * 5 / 6,
        "the rows are summed and divided by B; divide by the number of predictions": right * 5,
        "logsumexp is missing: the scores are no probabilities yet": -logits[:, :-1].gather(
            2, ids[:, 1:, None]).mean(),
        "this is the logarithm of the mean probability; take the mean of the logarithms": -torch.softmax(
            logits[:, :-1], dim=2).gather(2, ids[:, 1:, None]).mean().log(),
        "this is in bits; use the natural logarithm": right / math.log(2),
        "the sign is wrong": -right,
    }
    judge("cross_entropy", call(answer("cross_entropy"), logits, ids), right, mistakes)


def test_large_logits(answer):
    logits, ids = torch.tensor([[[1000.0, 0.0], [0.0, 1000.0]]]), torch.tensor([[0, 1]])
    mistakes = {
        "exp overflows for large logits: use torch.logsumexp": torch.tensor(math.inf),
        "exp overflows for large logits, and inf / inf is nan: use torch.logsumexp": torch.tensor(math.nan),
    }
    found, right = call(answer("cross_entropy"), logits, ids), next_token_loss(logits, ids)
    judge("cross_entropy of logits of 1000", found, right, mistakes)
