# SPDX-License-Identifier: Apache-2.0
"""The command line of sample.py: which model, which prompt, and how answers are printed."""
from __future__ import annotations

import dataclasses
import itertools
import os
import re
import select
import shutil
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

from common import UserError
from sample import SampleSettings
from sampling import history
from sampling.answers import LoadedModel, respond

# Each of these flags shows the answer, or something else, in its own way.
VIEWS = ("explore", "arena", "draft", "chat", "sweep", "web", "history")


# ------------------------------------------------------------------------------------------- flags and prompt

def check_together(given: dict[str, Any]) -> None:
    """Raise UserError for flags that exclude each other and for impossible counts.

    `given` holds the flags that were on the command line.
    """
    views = [name for name in VIEWS if given.get(name)]
    plain = [name for name in ("n", "json") if name in given and views]
    if views == ["history"]:
        plain = [name for name in plain if name != "json"]
    if len(views) > 1 or plain:
        names = " and ".join(f"--{name}" for name in views + plain)
        raise UserError(f"{names} do not go together; leave one out")
    if given.get("n", 1) < 1:
        raise UserError(f"--n must be at least 1, not {given['n']}")
    if given.get("seed", 0) < 0:
        raise UserError(f"--seed must be zero or more, not {given['seed']}")
    if given.get("blind") and not given.get("arena"):
        raise UserError("--blind goes with --arena OTHER")


def place_and_prompt(
    first: str | None, second: str | None, prompt_file: str | None, standard: str | None
) -> tuple[str | None, str]:
    """(run or folder, prompt) from the two arguments and --prompt-file.

    A first argument that is a folder is the model. One that looks like a path (a slash, no blank) and is not
    a folder is a mistake. Any other is the prompt. Without a prompt: what is piped into the program, else
    `standard`; where that is None (a chat), standard input is not read.
    """
    if first is not None and second is None and not os.path.isdir(first):
        if "/" in first and not re.search(r"\s", first):
            raise UserError(f"{first}: no such run or model folder")
        first, second = None, first
    if prompt_file and second is not None:
        raise UserError("a prompt and --prompt-file do not go together; leave one out")
    if prompt_file and prompt_file != "-":
        text = Path(prompt_file).read_text(encoding="utf-8", errors="replace").removesuffix("\n")
    elif "-" in (second, prompt_file):
        text = standard_input()
    elif second is None and standard is not None:
        text = (standard_input() if text_waits() else "") or standard
    else:
        text = second or ""
    return first, text.encode(errors="replace").decode()  # an argument may hold bytes that are not text


def standard_input() -> str:
    """All of standard input as text, without the newline that `echo` adds.

    Bytes that are not UTF-8 become U+FFFD.
    """
    if sys.stdin is None:
        raise UserError("standard input is closed; there is no prompt to read")
    return sys.stdin.buffer.read().decode("utf-8", "replace").removesuffix("\n")


def text_waits() -> bool:
    """Whether standard input is a pipe or file with text in it."""
    return (
        os.name == "posix"
        and sys.stdin is not None
        and not sys.stdin.isatty()
        and bool(select.select([sys.stdin], [], [], 0)[0])
    )


# ---------------------------------------------------------------------------------------------------- answers

def say(
    loaded: LoadedModel,
    prompt: str,
    draws: list[tuple[SampleSettings, int]],
    show: str | None = None,
    stop: str | None = None,
) -> dict[str, Any]:
    """Let a model answer once for each (settings, seed); return the record that history and --json keep.

    With `show` the first answer appears on the terminal while it is made, after the text `show`. `stop` ends
    the first answer where it occurs.
    """
    started, shown = time.perf_counter(), 0
    for answers in respond(loaded, prompt, draws):
        text, found, _ = answers[0].text.partition(stop) if stop else (answers[0].text, "", "")
        if show is not None:
            print(show + text[shown:], end="", flush=True)
            show, shown = "", len(text)
        if found:
            answers[0].text = text
            break
    return history.remember(loaded, prompt, answers, time.perf_counter() - started)


def sweep(
    loaded: LoadedModel, prompt: str, settings: SampleSettings, seed: int, temperatures: list[float]
) -> None:
    """Answer one prompt at several temperatures with the same random numbers; print where they differ."""
    draws = [(dataclasses.replace(settings, temperature=value).check(), seed) for value in temperatures]
    texts = [answer["text"] for answer in say(loaded, prompt, draws)["answers"]]
    headed = [f"temperature {value:g}\n{text}" for value, text in zip(temperatures, texts)]
    print(side_by_side(headed, shutil.get_terminal_size().columns))
    print(f"\nthe same seed {seed}; {first_difference(texts)}")


def side_by_side(texts: list[str], width: int) -> str:
    """Texts in columns that together fill `width` characters; a text keeps its line breaks."""
    width = max(16, width // len(texts) - 2)
    columns = []
    for text in texts:
        columns.append([part for line in text.splitlines() for part in textwrap.wrap(line, width) or [""]])
    rows = itertools.zip_longest(*columns, fillvalue="")
    return "\n".join("  ".join(part.ljust(width) for part in row).rstrip() for row in rows)


def first_difference(texts: list[str]) -> str:
    """Where the texts first differ, in words.

    >>> first_difference(["one two", "one ten"])
    "they first differ after 5 characters: 'wo' | 'en'"
    """
    same = len(os.path.commonprefix(texts))
    if all(len(text) == same for text in texts):
        return "they are all the same"
    after = " | ".join(repr(text[same:same + 20]) for text in texts)
    return f"they first differ after {same} characters: {after}"
