# SPDX-License-Identifier: Apache-2.0
"""Grades attention against model.py:attention_written_out."""
import math

import pytest
import torch
from lessons.exercises.grading import call, judge

from model import attention_written_out


@pytest.mark.parametrize("B, H, K, T, F", [(4, 6, 2, 5, 8), (1, 3, 3, 4, 2)])
def test_attention(answer, B, H, K, T, F):
    torch.manual_seed(0)
    q, k, v = torch.randn(B, H, T, F), torch.randn(B, K, T, F), torch.randn(B, K, T, F)
    everything = torch.ones(T, T, dtype=torch.bool)
    later = everything.triu(1)
    keys, values = k.repeat_interleave(H // K, dim=1), v.repeat_interleave(H // K, dim=1)
    score = q @ keys.transpose(2, 3) / F**0.5
    right = attention_written_out(q, k, v)
    mistakes = {
        "later positions are read too: mask them out before the softmax": attention_written_out(
            q, k, v, everything
        ),
        "the scores of later positions are 0, and exp(0) is 1: use -inf": (
            torch.softmax(score.masked_fill(later, 0.0), dim=3) @ values),
        "later positions are cut off after the softmax, so the weights do not sum to 1: mask before": (
            torch.softmax(score, dim=3).masked_fill(later, 0.0) @ values),
        "later positions are set to 0 by a product, and 0 times -inf is nan: use masked_fill": (
            torch.full_like(q, math.nan)),
        "a position reads one later position too: triu(1) are the later ones": (
            torch.softmax(score.masked_fill(everything.triu(2), -math.inf), dim=3) @ values),
        "only later positions are read, so the last position has none: mask the later ones": (
            torch.softmax(score.masked_fill(~later, -math.inf), dim=3) @ values),
        "a position does not read itself": (
            torch.softmax(score.masked_fill(everything.triu(0), -math.inf), dim=3) @ values),
        "the mask lies the other way: a position reads itself and later ones": (
            torch.softmax(score.masked_fill(later.t(), -math.inf), dim=3) @ values),
        "the scores are not divided by sqrt(F)": attention_written_out(q * F**0.5, k, v),
        "the scores are divided by F; by sqrt(F) is right": attention_written_out(q / F**0.5, k, v),
        "the scores are multiplied by sqrt(F); divide by it": attention_written_out(q * F, k, v),
        "the scores are divided by sqrt(T); F is the last axis of q": (
            attention_written_out(q * (F / T) ** 0.5, k, v)),
        "the scores are divided by sqrt(H); F is the last axis of q": (
            attention_written_out(q * (F / H) ** 0.5, k, v)),
        "the scores are divided by the root of H times F; F is the width of one head": (
            attention_written_out(q / H**0.5, k, v)),
        "q and k are exchanged: the row of a score belongs to the query, the column to the key": (
            torch.softmax(score.transpose(2, 3).masked_fill(later, -math.inf), dim=3) @ values),
        "the weights do not sum to 1: exp of the scores is not divided by its sum": (
            score.masked_fill(later, -math.inf).exp() @ values),
        "these are the weights; the result is weights times values": (
            torch.softmax(score.masked_fill(later, -math.inf), dim=3)),
        "the values are grouped the other way; repeat each head of v as those of k": (
            torch.softmax(score.masked_fill(later, -math.inf), dim=3) @ v.repeat(1, H // K, 1, 1)),
        "the weights are applied to the keys; they are for the values": (
            torch.softmax(score.masked_fill(later, -math.inf), dim=3) @ keys),
        "the axes come back as (B, T, H, F): leave the heads on axis 1": right.transpose(1, 2),
        "the heads come back joined, (B, T, H*F): leave them on axis 1": right.transpose(1, 2).flatten(2),
        "the softmax is over the heads; it is over the keys, the last axis": (
            torch.softmax(score.masked_fill(later, -math.inf), dim=1) @ values),
        "the heads are grouped the other way: repeat each head (0 0 0 1 1 1), not the row (0 1 0 1 0 1)": (
            attention_written_out(q, k.repeat(1, H // K, 1, 1), v.repeat(1, H // K, 1, 1))),
        "the softmax is over the queries; it is over the keys, the last axis": (
            torch.softmax(score.masked_fill(later, -1e9), dim=2) @ values),
    }
    judge("attention", call(answer("attention"), q, k, v), right, mistakes)


def test_a_position_reads_itself(answer):
    torch.manual_seed(1)
    q, k, v = torch.randn(1, 2, 1, 4), torch.randn(1, 1, 1, 4), torch.randn(1, 1, 1, 4)
    mistakes = {"the first position must be able to read itself": torch.full((1, 2, 1, 4), float("nan"))}
    judge("attention of one position", call(answer("attention"), q, k, v), v.expand(1, 2, 1, 4), mistakes)
