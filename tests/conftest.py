# SPDX-License-Identifier: Apache-2.0
"""Fixtures that all tests share. The real vocabularies and samples are not part of the repository:
STENTOR_SHARED names their folder.
"""
import json
import os
import shutil
import signal
import sys
import textwrap
import time
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


for number in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
    # A program leaves a signal alone that was ignored when it started, as under `nohup` and in a script's
    # background. With a handler here, the programs that the tests start find the default, wherever pytest
    # itself was started.
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, lambda *_: None)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """A plain `pytest` runs test files in two processes of one thread each (pytest-xdist, in the extra
    `test`); -n decides otherwise.

    Most of its time is single programs that start, and exact runs of one thread. With a file or a tier (-m)
    named, nothing is divided.
    """
    if "cuda" not in config.option.markexpr.replace("not cuda", ""):
        # a GPU would have the card recipes run; its own tests are a tier
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    plain = config.args_source == config.ArgsSource.TESTPATHS and config.option.markexpr in config.getini(
        "addopts"
    )
    a_worker_itself = "PYTEST_XDIST_WORKER" in os.environ
    if (
        plain
        and not a_worker_itself
        and config.pluginmanager.hasplugin("xdist")
        and config.option.numprocesses is None
        and not config.option.usepdb
    ):
        config.option.numprocesses, config.option.dist, config.option.loadscopereorder = 2, "loadfile", False
        os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items):
    """In the processes of pytest-xdist the longest files first, so that both end at about the same time."""
    longest = ["test_train.py", "test_readme.py", "test_sample.py", "test_sample_views.py", "test_yours.py",
               "test_train_faults.py", "test_train_terminal.py"]
    longest = longest if "PYTEST_XDIST_WORKER" in os.environ else []
    items.sort(key=lambda item: longest.index(item.path.name) if item.path.name in longest else len(longest))


def pytest_terminal_summary(terminalreporter):
    """What was skipped, and why, in at most five lines: the reasons with the most tests first."""
    reports = terminalreporter.stats.get("skipped", [])
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in reports)
    for reason, count in reasons.most_common(4):
        terminalreporter.line(f"skipped {count}: {textwrap.shorten(reason, 100)}")
    if len(reasons) > 4:
        others = sum(count for _, count in reasons.most_common()[4:])
        terminalreporter.line(f"skipped {others} for {len(reasons) - 4} other reasons: pytest -rs names them")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the real vocabularies, corpora and evaluation sets; skips where the environment does
    not name it.
    """
    folder = os.environ.get("STENTOR_SHARED")
    if not folder:
        pytest.skip("STENTOR_SHARED is not set: the real vocabularies and corpus samples are needed here")
    assert Path(folder).is_dir(), f"STENTOR_SHARED={folder} is not a folder"
    return Path(folder).resolve()


@pytest.fixture
def two_sources(tmp_path) -> Path:
    """A small corpus of two sources: this project's prose and its code."""
    from corpus.documents import path_source
    from corpus.prepare import prepare
    root = Path(__file__).resolve().parent.parent
    sources = [path_source("text", root / "BENCHMARKS.md"), path_source("code", root / "training")]
    return prepare(sources, tmp_path / "two-sources")


@pytest.fixture(scope="session")
def generated(tmp_path_factory) -> Path:
    """Generated mathematics with the built-in vocabulary: the same on every Python version.

    Prepared once for all processes of pytest-xdist.
    """
    from common import UserError
    from corpus.command import prepare_builtin
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "math-corpus"
    deadline = time.monotonic() + 120
    while True:
        try:
            return prepare_builtin(folder, kinds=("math",))
        except UserError:                                           # another process is preparing it
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


@pytest.fixture(scope="session")
def corpus(generated, tmp_path_factory) -> Path:
    """The tokens of `generated` in a corpus whose entropy is unknown, as that of a user's text.

    A training run on it measures losses only. On `generated` it also samples and judges texts at each
    evaluation, which takes much longer than the steps of a test.
    """
    folder = shutil.copytree(generated, tmp_path_factory.mktemp("corpora") / "math")
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    manifest["recipe"]["sources"] = {"math": "a user's text"}
    for split in ("train", "validation"):
        del manifest["sources"]["math"][split]["nats"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder
