# SPDX-License-Identifier: Apache-2.0
"""Grades learning_rate against train.py:learning_rate."""
import math

import torch
from lessons.exercises.grading import call, fail, judge

import train


def cosine(done):
    return 0.5 * (1 + math.cos(math.pi * done))


def test_learning_rate(answer):
    peak, warmup, steps = 8e-4, 10, 100
    config = train.TrainSettings(learning_rate=peak, warmup_steps=warmup, steps=steps, schedule="cosine")
    function = answer("learning_rate")
    found = [call(function, step, peak, warmup, steps) for step in range(steps)]
    if not all(isinstance(rate, (int, float)) for rate in found):
        fail("learning_rate must return a number")
    done = [(step - warmup) / (steps - warmup) for step in range(steps)]
    rise = [step / warmup for step in range(warmup)]
    wrong = {
        "the warmup begins above 0; step 0 has rate 0": [r + 1 / warmup for r in rise]
        + [cosine(d) for d in done[warmup:]],
        "the cosine begins at step 0; it begins after the warmup": rise
        + [cosine(s / steps) for s in range(warmup, steps)],
        "the fall is a straight line; it is half a cosine": rise + [1 - d for d in done[warmup:]],
        "a whole cosine: it rises again; use half of one": rise + [cosine(2 * d) for d in done[warmup:]],
        "the cosine reaches 0 at the last step; it would reach 0 at step number `steps`": rise
        + [cosine((s - warmup) / (steps - warmup - 1)) for s in range(warmup, steps)],
        "the fall lasts `steps` steps; it lasts steps - warmup_steps": rise
        + [cosine((s - warmup) / steps) for s in range(warmup, steps)],
        "the fall begins one step early: at step number warmup_steps the cosine is at its top": rise
        + [cosine((s - warmup + 1) / (steps - warmup)) for s in range(warmup, steps)],
        "the rate stays at its peak after the warmup": rise + [1.0] * (steps - warmup),
        "the warmup is missing": [cosine(s / steps) for s in range(steps)],
    }
    right = (
        torch.tensor([train.learning_rate(config, step) for step in range(steps)], dtype=torch.float64) / peak
    )
    found = torch.tensor(found, dtype=torch.float64) / peak
    mistakes = {message: torch.tensor(rates, dtype=torch.float64) for message, rates in wrong.items()}
    judge("rate / peak by step", found, right, mistakes)
