# SPDX-License-Identifier: Apache-2.0
"""Which run and which prompt a call of sample.py means, and which of its flags go together."""
from __future__ import annotations

import os
import re
import select
import sys
from pathlib import Path
from typing import Any

from common import UserError

# each shows the answer, or something else, in its own way
VIEWS = ("explore", "arena", "draft", "chat", "sweep", "web", "history")


def run_and_prompt(
    first: str | None, second: str | None, prompt_file: str | None, standard: str | None
) -> tuple[str | None, str]:
    """RUN and prompt: a first argument that is a folder is RUN, one that looks like a path but is none is a
    mistake, any other is the prompt.

    Without a prompt: what was piped into the program, else `standard`; where that is None (a chat) standard
    input is left alone.
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
    return first, text.encode(errors="replace").decode()  # an argument may hold bytes that are no text


def standard_input() -> str:
    """All of standard input as text, without the line's end that `echo` adds; bytes that are not UTF-8 become
    U+FFFD.
    """
    if sys.stdin is None:
        raise UserError("standard input is closed; there is no prompt to read")
    return sys.stdin.buffer.read().decode("utf-8", "replace").removesuffix("\n")


def text_waits() -> bool:
    """Whether standard input is a pipe or a file with something in it; a terminal, or a pipe in which nobody
    writes, is not waited for.
    """
    return (
        os.name == "posix"
        and sys.stdin is not None
        and not sys.stdin.isatty()
        and bool(select.select([sys.stdin], [], [], 0)[0])
    )


def check_together(given: dict[str, Any]) -> None:
    """Raise UserError for flags of which one would be ignored, and for no answers at all. `given` holds the
    flags that were given.
    """
    views = [name for name in VIEWS if given.get(name)]
    plain = [
        name for name in ("n", "json") if name in given and views and (name, views) != ("json", ["history"])
    ]
    if len(views) > 1 or plain:
        raise UserError(
            " and ".join(f"--{name}" for name in views + plain) + " do not go together; leave one out"
        )
    if given.get("n", 1) < 1:
        raise UserError(f"--n must be at least 1, not {given['n']}")
    if given.get("seed", 0) < 0:
        raise UserError(f"--seed must be zero or more, not {given['seed']}")
    if given.get("blind") and not given.get("arena"):
        raise UserError("--blind goes with --arena OTHER")
