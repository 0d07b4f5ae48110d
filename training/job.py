# SPDX-License-Identifier: Apache-2.0
"""A run in memory: the job (what is fixed), the state (what changes), the history (the result).

`open_job` makes the job: it finds every setting's value, opens device, corpus and tokenizer, and checks that
they fit together.
"""
from __future__ import annotations

import contextlib
import functools
import math
import os
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import data
import precision
from common import UserError, command, find_run, numbered, read_json, say
from corpus.command import own_corpus_folder, prepare_builtin, prepare_files, prepare_python_docs
from corpus.prepare import MadeOtherwise
from devices.device import Device
from devices.open import keep_freed_memory, open_device
from model import SIZES, ModelConfig
from tokenizer import Tokenizer, find as find_vocabulary, load as load_tokenizer
from training.learned import Learned
from training.resolve import (
    check_settings, checked, default_values, fit_on_chip, for_device, recipe_values, resumed_run,
    schedule_values,
)
from training.settings import FP16_SIZES, VOCABULARY, TrainSettings


@dataclass
class Job:
    """Everything that is fixed before the first step. `origin` names the layer of each setting's value."""

    settings: TrainSettings
    origin: dict[str, str]
    model_config: ModelConfig
    device: Device
    precision_reason: str
    corpus: data.Corpus
    validation: data.Corpus                                       # batches of one row
    tokenizer: Tokenizer
    folder: Path
    resumed: Path | None                                          # the run that is resumed
    init: Path | None                                             # the model folder of the first weights
    micro_batch: int                                              # rows that this process computes at once
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The size of the model, or "custom"."""
        return name_of(self.model_config)

    @property
    def precision(self) -> precision.Precision:
        return precision.PRECISIONS[self.settings.precision]

    @functools.cached_property
    def learned(self) -> Learned:
        """Measures what the model has learned; it reads validation documents at the first use."""
        longest = self.model_config.max_position_embeddings
        return Learned.of(self.validation, self.tokenizer, self.device.torch_device, longest)

    def tokens_per_step(self) -> int:
        return self.settings.batch_size * self.settings.seq_len

    def tokens_per_epoch(self) -> int:
        """Tokens in the training split of all sources."""
        return sum(split["train"] for split in self.corpus.num_tokens.values())

    def limits(self) -> dict[str, int]:
        """Setting -> the step at which it ends the run: steps, and tokens and epochs if they are given."""
        settings = self.settings
        found = {"steps": settings.steps}
        if settings.tokens:
            found["tokens"] = max(1, settings.tokens // self.tokens_per_step())
        if settings.epochs:
            found["epochs"] = data.steps_for_epochs(self.corpus.folder, settings.seq_len, settings.batch_size,
                                                    settings.epochs)
        return found

    def schedule_end(self) -> int:
        """The step at which the run is complete: the schedule's last, or a limit of tokens or epochs."""
        return min(self.limits().values())

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
            raise UserError("out of memory with one row at once: set --recompute, or a shorter "
                            "--seq-len") from None
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
    """What changes from step to step besides weights and moments; stored in `trainer_state.json`.

    `skipped` counts the steps without an update. `usual_norm` is a running mean of the gradient norm.
    """

    step: int = 0
    skipped: int = 0
    usual_norm: float = 0.0
    best_loss: float | None = None
    best_step: int = 0
    loss_scale: float = 1.0
    good_steps: int = 0

    def read(self, file: Path) -> None:
        """Load a stored state, whose checksum was compared."""
        vars(self).update(read_json(file))
        if self.best_loss is not None and not math.isfinite(self.best_loss):
            self.best_loss = None                                 # older versions let NaN become the best


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


# ---------------------------------------------------------------------------------------------- opening a run

def open_job(given: dict[str, Any]) -> Job:
    """Find the value of every setting, open device, corpus and tokenizer, and check that they fit together.

    `given` are settings by name (the fields of TrainSettings); "auto" is the same as not given. Writes
    nothing but a prepared corpus. Raises UserError with all problems of the settings at once.
    """
    given = {name: value for name, value in checked(given).items() if value != "auto"}
    resumed, record, stored = resumed_run(given) if given.get("resume") is not None else (None, {}, {})
    asked = {**stored, **given}
    config, init = first_model(asked, resumed, record)
    name = name_of(config)
    size = asked.get("size", name if name in SIZES else TrainSettings.size)
    out = Path(given["out"]) if given.get("out") else resumed or free_folder(Path("runs"), name)
    check_out(out, resumed)

    device = open_device(asked.get("device", "auto"))
    if device.kind == "cpu":
        keep_freed_memory()
    chosen, reason = precision.choose_precision(device.kind, size in FP16_SIZES)
    recipe = asked.get("recipe", default_recipe(device))
    row = dict(recipe_values(recipe, size))
    row["seq_len"] = min(row.get("seq_len", TrainSettings.seq_len), config.max_position_embeddings)
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for layer, settings in (
        ("default", default_values()), ("device", {"recipe": recipe, "precision": chosen}),
        (f"recipe {recipe}", row), ("model", {"size": size}), ("run", stored), ("flag", given),
        ("model", {"model": config} if name == "custom" else {}),
    ):
        change(values, origin, layer, settings)
    notes = [*device.notes]
    if recipe == "laptop" and "batch_size" not in asked and values["batch_size"] % device.shards:
        values["batch_size"], origin["batch_size"] = device.shards, "device"
        notes.append("the laptop recipe's batch was raised to one row for each of the "
                     f"{device.shards} devices")
    change(values, origin, "device", for_device(values, device, record))
    schedule = {name: asked.get(name, "auto") for name in ("steps", "warmup_steps", "stable_steps")}
    check_settings(TrainSettings(**{**values, **schedule}), config, device)    # before a corpus is prepared

    folder = corpus_folder(TrainSettings(**values), device, notes)
    change(values, origin, f"recipe {recipe}", schedule_values(values, asked, folder))
    key = values["precision"]
    fitting = fit_on_chip(TrainSettings(**values), config, device, precision.PRECISIONS[key])
    change(values, origin, "device", fitting)
    settings = TrainSettings(**values)
    check_settings(settings, config, device)
    rows = settings.batch_size // device.world                    # rows of this process in a step
    micro_batch = rows if settings.micro_batch == "auto" else settings.micro_batch * device.shards
    corpus = data.Corpus(folder, settings.seq_len, settings.batch_size, settings.steps, settings.seed)
    validation = data.Corpus(folder, settings.seq_len, 1, split="validation")

    tokenizer = load_tokenizer(corpus.vocab_path)
    check_vocabulary(tokenizer, corpus, config, init, resumed, record)
    if tokenizer.vocab_size < config.vocab_size:
        notes.append(f"the vocabulary has {tokenizer.vocab_size} ids; the model's other "
                     f"{config.vocab_size - tokenizer.vocab_size} rows stay unused")
    if init and not recipe.startswith("finetune") and not resumed:
        notes.append("the cards publish settings for fine-tuning: --recipe finetune-stentor3 or "
                     "finetune-portimbria")
    reason = {"flag": f"--precision {key}", "run": f"as {resumed}"}.get(origin["precision"], reason)
    return Job(settings, origin, config, device, reason, corpus, validation, tokenizer, out, resumed, init,
               micro_batch, notes)


def name_of(config: ModelConfig) -> str:
    """The size that has this shape, or "custom"."""
    return next((size for size, known in SIZES.items() if known == config), "custom")


def change(values: dict[str, Any], origin: dict[str, str], layer: str, changes: dict[str, Any]) -> None:
    """Lay one more layer over the settings; `origin` names the layer of each value."""
    values.update(changes)
    origin.update(dict.fromkeys(changes, layer))


def default_recipe(device: Device) -> str:
    """laptop where a CPU computes, also one that simulates a TPU, and on a Mac; card elsewhere."""
    on_cpu = device.kind in ("cpu", "mps") or os.environ.get("PJRT_DEVICE") == "CPU"
    return "laptop" if on_cpu else "card"


def first_model(asked: dict[str, Any], resumed: Path | None, record: dict) -> tuple[ModelConfig, Path | None]:
    """The shape of the model, and the folder of its first weights, if any.

    Raises UserError where --init and --size disagree.
    """
    init = asked.get("init")
    if resumed:
        saved = any((resumed / name).is_dir() for name in ("last", "last.new", "last.old"))
        return ModelConfig(**record["model"]), find_run(init) if init and not saved else None
    wanted = asked.get("model") or SIZES.get(asked.get("size"))
    if not init:
        return wanted or SIZES[TrainSettings.size], None
    folder = find_run(init)
    config = ModelConfig.from_json(folder / "config.json")
    if wanted and wanted != config:
        theirs = "the given model" if asked.get("model") else f"--size {asked['size']}"
        raise UserError(f"{folder}: its config.json has another shape than {theirs}; leave that out")
    return config, folder


def check_out(out: Path, resumed: Path | None) -> None:
    """Raise UserError for a run folder that cannot be written, or exists already."""
    if out == resumed:
        if not os.access(out, os.W_OK):
            raise UserError(f"{out}: this run folder cannot be written; continue it in another one with "
                            "--out")
        return
    if out.exists():
        resume = command("train.py", "--resume", out)
        raise UserError(f"{out} exists already; choose another --out, or continue it with: {resume}")
    parent = next(parent for parent in out.absolute().parents if parent.exists())
    if not (parent.is_dir() and os.access(parent, os.W_OK)):
        raise UserError(f"{out}: nothing can be written into {parent}; choose another --out")


def check_vocabulary(tokenizer: Tokenizer, corpus: data.Corpus, config: ModelConfig, init: Path | None,
                     resumed: Path | None, record: dict) -> None:
    """Raise UserError unless corpus, model, --init and the resumed run have the same token ids."""
    if resumed:
        for what, now in (("corpus", corpus.fingerprint), ("vocabulary", tokenizer.fingerprint)):
            if record.get(what) != now:
                raise UserError(f"{resumed}: it was trained on another {what} ({record.get(what)}), not on "
                                f"{now}; name the right one with --data")
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(f"{corpus.folder}: its vocabulary has {tokenizer.vocab_size} ids, the model only "
                        f"{config.vocab_size}; prepare it with another --vocab")
    if init:
        try:
            theirs = load_tokenizer(init).fingerprint
        except UserError:
            return  # weights without a tokenizer: nothing to compare
        if theirs != tokenizer.fingerprint:
            raise UserError(f"{corpus.folder}: prepared with another vocabulary than that of {init}; "
                            f"prepare it with --vocab {shlex.quote(str(init))}")


def corpus_folder(settings: TrainSettings, device: Device, notes: list[str]) -> Path:
    """The prepared corpus of this run; the first process prepares it if it is not there yet.

    Adds to `notes` what the user should know about it.
    """
    path = None if settings.data == "auto" else settings.data
    if path and (Path(path) / "manifest.json").is_file():
        return Path(path)
    if path and (Path(path) / "run.json").is_file():
        resume = command("train.py", "--resume", path)
        raise UserError(f"{path} is a run, not a corpus: name the folder that it was trained on, or "
                        f"continue it with: {resume}")
    if path and (Path(path) / "prepare.json").is_file():
        data.read_manifest(Path(path))                            # raises UserError: how to finish it
    vocab, tag = VOCABULARY.get(settings.size), ""
    if settings.init:
        vocab = find_run(settings.init)
        tag = f"-{load_tokenizer(vocab).fingerprint[:8]}"
    elif vocab:
        try:
            vocab = find_vocabulary(vocab, network=False)
            tag = f"-{vocab.stem}"
        except UserError:
            notes.append(f"the vocabulary of {settings.size} is not on this machine: the built-in one is "
                         "used")
            vocab = None
    docs = path == "python-docs" and not Path(path).exists()
    out = own_corpus_folder(path) if path and not docs else Path("corpora", path or "builtin")
    out = out.with_name(out.name + tag)
    if device.rank > 0:
        torch.distributed.barrier()
    if path is None:
        folder = prepare_builtin(out, vocab)
    elif docs:
        folder = prepare_python_docs(out, vocab)
    else:
        folder = own_corpus(path, out, vocab, notes)
    if device.rank == 0 and device.world > 1:
        torch.distributed.barrier()
    return folder


def own_corpus(path: str, out: Path, vocab: str | Path | None, notes: list[str]) -> Path:
    """The corpus of the user's text at `path`, in `out`.

    If the text has changed since `out` was made, the corpus goes into the next free folder: earlier runs need
    the old one.
    """
    for folder in numbered(out):
        with contextlib.suppress(MadeOtherwise):
            prepare_files([path], folder, vocab)
            break
    if folder != out:
        notes.append(f"{path} was changed since {out} was made of it: its corpus is now {folder}")
    notes += data.lost_notes(data.read_manifest(folder))
    return folder


def free_folder(runs: Path, name: str) -> Path:
    """runs/NAME, or the first of runs/NAME-2, runs/NAME-3 ... that does not exist."""
    return next(folder for folder in numbered(runs / name) if not folder.exists())
