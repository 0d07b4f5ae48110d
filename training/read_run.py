# SPDX-License-Identifier: Apache-2.0
"""A run read back from its files: for its report, its model card, and the audit of that card."""
from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import UserError, no_run, optional_json, read_json
from data import Corpus
from model import ModelConfig
from training.curves import number, series
from training.log import read_log

# The fields of run.json that report and card print; a run of an older version may lack some.
FIELDS = {"data": str, "corpus": str, "vocabulary": str, "device": str, "replicas": int, "versions": dict,
          "precision_reason": str, "command": str, "origin": dict, "notes": list}


@dataclass(frozen=True)
class Run:
    """The files of a run; `corpus`, the validation split, is None where it is gone or has changed."""

    folder: Path
    info: dict[str, Any]                                          # run.json
    config: ModelConfig
    rows: list[dict]                                              # log.jsonl
    corpus: Corpus | None

    @property
    def settings(self) -> dict[str, Any]:
        return self.info["settings"]

    @property
    def manifest(self) -> dict | None:
        """The manifest of the corpus."""
        return None if self.corpus is None else self.corpus.manifest

    @property
    def results(self) -> dict[str, Any]:
        """What evaluate.py wrote; {} where it did not run."""
        return optional_json(self.folder / "evaluation.json")

    @property
    def steps(self) -> list[dict]:
        """The rows of optimizer steps."""
        return [row for row in self.rows if "loss" in row]

    @property
    def evals(self) -> list[dict]:
        """The rows of evaluations whose loss is a number."""
        return [row for row in self.rows if number(row, "eval_loss") is not None]

    @property
    def best(self) -> dict | None:
        """The evaluation whose model is in best/: the last one marked "best", or the first if none is."""
        marked = [row for row in self.evals if row.get("note") == "best"]
        return next(iter(marked[-1:] or self.evals), None)

    @property
    def step(self) -> int:
        return max([row["step"] for row in self.rows], default=0)

    @property
    def tokens_per_step(self) -> int:
        return self.settings["seq_len"] * self.settings["batch_size"]

    @property
    def tokens(self) -> int:
        return self.step * self.tokens_per_step

    @property
    def end(self) -> int:
        """The step at which the schedule ends, as far as run.json says it."""
        steps, tokens = self.settings["steps"], self.settings.get("tokens")
        return min(steps, max(1, tokens // self.tokens_per_step)) if tokens else steps

    @property
    def seconds(self) -> float:
        """Seconds of all calls, added.

        The clock of the log restarts at 0 with each call, so this adds the last time before each restart.
        """
        times = [number(row, "seconds") or 0.0 for row in self.steps + self.evals[-1:]]
        return sum(now for now, following in zip(times, [*times[1:], 0.0]) if following < now)

    @property
    def tokens_per_second(self) -> float | None:
        """The median over the steps; None where no speed was measured."""
        speeds = [speed for _, speed in series(self.rows, "tokens_per_second") if speed]
        return statistics.median(speeds) if speeds else None


def read_run(folder: Path) -> Run:
    """Read the files of a run. Raises UserError for a folder that holds none."""
    if not folder.is_dir():
        raise no_run(folder, "no such run")
    info = read_json(folder / "run.json")
    try:
        config, settings = ModelConfig(**info["model"]), info["settings"]
        numbers = [settings[name] for name in ("seq_len", "batch_size", "steps")]
        if not all(type(number) is int for number in [*numbers, settings.get("tokens") or 0]):
            raise TypeError("seq_len, batch_size, steps and tokens must be whole numbers")
        if not isinstance(settings.get("size", ""), str):
            raise TypeError("size must be str")
        for name, kind in FIELDS.items():
            if not isinstance(info.get(name, kind()), kind):
                raise TypeError(f"{name} must be {kind.__name__}")
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder / 'run.json'}: not the settings of a run ({error})") from None
    try:
        corpus = Corpus(info.get("data", ""), settings["seq_len"], 1, split="validation", verify=False)
        corpus = corpus if corpus.fingerprint == info.get("corpus") else None
    except (UserError, OSError, TypeError, ValueError):
        corpus = None
    return Run(folder, info, config, list(read_log(folder / "log.jsonl")), corpus)
