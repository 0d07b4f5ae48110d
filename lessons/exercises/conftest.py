# SPDX-License-Identifier: Apache-2.0
"""Where the graded answers are: this folder, or the one that `--answers FOLDER` names."""

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent))  # the real modules

from lessons.exercises.grading import fail, load  # noqa: E402


@pytest.fixture
def answer(request):
    """answer(name): the function called `name` in the file that belongs to this test."""
    folder = Path(request.config.getoption("--answers") or HERE).resolve()
    file = folder / Path(request.node.path).name.removeprefix("test_")

    def find(name):
        if not file.is_file():
            fail(f"{file} is missing: copy it from lessons/exercises, it holds the signature to fill in")
        module = load(file, f"answer_{file.stem}")
        if not hasattr(module, name):
            fail(f"{file} defines no {name}; keep the name of the stub")
        return getattr(module, name)

    return find
