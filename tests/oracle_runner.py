# SPDX-License-Identifier: Apache-2.0
"""Runs an oracle: a script of `oracles/`, in another Python environment and outside the project's folder.

Another environment, because two versions of transformers cannot share one; outside the folder, because the
project's `evaluate.py` would shadow a package of that name. `STENTOR_ORACLES` names a folder of virtual
environments (`tests/oracles/make` makes them). Without it an oracle runs on the Python of the tests if that
has the packages, else the test is skipped with the reason.
"""
from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent / "oracles"
PACKAGES = {  # environment -> what must be there for a test to use the Python of the tests instead
    "tf5": {"transformers": "5."},
    "tf4": {"transformers": "4."},
    "gguf": {"llama-cpp-python": "0."},
}


def installed(package: str) -> str:
    """Version of a package in the environment of the tests, "" if it has none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def python_of(environment: str, needs: tuple[str, ...] = ()) -> str:
    """The interpreter of an oracle environment; skips where there is none that has the packages."""
    folder = os.environ.get("STENTOR_ORACLES")
    if folder:
        python = Path(folder).resolve() / environment / "bin" / "python"
        if python.is_file():
            return str(python)
    wanted = {**PACKAGES[environment], **dict.fromkeys(needs, "")}
    missing = [
        f"{name} {version}x".strip()
        for name, version in wanted.items()
        if not installed(name) or not installed(name).startswith(version)
    ]
    if missing:
        pytest.skip(
            f"{', '.join(missing)} not installed here, and STENTOR_ORACLES names no folder with the "
            f"environment {environment} "
            "(made by tests/oracles/make)"
        )
    return sys.executable


def oracle(
    environment: str,
    script: str,
    *arguments: object,
    work: Path,
    needs: tuple[str, ...] = (),
    timeout: int = 600,
) -> dict:
    """Run `tests/oracles/SCRIPT ARGUMENTS` in `work`, offline, on one thread; the JSON object that it prints
    as its last line.
    """
    home = work / "home"
    home.mkdir(exist_ok=True)
    keep = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("STENTOR_", "PYTHON", "HF_", "TRANSFORMERS_"))
    }
    quiet = {
        "HOME": str(home), "HF_HOME": str(home / "hf"), "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1",
    }
    command = [python_of(environment, needs), str(HERE / script), *map(str, arguments)]
    done = subprocess.run(
        command, cwd=home, env=keep | quiet, capture_output=True, text=True, timeout=timeout
    )
    assert done.returncode == 0, (
        f"{script} in {environment} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    )
    return json.loads(done.stdout.strip().splitlines()[-1])
