# SPDX-License-Identifier: Apache-2.0
"""Grades rotary against model.py:rotate and model.py:rotary_table."""
import math

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
    pair = theta ** (-torch.arange(0, 8, 2) / 8)                  # the frequencies of j = 0 ... F/2 - 1
    frequency = torch.cat([pair, pair])
    angle = torch.outer(torch.arange(7), frequency)
    added = torch.arange(7)[:, None] + frequency
    swapped = torch.cat([x[..., 4:], x[..., :4]], dim=3)          # (b, a)
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
        "cosine and sine are exchanged in the new b: b cos w + a sin w": torch.cat(
            [right[..., :4], (x * sin + swapped * cos)[..., 4:]], dim=3),
        "the sign in the new b is wrong: b cos w + a sin w": torch.cat(
            [right[..., :4], (x * cos - swapped * sin)[..., 4:]], dim=3),
        "only a is turned; b turns with it": torch.cat([right[..., :4], x[..., 4:]], dim=3),
        "the new halves come back exchanged: first a, then b": right.roll(4, dims=3),
        "every position turns by the same angle; multiply the frequency by the position n": rotate(
            x, frequency.cos().expand(7, 8), frequency.sin().expand(7, 8)),
        "position and frequency are added; the angle is their product": rotate(x, added.cos(), added.sin()),
        "the angle is turned into degrees or from degrees; it is in radians already": rotate(
            x, angle.deg2rad().cos(), angle.deg2rad().sin()),
        "the angle has a factor 2 pi; it is n * theta^(-2j/F) radians": rotate(
            x, (2 * math.pi * angle).cos(), (2 * math.pi * angle).sin()),
        "x is added; the rotated vector takes its place": x + right,
        "the minus sign of a cos w - b sin w is missing": x * cos + x.roll(4, dims=3) * sin,
        "nothing is turned": x,
    }
    judge("rotary", call(answer("rotary"), x, theta), right, mistakes)
