# SPDX-License-Identifier: Apache-2.0
"""The command line of sample.py: the model, the prompt, and the printed answers."""
from __future__ import annotations

import dataclasses
import itertools
import os
import re
import shutil
import stat
import sys
import textwrap
import time
from pathlib import Path
from typing import Any, BinaryIO

from common import Flow, UserError, colour, for_terminal, naming, no_run, tell, wrapped
from sample import SampleSettings
from sampling import history
from sampling.answers import LoadedModel, respond, valid_text
from tokenizer import lost_text

# Each of these flags replaces the plain answer by another view.
VIEWS = ("explore", "arena", "draft", "chat", "sweep", "web", "history")
LONGEST_PROMPT = 16 << 20                   # bytes; more than any model here can read
MOST_ANSWERS = 10_000                       # at once


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
        raise UserError(f"{names} cannot be combined; leave one out")
    if not 1 <= given.get("n", 1) <= MOST_ANSWERS:
        raise UserError(f"--n must be from 1 to {MOST_ANSWERS:,}, not {given['n']}")
    if given.get("seed", 0) < 0:
        raise UserError(f"--seed must be zero or more, not {given['seed']}")
    if given.get("blind") and not given.get("arena"):
        raise UserError("--blind is for --arena; add --arena OTHER")


def place_and_prompt(
    first: str | None, second: str | None, prompt_file: str | None, read_pipe: bool
) -> tuple[str | None, str | None]:
    """(run or folder, prompt) from the two arguments and --prompt-file; None where one is not given.

    A first argument that is a folder is the model. One that looks like a path (a slash, no blank) and is not
    a folder is an error. Any other is the prompt. Without a prompt, and with `read_pipe`, a pipe or a file
    on standard input is read to its end. Raises UserError for a prompt that is not UTF-8 text.
    """
    if first is not None and second is None and not os.path.isdir(first):
        if "/" in first and not re.search(r"\s", first):
            what = "a file, not a run" if os.path.exists(first) else "no such run"
            raise no_run(Path(first), f"{what} or model folder")
        first, second = None, first
    if prompt_file and second is not None:
        raise UserError("a prompt and --prompt-file cannot be combined; leave one out")
    if "-" in (second, prompt_file):
        return first, standard_input()
    if prompt_file:
        with open(prompt_file, "rb") as file:
            return first, prompt_of(file, prompt_file)
    if second is None and read_pipe and stdin_is_piped():
        print("no prompt given: reading it from standard input", file=sys.stderr)
        return first, standard_input() or None
    if second is not None and second != valid_text(second):
        raise UserError("the prompt is not UTF-8 text")
    return first, second


def standard_input() -> str:
    """All of standard input as a prompt."""
    if sys.stdin is None:
        raise UserError("standard input is closed; there is no prompt to read")
    return prompt_of(sys.stdin.buffer, "standard input")


def prompt_of(file: BinaryIO, name: str) -> str:
    """The text of an open file, without the newline that `echo` and editors add.

    Raises UserError that names the file if it is too long or not UTF-8.
    """
    data = file.read(LONGEST_PROMPT + 1)
    if len(data) > LONGEST_PROMPT:
        raise UserError(f"{name}: more than {LONGEST_PROMPT >> 20} MiB, the limit for a prompt")
    try:
        return data.decode("utf-8-sig").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: not UTF-8 text (byte {error.start}: {data[error.start]:#x}); "
                        "if it is LATIN1, convert it with iconv -f LATIN1 -t UTF-8") from None


def stdin_is_piped() -> bool:
    """Whether standard input is a pipe or a file: not a terminal, not /dev/null, not closed."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (AttributeError, OSError, ValueError):            # None, closed, or not a file of the system
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISREG(mode)


def tell_lost_text(loaded: LoadedModel, prompt: str) -> None:
    """Print a note on stderr if characters of the prompt are lost: the model does not read them."""
    lost = lost_text(loaded.tokenizer, [prompt])
    if lost:
        tell(f"note: of the prompt, {lost}")


# ---------------------------------------------------------------------------------------------------- answers

def say(
    loaded: LoadedModel, prompt: str, draws: list[tuple[SampleSettings, int]], show: str | None = None,
    stop: str | None = None, ids: list[int] | None = None,
) -> dict[str, Any]:
    """Let a model answer once for each (settings, seed); return the record that history and --json keep.

    With `show` the first answer is printed while it grows, after the text `show` in grey. The text `stop`
    ends the first answer. `ids` are the prompt's ids, if its text alone does not determine them.
    """
    started, shown, flow = time.perf_counter(), 0, Flow()
    for answers in respond(loaded, prompt if ids is None else ids, draws):
        text, found, _ = answers[0].text.partition(stop) if stop else (answers[0].text, "", "")
        if show is not None:
            before = colour(flow.add(show, last=True), "2") if show else ""
            with naming("standard output"):
                print(before + flow.add(text[shown:]), end="", flush=True)
            show, shown = "", len(text)
        if found:
            answers[0].text = text
            break
    if show is not None:
        with naming("standard output"):
            print(flow.add("", last=True), end="", flush=True)
    return history.remember(loaded, prompt, answers, time.perf_counter() - started)


def sweep(
    loaded: LoadedModel, prompt: str, settings: SampleSettings, seed: int, temperatures: list[float]
) -> None:
    """Answer one prompt at several temperatures with the same random numbers; print where they differ."""
    draws = [(dataclasses.replace(settings, temperature=value).check(), seed) for value in temperatures]
    texts = [answer["text"] for answer in say(loaded, prompt, draws)["answers"]]
    headed = [f"temperature {value:g}\n{for_terminal(text)}" for value, text in zip(temperatures, texts)]
    print(Flow().add(prompt, last=True) + "\n")
    print(side_by_side(headed, shutil.get_terminal_size().columns))
    print("\n" + wrapped(f"the same seed {seed}; {first_difference(texts)}"))


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
