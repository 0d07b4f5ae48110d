# SPDX-License-Identifier: Apache-2.0
"""Compare precision recipes: tiny in FP32, in plain bf16 autocast and by the cards' recipe, step by step.

    python -m bench.recipes                # 300 steps each, some minutes on two cores
    python -m bench.recipes --recipes fp32,t4-fp16,bf16 --steps 100

Weights, data and learning rates are equal; only the dtypes differ. Runs that round differently drift apart
under any recipe; a second FP32 run, which adds its micro-batches in another order, shows how far. So two
numbers matter: the difference to FP32 over all steps, and the difference at the first step, where the weights
are still equal and only the arithmetic differs.
"""
from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from common import Parser, UserError, add_flags, flag, run
from corpus.command import prepare_builtin
from precision import PRECISIONS


@dataclass(frozen=True)
class Flags:
    """The flags."""

    recipes: str = flag(
        "fp32,bf16,tpu-bf16", "keys of PRECISIONS; the others are compared with the first"
    )
    steps: int = flag(300, "optimizer steps of each run")
    seq_len: int = flag(64, "tokens in a row")
    batch_size: int = flag(8, "rows in a step")
    json: bool = flag(False, "print JSON")


def losses_of(
    recipe: str, options: Flags, corpus: Path, out: Path, micro_batch: int
) -> tuple[list[dict], float]:
    """Rows of the log and seconds of one run of tiny."""
    import train
    start = time.perf_counter()
    train.train(size="tiny", data=str(corpus), out=str(out), device="cpu", precision=recipe,
                steps=options.steps, seq_len=options.seq_len, batch_size=options.batch_size,
                micro_batch=micro_batch, learning_rate=3e-3, eval_steps=options.steps, logging_steps=50,
                max_eval_samples=32, stop_after=options.steps)
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return rows, time.perf_counter() - start


def compared(rows: list[dict], reference: list[dict]) -> dict[str, float]:
    """Differences of a run to the reference: loss and relative gradient norm, validation loss at the end."""
    pairs = [(row, other) for row, other in zip(rows, reference) if "loss" in row]
    loss = [abs(row["loss"] - other["loss"]) for row, other in pairs]
    norm = [abs(row["grad_norm"] / other["grad_norm"] - 1) for row, other in pairs]
    return {
        "first loss": loss[0], "first norm": norm[0], "mean loss": statistics.fmean(loss),
        "largest loss": max(loss), "mean norm": statistics.fmean(norm),
        "validation": rows[-1]["eval_loss"] - reference[-1]["eval_loss"],
    }


def main() -> int:
    """Run all, print the table of differences."""
    parser = Parser(
        "Compare the effect of precision recipes on tiny.", "  python -m bench.recipes --steps 100",
        prog="bench.recipes",
    )
    add_flags(parser, Flags)
    options = Flags(**vars(parser.parse_args()))
    recipes = options.recipes.split(",")
    if unknown := [recipe for recipe in recipes if recipe not in PRECISIONS]:
        raise UserError(f"unknown precision {', '.join(unknown)}; choose from {', '.join(PRECISIONS)}")
    table = {}
    with tempfile.TemporaryDirectory() as folder:
        corpus = prepare_builtin(Path(folder) / "math", kinds=("math",))
        reference, seconds = losses_of(
            recipes[0], options, corpus, Path(folder) / "reference", options.batch_size
        )
        order = max(1, options.batch_size // 2)
        contenders = {
            f"{recipes[0]}, other order": (recipes[0], order),
            **{recipe: (recipe, options.batch_size) for recipe in recipes[1:]},
        }
        took = {recipes[0]: seconds}
        for name, (recipe, micro_batch) in contenders.items():
            rows, took[name] = losses_of(recipe, options, corpus, Path(folder) / name, micro_batch)
            table[name] = compared(rows, reference)
    if options.json:
        print(json.dumps({"differences": table, "seconds": took, "validation": reference[-1]["eval_loss"]}))
        return 0
    print(f"\ntiny, {options.steps} steps of {options.batch_size} x {options.seq_len}; difference to "
          f"{recipes[0]}, whose last validation loss is {reference[-1]['eval_loss']:.4f}; norms are relative")
    names = list(next(iter(table.values())))
    print(f"  {'':<22}" + "".join(f"{name:>14}" for name in names) + f"{'seconds':>10}")
    for name, row in table.items():
        print(f"  {name:<22}" + "".join(f"{row[column]:>14.2e}" for column in names) + f"{took[name]:>10.0f}")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
