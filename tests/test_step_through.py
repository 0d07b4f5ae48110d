# SPDX-License-Identifier: Apache-2.0
"""From the command line to the loss a debugger meets the functions that README lists, in that order, and no
hidden frame between them.
"""
import re
import sys
import threading
from pathlib import Path

import training.announce
import publishing.card
import train

ROOT = Path(__file__).resolve().parent.parent
CORE = {str(ROOT / f"{name}.py"): f"{name}.py" for name in ("model", "precision", "data", "train")}


def readme_list() -> list[str]:
    """The numbered list of `file.py:function` under the heading about stepping through."""
    text = (ROOT / "README.md").read_text().split("## Step through it")[1].split("\n## ")[0]
    return re.findall(r"^\d+\. `([\w.]+:[\w.]+)`", text, flags=re.MULTILINE)


def record_one_step(arguments: list[str]) -> list[str]:
    """Every call of a function of the core, in order, of one training step: from main until the loss."""
    calls, started, done = [], [], []

    def tracer(frame, event, _):
        file = CORE.get(frame.f_code.co_filename)
        if file is None or event != "call" or done:
            return
        name = (
            f"{file}:{frame.f_code.co_qualname}"
            if sys.version_info >= (3, 11)
            else f"{file}:{frame.f_code.co_name}"
        )
        if name.split(":")[1].split(".")[-1] == "batch" and "train.py:step_within_memory" not in calls:
            started.append(True)
            del calls[calls.index("train.py:train") + 1:]  # what prepared the run, before its first batch
        calls.append(name)
        if name == "model.py:next_token_loss" and "train.py:training_step" in calls:
            done.append(True)

    sys.settrace(tracer)
    try:
        train.main(arguments)
    finally:
        sys.settrace(None)
    assert started and done
    return calls


def test_the_path_to_the_loss_is_the_list_of_the_readme(tmp_path, corpus, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(publishing.card, "write_card", lambda run: None)
    monkeypatch.setattr(training.announce, "measured_speed", lambda model, job: 1.0)
    threads = threading.active_count()
    calls = record_one_step(
        [
            "--size",
            "tiny",
            "--data",
            str(corpus),
            "--steps",
            "1",
            "--seq-len",
            "16",
            "--batch-size",
            "1",
            "--device",
            "cpu",
            "--precision",
            "fp32",
            "--max-eval-samples",
            "1",
        ]
    )
    assert threading.active_count() == threads
    assert not [call for call in calls if "<" in call.split(":")[1].split(".")[-1]], (
        "a lambda or generator on the path"
    )
    listed = readme_list()
    assert len(listed) >= 12
    if sys.version_info < (3, 11):
        listed = [f"{entry.split(':')[0]}:{entry.split('.')[-1]}" for entry in listed]
    first_calls = list(dict.fromkeys(calls))
    assert [call for call in first_calls if call in listed] == listed
