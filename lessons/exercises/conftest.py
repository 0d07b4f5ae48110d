# SPDX-License-Identifier: Apache-2.0
"""Where the graded answers are: this folder, or the one that `pytest lessons/exercises --answers FOLDER`
names.
"""
import importlib.util
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent))                               # the real modules


def pytest_addoption(parser):
    parser.addoption(
        "--answers",
        default=str(HERE),
        metavar="FOLDER",
        help="grade the answers in FOLDER instead of those in lessons/exercises",
    )


@pytest.fixture
def answer(request):
    """answer(name): the function called `name` of the file that belongs to this test, as the reader wrote it.
    """
    file = Path(request.config.getoption("--answers")) / Path(request.node.path).name.removeprefix("test_")

    def find(name):
        if not file.is_file():
            pytest.fail(
                f"{file} is missing: copy it from lessons/exercises, it holds the signature to fill in",
                pytrace=False,
            )
        spec = importlib.util.spec_from_file_location(f"answer_{file.stem}", file)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        if not hasattr(module, name):
            pytest.fail(f"{file} defines no {name}; keep the name of the stub", pytrace=False)
        return getattr(module, name)

    return find
