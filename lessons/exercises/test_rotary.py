# SPDX-License-Identifier: Apache-2.0
"""Grades rotary against model.py:rotate and model.py:rotary_table."""
import torch
from lessons.exercises.grading import call, judge

from model import rotary_table, rotate


def interleaved(x, theta):
    """The other layout: neighbours are pairs."""
    width = x.shape[3]
    order = torch.cat([torch.arange(0, width, 2), torch.arange(1, width, 2)])
    turned = rotate(x[..., order], *rotary_table(x.shape[2], width, theta))
    return turned[..., order.argsort()]


def turned_one_after_the_other(x, cos, sin):
    """The second half is computed from the first half after its rotation."""
    a, b = x.chunk(2, dim=3)
    cos, sin = cos[:, :4], sin[:, :4]
    a = a * cos - b * sin
    return torch.cat([a, b * cos + a * sin], dim=3)


def test_rotary(answer):
    torch.manual_seed(0)
    x, theta = torch.randn(2, 3, 7, 8), 10.0
    cos, sin = rotary_table(7, 8, theta)
    later_cos, later_sin = rotary_table(8, 8, theta)
    right = rotate(x, cos, sin)
    halves = torch.cat([x[..., ::2], x[..., 1::2]], dim=3)
    next_pair = theta ** (-torch.arange(2, 9, 2) / 8)             # the frequencies of j = 1 ... F/2
    next_angle = torch.outer(torch.arange(7), torch.cat([next_pair, next_pair]))
    whole_pair = theta ** (-torch.arange(0, 8, 2) // 8)
    whole_angle = torch.outer(torch.arange(7), torch.cat([whole_pair, whole_pair]))
    mistakes = {
        "the pairs are neighbours (2j, 2j + 1); here feature j goes with j + F/2": interleaved(x, theta),
        "the pairs turn the other way: check the two signs of sin": rotate(x, cos, -sin),
        "the exponent is -j/F; it is -2j/F for j = 0 ... F/2 - 1": rotate(x, *rotary_table(7, 8, theta**0.5)),
        "positions begin at 1; the first one is 0 and is not turned": rotate(x, later_cos[1:], later_sin[1:]),
        "the frequency grows with j: the exponent is -2j/F": rotate(x, *rotary_table(7, 8, 1 / theta)),
        "the exponent is -4j/F; it is -2j/F (arange(0, F, 2) has the factor 2 already)": (
            rotate(x, *rotary_table(7, 8, theta**2))),
        "-2j // F is a whole number; divide with /": rotate(x, whole_angle.cos(), whole_angle.sin()),
        "only half of the features come back; join both halves with cat": right[..., :4],
        "j begins at 1; the first pair has j = 0 and turns by 1 per position": (
            rotate(x, next_angle.cos(), next_angle.sin())),
        "the new b is computed from the new a; both come from the old a and b": (
            turned_one_after_the_other(x, cos, sin)),
        "the halves are turned and come back as neighbours: join them with cat, not alternately": (
            torch.stack(right.chunk(2, dim=3), dim=-1).flatten(-2)),
        "the pairs are taken from neighbours and come back as halves: feature j goes with j + F/2": (
            rotate(halves, cos, sin)),
        "the two halves are exchanged: a is the first, b the second": (
            rotate(x.roll(4, dims=3), cos, sin)),
        "cosine and sine are exchanged": rotate(x, sin, cos),
        "the minus sign of a cos w - b sin w is missing": x * cos + x.roll(4, dims=3) * sin,
        "nothing is turned": x,
    }
    judge("rotary", call(answer("rotary"), x, theta), right, mistakes)
