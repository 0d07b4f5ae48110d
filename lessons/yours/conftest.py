# SPDX-License-Identifier: Apache-2.0
"""`pytest lessons/yours [--answers=FOLDER] [--start N]` grades the steps in order.

The first step that is not written yet fails with one line; those after it are skipped.
"""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from steps import HERE, STEPS, Steps  # noqa: E402

from lessons.exercises.grading import attempt, fail  # noqa: E402

WAITING = pytest.StashKey[int]()  # the first step that is not written yet


@pytest.fixture(scope="session")
def steps(request):
    return Steps(request.config.getoption("--answers") or HERE, request.config.getoption("--start"))


@pytest.fixture
def part(request, steps):
    """part(name): the function or class `name` in the student's file for the step of this test.

    The number of the step is in the name of the test: test_step_04_... is step 4.
    """
    step = int(request.node.name.split("_")[2])
    waiting = request.session.stash.get(WAITING, None)
    if waiting is not None and waiting <= step:
        pytest.skip(f"after step {waiting}")

    def find(name, step=step):
        module = attempt(STEPS[step - 1], steps.module, step)
        if not hasattr(module, name):
            fail(f"{STEPS[step - 1]}.py does not define {name}; keep the names of the stub")
        return getattr(module, name)

    return find


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Remember the first step that is not written yet."""
    report = yield
    if call.when == "call" and report.failed and "not written yet" in str(call.excinfo.value):
        item.session.stash.setdefault(WAITING, int(item.name.split("_")[2]))
    return report
