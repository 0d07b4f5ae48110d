# SPDX-License-Identifier: Apache-2.0
"""From the first batch to the first loss a debugger meets the functions that README lists, and no others."""
import inspect
import re
import sys
import threading
from pathlib import Path

import publishing.card
import train

ROOT = Path(__file__).resolve().parent.parent


def readme_list() -> list[str]:
    """The numbered list of `file.py:function` under the heading about stepping through."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").split("## Step through it")[1].split("\n## ")[0]
    return re.findall(r"^\d+\. `([\w./]+:[\w.]+)`", text, flags=re.MULTILINE)


def test_the_set_up_before_it_is_listed_as_the_calls_of_train():
    """README names them in the order in which `train()` makes them, and each is in the file that it names."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").split("## Step through it")[1].split("\n1. ")[0]
    setup = re.findall(r"`([\w/]+)\.py:(\w+)`", text)
    calls = [name for file, name in setup if name not in ("train", "main")]
    source = inspect.getsource(train.train)
    places = [source.index(f"{name}(") for name in calls]
    assert len(calls) >= 7 and places == sorted(places)
    for file, name in setup:
        code = (ROOT / f"{file}.py").read_text(encoding="utf-8")
        assert re.search(rf"^(def|class) {name}\b", code, re.MULTILINE), (file, name)


def file_of_ours(name: str) -> str | None:
    """`room/file.py` for a file of this project that is not a test, else None."""
    path = Path(name)
    if not path.is_relative_to(ROOT) or path.parts[len(ROOT.parts)].startswith((".", "tests")):
        return None
    return path.relative_to(ROOT).as_posix()


def record(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Every call of our files, in order: from main to the first batch, and from there to the first loss."""
    before, after, done = [], [], []

    def tracer(frame, event, _):
        file = file_of_ours(frame.f_code.co_filename)
        if file is None or event != "call" or done:
            return
        name = frame.f_code.co_qualname if sys.version_info >= (3, 11) else frame.f_code.co_name
        caller = frame.f_back.f_code
        from_train = (caller.co_filename, caller.co_name) == (train.__file__, "train")
        first_batch = from_train and name.endswith("batch")
        calls = after if after or first_batch else before
        calls.append(f"{file}:{name}")
        if after and name == "next_token_losses":
            done.append(True)

    sys.settrace(tracer)
    try:
        train.main(arguments)
    finally:
        sys.settrace(None)
    assert done
    return before, after


def test_the_path_to_the_loss_is_the_list_of_the_readme(tmp_path, corpus, monkeypatch):
    """Every frame from the first batch to the first loss, in FP32 on a prepared corpus, none left out."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(publishing.card, "write_card", lambda run: None)
    monkeypatch.setattr(publishing.card, "show_sample", lambda run: "")
    threads = set(threading.enumerate())
    before, after = record([
        "--size", "tiny", "--data", str(corpus), "--steps", "1", "--seq-len", "16", "--batch-size", "1",
        "--device", "cpu", "--precision", "fp32", "--max-eval-samples", "1",
    ])
    started = [type(thread).__name__ for thread in threading.enumerate() if thread not in threads]
    assert set(started) <= {"TMonitor"}, "the tracer does not see other threads; TMonitor is tqdm's"
    assert not [call for call in after if "<" in call], "a lambda, generator or comprehension on the path"
    met = list(dict.fromkeys(after))
    listed = readme_list()
    if sys.version_info < (3, 11):
        listed = [f"{entry.split(':')[0]}:{entry.split('.')[-1]}" for entry in listed]
        listed = list(dict.fromkeys(listed))
    assert met == listed
    assert not [call for call in before if call.endswith("forward")], "a forward pass before step 1"
    files = {Path(call.split(":")[0]) for call in [*before, *after]}
    folders = {file.parent for file in files}
    assert len(folders) <= 8 and len(files) <= 14, sorted(map(str, files))
