# SPDX-License-Identifier: Apache-2.0
"""The models that lessons look at: the reader's own newest run, or a small one that is trained now."""
from __future__ import annotations

import contextlib
import io
import shutil
from pathlib import Path

from common import UserError, newest_run
from lessons.tools import FAST, HOME, OUT, corpus
from model import ModelConfig
from train import train


def trained_run() -> Path:
    """The newest run under HOME/runs that has a model.

    If there is none, `tiny` is trained for half a minute on the built-in exercises, once.
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


# The model of lesson 13: two layers of four heads and a vocabulary of 512, so that it learns fast.
COPYING_MODEL = ModelConfig(
    vocab_size=512, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=4, head_dim=32, max_position_embeddings=512, rope_theta=10_000.0, rms_norm_eps=1e-5,
    tie_word_embeddings=True,
)


def copying_run(seed: int = 42) -> Path:
    """A run of `COPYING_MODEL` on tales with this seed, with snapshots; made once."""
    folder = OUT / f"copying{'-fast' if FAST else ''}-{seed}"
    if not (folder / "best" / "config.json").is_file():
        data = corpus("web", tokens=100_000 if FAST else 1_600_000, vocab="builtin-512")
        shutil.rmtree(folder, ignore_errors=True)
        steps, rows, every = (10, 2, 5) if FAST else (700, 8, 100)
        with contextlib.redirect_stdout(io.StringIO()):
            train(model=COPYING_MODEL, data=str(data), out=str(folder), device="cpu", precision="fp32",
                  seed=seed, steps=steps, seq_len=256, batch_size=rows, learning_rate=4e-3, schedule="wsd",
                  warmup_steps=steps // 20, stable_steps=steps * 3 // 5, eval_steps=every,
                  max_eval_samples=8)
    return folder
