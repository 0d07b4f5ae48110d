# SPDX-License-Identifier: Apache-2.0
"""Talk in turns: `sample.py --chat`."""
from __future__ import annotations

import sys

from sample import SampleSettings
from sampling.answers import BASE_MODEL, LoadedModel
from sampling.terminal import say


def chat_prompt(turns: list[tuple[str, str]]) -> str:
    """The cards' template: each role between <| and |>, then its message; at the end the assistant's tag."""
    return "".join(f"<|{role}|>{content}" for role, content in turns) + "<|assistant|>"


def recent(
    loaded: LoadedModel, turns: list[tuple[str, str]], settings: SampleSettings
) -> list[tuple[str, str]]:
    """`turns` without the oldest ones, so that an answer of `max_new_tokens` fits into the context."""
    room = loaded.model.config.max_position_embeddings - settings.max_new_tokens
    while len(turns) > 1 and len(loaded.tokenizer.encode(chat_prompt(turns), document=True)) > room:
        turns = turns[2:]
    return turns


def chat(loaded: LoadedModel, settings: SampleSettings, seed: int) -> None:
    """Talk in turns until an empty line; the oldest turns are dropped when the context is full."""
    print(BASE_MODEL, "An empty line ends the chat.")
    turns = []
    print("you> ", end="", flush=True)
    while sys.stdin and (said := sys.stdin.readline().strip()):
        turns = recent(loaded, [*turns, ("user", said)], settings)
        record = say(loaded, chat_prompt(turns), [(settings, seed + len(turns))], show="", stop="<|")
        turns.append(("assistant", record["answers"][0]["text"]))
        print("\nyou> ", end="", flush=True)
    print()
