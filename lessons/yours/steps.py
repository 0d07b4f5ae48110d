# SPDX-License-Identifier: Apache-2.0
"""How the files of the track import each other: a later step uses the student's earlier files."""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
REFERENCE = HERE / "reference"
STEPS = [file.stem for file in sorted(HERE.glob("step[0-9][0-9]_*.py"))]
sys.path[:0] = [str(ROOT), str(HERE)]  # the real modules; one_file

from lessons.exercises import grading  # noqa: E402


class Steps(MetaPathFinder):
    """`import step04_heads` loads it from the folder `answers`, or from the reference if 4 < `start`."""

    def __init__(self, answers: Path = HERE, start: int = 1):
        self.answers, self.start = Path(answers).resolve(), start
        self.forget()
        sys.meta_path[:] = [self, *(finder for finder in sys.meta_path if not isinstance(finder, Steps))]

    def forget(self) -> None:
        """Forget all imported steps: those in memory may come from another folder."""
        for name in [*STEPS, "one_file"]:
            sys.modules.pop(name, None)

    def file(self, name: str) -> Path:
        """The file of step `name`. Raises NotImplementedError if the folder has none."""
        own = self.answers / f"{name}.py"
        if number(name) < self.start:
            return REFERENCE / own.name
        if not own.is_file():
            raise NotImplementedError(f"{own} is missing; copy the stub from lessons/yours, or use --start")
        return own

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name not in STEPS:
            return None
        grading.ANSWERS.add(str(self.file(name)))
        return spec_from_file_location(name, self.file(name))

    def module(self, step: int) -> ModuleType:
        """The module of a step, imported with all modules that it uses."""
        name = STEPS[step - 1]
        if name not in sys.modules:
            spec = self.find_spec(name)
            sys.modules[name] = module_from_spec(spec)
            try:
                spec.loader.exec_module(sys.modules[name])
            except BaseException:
                del sys.modules[name]
                raise
        return sys.modules[name]


def number(name: str) -> int:
    """The number in a step's name.

    >>> number("step04_heads")
    4
    """
    return int(name[4:6])
