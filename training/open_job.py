# SPDX-License-Identifier: Apache-2.0
"""From the settings of train.py to a job: device, data and tokenizer opened, and checked that they fit the model and each other.

Kept out of train.py because it is no lesson: nothing here is computed in a training step.
"""
from __future__ import annotations

import dataclasses
import itertools
import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
import torch

import data
import precision
import tokenizer
from common import ROOT, UserError, atomic_write, find_run, read_json
from corpus.command import own_corpus_folder, prepare_builtin, prepare_files
from corpus.prepare import OtherRecipe
from devices.device import Device
from devices.keep_memory import keep_freed_memory
from devices.open import open_device
from training.resolve import (
    DEFAULTS, FINETUNE, FINETUNE_BETA2, FP16_CARDS, LAPTOP, LASTING_CHANGES, THIS_CALL_ONLY, VOCABULARY, check_settings, checked, fit_on_chip,
    for_device, resolve, resumed_config,
)
from model import SIZES, ModelConfig
from params import count

if TYPE_CHECKING:
    from train import TrainConfig


@dataclass
class Job:
    """Everything a run needs before its first step: resolved settings and where each came from, device, recipe, data, tokenizer, folder."""

    config: TrainConfig
    origin: dict[str, str]
    model_config: ModelConfig
    device: Device
    precision: str
    reason: str
    corpus: data.Corpus
    validation: data.Corpus
    tokenizer: Any
    folder: Path
    source: Path | None                                           # the run that is resumed
    init: Path | None                                             # the model folder whose weights are the first ones
    micro_batch: int
    notes: list[str] = field(default_factory=list)

    @property
    def recipe(self) -> precision.Recipe:
        return precision.RECIPES[self.precision]

    @property
    def beta2(self) -> float | None:
        """AdamW's second beta where the recipe has one of its own."""
        return FINETUNE_BETA2 if self.config.recipe in FINETUNE else None

    def tokens_per_step(self) -> int:
        return self.config.batch_size * self.config.seq_len

    def tokens_per_epoch(self) -> int:
        """Tokens in the training split of all sources."""
        return sum(split["train"] for split in self.corpus.num_tokens.values())

    def schedule_end(self) -> int:
        """The step at which the run is complete: its horizon, or its token or epoch budget if that is reached first."""
        limits = [self.config.steps]
        if self.config.tokens:
            limits.append(max(1, self.config.tokens // self.tokens_per_step()))
        if self.config.epochs:
            limits.append(data.steps_for_epochs(self.corpus.folder, self.config.seq_len, self.config.batch_size, self.config.epochs))
        return min(limits)

    def end(self) -> int:
        """The step at which this call ends if nothing interrupts it."""
        return min(self.schedule_end(), self.config.stop_after or self.config.steps)

    def evaluation_due(self, step: int) -> bool:
        """Whether an evaluation belongs to this step in every run of these settings, interrupted or not."""
        return step % self.config.eval_steps == 0 or step == self.schedule_end()

    def validation_batches(self) -> int:
        """How many of the validation batches are used: all, or as many as --max-eval-samples rows fill."""
        return max(1, min(len(self.validation), self.config.max_eval_samples // self.validation.batch_size))

    def validation_tokens(self) -> int:
        """Tokens that one evaluation reads."""
        return self.validation_batches() * self.validation.batch_size * self.config.seq_len

    def halve_micro_batch(self, rows: int) -> None:
        """After CUDA ran out of memory: at most half as many rows at once, a divisor of `rows`. Raises UserError where that cannot be done here."""
        if self.micro_batch == 1:
            raise UserError("out of memory with one row at once: set --recompute, or a shorter --seq-len") from None
        self.micro_batch = max(size for size in range(1, self.micro_batch // 2 + 1) if rows % size == 0)
        if self.device.world > 1:
            raise UserError(f"out of memory: set --micro-batch {self.micro_batch}") from None
        print(f"out of memory: continuing with --micro-batch {self.micro_batch}", file=sys.stderr)

    def say(self, text: str) -> None:
        """Print once, however many processes train."""
        if self.device.rank == 0:
            print(text, flush=True)


def open_job(config: TrainConfig) -> Job:
    """Resolve every setting, open device, data and tokenizer, and check that they fit together. Writes nothing but a prepared corpus.

    Raises UserError with all problems of the settings at once.
    """
    config = checked(config)
    source, stored = None, {}
    if config.resume is not None:
        config, source, stored = resumed_config(config)
    given = [f.name for f in dataclasses.fields(config) if getattr(config, f.name) is not None and getattr(config, f.name) is not False]
    origin = dict.fromkeys(given, "run" if source else "flag")
    model_config, init = first_model(config, source, stored)
    name = next((size for size, known in SIZES.items() if known == model_config), "custom")
    if config.size is None and name != "custom":
        origin["size"] = "the model"
        config = dataclasses.replace(config, size=name)
    elif name == "custom":
        config = dataclasses.replace(config, model=model_config)
    config = dataclasses.replace(config, **{name: value for name, value in DEFAULTS.items() if getattr(config, name) is None})
    out = Path(config.out) if config.out else source or free_folder(Path("runs"), name)
    check_out(out, source)
    device = open_device(config.device)
    config = for_device(config, device, stored)
    if device.kind == "cpu":
        keep_freed_memory()
    key, reason = config.precision, origin.get("precision")
    if key == "auto":
        key, reason = precision.choose_precision(device.kind, config.size in FP16_CARDS)
    on_cpu = device.kind in ("cpu", "mps") or os.environ.get("PJRT_DEVICE") == "CPU"
    recipe = config.recipe or ("laptop" if on_cpu else "card")
    check_settings(config, model_config, device)                  # before a corpus is prepared for nothing
    folder, notes = corpus_folder(config, device)
    config, from_recipe = resolve(config, recipe, folder)
    given = set(origin)
    origin.update({field: from_recipe for field in LAPTOP if field not in origin})
    config = dataclasses.replace(config, recipe=recipe)
    if recipe == "laptop" and "batch_size" not in given and config.batch_size % device.shards:
        config = dataclasses.replace(config, batch_size=device.shards)
        notes.append(f"the laptop recipe's batch was raised to one row for each of the {device.shards} devices")
    config = fit_on_chip(config, model_config, device, precision.RECIPES[key])
    check_settings(config, model_config, device)
    micro_batch = config.micro_batch * device.shards if config.micro_batch else config.batch_size // device.world     # rows of this process
    corpus = data.Corpus(folder, config.seq_len, config.batch_size, config.steps, config.seed)
    validation = validation_corpus(folder, config, micro_batch, device)
    words = tokenizer.load(corpus.vocab_path)
    check_vocabulary(words, corpus, model_config, init, source, stored)
    if words.vocab_size < model_config.vocab_size:
        notes.append(f"the vocabulary has {words.vocab_size} ids; the model's other {model_config.vocab_size - words.vocab_size} rows stay unused")
    if init and recipe not in FINETUNE and not source:
        notes.append(f"for fine-tuning there are the cards' settings: --recipe {' or '.join(FINETUNE)}")
    return Job(config, origin, model_config, device, key, reason, corpus, validation, words, out, source, init, micro_batch, notes)


def first_model(config: TrainConfig, source: Path | None, stored: dict) -> tuple[ModelConfig, Path | None]:
    """The shape of the model and the folder of its first weights, if any. Raises UserError where --init and --size disagree."""
    if source:
        begun = any((source / name).is_dir() for name in ("last", "last.new", "last.old"))
        return ModelConfig(**stored["model"]), find_run(config.init) if config.init and not begun else None
    if not config.init:
        return config.model or SIZES[config.size or DEFAULTS["size"]], None
    init = find_run(config.init)
    model_config = ModelConfig.from_json(init / "config.json")
    wanted = config.model or SIZES.get(config.size)
    if wanted and wanted != model_config:
        raise UserError(f"{init}: its config.json is another shape than --size {config.size or 'of the given model'}; leave --size out")
    return model_config, init


def check_out(out: Path, source: Path | None) -> None:
    """Raise UserError for a run folder that cannot be made: it is there already, or its place cannot be written."""
    if out == source:
        return
    if out.exists():
        raise UserError(f"{out} exists already; choose another --out, or continue it with --resume {out}")
    place = next(parent for parent in out.absolute().parents if parent.exists())
    if not (place.is_dir() and os.access(place, os.W_OK)):
        raise UserError(f"{out}: nothing can be written into {place}; choose another --out")


def check_vocabulary(words: Any, corpus: data.Corpus, model_config: ModelConfig, init: Path | None, source: Path | None, stored: dict) -> None:
    """Raise UserError where the ids of the corpus are not those of the model, of --init, or of the run that is resumed."""
    if source:
        for what, now in (("corpus", corpus.fingerprint), ("vocabulary", words.fingerprint)):
            if stored.get(what) != now:
                raise UserError(f"{source}: it was trained on another {what} ({stored.get(what)}), not on {now}; name the right one with --data")
    if words.vocab_size > model_config.vocab_size:
        raise UserError(f"{corpus.folder}: its vocabulary has {words.vocab_size} ids, the model only {model_config.vocab_size}; prepare it with "
                        "another --vocab")
    if init:
        try:
            theirs = tokenizer.load(init).fingerprint
        except UserError:
            return                                                # weights without a tokenizer: the user knows which one it was
        if theirs != words.fingerprint:
            raise UserError(f"{corpus.folder}: prepared with another vocabulary than that of {init}; prepare it with --vocab {init}")


def corpus_folder(config: TrainConfig, device: Device) -> tuple[Path, list[str]]:
    """The prepared corpus of this run, prepared now if need be (by the first process), and what the user should know about it."""
    if config.data and (Path(config.data) / "manifest.json").is_file():
        return Path(config.data), []
    if config.data and (Path(config.data) / "run.json").is_file():
        raise UserError(f"{config.data} is a run, not a corpus: name the folder that it was trained on, or go on with --resume {config.data}")
    if config.data and (Path(config.data) / "prepare.json").is_file():
        data.read_manifest(Path(config.data))                     # raises UserError: not finished, and how to go on
    notes = []
    vocab, tag = VOCABULARY.get(config.size), ""
    if config.init:
        vocab = find_run(config.init)
        tag = f"-{tokenizer.load(vocab).fingerprint[:8]}"
    elif vocab:
        try:
            vocab = tokenizer.find(vocab, network=False)
            tag = f"-{vocab.stem}"
        except UserError:
            notes.append(f"{vocab}, the vocabulary of {config.size}, is not on this machine: the built-in one takes its place")
            vocab = None
    out = own_corpus_folder(config.data) if config.data else Path("corpora/builtin")
    out = out.with_name(out.name + tag)
    if device.rank > 0:
        torch.distributed.barrier()
    folder = own_corpus(config.data, out, vocab, notes) if config.data else prepare_builtin(out, vocab)
    if device.rank == 0 and device.world > 1:
        torch.distributed.barrier()
    return folder, notes


def own_corpus(path: str, out: Path, vocab: str | Path | None, notes: list[str]) -> Path:
    """The corpus of one's own text in `out`; in the next free folder if the text was edited, since earlier runs need what was made of it before."""
    folder = out
    for number in itertools.count(2):
        try:
            folder = prepare_files([path], folder, vocab)
            break
        except OtherRecipe:
            folder = out.with_name(f"{out.name}-{number}")
    if folder != out:
        notes.append(f"{path} is not as it was when {out} was made of it: its corpus is now {folder}")
    notes += data.lost_notes(data.read_manifest(folder))
    return folder


def validation_corpus(folder: Path, config: TrainConfig, micro_batch: int, device: Device) -> data.Corpus:
    """The validation split in batches of one micro-step of the whole machine, smaller where the split or the limit has fewer rows."""
    parts = device.world * device.shards
    blocks = min(data.Corpus(folder, config.seq_len, 1, split="validation").num_blocks, config.max_eval_samples)
    if blocks < parts:
        raise UserError(f"{folder}: {blocks} validation rows of {config.seq_len} tokens are fewer than {parts} devices; use a shorter --seq-len")
    rows = min(micro_batch * device.world, blocks // parts * parts)
    return data.Corpus(folder, config.seq_len, rows, split="validation", verify=False)


def free_folder(runs: Path, name: str) -> Path:
    """runs/NAME, or the first of runs/NAME-2, runs/NAME-3 ... that does not exist."""
    folder, number = runs / name, 1
    while folder.exists():
        number += 1
        folder = runs / f"{name}-{number}"
    return folder


def run_json(job: Job) -> dict:
    """Everything that says how this run was made: settings and their origin, model, data, recipe, versions, git commit."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False) if shutil.which("git") else None
    settings = dataclasses.asdict(job.config)
    settings.update({name: None for name in THIS_CALL_ONLY if name != "dry_run"})
    settings["precision"] = job.precision
    return {
        "settings": settings, "origin": job.origin, "model": dataclasses.asdict(job.model_config), "parameters": count(job.model_config)["total"],
        "corpus": job.corpus.fingerprint, "vocabulary": job.tokenizer.fingerprint, "data": str(job.corpus.folder), "notes": job.notes,
        "device": job.device.kind, "replicas": job.device.world * job.device.shards, "precision_reason": job.reason,
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": numpy.__version__},
        "machine": platform.processor() or platform.machine(), "git_commit": commit.stdout.strip() or None if commit else None,
        "command": " ".join(sys.argv),
    }


def create_folder(job: Job) -> None:
    """Make the run folder with its run.json in one step, so that it never exists without. Raises UserError where that cannot be."""
    new = job.folder.with_name(f".{job.folder.name}.{os.getpid()}.new")
    try:
        new.mkdir(parents=True)
        (new / "run.json").write_text(json.dumps(run_json(job), indent=2) + "\n")
        if job.source and (job.source / "log.jsonl").exists():
            shutil.copyfile(job.source / "log.jsonl", new / "log.jsonl")
        if job.source and (job.source / "best").exists():
            shutil.copytree(job.source / "best", new / "best", copy_function=shutil.copyfile)
            (new / "best").chmod(0o755)                           # the source may be a read-only folder
        os.replace(new, job.folder)
    except OSError as error:
        shutil.rmtree(new, ignore_errors=True)
        raise UserError(f"{job.folder}: this run folder cannot be made: {error.strerror or error}; choose another --out") from None


def note_changes(job: Job) -> None:
    """run.json takes over what this call of --resume changed (limits, evaluation, logging), so that the next one goes on with it."""
    stored = read_json(job.folder / "run.json")
    now = {name: getattr(job.config, name) for name in LASTING_CHANGES}
    if any(stored["settings"][name] != value for name, value in now.items()):
        stored["settings"].update(now)
        atomic_write(job.folder / "run.json", json.dumps(stored, indent=2) + "\n")
