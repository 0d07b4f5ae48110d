# SPDX-License-Identifier: Apache-2.0
"""Two processes see the same global batches as one and, to rounding, lose the same: DistributedDataParallel over gloo on the CPU."""
import json
import os
import subprocess
import sys
from pathlib import Path

import data

ROOT = Path(__file__).resolve().parent.parent


def test_two_processes_equal_one(tmp_path):
    corpus = data.prepare_builtin(tmp_path / "math", kinds=("math",))
    arguments = [str(ROOT / "train.py"), "--size", "tiny", "--data", str(corpus), "--device", "cpu", "--precision", "fp32", "--steps", "6",
                 "--seq-len", "32", "--batch-size", "8", "--micro-batch", "2", "--eval-steps", "3", "--max-eval-samples", "8", "--out"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    starts = {"one": [sys.executable], "two": [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]}
    rows = {}
    for name, start in starts.items():
        done = subprocess.run([*start, *arguments, str(tmp_path / name)], capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=300)
        assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
        rows[name] = [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
    assert "2 in parallel" in done.stdout and done.stdout.count("first loss") == 1
    assert len(rows["one"]) == len(rows["two"]) == 8
    for one, two in zip(rows["one"], rows["two"]):
        assert (one["step"], one["tokens"]) == (two["step"], two["tokens"])
        for key in {"loss", "grad_norm", "eval_loss"} & set(one):
            assert abs(one[key] - two[key]) < 2e-5, (one, two)
