# SPDX-License-Identifier: Apache-2.0
"""Tiny Shakespeare, beside nanoGPT's demonstration for a CPU: bits per byte on the last tenth of a text.

    python -m bench.shakespeare input.txt
    python -m bench.shakespeare input.txt --nanogpt ../nanoGPT

`tiny` trains on the first 90% of the text with the built-in vocabulary; the text keeps its lines. A few steps
are timed first, then the schedule gets as many steps as fit into --seconds. With --nanogpt, the commands of
nanoGPT's README for a CPU run in a copy of that folder, on the same machine. Its loss is in nats per
character; divided by ln 2 and by the bytes of a character it is in bits per byte.
"""
from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import Parser, UserError, positive, run
from corpus.documents import path_source, read_text
from corpus.prepare import prepare
from data import clean_text
from evaluate import perplexity
from model import Llama
from tokenizer import load as load_tokenizer
from train import train
from training.log import read_log

TIMED_STEPS = 40
RESERVE = 4.0  # seconds for opening the run, the last evaluation and saving
# The command of nanoGPT's README for a CPU ("I only have a macbook").
NANOGPT = ("train.py config/train_shakespeare_char.py --device=cpu --compile=False --eval_iters=20"
           " --log_interval=1 --block_size=64 --batch_size=12 --n_layer=4 --n_head=4 --n_embd=128"
           " --max_iters=2000 --lr_decay_iters=2000 --dropout=0.0").split()
# Its prepare.py imports `requests` for a download, which is not needed here.
PREPARE = ("import runpy, sys, types; sys.modules['requests'] = types.ModuleType('requests'); "
           "runpy.run_path('data/shakespeare_char/prepare.py', run_name='__main__')")


def parts(text: str) -> tuple[str, str]:
    """The first 90% of the characters of a text, and the rest, as nanoGPT divides it."""
    cut = int(0.9 * len(text))
    return text[:cut], text[cut:]


def ours(text: str, folder: Path, seconds: float, settings: dict) -> dict:
    """Train `tiny` for `seconds` on the first part of a text and judge it on the rest.

    Returns bits_per_byte, the seconds of the training, its steps, tokens and validation loss.
    """
    first, rest = parts(text)
    (folder / "first.txt").write_text(first, encoding="utf-8")
    corpus = prepare([path_source("text", folder / "first.txt")], folder / "corpus", validation_share=0.02)
    settings = {"size": "tiny", "data": str(corpus), **settings}
    timed = train(**settings, out=str(folder / "timed"), steps=TIMED_STEPS, eval_steps=TIMED_STEPS)
    speeds = [row["tokens_per_second"] for row in read_log(timed.folder / "log.jsonl") if "loss" in row]
    record = json.loads((timed.folder / "run.json").read_text())["settings"]
    step_seconds = record["seq_len"] * record["batch_size"] / speeds[-1]
    steps = max(TIMED_STEPS, int((seconds - RESERVE) / step_seconds))
    start = time.monotonic()
    history = train(**settings, out=str(folder / "run"), steps=steps, eval_steps=steps)
    spent = time.monotonic() - start
    best = history.folder / "best"
    model, tokenizer = Llama.from_pretrained(best).eval(), load_tokenizer(best)
    found = perplexity(model, tokenizer, clean_text(rest, preserve_linebreaks=True), record["seq_len"])
    tokens = steps * record["seq_len"] * record["batch_size"]
    return {"bits_per_byte": found["bits_per_byte"], "seconds": spent, "steps": steps, "tokens": tokens}


def nanogpt(text: str, source: Path, folder: Path) -> dict:
    """nanoGPT's CPU demonstration in a copy of its folder: bits_per_byte (its own estimate) and seconds."""
    if not (source / "config" / "train_shakespeare_char.py").is_file():
        raise UserError(f"{source}: not nanoGPT's folder (config/train_shakespeare_char.py is missing)")
    home = shutil.copytree(source, folder / "nanogpt", ignore=shutil.ignore_patterns(".git", "out*"))
    (home / "data" / "shakespeare_char" / "input.txt").write_text(text, encoding="utf-8")
    subprocess.run([sys.executable, "-c", PREPARE], cwd=home, check=True, capture_output=True)
    start = time.monotonic()
    done = subprocess.run([sys.executable, *NANOGPT], cwd=home, capture_output=True, text=True)
    losses = re.findall(r"val loss (\d+\.\d+)", done.stdout)
    if done.returncode or not losses:
        raise UserError(f"nanoGPT did not finish: {' '.join(done.stderr.split())[-300:]}")
    bytes_per_character = len(text.encode()) / len(text)
    bits = float(losses[-1]) / math.log(2) / bytes_per_character
    spent = time.monotonic() - start
    return {"bits_per_byte": bits, "seconds": spent, "steps": 2000, "tokens": 2000 * 12 * 64}


def main() -> int:
    """The command line."""
    parser = Parser("Train on the first 90% of a text for a given time and judge on the rest.",
                    "  python -m bench.shakespeare input.txt --nanogpt ../nanoGPT")
    parser.add_argument("text", type=Path, help="the text, for example tiny Shakespeare's input.txt")
    parser.add_argument("--nanogpt", type=Path, metavar="DIR", help="nanoGPT's folder, to run its CPU demo")
    parser.add_argument("--seconds", type=positive, default=75, help="time of the training (default: 75)")
    parser.add_argument("--seed", type=int, default=42, help="seed (default: 42)")
    parser.add_argument("--learning-rate", type=float, help="peak rate (default: the recipe's)")
    parser.add_argument("--seq-len", type=int, help="tokens of a row (default: the recipe's)")
    parser.add_argument("--batch-size", type=int, help="rows of a step (default: the recipe's)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    if not args.text.is_file():
        raise UserError(f"{args.text}: no such file")
    text = read_text(args.text)
    given = {name: getattr(args, name) for name in ("learning_rate", "seq_len", "batch_size")}
    settings = {"seed": args.seed, **{name: value for name, value in given.items() if value is not None}}
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        if args.nanogpt:
            found["nanoGPT, 2,000 iterations"] = nanogpt(text, args.nanogpt, Path(folder))
        found["tiny"] = ours(text, Path(folder), args.seconds, settings)
    if args.json:
        print(json.dumps(found))
        return 0
    print(f"\n{args.text}: trained on the first 90%, bits per byte on the last 10%")
    for name, row in found.items():
        print(f"  {name:28}{row['bits_per_byte']:7.3f} bits per byte in {row['seconds']:5.0f} s, "
              f"{row['steps']:,} steps, {row['tokens']:,} tokens")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
