# SPDX-License-Identifier: Apache-2.0
"""A loaded model and its answers: open a folder, read a prompt, continue it in text."""
from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from common import UserError, find_run, run_of
from model import Llama
from sample import Draw, NextLogits, SampleSettings, decode, recommended
from sampling.weights import quantized
from tokenizer import Tokenizer, load as load_tokenizer

BASE_MODEL = "A base model continues text. It is not an assistant and was never taught to answer."


@dataclass(frozen=True)
class LoadedModel:
    """A model with its tokenizer; `settings` are the recommended ones.

    `next_logits` computes one position in the chosen format of the weights.
    """

    name: str
    folder: Path
    model: Llama
    next_logits: NextLogits
    tokenizer: Tokenizer
    settings: SampleSettings


def load_model_of(
    run_or_folder: str | Path | None = None, weights: str = "fp32", device: str = "cpu"
) -> LoadedModel:
    """Load a run's best model or any folder of the Llama layout; without a name the newest run.

    `weights` is a key of `sampling.weights.FORMS`, `device` is "cpu" or "cuda". Raises UserError for a folder
    or device that cannot be used.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no CUDA device; leave the flag out to use the CPU")
    folder = find_run(run_or_folder)
    name = name_of(folder)
    tokenizer = load_tokenizer(folder)
    model, next_logits = quantized(Llama.from_pretrained(folder).to(device).eval(), weights)
    if tokenizer.vocab_size > model.config.vocab_size:
        raise UserError(f"{folder}: the vocabulary has {tokenizer.vocab_size} tokens but the model "
                        f"{model.config.vocab_size}; the vocabulary belongs to another model")
    settings = recommended(model.config, folder)
    return LoadedModel(name, folder, model, next_logits, tokenizer, settings)


def name_of(folder: Path) -> str:
    """`20m` for `runs/20m/best`; the folder's name for a model outside a run.

    Raises UserError for a name that is not UTF-8, because files of results could not store it.
    """
    name = run_of(Path(os.path.abspath(folder))).name                     # a link keeps its name
    if name != valid_text(name):
        raise UserError(f"{folder}: the folder's name is not UTF-8 text; rename it")
    return name


def valid_text(text: str) -> str:
    """`text` with ? for what UTF-8 cannot store: half of a surrogate pair, bytes that were not text."""
    return text.encode(errors="replace").decode()


def prompt_ids(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """The ids of a prompt, at least one: a foreign tokenizer's `prefix_ids` (empty for ours), then the text.

    As on the cards, there is no separator before the prompt. An empty prompt is the start of a document: only
    the separator.
    """
    ids = [*tokenizer.prefix_ids, *tokenizer.encode(prompt, document=True)]
    return ids or [tokenizer.eos_id]


@dataclass
class Answer:
    """A model's answer so far to one prompt; `ended` is true after a stop token."""

    settings: SampleSettings
    seed: int
    text: str = ""
    ids: list[int] = dataclasses.field(default_factory=list)
    ended: bool = False


def respond(
    loaded: LoadedModel, prompt: str | list[int], draws: list[tuple[SampleSettings, int]]
) -> Iterator[list[Answer]]:
    """Continue `prompt`, a text or its ids, once for each (settings, seed); yields the growing answers.

    The first answers come before the first token and are empty. The bytes of one character may come from
    several tokens: the text grows when the character is complete. Raises UserError for a prompt that the
    model cannot read.
    """
    model, tokenizer = loaded.model, loaded.tokenizer
    ids = prompt_ids(tokenizer, prompt) if isinstance(prompt, str) else prompt
    answers = [Answer(settings, seed) for settings, seed in draws]
    streams = [tokenizer.stream() for _ in draws]
    for stream in streams:
        stream.feed(ids)
    rows = [Draw(model, ids, settings, seed, tokenizer.stop_ids) for settings, seed in draws]
    yield answers
    for tokens, _ in decode(model, ids, rows, loaded.next_logits):
        for answer, stream, token in zip(answers, streams, tokens):
            answer.ended |= token in tokenizer.stop_ids
            if token is not None and not answer.ended:
                answer.ids.append(token)
                answer.text += stream.feed([token])
        yield answers
