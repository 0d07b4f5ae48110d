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


def test_rotary(answer):
    torch.manual_seed(0)
    x, theta = torch.randn(2, 3, 7, 8), 10.0
    cos, sin = rotary_table(7, 8, theta)
    later_cos, later_sin = rotary_table(8, 8, theta)
    mistakes = {
        "the pairs are neighbours (2j, 2j + 1); here feature j goes with j + F/2": interleaved(x, theta),
        "the pairs turn the other way: check the two signs of sin": rotate(x, cos, -sin),
        "the exponent is -j/F; it is -2j/F for j = 0 ... F/2 - 1": rotate(x, *rotary_table(7, 8, theta**0.5)),
        "positions begin at 1; the first one is 0 and is not turned": rotate(x, later_cos[1:], later_sin[1:]),
        "the frequency grows with j: the exponent is -2j/F": rotate(x, *rotary_table(7, 8, 1 / theta)),
        "cosine and sine are exchanged": rotate(x, sin, cos),
        "the minus sign of a cos w - b sin w is missing": x * cos + x.roll(4, dims=3) * sin,
        "nothing is turned": x,
    }
    judge("rotary", call(answer("rotary"), x, theta), rotate(x, cos, sin), mistakes)
