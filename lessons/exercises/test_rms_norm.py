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
    mean_square = square.mean(dim=-1, keepdim=True)
    centred = x - x.mean(dim=-1, keepdim=True)
    length = x.norm(dim=-1, keepdim=True)
    layer_norm = centred / (centred.pow(2).mean(dim=-1, keepdim=True) + eps).sqrt() * weight
    mistakes = {
        "the mean is over all axes; take it over the last one, each position by itself": (
            x / (square.mean() + eps).sqrt() * weight),
        "the mean is over the positions; take it over the features, the last axis": (
            x / (square.mean(dim=1, keepdim=True) + eps).sqrt() * weight),
        "the squares are summed; take their mean": (
            x / (square.sum(dim=-1, keepdim=True) + eps).sqrt() * weight),
        "this divides by the length of x, the root of the sum of squares; take the root of their mean": (
            x / length * weight),
        "this divides by the length of x, with eps outside; take the root of mean(x^2) + eps": (
            x / (length + eps) * weight),
        "eps is added after the root; it belongs under it": x / (mean_square.sqrt() + eps) * weight,
        "eps is missing": x / mean_square.sqrt() * weight,
        "eps is squared; add it as it is": x / (mean_square + eps**2).sqrt() * weight,
        "the weight is missing": x / (mean_square + eps).sqrt(),
        "the weight is added; multiply by it": x / (mean_square + eps).sqrt() + weight,
        "this multiplies by 1 + weight; multiply by the weight": (
            x / (mean_square + eps).sqrt() * (1 + weight)),
        "the mean is over the positions too; take it over the last axis, each position by itself": (
            x / (square.mean(dim=(1, 2), keepdim=True) + eps).sqrt() * weight),
        "the mean of x is squared; take the mean of the squares": (
            x / (x.mean(dim=-1, keepdim=True).pow(2) + eps).sqrt() * weight),
        "eps is subtracted; add it": x / (mean_square - eps).sqrt() * weight,
        "this divides by the weight; multiply by it": x / (mean_square + eps).sqrt() / weight,
        "this is the factor alone; multiply x by it": (mean_square + eps).rsqrt() * weight.expand_as(x),
        "the mean of x is subtracted above the fraction bar; RMSNorm subtracts nothing": (
            centred / (mean_square + eps).sqrt() * weight),
        "the mean of x is subtracted: that is LayerNorm": layer_norm,
        "this divides by the standard deviation, in which the mean of x is subtracted: take mean(x^2)": (
            x / (x.var(dim=-1, keepdim=True) + eps).sqrt() * weight),
        "this is the mean of |x|; take the mean of the squares": (
            x / (x.abs().mean(dim=-1, keepdim=True) + eps).sqrt() * weight),
        "the root is missing": x / (mean_square + eps) * weight,
        "x is multiplied by the root; divide by it": x * (mean_square + eps).sqrt() * weight,
    }
    judge("rms_norm", call(answer("rms_norm"), x, weight, eps), norm(x).detach(), mistakes)
