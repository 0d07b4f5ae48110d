# SPDX-License-Identifier: Apache-2.0
"""Grades rms_norm against model.py:RMSNorm."""
import torch
from lessons.exercises.grading import call, judge

from model import RMSNorm


def test_rms_norm(answer):
    torch.manual_seed(0)
    x, weight, eps = 3 * torch.randn(2, 5, 8) + 1, torch.rand(8) + 0.5, 0.1
    norm = RMSNorm(8, eps)
    norm.weight.data = weight
    square = x.pow(2)
    centred = x - x.mean(dim=-1, keepdim=True)
    mistakes = {
        "the mean is over all axes; take it over the last one, each position by itself": x
        / (square.mean() + eps).sqrt()
        * weight,
        "the squares are summed; take their mean": x
        / (square.sum(dim=-1, keepdim=True) + eps).sqrt()
        * weight,
        "eps is added after the root; it belongs under it": x
        / (square.mean(dim=-1, keepdim=True).sqrt() + eps)
        * weight,
        "eps is missing": x / square.mean(dim=-1, keepdim=True).sqrt() * weight,
        "the weight is missing": x / (square.mean(dim=-1, keepdim=True) + eps).sqrt(),
        "the mean of x is subtracted: that is LayerNorm": centred
        / (centred.pow(2).mean(dim=-1, keepdim=True) + eps).sqrt()
        * weight,
        "the root is missing": x / (square.mean(dim=-1, keepdim=True) + eps) * weight,
    }
    judge("rms_norm", call(answer("rms_norm"), x, weight, eps), norm(x).detach(), mistakes)
