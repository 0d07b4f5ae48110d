# SPDX-License-Identifier: Apache-2.0
"""Grades learning_rate against train.py:learning_rate."""
import math
from numbers import Real

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
    for step, rate in enumerate(found):
        if not isinstance(rate, Real) and not (isinstance(rate, torch.Tensor) and rate.numel() == 1):
            fail(f"learning_rate must return a number; for step {step} it returned {type(rate).__name__}")
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
        "the peak is missing in the warmup: peak * step / warmup_steps": [r / peak for r in rise]
        + [cosine(d) for d in done[warmup:]],
        "the peak is missing: this runs from 0 to 1": [r / peak for r in rise]
        + [cosine(d) / peak for d in done[warmup:]],
        "the factor 0.5 is missing: 1 + cos goes from 2 to 0": rise + [2 * cosine(d) for d in done[warmup:]],
        "the warmup rises over all steps; it reaches the peak at warmup_steps": [s / steps for s in
                                                                               range(warmup)]
        + [cosine(d) for d in done[warmup:]],
        "the cosine ends at half of the peak: the angle is pi * done": rise
        + [cosine(d / 2) for d in done[warmup:]],
        "the angle is `done`; it is pi * done": rise + [cosine(d / math.pi) for d in done[warmup:]],
        "the angle is 180 * done; cos takes radians: pi * done": rise
        + [cosine(180 * d / math.pi) for d in done[warmup:]],
        "the cosine alone goes from 1 to -1; it is 0.5 * (1 + cos)": rise
        + [2 * cosine(d) - 1 for d in done[warmup:]],
        "the 1 is missing in 0.5 * (1 + cos)": rise + [cosine(d) - 0.5 for d in done[warmup:]],
        "this is a quarter of a cosine, from 1 to 0; use half of one: 0.5 * (1 + cos)": rise
        + [math.cos(math.pi / 2 * d) for d in done[warmup:]],
        "the warmup reaches the peak one step early: divide by warmup_steps": [s / (warmup - 1) for s in
                                                                              range(warmup)]
        + [cosine(d) for d in done[warmup:]],
        "the fall counts from step 0; it counts from warmup_steps": rise
        + [cosine(s / (steps - warmup)) for s in range(warmup, steps)],
        "the rate is at its peak in the warmup; it rises from 0": [1.0] * warmup
        + [cosine(d) for d in done[warmup:]],
        "the rate is 0 in the warmup: is it // where / is meant?": [0.0] * warmup
        + [cosine(d) for d in done[warmup:]],
        "the warmup is half a cosine too; it is a straight line": [1 - cosine(r) for r in rise]
        + [cosine(d) for d in done[warmup:]],
        "the rate falls in the warmup; it rises from 0": [1 - r for r in rise]
        + [cosine(d) for d in done[warmup:]],
        "this is a sine; use the cosine": rise + [0.5 * (1 + math.sin(math.pi * d)) for d in done[warmup:]],
        "the rate rises after the warmup: 1 + cos falls, 1 - cos rises": rise
        + [1 - cosine(d) for d in done[warmup:]],
        "the fall ends at a tenth of the peak; it would reach 0": rise
        + [0.1 + 0.9 * cosine(d) for d in done[warmup:]],
        "the two branches are exchanged: below warmup_steps it is the straight line": (
            [cosine(d) for d in done[:warmup + 1]] + [s / warmup for s in range(warmup + 1, steps)]),
        "the straight line of the warmup is missing: the cosine is taken in the warmup too": (
            [cosine(d) for d in done]),
        "the warmup is missing": [cosine(s / steps) for s in range(steps)],
    }
    right = (
        torch.tensor([train.learning_rate(config, step) for step in range(steps)], dtype=torch.float64) / peak
    )
    found = torch.tensor([float(rate) for rate in found], dtype=torch.float64) / peak
    mistakes = {message: torch.tensor(rates, dtype=torch.float64) for message, rates in wrong.items()}
    judge("rate / peak by step", found, right, mistakes)
