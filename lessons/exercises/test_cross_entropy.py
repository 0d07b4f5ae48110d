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
    chance = torch.softmax(logits[:, :-1], dim=2)
    log_p = torch.log_softmax(logits[:, :-1], dim=2)
    rows = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none").view(3, 5)
    over_positions = torch.log_softmax(logits[:, :-1], dim=1)
    mistakes = {
        "position t is judged on its own token; shift, so that it is judged on token t + 1": unshifted,
        "both are cut in the same way, so position t is judged on its own token; ids begin at 1": (
            F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, :-1].flatten())),
        "both lose the first position, so position t is judged on its own token; logits end at T - 1": (
            F.cross_entropy(logits[:, 1:].flatten(0, 1), ids[:, 1:].flatten())),
        "the logarithm is missing: this is the mean of -p": -chance.gather(2, ids[:, 1:, None]).mean(),
        "softmax is taken twice: F.cross_entropy wants logits": (
            F.cross_entropy(chance.flatten(0, 1), ids[:, 1:].flatten())),
        "softmax is over the positions; it is over the vocabulary, the last axis": (
            -over_positions.gather(2, ids[:, 1:, None]).mean()),
        "the mean is over all tokens of the vocabulary; take the one that comes next": (
            -torch.log_softmax(logits[:, :-1], dim=2).mean()),
        "the largest logit was subtracted under the sum and not added again": (
            right - logits[:, :-1].max()),
        "one number for each prediction came back; take their mean": (
            -chance.gather(2, ids[:, 1:, None])[:, :, 0].log()),
        "the shift goes the other way: logits without the last position, ids without the first": backwards,
        "the losses are summed; take the mean": right * 15,
        "the sum is divided by B*T; there are B*(T-1) predictions": right * 5 / 6,
        "the rows are summed and divided by B; divide by the number of predictions": right * 5,
        "logsumexp is missing: the scores are no probabilities yet": -logits[:, :-1].gather(
            2, ids[:, 1:, None]).mean(),
        "this is the perplexity, exp(loss); leave the exp out": right.exp(),
        "this is the mean of 1 - p; take minus the logarithm of p": (
            1 - chance.gather(2, ids[:, 1:, None])).mean(),
        "this is the entropy of the predictions; look up the token that comes next": (
            -(chance * log_p).sum(dim=2).mean()),
        "the rows were joined before the shift, so the end of a row is judged on the next row": (
            F.cross_entropy(logits.flatten(0, 1)[:-1], ids.flatten()[1:])),
        "one number for each row came back; take the mean of all": rows.mean(dim=1),
        "this is the logarithm of the mean probability; take the mean of the logarithms": -torch.softmax(
            logits[:, :-1], dim=2).gather(2, ids[:, 1:, None]).mean().log(),
        "this is in bits; use the natural logarithm": right / math.log(2),
        "this is the logarithm to base 10; use the natural one": right / math.log(10),
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


def test_logits_far_below_0(answer):
    logits, ids = torch.tensor([[[0.0, 0.0], [-1000.0, -990.0], [0.0, 0.0]]]), torch.tensor([[0, 1, 0]])
    mistakes = {
        "exp(-1000) is 0, and log(0) is -inf: use torch.logsumexp, or subtract each position's own maximum": (
            torch.tensor(-math.inf)),
        "exp(-1000) is 0, and 0 / 0 is nan: use torch.logsumexp, or subtract each position's own maximum": (
            torch.tensor(math.nan)),
    }
    found, right = call(answer("cross_entropy"), logits, ids), next_token_loss(logits, ids)
    judge("cross_entropy of logits of -1000", found, right, mistakes)
