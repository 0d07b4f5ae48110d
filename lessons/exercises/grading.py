# SPDX-License-Identifier: Apache-2.0
"""How an answer is judged: by its numbers, and if they are wrong, by the usual mistake that gives just these
numbers.
"""
from __future__ import annotations

from typing import Any, Callable

import pytest
import torch
from torch import Tensor


def call(function: Callable, *inputs: Any) -> Any:
    """What the answer returns for copies of `inputs`; the test ends with one line where it is not written yet
    or raises.
    """
    try:
        return function(*[value.clone() if isinstance(value, Tensor) else value for value in inputs])
    except NotImplementedError as missing:
        message = f"not written yet: {missing}"
    except Exception as error:
        message = f"{function.__name__} raised {type(error).__name__}: {error}"
    pytest.fail(message, pytrace=False)


def judge(name: str, found: Any, right: Tensor, mistakes: dict[str, Tensor], tolerance: float = 1e-5) -> None:
    """Compare an answer with the real module's result; `mistakes` maps what may have gone wrong to the result
    that it gives.
    """
    if not isinstance(found, Tensor):
        pytest.fail(
            f"{name} returned {type(found).__name__}; expected a tensor of shape {tuple(right.shape)}",
            pytrace=False,
        )
    if found.shape != right.shape:
        pytest.fail(
            f"{name} returned shape {tuple(found.shape)}; expected {tuple(right.shape)}", pytrace=False
        )
    if torch.allclose(found.double(), right.double(), rtol=tolerance, atol=tolerance):
        return
    for message, wrong in mistakes.items():
        if wrong.shape == right.shape and torch.allclose(
            found.double(), wrong.double(), rtol=tolerance, atol=tolerance, equal_nan=True
        ):
            pytest.fail(f"{name}: {message}", pytrace=False)
    difference = (found.double() - right.double()).abs()
    if not torch.isfinite(difference).all():
        place = tuple((~torch.isfinite(difference)).nonzero()[0].tolist())
        pytest.fail(
            f"{name}: not the right number at {place}: found {found[place].item()}, expected {right[place].item()}",
            pytrace=False,
        )
    place = tuple((difference == difference.max()).nonzero()[0].tolist())
    pytest.fail(f"{name}: the largest difference is at {place}: found {found[place].item():.6f}, expected {right[place].item():.6f}", pytrace=False)
