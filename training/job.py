# SPDX-License-Identifier: Apache-2.0
"""What a run carries along: the job (all that is fixed), the state (what changes), the history (the result)."""
from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import data
import precision
from common import UserError, command, read_json, say
from devices.device import Device
from model import ModelConfig
from training.settings import TrainSettings


@dataclass
class Job:
    """Everything that a run needs before its first step. `origin` says which layer each setting comes from."""

    settings: TrainSettings
    origin: dict[str, str]
    model_config: ModelConfig
    device: Device
    precision_reason: str
    corpus: data.Corpus
    validation: data.Corpus                                       # batches of one row
    tokenizer: Any
    folder: Path
    resumed: Path | None                                          # the run that is resumed
    init: Path | None                                             # the model folder of the first weights
    micro_batch: int                                              # rows of this process at once
    notes: list[str] = field(default_factory=list)

    @property
    def precision(self) -> precision.Precision:
        return precision.PRECISIONS[self.settings.precision]

    def tokens_per_step(self) -> int:
        return self.settings.batch_size * self.settings.seq_len

    def tokens_per_epoch(self) -> int:
        """Tokens in the training split of all sources."""
        return sum(split["train"] for split in self.corpus.num_tokens.values())

    def schedule_end(self) -> int:
        """The step at which the run is complete: the last of its schedule, or where its budget of tokens ends."""
        settings = self.settings
        limits = [settings.steps]
        if settings.tokens:
            limits.append(max(1, settings.tokens // self.tokens_per_step()))
        if settings.epochs:
            limits.append(data.steps_for_epochs(self.corpus.folder, settings.seq_len, settings.batch_size,
                                                settings.epochs))
        return min(limits)

    def end(self) -> int:
        """The step at which this call ends if nothing interrupts it."""
        return min(self.schedule_end(), self.settings.stop_after or self.settings.steps)

    def evaluation_due(self, step: int) -> bool:
        """Whether every run of these settings evaluates after this step, interrupted or not."""
        return step % self.settings.eval_steps == 0 or step == self.schedule_end()

    def validation_rows(self) -> int:
        """How many validation rows an evaluation reads: all, or --max-eval-samples."""
        return min(len(self.validation), self.settings.max_eval_samples)

    def validation_tokens(self) -> int:
        """Tokens that an evaluation reads."""
        return self.validation_rows() * self.settings.seq_len

    def resume_command(self) -> str:
        """The command that continues this run."""
        return command("train.py", "--resume", self.folder)

    def halve_micro_batch(self, rows: int) -> None:
        """After CUDA ran out of memory: at most half as many rows at once, a divisor of `rows`.

        Raises UserError where one row is too much, and among several processes, which wait for each other
        inside a step.
        """
        if self.micro_batch == 1:
            raise UserError("out of memory with one row at once: set --recompute, or a shorter --seq-len") from None
        self.micro_batch = max(size for size in range(1, self.micro_batch // 2 + 1) if rows % size == 0)
        if self.device.world > 1:
            raise UserError(f"out of memory: set --micro-batch {self.micro_batch}") from None
        print(f"out of memory: continuing with --micro-batch {self.micro_batch}", file=sys.stderr)

    def say(self, text: str) -> None:
        """Print once, however many processes train."""
        if self.device.rank == 0:
            say(text)


@dataclass
class State:
    """What changes from step to step beside weights and moments; `trainer_state.json`.

    `skipped` counts steps without an update; `usual_norm` is a running mean of the gradient norm.
    """

    step: int = 0
    skipped: int = 0
    usual_norm: float = 0.0
    best_loss: float | None = None
    best_step: int = 0
    loss_scale: float = 1.0
    good_steps: int = 0

    def read(self, file: Path) -> None:
        """Load a stored state. Raises UserError for a file that holds anything else."""
        values = read_json(file)
        numbers = [value for name, value in values.items() if name != "best_loss" or value is not None]
        if set(values) != set(vars(self)) or not all(type(number) in (int, float) for number in numbers):
            raise UserError(f"{file}: not a trainer state of this program")
        if values["best_loss"] is not None and not math.isfinite(values["best_loss"]):
            values["best_loss"] = None                            # older versions let NaN become the best
        vars(self).update(values)


@dataclass
class History:
    """What a call of `train` did and how it ended.

    losses       one mean loss per optimizer step of this call (nats per token)
    evals        the evaluations of this call, as rows of log.jsonl
    folder       the run folder
    interrupted  whether a signal ended the call; `signal` is its number
    complete     whether the schedule has ended
    first        whether this is the first of several processes
    """

    losses: list[float] = field(default_factory=list)
    evals: list[dict] = field(default_factory=list)
    folder: Path = Path()
    interrupted: bool = False
    signal: int = 0
    complete: bool = False
    first: bool = True


class Moments(Protocol):
    """What a checkpoint needs of an optimizer."""

    def state(self) -> dict[str, Any]:
        """Name -> tensor, for a file."""

    def load(self, file: Path) -> None:
        """Read the tensors back. Raises UserError for a file that is damaged or of another model."""
