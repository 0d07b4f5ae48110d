# SPDX-License-Identifier: Apache-2.0
"""The model that lessons 11 and 12 look at: the reader's own newest run, or a small one that is trained on
the spot.
"""
from __future__ import annotations

import contextlib
import io
import shutil
from pathlib import Path

from common import UserError, newest_run
from lessons.tools import FAST, HOME, OUT, corpus
from train import train


def trained_run() -> Path:
    """The newest run under HOME/runs that has a model; without one, a tiny model of half a minute on the
    built-in exercises, made once.
    """
    with contextlib.suppress(UserError):
        newest = newest_run(HOME / "runs")
        if (newest / "best" / "config.json").is_file():
            print(f"looking at {newest.name}, the newest run under runs/")
            return newest
    folder = OUT / ("model-fast" if FAST else "model")
    if not (folder / "best" / "config.json").is_file():
        print("no run under runs/ yet: training a tiny model now")
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.redirect_stdout(io.StringIO()):
            train(size="tiny", data=str(corpus("math")), out=str(folder), device="cpu", precision="fp32",
                  steps=15 if FAST else 150, seq_len=64 if FAST else 128, batch_size=8, learning_rate=3e-3,
                  seed=42, eval_steps=150, max_eval_samples=32)
    print("looking at runs/lessons: size tiny, trained for half a minute on the built-in exercises")
    return folder
