# SPDX-License-Identifier: Apache-2.0
"""Grades power_law against lessons/scaling.py:fit_power_law."""
import torch
from lessons.exercises.grading import call, judge

from lessons.scaling import fit_power_law

SIZES = torch.tensor([1e4, 3e4, 1e5, 3e5, 1e6], dtype=torch.float64)
NOISE = torch.tensor([0.002, -0.001, 0.003, -0.001, 0.002], dtype=torch.float64)
LOSSES = 0.2 + 30 * SIZES**-0.4 + NOISE
FLOOR = 0.2


def least_squares(x, y):
    """(height at 0, slope) of the line with the least squares."""
    slope = ((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum()
    return y.mean() - slope * x.mean(), slope


def law(height, slope):
    """(a, alpha) of a line in the logarithms."""
    return torch.stack([height.exp(), -slope])


def test_power_law(answer):
    x, y = SIZES.log(), (LOSSES - FLOOR).log()
    height, slope = least_squares(x, y)
    no_means = (x * y).sum() / (x * x).sum()
    ends = (y[-1] - y[0]) / (x[-1] - x[0])
    short = 4 / 5 * slope                                         # sums divided by n, below by n - 1
    related = ((x - x.mean()) * (y - y.mean())).mean() / (x.std(correction=0) * y.std(correction=0))
    steps = ((y[1:] - y[:-1]) / (x[1:] - x[:-1])).mean()
    mistakes = {
        "the floor is not subtracted: this is the fit of a loss that falls to 0": (
            law(*least_squares(x, LOSSES.log()))),
        "the floor is added; the line is in loss - floor": law(*least_squares(x, (LOSSES + FLOOR).log())),
        "the sign of alpha is wrong: the loss falls with the size, and alpha is positive": (
            torch.stack([height.exp(), slope])),
        "this is log(a), not a": torch.stack([height, -slope]),
        "logarithms to base 10 and exp do not fit together: a = 10^height": (
            law(*least_squares(SIZES.log10(), (LOSSES - FLOOR).log10()))),
        "a and alpha are exchanged": torch.stack([-slope, height.exp()]),
        "this is 1 / alpha": torch.stack([height.exp(), -1 / slope]),
        "alpha is the slope itself, without exp": torch.stack([height.exp(), (-slope).exp()]),
        "the floor is added to a; a is exp of the height alone": torch.stack([height.exp() + FLOOR, -slope]),
        "the logarithms have two bases: take the natural one for both": (
            law(*least_squares(SIZES.log10(), y))),
        "this is the correlation; the slope divides by the squares of x alone": (
            law(y.mean() - related * x.mean(), related)),
        "the slope is that of the first and the last point; take the least squares": (
            law(y.mean() - ends * x.mean(), ends)),
        "no logarithm is taken: this is a straight line in the numbers themselves": (
            law(*least_squares(SIZES, LOSSES - FLOOR))),
        "only the size is on a logarithmic axis; the loss must be too": (
            law(*least_squares(x, LOSSES - FLOOR))),
        "x and y are exchanged: the size is fitted as a function of the loss": law(*least_squares(y, x)),
        "this slope is that of a line through (0, 0): subtract the means first": (
            law(y.mean() - no_means * x.mean(), no_means)),
        "the line goes through the first and the last point only": law(y[0] - ends * x[0], ends),
        "the floor is subtracted from the logarithm; it is log(loss - floor)": (
            law(*least_squares(x, LOSSES.log() - FLOOR))),
        "the loss is divided by the floor; subtract the floor": (
            law(*least_squares(x, (LOSSES / FLOOR).log()))),
        "logarithms to base 2 and exp do not fit together: a = 2^height": (
            law(*least_squares(SIZES.log2(), (LOSSES - FLOOR).log2()))),
        "one sum is divided by n and the other by n - 1: take two sums, or two means": (
            law(y.mean() - short * x.mean(), short)),
        "the slope is the mean of the slopes between neighbours; take the least squares": (
            law(y.mean() - steps * x.mean(), steps)),
        "a is the height in the middle of the points; it is the height at log(size) = 0": (
            law(y.mean(), slope)),
        "the height at 0 is mean(y) - slope * mean(x); here it is added": (
            law(y.mean() + slope * x.mean(), slope)),
        "a comes from one point; the line goes through the mean of all points": (
            law(y[0] - slope * x[0], slope)),
        "only a positive number has a logarithm: is it loss - floor, with the argument `floor`?": (
            torch.full((2,), float("nan"), dtype=torch.float64)),
    }
    found = call(answer("power_law"), SIZES, LOSSES, FLOOR)
    judge("power_law", found, fit_power_law(SIZES, LOSSES, FLOOR), mistakes)


def test_exact_points_give_their_own_law(answer):
    found = call(answer("power_law"), SIZES, 0.2 + 30 * SIZES**-0.4, 0.2)
    judge("power_law of exact points", found, torch.tensor([30.0, 0.4], dtype=torch.float64), {})
