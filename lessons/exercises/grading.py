# SPDX-License-Identifier: Apache-2.0
"""How an answer is judged: by its numbers, and if they are wrong, by the usual mistake that gives just these
numbers. lessons/yours uses the same functions.
"""
from __future__ import annotations

import copy
import importlib.util
import linecache
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any, Callable, NoReturn

import torch
from torch import Tensor

ANSWERS: set[str] = set()                                         # the files that were loaded as answers


def fail(message: str) -> NoReturn:
    """End the test with this message and nothing of the machinery."""
    import pytest
    pytest.fail(message, pytrace=False)


def load(file: Path, name: str) -> ModuleType:
    """Import an answer's file as module `name`; an error there ends the test with its own line."""
    ANSWERS.add(str(file))
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    attempt(file.name, spec.loader.exec_module, module)
    return module


def call(function: Callable, *inputs: Any, **named: Any) -> Any:
    """What the answer returns for copies of `inputs` (tensors and lists).

    An answer that is not written yet, or that raises, ends the test.
    """
    copies = [copy.deepcopy(value) if isinstance(value, (Tensor, list)) else value for value in inputs]
    return attempt(getattr(function, "__name__", type(function).__name__), function, *copies, **named)


def attempt(name: str, function: Callable, *inputs: Any, **named: Any) -> Any:
    """function(*inputs, **named); an exception becomes one message that shows the answer's own line."""
    try:
        return function(*inputs, **named)
    except NotImplementedError as missing:
        message = f"not written yet: {missing}"
    except (Exception, SystemExit) as error:
        message = f"{own_line(error)}{type(error).__name__}: {getattr(error, 'msg', None) or error}"
        message = message if "\n" in message else f"{name} raised {message}"
    fail(message)


def own_line(error: BaseException) -> str:
    """File, number and text of the answer's line where `error` was raised, or "" if it was raised outside."""
    if isinstance(error, SyntaxError):
        return f"{Path(error.filename or '?').name}, line {error.lineno}:\n    {(error.text or '').strip()}\n"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in ANSWERS]
    if not frames:
        return ""
    line = linecache.getline(frames[-1].filename, frames[-1].lineno).strip()
    return f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}:\n    {line}\n"


def same(found: Tensor, right: Tensor, tolerance: float) -> bool:
    """Whether two tensors of one shape hold the same numbers; an infinity equals itself, and so does nan."""
    return found.shape == right.shape and torch.allclose(
        found.double(), right.double(), rtol=tolerance, atol=tolerance, equal_nan=True
    )


def judge(name: str, found: Any, right: Tensor, mistakes: dict[str, Tensor], tolerance: float = 1e-5) -> None:
    """Compare an answer with the real module's result.

    A number, a list of numbers and a numpy array are as good as a tensor. `mistakes` maps what may have gone
    wrong to the result that it gives.
    """
    if found is None:
        fail(f"{name} returned None: is the last line a `return`?")
    try:
        found = torch.as_tensor(found).detach()
    except (TypeError, ValueError, RuntimeError):
        fail(f"{name} returned {type(found).__name__}; expected a tensor of shape {tuple(right.shape)}")
    for message, wrong in mistakes.items():
        if same(found, wrong.detach(), tolerance) and not same(right, wrong.detach(), tolerance):
            fail(f"{name}: {message}")
    if found.shape != right.shape:
        fail(f"{name} returned shape {tuple(found.shape)}; expected {tuple(right.shape)}")
    if same(found, right, tolerance):
        return
    if bool((found.isnan() & ~right.isnan()).any()):
        fail(f"{name} has nan at {tuple((found.isnan() & ~right.isnan()).nonzero()[0].tolist())}: 0 / 0, "
             "inf - inf, 0 * inf, and the root or logarithm of a negative number give nan")
    difference = (found.double() - right.double()).abs()
    difference[found.double() == right.double()] = 0.0            # also where both are the same infinity
    difference = difference.nan_to_num(nan=float("inf"))
    place = tuple((difference == difference.max()).nonzero()[0].tolist())
    where = f"the largest difference is at {place}" if place else "not the right number"
    fail(f"{name}: {where}: found {found[place].item():.6f}, expected {right[place].item():.6f}")
