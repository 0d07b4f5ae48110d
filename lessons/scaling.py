# SPDX-License-Identifier: Apache-2.0
"""Models of several sizes, trained in the same way, and power laws through their losses. Lesson 14 uses it.

Losses are in nats per token on complete validation documents of the three kinds of the built-in corpus. The
bound is the exact -log p of the same documents under the programs that wrote them. So it is not the mean of
the corpus but that of these documents, and the chance of which were drawn mostly cancels in loss - bound.

    python -m lessons.scaling TASK      train one model; TASK and the result are JSON (`train_all` calls it)
"""
from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import torch
from torch import Tensor

import params
import tokenizer
from common import ROOT, atomic_write
from data import Corpus
from lessons.tools import OUT
from model import Llama, ModelConfig, next_token_loss
from train import AdamW, clip_gradients, learning_rate
from training.learned import Document, losses_by_source, mention_losses, validation_documents
from training.settings import TrainSettings

LENGTH, ROWS = 256, 4                                             # of a training batch: 1,024 tokens
PEAK = 4e-3                                                       # learning rate at a width of 64
MOMENTS = 8                                                       # measurements before the rate falls


class Task(NamedTuple):
    """A model to train. It is measured at the end, and, if `watched`, at `moments_of` its steps before."""

    folder: str
    width: int
    layers: int
    steps: int
    seed: int
    validation: int  # tokens of validation text, of all kinds together
    watched: bool = False


class Measured(NamedTuple):
    """A model at one moment of its training. Losses are in nats per token, those of a name in nats."""

    size: int  # parameters without the embedding
    seed: int
    tokens: int  # that it was trained on
    flops: float  # that its training took
    loss: dict[str, float]  # of each kind
    above: dict[str, float]  # loss - bound of each kind
    error: dict[str, float]  # standard error of `above` over the documents of each kind
    first: float  # loss of a name at its first mention in a tale
    later: float  # and at later mentions


# ----------------------------------------------------------------------------------------------- the training

def shape(width: int, layers: int) -> ModelConfig:
    """A model of this width and depth with a vocabulary of 512, four heads, and an MLP twice as wide."""
    return ModelConfig(
        vocab_size=512, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=2, head_dim=width // 4, max_position_embeddings=512,
        rope_theta=10_000.0, rms_norm_eps=1e-5, tie_word_embeddings=True,
    )


def size_of(config: ModelConfig) -> int:
    """Parameters without the embedding, as Kaplan et al. (2020) count them."""
    parts = params.count(config)
    return parts["total"] - parts["embedding"]


def schedule(steps: int, width: int) -> TrainSettings:
    """The learning rate of a run: 5% warmup, constant up to 70% of the steps, then a straight line to 0.

    Up to 70% it does not depend on `steps`, so that runs can be compared at any moment before. A wider model
    gets a lower rate, proportional to 1 / sqrt(width).
    """
    warmup = steps // 20
    return TrainSettings(schedule="wsd", steps=steps, warmup_steps=warmup,
                         stable_steps=steps * 7 // 10 - warmup, learning_rate=PEAK * math.sqrt(64 / width))


def moments_of(steps: int) -> list[int]:
    """The steps after which a watched model is measured: sqrt(2) apart, until the rate falls."""
    return [round(steps * 0.7 * 2 ** (-number / 2)) for number in reversed(range(MOMENTS))]


def train_and_measure(task: Task) -> list[Measured]:
    """Train the model of a task and measure it."""
    torch.manual_seed(task.seed)
    model = Llama(shape(task.width, task.layers))
    corpus = Corpus(task.folder, LENGTH, ROWS, task.steps, seed=task.seed)
    coder = tokenizer.load(Path(task.folder) / "tokenizer")
    documents = validation_documents(Corpus(task.folder, LENGTH, 1, split="validation"), coder,
                                     task.validation)
    weights = list(model.parameters())
    optimizer = AdamW(model, weight_decay=0.01, fused=True)
    settings, found = schedule(task.steps, task.width), []
    moments = {task.steps, *(moments_of(task.steps) if task.watched else [])}
    for step in range(task.steps):
        ids = torch.from_numpy(corpus.batch(step))                            # (B, T)
        next_token_loss(model(ids), ids).backward()
        clip_gradients(weights, 1.0)
        optimizer.step(step + 1, learning_rate(settings, step))
        for weight in weights:
            weight.grad = None
        if step + 1 in moments:
            found.append(measure(model, documents, coder, (step + 1) * LENGTH * ROWS, task.seed))
    return found


def measure(model: Llama, documents: dict[str, list[Document]], coder: Any, tokens: int,
            seed: int) -> Measured:
    """The losses of a model that was trained on `tokens` tokens."""
    rows = losses_by_source(model, documents, torch.device("cpu"))
    loss, above, error = {}, {}, {}
    for kind, chosen in documents.items():
        nats = numpy.array([float(row.sum()) for row in rows[kind]])                      # (documents,)
        excess = nats - numpy.array([document.nats for document in chosen])               # (documents,)
        length = numpy.array([len(row) for row in rows[kind]])                            # (documents,)
        loss[kind] = float(nats.sum() / length.sum())
        above[kind] = float(excess.sum() / length.sum())
        away = excess - length * above[kind]                                              # (documents,)
        error[kind] = float(away.std() / math.sqrt(len(chosen)) / length.mean())
    first, later = mention_losses(documents["web"], rows["web"], coder)
    flops = tokens * params.flops(model.config, LENGTH)["training"]
    return Measured(size_of(model.config), seed, tokens, flops, loss, above, error, first, later)


def train_all(tasks: list[Task]) -> dict[Task, list[Measured]]:
    """Train all models, two at a time, and keep each result under OUT/scaling.

    Each is trained by a separate program on one thread: a small model does not keep two threads busy, and the
    result then does not depend on the number of cores. The longest come first, so that both ends are close.
    """
    def run(task: Task) -> list[Measured]:
        kept = OUT / "scaling" / f"{'-'.join(map(str, (Path(task.folder).name, *task[1:])))}.json"
        if not kept.is_file():
            program = [sys.executable, "-m", "lessons.scaling", json.dumps(task)]
            done = subprocess.run(program, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
                                  stdout=subprocess.PIPE, text=True, check=True)
            kept.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(kept, done.stdout)
        return [Measured(**row) for row in json.loads(kept.read_text())]

    longest = sorted(tasks, key=lambda task: task.width**2 * task.layers * task.steps, reverse=True)
    with ThreadPoolExecutor(2) as both:
        found = dict(zip(longest, both.map(run, longest)))
    return {task: found[task] for task in tasks}


# ---------------------------------------------------------------------------------------------------- the fit

def fit_power_law(sizes: Tensor, losses: Tensor, floor: float) -> Tensor:
    """a and alpha (2,) of loss = floor + a * size^(-alpha): the line of least squares on logarithmic axes.

    `sizes` and `losses` (n,), float64, every loss above the floor.
    """
    x, y = sizes.log(), (losses - floor).log()                                            # (n,), (n,)
    slope = ((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum()
    return torch.stack([(y.mean() - slope * x.mean()).exp(), -slope])                     # (2,)


def predicted(law: Tensor, size: float, floor: float) -> float:
    """The loss that the law (a, alpha) gives for a size."""
    return floor + float(law[0]) * size ** -float(law[1])


def scatter(sizes: Tensor, losses: Tensor, floor: float) -> float:
    """How far the points are from their line: the standard deviation s of the logarithms.

    s^2 = sum of squared distances / (n - 2), since two numbers were fitted.
    """
    law = fit_power_law(sizes, losses, floor)
    away = (losses - floor).log() - (law[0].log() - law[1] * sizes.log())                 # (n,)
    return math.sqrt(float((away**2).sum()) / (len(sizes) - 2))


# Student's t with 95% of its mass between -t and t, by degrees of freedom (any table of statistics).
T95 = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31}


def interval(sizes: Tensor, losses: Tensor, floor: float, size: float) -> tuple[float, float]:
    """The 95% prediction interval of a new measurement at `size`, from the scatter around the line.

    On the logarithmic axis: line +- t s sqrt(1 + 1/n + (x - mean x)^2 / sum of (x_i - mean x)^2), the usual
    interval of a straight line.
    """
    x, n = sizes.log(), len(sizes)
    away = math.log(size) - float(x.mean())
    widening = math.sqrt(1 + 1 / n + away**2 / float(((x - x.mean()) ** 2).sum()))
    factor = math.exp(T95[n - 2] * scatter(sizes, losses, floor) * widening)
    height = predicted(fit_power_law(sizes, losses, floor), size, 0.0)
    return floor + height / factor, floor + height * factor


def straightest_floor(sizes: Tensor, losses: Tensor) -> float:
    """The floor that makes the line straightest: what one fits where the bound is not known.

    It tries 1,000 values, from 0 to just below the smallest loss.
    """
    candidates = [float(losses.min()) * part / 1000 for part in range(1000)]
    return min(candidates, key=lambda floor: scatter(sizes, losses, floor))


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps([measured._asdict() for measured in train_and_measure(Task(*json.loads(sys.argv[1])))]))
