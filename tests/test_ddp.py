# SPDX-License-Identifier: Apache-2.0
"""Two processes see the same global batches as one and, to rounding, lose the same: DistributedDataParallel
over gloo on the CPU.
"""
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common import folder_problem

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.ci
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_two_processes_equal_one(tmp_path, two_sources, compiled):
    """Also with torch.compile and the fused AdamW in the two, as several GPUs do it."""
    if compiled and not shutil.which("g++"):
        pytest.skip("torch.compile needs a C++ compiler")
    arguments = [
        str(ROOT / "train.py"),
        "--size",
        "tiny",
        "--data",
        str(two_sources),
        "--device",
        "cpu",
        "--precision",
        "fp32",
        "--steps",
        "6",
        "--learning-rate",
        "1e-5",
        "--seq-len",
        "32",
        "--batch-size",
        "8",
        "--micro-batch",
        "2",
        "--eval-steps",
        "3",
        "--max-eval-samples",
        "8",
        "--out",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    starts = {
        "one": [sys.executable],
        "two": [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"],
    }
    flags = {"one": [], "two": ["--fused", "--compile"] if compiled else []}
    rows = {}
    for name, start in starts.items():
        done = subprocess.run(
            [*start, *arguments, str(tmp_path / name), *flags[name]],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment,
            timeout=900,
        )
        assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
        rows[name] = [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
    assert "2 in parallel" in done.stdout and done.stdout.count("first loss") == 1
    assert len(rows["one"]) == len(rows["two"]) == 8
    for one, two in zip(rows["one"], rows["two"]):
        assert (one["step"], one["tokens"]) == (two["step"], two["tokens"])
        for key in {"loss", "grad_norm", "eval_loss"} & set(one):
            # The two add the rows in another order: a few roundings a step, each at most 2^-24 of the sum.
            # The rate is low, because AdamW divides a gradient by its own size: a rounding moves a weight
            # whose gradient is near 0 by up to the rate.
            assert abs(one[key] - two[key]) < 200 * 2**-23 * two[key], (one, two)
        assert one["train_losses"] == pytest.approx(two["train_losses"], rel=1e-4)


@pytest.mark.ci
@pytest.mark.skipif(os.name != "posix", reason="torchrun passes signals on where the system is POSIX")
def test_a_signal_stops_both_processes_at_the_same_step(tmp_path, corpus):
    """torchrun hands SIGTERM on to its processes; they agree on the step, save, and end long before it would
    kill them.
    """
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        str(ROOT / "train.py"),
        "--size",
        "tiny",
        "--data",
        str(corpus),
        "--out",
        "run",
        "--device",
        "cpu",
        "--precision",
        "fp32",
        "--steps",
        "100000",
        "--seq-len",
        "32",
        "--batch-size",
        "4",
        "--eval-steps",
        "100000",
        "--logging-steps",
        "2",
        "--max-eval-samples",
        "8",
    ]
    with open(tmp_path / "errors", "w") as errors:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for line in process.stdout:
            if line.startswith("step 6/"):
                break
        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        rest = process.stdout.read()
        process.wait()
    assert time.monotonic() - begun < 25 and "with everything saved" in rest, (
        rest + (tmp_path / "errors").read_text(encoding="utf-8")[-2000:]
    )
    assert folder_problem(tmp_path / "run/last") is None
    assert json.loads((tmp_path / "run/last/trainer_state.json").read_text(encoding="utf-8"))["step"] >= 6
