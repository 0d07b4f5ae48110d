# SPDX-License-Identifier: Apache-2.0
"""Grades prefix_matching against lessons/heads.py:prefix_matching."""
import torch
from lessons.exercises.grading import call, judge

from lessons.heads import prefix_matching


def test_prefix_matching(answer):
    torch.manual_seed(0)
    ids = torch.tensor([5, 1, 7, 5, 2, 7, 5, 5, 3])
    T = len(ids)
    causal = torch.ones(T, T, dtype=torch.bool).tril()
    weights = torch.softmax(torch.randn(3, T, T).masked_fill(~causal, float("-inf")), dim=2)  # (H, T, T)
    earlier = {t: [s for s in range(t) if ids[s] == ids[t]] for t in range(T)}
    counted = [t for t in range(T) if earlier[t]]

    def score(places, over=counted, read=weights):
        return torch.stack([read[:, t, places(t)].sum(dim=1) for t in over]).mean(dim=0)

    mistakes = {
        "this is the weight on the earlier occurrences; what followed them is one place later": (
            score(lambda t: earlier[t])),
        "this is the weight on what came before the earlier occurrences": (
            score(lambda t: [s - 1 for s in earlier[t] if s])),
        "only the last earlier occurrence is counted: add up all": score(lambda t: [earlier[t][-1] + 1]),
        "only the first occurrence is counted: add up all": score(lambda t: [earlier[t][0] + 1]),
        "this is the weight two places after the earlier occurrences; what followed is one place after": (
            score(lambda t: [s + 2 for s in earlier[t] if s + 2 < T])),
        "position 0 is left out: s begins at 0": score(
            lambda t: [s + 1 for s in earlier[t] if s], over=[t for t in counted if earlier[t] != [0]]),
        "what followed is left out where it is position t itself: s goes up to t - 1": torch.stack(
            [weights[:, t, [s + 1 for s in earlier[t] if s + 1 < t]].sum(dim=1)
             for t in counted if earlier[t] != [t - 1]]).mean(dim=0),
        "each earlier occurrence is averaged by itself; add up those of one position first": torch.stack(
            [weights[:, t, s + 1] for t in counted for s in earlier[t]]).mean(dim=0),
        "the largest position is taken; take the mean over positions": torch.stack(
            [weights[:, t, [s + 1 for s in earlier[t]]].sum(dim=1) for t in counted]).max(dim=0).values,
        "the token before t is looked for; it is the token of t": score(
            lambda t: [s + 1 for s in range(t) if ids[s] == ids[t - 1]], over=range(1, T)),
        "one row for each position came back; take the mean over the positions": torch.stack(
            [weights[:, t, [s + 1 for s in earlier[t]]].sum(dim=1) for t in counted]),
        "the largest weight of a position is taken; add them up": torch.stack(
            [weights[:, t, [s + 1 for s in earlier[t]]].max(dim=1).values for t in counted]).mean(dim=0),
        "positions whose token did not occur before count too: s < t": score(
            lambda t: [s + 1 for s in earlier[t]], over=range(T - 1)),
        "one number for each position came back; take the mean over positions, not over heads": torch.stack(
            [weights[:, t, [s + 1 for s in earlier[t]]].sum(dim=1) for t in counted]).mean(dim=1),
        "the mean is over all positions; only those whose token occurred before count": (
            score(lambda t: [s + 1 for s in earlier[t]], over=range(T))),
        "the weights of one position are averaged; they are to be added up": torch.stack(
            [weights[:, t, [s + 1 for s in earlier[t]]].mean(dim=1) for t in counted]).mean(dim=0),
        "rows and columns are exchanged: row t holds what position t reads": (
            score(lambda t: [s + 1 for s in earlier[t]], read=weights.transpose(1, 2))),
        "the heads are averaged: one number for each head is wanted": (
            score(lambda t: [s + 1 for s in earlier[t]]).mean()),
        "the positions are added up; take their mean": (
            score(lambda t: [s + 1 for s in earlier[t]]) * len(counted)),
    }
    found = call(answer("prefix_matching"), weights, ids)
    judge("prefix_matching", found, prefix_matching(weights, ids), mistakes)


def test_a_head_that_looks_there_has_1(answer):
    ids = torch.tensor([4, 9, 4, 9, 4])
    weights = torch.zeros(1, 5, 5)
    weights[0, [0, 1, 2, 3, 4], [0, 0, 1, 2, 3]] = 1.0
    found = call(answer("prefix_matching"), weights, ids)
    judge("prefix_matching of a perfect head", found, torch.ones(1), {})
