# SPDX-License-Identifier: Apache-2.0
"""The options that both graders share: lessons/exercises and lessons/yours."""

import pytest


def pytest_addoption(parser):
    try:
        parser.addoption("--answers", metavar="FOLDER", help="grade the answers in FOLDER, not the stubs")
    except ValueError:  # for pytest, `--answers FOLDER` is a path too: it loads the conftest.py there
        raise pytest.UsageError("the answers are in another copy of the project; write --answers=FOLDER, "
                                "with an equals sign") from None
    parser.addoption(
        "--start", type=int, default=1, metavar="N",
        help="lessons/yours: take the steps before N from the reference solutions",
    )
