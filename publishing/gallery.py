# SPDX-License-Identifier: Apache-2.0
"""The sample gallery of a model card: fixed prompts and unedited answers."""
from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from model import Llama
from sample import Draw, SampleSettings
from sampling.many import decode_many
from tokenizer import load as load_tokenizer

# The kinds of prompt that the cards show, and the beginning of a tale; the wording is ours.
PROMPTS = {
    "tale": ["Once upon a time there lived a shy fox named Nora."],
    "prose": [
        "The old bridge over the river was", "Bread is made from flour and water.",
        "When the first snow fell, the children",
    ],
    "explanation": ["The reason why leaves are green is that", "Some ways to save water at home are:"],
    "code": ["import os\n\ndef read_lines(path):\n", "for number in range(10):\n"],
    "arithmetic": ["2 + 3 ="],
    "greeting": ["Hello! How are you"],
    "nonsense": ["qwzx plmok vrtg"],
}
# The cards' settings for their own galleries. Portimbria has 40 tokens for three prompts and 350 for two.
STENTOR3 = SampleSettings(temperature=0.6, top_p=0.85, repetition_penalty=1.25, max_new_tokens=200)
STENTOR2 = SampleSettings(temperature=1.0, top_p=0.8, repetition_penalty=1.1, max_new_tokens=45)
GALLERY = {"150m": SampleSettings(temperature=0.6, top_p=0.85, repetition_penalty=1.15, max_new_tokens=40),
           **dict.fromkeys(("12m", "30m", "12m-v1", "30m-v1"), STENTOR2)}
SEED = 0


class Sample(NamedTuple):
    """One answer of the gallery."""

    kind: str
    prompt: str
    text: str
    tokens: list[int]
    ended: bool


def loops(tokens: list[int]) -> bool:
    """Whether a text repeats itself: more than half of its sequences of four tokens occurred in it before.

    >>> loops([1, 2, 3, 4, 5] * 4), loops(list(range(20)))
    (True, False)
    """
    fours = list(zip(tokens, tokens[1:], tokens[2:], tokens[3:]))
    return len(fours) > 4 and len(set(fours)) < len(fours) / 2


def continuations(
    model: Llama, prompts: list[list[int]], settings: SampleSettings, stop_id: int
) -> list[list[int]]:
    """The new ids of an answer to each prompt, with `stop_id` at the end of those that ended themselves."""
    draws = [Draw(model, ids, settings, SEED, [stop_id]) for ids in prompts]

    def choose(logits: Tensor) -> list[int | None]:
        return [draw.choose(row) if draw.left else None for draw, row in zip(draws, logits)]

    new: list[list[int]] = [[] for _ in prompts]
    for tokens in decode_many(model, prompts, settings.max_new_tokens, choose):
        for ids, token in zip(new, tokens):
            ids += [] if token is None else [token]
        if not any(draw.left for draw in draws):
            break
    return new


def gallery(folder: Path, settings: SampleSettings) -> list[Sample]:
    """One answer of the model in `folder` to each prompt; the same weights give the same gallery."""
    model, tokenizer = Llama.from_pretrained(folder).eval(), load_tokenizer(folder)
    asked = [(kind, prompt) for kind, prompts in PROMPTS.items() for prompt in prompts]
    encoded = [tokenizer.encode(prompt, document=True) for _, prompt in asked]
    found = []
    for (kind, prompt), ids, new in zip(
        asked, encoded, continuations(model, encoded, settings, tokenizer.eos_id)
    ):
        ended = new[-1:] == [tokenizer.eos_id]
        answer = new[:-1] if ended else new
        text = tokenizer.decode(ids + answer)[len(tokenizer.decode(ids)):]
        # The limit of tokens may have cut the last character.
        found.append(Sample(kind, prompt, text.rstrip("\ufffd"), answer, ended))
    return found
