# SPDX-License-Identifier: Apache-2.0
"""What a corpus folder was made with, so that nobody goes on in a folder of other text; and no folder is left
of a failed beginning.
"""
from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Iterator

from common import UserError, read_json


class OtherRecipe(UserError):
    """The folder holds a corpus, or the beginning of one, of other text or settings."""


def check_recipe(path: Path, recipe: dict) -> dict:
    """The JSON object in a manifest or a record of progress. Raises OtherRecipe if it was made with other
    settings than `recipe`.
    """
    state = read_json(path)
    stored = state.get("recipe")
    if not isinstance(stored, dict) or not isinstance(state.get("sources"), dict):
        raise UserError(f"{path}: damaged; remove {path.parent} and begin again")
    changed = [key for key in recipe if stored.get(key) != recipe[key]]
    if changed:
        names = ", ".join(changed)
        raise OtherRecipe(
            f"{path.parent} was made with another setting of {names}; choose another folder, or remove that one first"
        )
    return state


@contextlib.contextmanager
def nothing_left_of_a_failure(out: Path) -> Iterator[None]:
    """Make the folder `out`; remove it again if it was new and a UserError comes before any progress was
    recorded in it.
    """
    new = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except UserError:
        if new and not (out / "prepare.json").is_file():
            shutil.rmtree(out, ignore_errors=True)
        raise
