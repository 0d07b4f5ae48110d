# SPDX-License-Identifier: Apache-2.0
"""The training steps and evaluations of 20m, 50m and 150m at full size, compiled for a TPU v5e-8 by libtpu's
compile-only client (bench/tpu_compile.py).

Minutes each, so in the slow tier; the step of `tiny` is compiled in test_xla.py. Needs the oracle environment
`xla`.
"""
import functools
import json
import os
import subprocess
from pathlib import Path

import pytest

from params import LIMIT, RECORDED

ROOT = Path(__file__).resolve().parent.parent
PYTHON = Path(os.environ.get("STENTOR_ORACLES", "none")) / "xla" / "bin" / "python"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not PYTHON.is_file(),
        reason="STENTOR_ORACLES names no folder with the environment xla (torch_xla 2.9)",
    ),
]


@functools.cache
def program(size: str, attention: str, *flags: str) -> dict:
    command = [
        str(PYTHON),
        "-m",
        "bench.tpu_compile",
        "--size",
        size,
        "--attention",
        attention,
        *flags,
        "--json",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    print(done.stdout.splitlines()[-1])
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("size", ["20m", "50m", "150m"])
def test_the_defaults_of_a_tpu_fit(size):
    found = program(size, "flash")
    assert found["rows"] == 64 and found["seq_len"] == 4096 and found["sum GiB"] < LIMIT
    assert "all-reduce" in found["collectives"]
    (recorded,) = [row[-1] for row in RECORDED if row[:3] == (size, "torch_xla", "flash")]
    assert found["sum GiB"] == pytest.approx(recorded, rel=0.05)  # what params.py --memory prints


def test_the_attention_of_a_tpu_moves_a_third_of_the_bytes_of_plain_attention():
    assert 3 * program("20m", "flash")["GB moved"] < program("20m", "sdpa")["GB moved"]


@pytest.mark.parametrize("size", ["20m", "50m", "150m"])
def test_an_evaluation_fits_beside_the_moments(size):
    found = program(size, "flash", "--evaluation")
    assert found["program"] == "evaluation" and found["sum GiB"] < LIMIT
    assert found["moments GiB"] > 0.9 * 2 * found["arguments GiB"]
