# SPDX-License-Identifier: Apache-2.0
"""kill -9 at random moments, resume, and again, until the run is complete: its files must equal those of a
run that was never disturbed.

`python tests/test_kill.py 50` prints how many kills landed inside the writing of a checkpoint.
"""
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from corpus.command import prepare_builtin  # noqa: E402

EXACT = (
    "last/model.safetensors",
    "last/optimizer.safetensors",
    "last/trainer_state.json",
    "best/model.safetensors",
    "training_curves.csv",
)


def start(folder: Path, corpus: Path, run: str, steps: int) -> subprocess.Popen:
    """The command of a first start, or --resume if the run's folder is there."""
    arguments = ["--resume", run]
    if not (folder / run).exists():
        arguments = [
            "--size",
            "tiny",
            "--data",
            str(corpus),
            "--out",
            run,
            "--steps",
            str(steps),
            "--seq-len",
            "32",
            "--batch-size",
            "4",
            "--micro-batch",
            "2",
            "--eval-steps",
            "3",
            "--logging-steps",
            "2",
            "--max-eval-samples",
            "4",
            "--device",
            "cpu",
            "--precision",
            "fp32",
        ]
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def kill_and_resume(folder: Path, corpus: Path, kills: int, steps: int, seed: int) -> dict[str, int]:
    """Disturb a run `kills` times, let it end, compare. Returns how many kills were made, and how many left a
    checkpoint half-written.
    """
    done = start(folder, corpus, "whole", steps)
    assert done.wait() == 0, done.stdout.read()
    draw, made = random.Random(seed), {"kills": 0, "inside a checkpoint": 0}
    run = folder / "cut"
    while True:
        process = start(folder, corpus, "cut", steps)
        if made["kills"] < kills:
            if draw.random() < 0.5:  # wait until a checkpoint is being written, then a little longer
                while process.poll() is None and not (run / "last.new").exists():
                    time.sleep(0.001)
                time.sleep(draw.random() * 0.15)
            else:
                for line in process.stdout:
                    if line.startswith(("step ", "continuing")):
                        break
                time.sleep(draw.random() * 1.5)
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                process.wait()
                made["kills"] += 1
                made["inside a checkpoint"] += (run / "last.new").exists()
                continue
        text = process.stdout.read()
        assert process.wait() == 0, text
        if made["kills"] >= kills:
            break
        # it ended before it was killed often enough: from the start again
        for path in sorted(run.rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        run.rmdir()
    for name in EXACT:
        assert (folder / "whole" / name).read_bytes() == (run / name).read_bytes(), name
    rows = [
        [json.loads(line) for line in (path / "log.jsonl").read_text(encoding="utf-8").splitlines()]
        for path in (folder / "whole", run)
    ]
    for one in rows:
        for row in one:
            del row["seconds"]
            row.pop("tokens_per_second", None)
    assert rows[0] == rows[1]
    return made


@pytest.mark.parametrize("kills",
    [pytest.param(3, marks=pytest.mark.ci), pytest.param(50, marks=pytest.mark.slow)])
def test_a_killed_run_ends_as_if_nothing_had_happened(tmp_path, generated, kills):
    made = kill_and_resume(tmp_path, generated, kills, steps=4 * kills, seed=kills)
    assert made["kills"] == kills


if __name__ == "__main__":
    import tempfile
    with tempfile.TemporaryDirectory() as name:
        kills = int(sys.argv[1]) if len(sys.argv) > 1 else 50
        print(kill_and_resume(Path(name), prepare_builtin(Path(name) / "math", kinds=("math",)), kills,
            steps=4 * kills, seed=0))
