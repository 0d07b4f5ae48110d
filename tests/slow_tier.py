# SPDX-License-Identifier: Apache-2.0
"""The slow checks, each with the files that it covers: run those whose files changed since the check last
passed.

    python tests/slow_tier.py list               # what would run, and when each passed
    python tests/slow_tier.py changed --minutes 35   # what .ci/run does: changed ones only, none begun after
                                                     so many minutes
    python tests/slow_tier.py all                # what .ci/run slow does
    python tests/slow_tier.py all kills          # one of them

`slow_tier.json` beside this file holds, for each check, the SHA-256 of its files when it passed, and the
date. It is committed, so a clean clone knows what has been checked; a check that needs a tool which is not
here is left out, by name, and its record stays as it is.
"""
import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RECORD = Path(__file__).with_name("slow_tier.json")
TRAINING = [
    "common.py", "model.py", "train.py", "precision.py", "data.py", "training/job.py",
    "training/resolve.py", "training/log.py",
]
FOLDER = ["model.py", "tokenizer.py", "vocab_files/tokenizer_files.py", "tokenizing/hf_class.py"]
# name -> (test file, covered files, oracle environments of tests/oracles that it needs)
CHECKS = {
    "50 kills": ("test_kill.py", TRAINING, []),
    "memory over 2,000 steps": ("test_train.py", TRAINING, []),
    "10,000 mutations of model folders": (
        "test_fuzz_model.py",
        ["common.py", "model.py"],
        [],
    ),
    "10,000 mutations of vocabularies": ("test_tokenizer_file.py", ["tokenizer.py"], []),
    "10,000 mutations of corpora": ("test_data_fuzz.py", ["common.py", "data.py"], []),
    "memory of a preparation": (
        "test_data_prepare.py",
        ["data.py", "tokenizer.py", "corpus/prepare.py"],
        [],
    ),
    "memory of a training step": ("test_params.py", ["params.py", "model.py"], []),
    "the distribution of speculative decoding": (
        "test_sample_speculate.py",
        ["sample.py", "sampling/speculate.py"],
        [],
    ),
    "the vocabulary trainer on 20 MB": (
        "test_train_vocab.py",
        [
            "tokenizer.py", "tokenizing/trainer.py", "tokenizing/lanes.py", "tokenizing/candidates.py",
            "tokenizing/records.py",
        ],
        [],
    ),
    "GGUF, ONNX, PEFT, 4 bit": (
        "test_ecosystem_tools.py",
        [*FOLDER, "publishing/to_gguf.py", "publishing/to_onnx.py"],
        ["gguf"],
    ),
    "full-size compiles for a TPU": (
        "test_tpu_compile.py",
        [
            "model.py", "train.py", "precision.py", "devices/attention_tpu.py", "bench/tpu_compile.py",
            "training/chunked_loss.py", "devices/xla.py",
        ],
        ["xla"],
    ),
    "TorchTPU on a CPU": (
        "test_torchtpu.py",
        ["model.py", "train.py", "precision.py", "devices/torchtpu.py", "devices/open.py"],
        ["torchtpu"],
    ),
    "pages in a browser": (
        "test_browser.py",
        ["sample.py", "sampling/web.py", "sampling/web_views.py", "sampling/explore.py", "sampling/arena.py"],
        [],
    ),
}

# a quarter of an hour and more: `all` runs them, `changed` does not
ONLY_BY_HAND = ["full-size compiles for a TPU", "TorchTPU on a CPU"]


def digest(name: str) -> str:
    """SHA-256 of what a check covers and of the check itself."""
    test, covered, oracles = CHECKS[name]
    files = [f"tests/{test}", *covered, *(f"tests/oracles/{oracle}.txt" for oracle in oracles)]
    return hashlib.sha256(b"".join((ROOT / file).read_bytes() for file in sorted(files))).hexdigest()


def run(name: str) -> str:
    """Run one check: "passed", "failed", or "left out" where all of it skipped."""
    test, _, oracles = CHECKS[name]
    folder = os.environ.get("STENTOR_ORACLES")
    if folder and oracles:
        subprocess.run(["sh", str(ROOT / "tests/oracles/make"), folder, *oracles], check=True)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-m", "slow", "-rs", "--durations=5", f"tests/{test}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    print(done.stdout, flush=True)
    if done.returncode not in (0, 5):
        return "failed"
    last = done.stdout.strip().splitlines()[-1]
    return "passed" if re.search(r"\d passed", last) and "skipped" not in last else "left out"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("which", choices=["list", "changed", "all"])
    parser.add_argument("names", nargs="*", help="words that a check's name contains (default: all checks)")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no check after so many minutes")
    options = parser.parse_args()
    record = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else {}
    chosen = [name for name in CHECKS if not options.names or any(word in name for word in options.names)]
    results, started = {}, time.monotonic()
    for name in chosen:
        passed = record.get(name, {})
        unchanged = passed.get("sha256") == digest(name)
        if options.which == "list" or (options.which == "changed" and unchanged):
            results[name] = (
                f"{'unchanged since it' if unchanged else 'changed; it last'} passed on "
                f"{passed.get('date', 'no day on record')}"
            )
            continue
        if options.which == "changed" and name in ONLY_BY_HAND:
            results[name] = "changed, and left out: too long for this; run .ci/run slow"
            continue
        if time.monotonic() - started > 60 * options.minutes:
            results[name] = "left out: no time"
            continue
        print(f"-- {name}", flush=True)
        results[name] = run(name)
        if results[name] == "passed":
            record[name] = {"date": time.strftime("%Y-%m-%d"), "sha256": digest(name)}
            RECORD.write_text(json.dumps(record, indent=1) + "\n")
    print("\n".join(f"{name}: {result}" for name, result in results.items()))
    return int("failed" in results.values())


if __name__ == "__main__":
    sys.exit(main())
