# SPDX-License-Identifier: Apache-2.0
"""The log of a run: log.jsonl (a row per optimizer step, a row per evaluation), the line on the terminal, and when a deadline is near.

Kept out of train.py because nothing here changes a weight. One thing is worth knowing: a step's loss and gradient norm stay on the device as
tensors until `flush` reads those of many steps in one transfer, so that the host does not wait for the device at every step.
"""
from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Iterator

import torch
from torch import Tensor

from common import CheckFailed, atomic_write
from training.training_curves import write_curves

if TYPE_CHECKING:
    from training.open_job import Job
    from train import History, State

SPIKE = 4.0                                                       # times the usual gradient norm
MEMORY = 0.98                                                     # of the running mean that "usual" is


class Log:
    """Rows on their way to log.jsonl and to the history of this call."""

    def __init__(self, job: Job, history: History, state: State, started: float):
        self.job, self.history, self.state, self.started = job, history, state, started
        self.file = job.folder / "log.jsonl"
        self.pending: list[tuple[int, Tensor, Tensor, float]] = []
        self.clock = time.monotonic()
        self.graphs = 0
        self.slowest = {"step": 0.0, "evaluation": 0.0}

    def add(self, step: int, loss: Tensor, norm: Tensor, lr: float) -> None:
        """Keep one step's numbers where they are, on the device, until the next flush."""
        self.pending.append((step, loss, norm, lr))

    def flush(self, bar: Any) -> None:
        """Read the kept numbers in one transfer, check them, write their rows. Raises CheckFailed for a number that is not finite."""
        numbers = [number for _, loss, norm, _ in self.pending for number in (loss, norm)]
        numbers = torch.stack(self.job.device.read(numbers)).float()
        if self.job.device.world > 1:
            torch.distributed.all_reduce(numbers)
            numbers = numbers / self.job.device.world
        numbers = numbers.cpu().tolist()
        now = time.monotonic()
        per_step = self.job.tokens_per_step()
        speed = round(len(self.pending) * per_step / max(now - self.clock, 1e-9), 1)
        graphs = self.job.device.compiled_graphs()
        if graphs != self.graphs:                                 # XLA compiled something in this window: no throughput
            speed, self.graphs = None, graphs
        self.slowest["step"] = max(self.slowest["step"], (now - self.clock) / len(self.pending))
        rows, bad = [], None
        for (step, _, _, lr), loss, norm in zip(self.pending, numbers[0::2], numbers[1::2]):
            row = {"step": step, "tokens": step * per_step, "loss": loss, "grad_norm": norm, "lr": lr,
                   "tokens_per_second": speed, "seconds": round(now - self.started, 2)}
            if not self.judge(row):
                bad = row
                break
            rows.append(row)
            self.history.losses.append(loss)
        self.pending = []
        self.write(rows)
        if bad:
            self.stop_nonfinite(bad)
        self.clock = time.monotonic()
        self.show(rows[-1], bar)

    def judge(self, row: dict) -> bool:
        """Mark a row whose step was skipped, or whose gradient norm is a spike; False where the run has to stop.

        A spike is SPIKE times the running mean of the norms before it, which is part of the trainer's state and so survives a resume.
        """
        norm, usual = row["grad_norm"], self.state.usual_norm
        if math.isfinite(row["loss"]) and math.isfinite(norm):
            if usual and norm > SPIKE * usual:
                row["spike"] = True
                norm = SPIKE * usual
            self.state.usual_norm = MEMORY * usual + (1 - MEMORY) * norm if usual else norm
            return True
        # Under loss scaling a gradient may overflow: the scale was too large. A loss that is not finite, or scale 1, has another cause.
        overflow = self.job.recipe.loss_scaling and math.isfinite(row["loss"]) and self.state.loss_scale > 1
        if overflow or self.job.config.skip_nonfinite:
            row.update({"loss": finite_or_none(row["loss"]), "grad_norm": finite_or_none(norm), "skipped": True})
            return True
        return False

    def stop_nonfinite(self, row: dict) -> None:
        """Raise CheckFailed with what is known about a step whose loss or gradient is not finite."""
        usual = f"; the usual norm was {self.state.usual_norm:.3g}" if self.state.usual_norm else ""
        raise CheckFailed(f"step {row['step']}: loss {row['loss']}, gradient norm {row['grad_norm']}, learning rate {row['lr']:.2e}: not finite"
                          f"{usual}. The last good checkpoint is untouched: python train.py --resume {self.job.folder} (a new run may take "
                          "--skip-nonfinite, or a lower --learning-rate)")

    def show(self, row: dict, bar: Any) -> None:
        """The newest numbers beside the progress bar, or on a line of their own where there is no terminal."""
        words = [f"{name} {row[key]:.4g}" for name, key in (("loss", "loss"), ("norm", "grad_norm"), ("lr", "lr")) if row[key] is not None]
        if row["tokens_per_second"]:
            words.append(f"{row['tokens_per_second']:,.0f} tok/s")
        if self.job.device.kind == "xla":
            words.append(f"compiled graphs {self.graphs}")
        bar.set_postfix_str("  ".join(words))
        if bar.disable:
            self.job.say(f"step {row['step']}/{self.job.end()}  {'  '.join(words)}")

    def evaluation(self, step: int, loss: float, note: str, seconds: float) -> None:
        """Write the row of one evaluation, which took `seconds`, and draw table and plot again."""
        row = {"step": step, "tokens": step * self.job.tokens_per_step(), "eval_loss": loss, "eval_ppl": math.exp(min(loss, 700)), "note": note,
               "seconds": round(time.monotonic() - self.started, 2)}
        self.history.evals.append(row)
        self.write([row])
        if self.job.device.rank == 0:
            write_curves(self.job.folder, list(read_log(self.file)), self.job.tokens_per_epoch())
        self.slowest["evaluation"] = max(self.slowest["evaluation"], seconds)
        self.clock = time.monotonic()
        self.job.say(f"step {step}: validation loss {loss:.4f}, perplexity {row['eval_ppl']:.2f}{'  ' + note if note else ''}")

    def deadline_is_near(self) -> bool:
        """Whether another step, then a save and an evaluation, might end after --deadline (with a tenth of it to spare, at most ten seconds).

        Before the first evaluation its time is taken to be that of as many training tokens, which is about three times too much.
        """
        if self.job.config.deadline is None:
            return False
        now = time.monotonic()
        per_step = max(self.slowest["step"], (now - self.clock) / max(1, len(self.pending)))
        evaluation = self.slowest["evaluation"] or per_step * self.job.validation_tokens() / self.job.tokens_per_step()
        needed = 2 * evaluation + 4 * per_step + min(10, self.job.config.deadline / 10)
        return now - self.started + needed > self.job.config.deadline

    def write(self, rows: list[dict]) -> None:
        """Append rows to log.jsonl; the first of several processes does."""
        if self.job.device.rank == 0:
            with open(self.file, "a", encoding="utf-8") as file:
                file.write("".join(json.dumps(row) + "\n" for row in rows))
                file.flush()
                os.fsync(file.fileno())                           # a checkpoint must never be newer than its log


def finite_or_none(value: float) -> float | None:
    """JSON has no word for infinity or nan."""
    return value if math.isfinite(value) else None


def read_log(file: Path) -> Iterator[dict]:
    """The rows of a log.jsonl, without lines that were cut or damaged."""
    if file.is_file():
        with open(file, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                try:
                    row = json.loads(line)
                except ValueError:
                    continue
                if isinstance(row, dict) and isinstance(row.get("step"), int) and ("eval_loss" in row or "loss" in row):
                    yield row


def cut_log(file: Path, step: int) -> None:
    """Drop what a run wrote after its checkpoint at `step`: later steps, and evaluations at this one, which are made again."""
    rows = [row for row in read_log(file) if row["step"] < step + ("loss" in row)]
    atomic_write(file, "".join(json.dumps(row) + "\n" for row in rows))
