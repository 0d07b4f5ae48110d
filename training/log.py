# SPDX-License-Identifier: Apache-2.0
"""The log of a run: log.jsonl, the lines on the terminal, and when a deadline is near.

log.jsonl has a row per optimizer step and a row per evaluation. A step's loss and gradient norm stay on the
device as tensors until `flush` reads those of many steps in one transfer, so that the host does not wait for
the device at every step.
"""
from __future__ import annotations

import json
import math
import os
import statistics
import textwrap
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Iterator

import torch
from torch import Tensor

from common import (
    CheckFailed, atomic_write, colour, json_lines, naming, read_json, text_width, wrapped,
)
from data import source_name
from model import beside_uniform, shown_perplexity
from training.curves import by_source, write_curves
from training.job import History, Job, State

SPIKE = 4.0                                                       # times the usual gradient norm
MEMORY = 0.98                                                     # weight of the past in the usual norm
EARLY = (1, 4)                                                    # these steps of a call are logged too
RECENT = 50                                                       # steps in a source's training loss


@dataclass
class Log:
    """Rows on their way to log.jsonl and to the history of this call, which began at `started`."""

    job: Job
    history: History
    state: State
    started: float
    pending: list[tuple[int, Tensor, Tensor, float, Tensor]] = field(default_factory=list)
    clock: float = field(default_factory=time.monotonic)          # when the last flush or evaluation ended
    graphs: int = 0                                               # compiled so far
    time_said: bool = False
    slowest_step: float = 0.0                                     # seconds
    slowest_evaluation: float = 0.0

    @property
    def file(self) -> Path:
        return self.job.folder / "log.jsonl"

    def due(self) -> bool:
        """Whether the log is written after this step: every --logging-steps, and early in each call."""
        steps = len(self.history.losses) + len(self.pending)
        return steps in EARLY or self.state.step % self.job.settings.logging_steps == 0

    def add(self, step: int, loss: Tensor, norm: Tensor, lr: float, rows: Tensor) -> None:
        """Keep one step's numbers where they are, on the device, until the next flush.

        `rows` (B,) are the losses of the rows of this process.
        """
        self.pending.append((step, loss, norm, lr, rows))

    def flush(self, bar: Any) -> None:
        """Read the kept numbers, check them, write their rows.

        Raises CheckFailed for a number that is not finite.
        """
        numbers = [number for _, loss, norm, _, _ in self.pending for number in (loss, norm)]
        numbers = self.mean(torch.stack(self.job.device.read(numbers)).float()).cpu().tolist()
        of_sources = self.source_losses()
        now = time.monotonic()
        per_step = self.job.tokens_per_step()
        seconds = max(now - self.clock, 1e-9) / len(self.pending)
        speed = round(per_step / seconds, 1)
        graphs = self.job.device.compiled_graphs()
        if graphs != self.graphs:                                 # part of the time was compiling
            speed, self.graphs = None, graphs
        if self.history.losses:                                   # the first step also warms up or compiles
            self.slowest_step = max(self.slowest_step, seconds)
        rows, bad = [], None
        for (step, _, _, lr, _), loss, norm in zip(self.pending, numbers[0::2], numbers[1::2]):
            row = {"step": step, "tokens": step * per_step, "loss": loss, "grad_norm": norm, "lr": lr,
                   "tokens_per_second": speed, "seconds": round(now - self.started, 2)}
            row |= {"train_losses": finite_or_none(of_sources[step])} if of_sources else {}
            if not self.judge(row):
                bad = row
                break
            rows.append(row)
            self.history.losses.append(loss)
        self.pending = []
        self.write(rows)
        if bad:
            usual = f"; the usual norm was {self.state.usual_norm:.3g}" if self.state.usual_norm else ""
            raise CheckFailed(
                f"step {bad['step']}: loss {bad['loss']}, gradient norm {bad['grad_norm']}, "
                f"learning rate {bad['lr']:.2e}: not finite{usual}. {after_nonfinite(self.job)}")
        self.clock = time.monotonic()
        self.show(rows[-1], bar)
        if speed and not self.time_said and len(self.history.losses) > 1:
            self.say_time_left(seconds)

    def mean(self, numbers: Tensor) -> Tensor:
        """The mean over the processes."""
        if self.job.device.world == 1:
            return numbers
        torch.distributed.all_reduce(numbers)
        return numbers / self.job.device.world

    def source_losses(self) -> dict[int, dict[str, float]]:
        """Pending step -> source -> mean loss of its rows in that step; {} for a corpus of one source.

        A row of a batch comes from one source, and the same step of a run always from the same ones.
        """
        device, corpus = self.job.device, self.job.corpus
        if len(corpus.names) == 1:
            return {}
        losses = torch.stack(device.read([rows for *_, rows in self.pending])).float()        # (steps, rows)
        sums = torch.zeros(2, len(losses), len(corpus.names))     # of losses and of rows: (2, steps, sources)
        for i, (step, *_) in enumerate(self.pending):
            here = torch.tensor(corpus.sources(step - 1, device.rank, device.world))          # (rows,)
            sums[0, i].index_add_(0, here, losses[i].cpu())                                   # (sources,)
            sums[1, i] = here.bincount(minlength=len(corpus.names))                           # (sources,)
        means = self.mean(sums.to(losses.device)).tolist()
        return {step: {name: loss / rows for name, loss, rows in zip(corpus.names, *pair) if rows}
                for (step, *_), *pair in zip(self.pending, *means)}

    def judge(self, row: dict) -> bool:
        """Mark a row whose step was skipped, or whose gradient norm is a spike; False if the run has to stop.

        A spike is SPIKE times the running mean of the norms before it. That mean is part of the trainer's
        state, so a resumed run marks the same rows.
        """
        norm, usual = row["grad_norm"], self.state.usual_norm
        if math.isfinite(row["loss"]) and math.isfinite(norm):
            if usual and norm > SPIKE * usual:
                row["spike"] = True
                norm = SPIKE * usual
            self.state.usual_norm = MEMORY * usual + (1 - MEMORY) * norm if usual else norm
            return True
        # Under loss scaling a gradient may overflow because the scale is too large. A loss that is not
        # finite, or a gradient at a scale of 1, has another cause.
        scaled = self.job.precision.loss_scaling and self.state.loss_scale > 1
        if scaled and math.isfinite(row["loss"]) or self.job.settings.skip_nonfinite:
            row |= {"loss": finite_or_none(row["loss"]), "grad_norm": finite_or_none(norm), "skipped": True}
            return True
        return False

    def show(self, row: dict, bar: Any) -> None:
        """The newest numbers beside the progress bar, or all of them on a line where there is no terminal."""
        speed = [f"{row['tokens_per_second']:,.0f} tokens/s"] if row["tokens_per_second"] else []
        if not bar.disable:
            loss = [f"loss {row['loss']:.3f}"] if row["loss"] is not None else []
            bar.set_postfix_str(", ".join(loss + speed))
            return
        names = {"loss": "loss", "norm": "grad_norm", "lr": "lr"}
        words = [f"{name} {row[key]:.4g}" for name, key in names.items() if row[key] is not None]
        graphs = [f"compiled graphs {self.graphs}"] if self.job.device.kind == "xla" else []
        self.job.say("  ".join([f"step {row['step']}/{self.job.end()}", *words, *speed, *graphs]))

    def say_time_left(self, per_step: float) -> None:
        """Say once how long the rest of this call will take, from the `per_step` seconds of its first steps.

        An evaluation is counted as the forward pass, a third of a step, over its tokens.
        """
        self.time_said = True
        end, every = self.job.end(), self.job.settings.eval_steps
        evaluations = end // every - self.state.step // every
        in_steps = evaluations * self.job.validation_tokens() / self.job.tokens_per_step() / 3
        seconds = per_step * (end - self.state.step + in_steps)
        if seconds >= 5:
            self.job.say(f"about {rounded_time(seconds)} left")

    def sample(self, step: int, text: str) -> None:
        """Show what the model writes after the fixed prompt, and add it to samples.jsonl; nothing for "".

        The time that the sample took does not count in the throughput of the next steps.
        """
        self.clock = time.monotonic()
        if not text or self.job.device.rank > 0:
            return
        earlier = [row for row in read_samples(self.job.folder) if row["step"] < step]
        rows = [*earlier, {"step": step, "text": text}]
        atomic_write(self.job.folder / "samples.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        self.job.say(f"step {step} writes:\n{shortened(text)}")

    def evaluation(self, step: int, loss: float, note: str, seconds: float, fields: dict[str, Any]) -> None:
        """Write the row of one evaluation, which took `seconds`, and draw table and plot again.

        `fields` are added to the row: the loss of each source, and of the built-in corpus what was learned.
        Here the training loss of each source is added, the mean over the last RECENT steps.
        """
        rows = list(read_log(self.file))
        recent = [row for row in rows if "loss" in row and step - RECENT < row["step"] <= step]
        trained = {name: statistics.mean(loss for _, loss in points)
                   for name, points in by_source(recent, "train_losses").items()}
        row = {"step": step, "tokens": step * self.job.tokens_per_step(), "eval_loss": loss,
               "eval_ppl": math.exp(min(loss, 700)), "note": note if math.isfinite(loss) else "not finite",
               "seconds": round(time.monotonic() - self.started, 2)}
        row = finite_or_none(row | fields | ({"train_losses": trained} if trained else {}))
        self.history.evals.append(row)
        self.write([row])
        if self.job.device.rank == 0:
            write_curves(self.job.folder, [*rows, row], self.job.tokens_per_epoch(),
                         self.job.model_config.vocab_size)
        self.slowest_evaluation = max(self.slowest_evaluation, seconds)
        self.clock = time.monotonic()
        if row["eval_loss"] is None:
            self.job.say(f"step {step}: the validation loss is not finite. {after_nonfinite(self.job)}")
            return
        note = colour(note, "32") if note == "best" else note
        result = f"step {step}: validation loss {loss:.3f}, perplexity {shown_perplexity(loss)}"
        self.job.say(f"{result}  {note}" if note else result)
        if warning := beside_uniform(loss, self.job.model_config.vocab_size):
            self.job.say(wrapped(warning, "  ", "    "))
        for line in learned_lines(row):
            self.job.say(wrapped(line, "  ", "    "))

    def deadline_is_near(self) -> bool:
        """Whether another step, then a save and an evaluation, might end after --deadline.

        A tenth of the deadline, at most ten seconds, is kept in reserve. Before the first evaluation its time
        is assumed to be that of as many training tokens, about three times too much.
        """
        deadline = self.job.settings.deadline
        if deadline is None:
            return False
        now = time.monotonic()
        per_step = max(self.slowest_step, (now - self.clock) / max(1, len(self.pending)))
        assumed = per_step * self.job.validation_tokens() / self.job.tokens_per_step()
        needed = 2 * (self.slowest_evaluation or assumed) + 4 * per_step + min(10, deadline / 10)
        return now - self.started + needed > deadline

    def write(self, rows: list[dict]) -> None:
        """Append rows to log.jsonl; the first of several processes does."""
        if self.job.device.rank == 0:
            with naming(self.file), open(self.file, "a", encoding="utf-8") as file:
                file.write("".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))
                file.flush()
                os.fsync(file.fileno())  # a checkpoint must never be newer than its log


def rounded_time(seconds: float) -> str:
    """A time to plan with, in one unit: `40 seconds`, `3 minutes`, `5 hours`."""
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.0f} hours"


def learned_lines(row: dict) -> Iterator[str]:
    """What an evaluation row says of sources and of what was learned, in lines for the terminal."""
    if "losses" in row:
        trained = row.get("train_losses", {})
        losses = ", ".join(f"{source_name(name, 'entropy' in row)} {loss:.3f}"
                           + (f" (training {trained[name]:.3f})" if name in trained else "")
                           for name, loss in row["losses"].items())
        yield f"{losses}; their mean, weighted as in training: {row['training_mixture']:.3f}"
    if row.get("whole_loss") is not None:
        yield f"complete documents {row['whole_loss']:.3f}: {way(row)}"
    kept = row.get("kept")
    if kept and row["name_later"] is not None:
        yield (f"loss on a name: {row['name_first']:.2f} nats at its first mention, {row['name_later']:.2f} "
               "later")
    if kept and kept["tales"]:
        yield (f"tales that it wrote: {kept['tales']}; names kept in {kept['name']}, pronouns in "
               f"{kept['pronoun']}, things in {kept['thing']}; without a mistake {kept['faultless']}")


def way(row: dict) -> str:
    """How far an evaluation row is on the way from token frequencies to the corpus's entropy."""
    unigram, entropy = f"{row['unigram_entropy']:.2f}", f"{row['entropy']:.2f}"
    if row["share_of_the_way"] <= 0:
        return f"not yet better than counting tokens ({unigram})"
    return (f"{row['share_of_the_way']:.1%} of the way from counting tokens ({unigram}) to the entropy "
            f"({entropy})")


def read_samples(folder: Path) -> list[dict]:
    """The rows {"step", "text"} of a run's samples.jsonl, without lines that are cut or damaged."""
    return [row for row in json_lines(folder / "samples.jsonl")
            if type(row.get("step")) is int and type(row.get("text")) is str]


def shortened(text: str, lines: int = 2) -> str:
    """The beginning of a text, wrapped into a few indented lines."""
    return "\n".join(textwrap.wrap(" ".join(text.split()), text_width(), max_lines=lines, placeholder=" ...",
                                   initial_indent="  | ", subsequent_indent="  | "))


def after_nonfinite(job: Job) -> str:
    """Which checkpoint is left after numbers that are not finite, and what to do."""
    file = job.folder / "last" / "trainer_state.json"
    other = "" if job.settings.skip_nonfinite else ", or with --skip-nonfinite"
    advice = f"start a new run with a lower --learning-rate{other}"
    if not file.is_file():
        return f"No checkpoint was good; {advice}"
    step = read_json(file)["step"]
    return (f"The last good checkpoint is that of step {step}: {job.resume_command()}; if it fails again, "
            f"{advice}")


def finite_or_none(value: Any) -> Any:
    """`value`, with None for every infinity and NaN in it, which JSON does not have."""
    if isinstance(value, dict):
        return {name: finite_or_none(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite_or_none(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_log(file: Path) -> Iterator[dict]:
    """The rows of a log.jsonl, without lines that are cut or damaged."""
    for row in json_lines(file):
        if isinstance(row.get("step"), int) and ("eval_loss" in row or "loss" in row):
            yield row


def cut_log(file: Path, step: int) -> None:
    """Drop what a run wrote after its checkpoint at `step`: later steps, and this step's evaluation."""
    rows = [row for row in read_log(file) if row["step"] < step + ("loss" in row)]
    atomic_write(file, "".join(json.dumps(row) + "\n" for row in rows))
