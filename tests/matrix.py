# SPDX-License-Identifier: Apache-2.0
"""Run the fast tier in many environments and print one row for each.

    python tests/matrix.py                 # every row; about 2.5 minutes each on 2 cores
    python tests/matrix.py --list          # the rows
    python tests/matrix.py oldest blank    # rows whose name contains one of these words

Each row runs README's test command in a clone of this checkout (the last commit), with its own home folder
and its own random order of the tests, whose seed is the number of the row.
Environments with other versions are made once under --environments. Exit code 1 if a test failed in any row.
"""
from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# The ends of the range in pyproject.toml: the oldest versions together, and the newest.
OLDEST = ["torch==2.9.0", "numpy==1.26.4", "safetensors==0.4.3", "tqdm==4.60.0", "matplotlib==3.7.5"]
NEWEST = ["torch==2.14.1", "numpy", "safetensors", "tqdm", "matplotlib"]
TESTING = ["pytest>=8", "pytest-xdist>=3.5", "pytest-random-order>=1.1"]


@dataclass(frozen=True)
class Row:
    """One environment. Without `packages` it has the versions of the interpreter that runs this script."""

    name: str
    packages: tuple[str, ...] | None = None
    variables: dict[str, str] = field(default_factory=dict)
    umask: int = 0o022
    folder: str = "checkout"
    unprivileged: bool = False


ROWS = [
    Row("oldest versions", tuple(OLDEST)),
    Row("newest versions", tuple(NEWEST)),
    Row("this interpreter"),
    Row("ATEN_CPU_CAPABILITY=default", variables={"ATEN_CPU_CAPABILITY": "default"}),
    Row("AVX2 without bf16", variables={"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}),
    Row("one thread", variables={"OMP_NUM_THREADS": "1"}),
    Row("eight threads", variables={"OMP_NUM_THREADS": "8"}),
    Row("LC_ALL=C", variables={"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
    Row("time zone +14", variables={"TZ": "Pacific/Kiritimati"}),
    Row("umask 077", umask=0o077),
    Row("a user without rights", unprivileged=True),
    Row("a path with a blank", folder="a check out"),
    Row("another random order"),
    Row("a third random order"),
]


def python_with(packages: tuple[str, ...] | None, environments: Path) -> Path:
    """The interpreter of an environment with exactly these packages, made if it is not there yet."""
    folder = environments / re.sub(r"[^\w.]+", "-", packages[0] if packages else "this")
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        options = [] if packages else ["--system-site-packages"]
        subprocess.run([sys.executable, "-m", "venv", *options, str(folder)], check=True)
        if not packages:                # a venv inside a venv sees the system's packages, not its parent's
            parent = next(Path(sys.prefix).glob("lib/python*/site-packages"))
            own = next(folder.glob("lib/python*/site-packages"))
            (own / "parent.pth").write_text(f"{parent}\n")
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*install, *(packages or ()), *TESTING], check=True)
        (folder / "complete").touch()
    return python


def run_row(row: Row, environments: Path, base: Path) -> tuple[str, bool]:
    """Run the fast tier as this row says: its line of the table, and whether all tests passed."""
    python = python_with(row.packages, environments)
    home = base / "home"
    checkout = base / row.folder
    home.mkdir(parents=True)
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(checkout)], check=True)
    others = ("LC_", "LANG", "PYTEST")
    variables = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    variables |= {"HOME": str(home), "TMPDIR": str(home), "LANG": "C.UTF-8"}
    variables["PATH"] = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    seed = ROWS.index(row) + 1
    command = [str(python), "-m", "pytest", "--random-order", f"--random-order-seed={seed}"]
    if row.unprivileged and os.geteuid() == 0:
        subprocess.run(["chown", "-R", "nobody", str(base)], check=True)
        base.chmod(0o755)
        command = ["setpriv", "--reuid=nobody", "--clear-groups", *command]
    started = time.monotonic()
    done = subprocess.run(
        command, cwd=checkout, env=variables | row.variables, umask=row.umask,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", errors="replace",
    )
    minutes = (time.monotonic() - started) / 60
    counts = re.findall(r"(\d+) (passed|failed|errors?|skipped)", done.stdout)
    numbers = {what.rstrip("s"): number for number, what in counts}
    failed = re.findall(r"^(?:FAILED|ERROR) (.+?)(?: - |$)", done.stdout, flags=re.MULTILINE)
    versions = subprocess.run(
        [str(python), "-c", "import numpy, torch; print(torch.__version__, numpy.__version__)"],
        capture_output=True, text=True, check=True,
    ).stdout.split()
    line = (
        f"| {row.name} | {' / '.join(versions)} | {seed} | {numbers.get('passed', 0)} | {len(failed)} | "
        f"{numbers.get('skipped', 0)} | {minutes:.1f} min |"
    )
    if done.returncode and not failed:
        failed = [f"pytest ended with {done.returncode}", *done.stdout.splitlines()[-5:]]
    return "\n".join([line, *(f"    {name}" for name in failed)]), not failed


def main() -> int:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("names", nargs="*", help="words of the rows to run (default: all)")
    parser.add_argument("--list", action="store_true", help="print the rows and stop")
    parser.add_argument("--environments", type=Path, default=Path(tempfile.gettempdir()) / "stentor-matrix",
                        help="where environments are kept (default: %(default)s)")
    options = parser.parse_args()
    rows = [row for row in ROWS if not options.names or any(word in row.name for word in options.names)]
    if options.list or not rows:
        print("\n".join(row.name for row in rows or ROWS))
        return 0 if rows else 2
    print("| environment | torch / numpy | order | passed | failed | skipped | time |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    results = []
    for row in rows:
        with tempfile.TemporaryDirectory(prefix="stentor-", ignore_cleanup_errors=True) as name:
            line, passed = run_row(row, options.environments, Path(name).resolve())
        print(line, flush=True)
        results.append(passed)
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
