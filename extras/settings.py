# SPDX-License-Identifier: Apache-2.0
"""From the flags of train.py to a job: the cards' presets by size, every setting resolved, checked and announced, data and device opened.

Kept out of train.py because it is no lesson: nothing here is computed in a training step.
"""
from __future__ import annotations

import dataclasses
import math
import os
import platform
import shutil
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
import torch

import data
import precision
import tokenizer
from common import ROOT, UserError, newest_run, read_json
from model import SIZES, Llama, ModelConfig, next_token_loss
from params import count

if TYPE_CHECKING:
    from train import TrainConfig

# The published hyper-parameters (Stentor3-20M, Stentor2-30M and Portimbria-150M cards). Ours where a card is silent: logging_steps of the two
# TPU models, everything of a sibling that has no card (50m from its 8.3B tokens, 12m as 30m, the v1 line as 30m at its context of 512).
# The 30m card's limits exclude each other; its run ended near step 30,300 of a cosine laid out for 60,626, and so does its preset.
STENTOR3 = {
    "seq_len": 4096, "batch_size": 64, "steps": 32_425, "warmup_steps": 1_621, "stable_steps": 25_940, "learning_rate": 8e-4,
    "eval_steps": 1_000, "best_eval_start_step": 1_000, "logging_steps": 100, "max_eval_samples": 5_000,
}
STENTOR2 = {
    "seq_len": 1024, "batch_size": 8, "steps": 60_626, "stop_after": 30_300, "warmup_steps": 3_031, "stable_steps": 48_500,
    "learning_rate": 8e-4, "eval_steps": 900, "best_eval_start_step": 1_500, "logging_steps": 300, "max_eval_samples": 5_000,
}
CARDS = {
    "20m": STENTOR3,
    "50m": {**STENTOR3, "steps": 31_662, "warmup_steps": 1_583, "stable_steps": 25_330},
    "150m": {**STENTOR3, "steps": 22_889, "warmup_steps": 1_144, "stable_steps": 18_311},
    "30m": STENTOR2,
    "12m": STENTOR2,
    "30m-v1": {**STENTOR2, "seq_len": 512, "batch_size": 16},
    "12m-v1": {**STENTOR2, "seq_len": 512, "batch_size": 16},
    "tiny": {**STENTOR3, "seq_len": 1024, "steps": 2_000, "warmup_steps": 100, "stable_steps": 1_600, "eval_steps": 100},
}
# A few minutes on two cores: short rows, a small batch, a few hundred steps.
LAPTOP = {
    "seq_len": 256, "batch_size": 2, "steps": 600, "learning_rate": 1e-3, "eval_steps": 150, "best_eval_start_step": 1,
    "logging_steps": 10, "max_eval_samples": 48,
}
LAPTOP_TINY = {**LAPTOP, "batch_size": 8, "learning_rate": 3e-3, "logging_steps": 25}
FP16_CARDS = ("12m-v1", "30m-v1", "12m", "30m")           # trained on T4s
VOCABULARY = {"12m": "english-8000-strict-nocapcode-v1", "30m": "english-8000-strict-nocapcode-v1",
              "20m": "english-4096-strict-nocapcode-v1", "50m": "english-4096-strict-nocapcode-v1"}
DEFAULTS = {"size": "tiny", "precision": "auto", "device": "auto", "schedule": "cosine", "weight_decay": 0.01, "max_grad_norm": 1.0, "seed": 42}
MAY_CHANGE_ON_RESUME = ("resume", "out", "data", "device", "stop_after", "tokens", "epochs", "deadline", "eval_steps", "best_eval_start_step",
                        "max_eval_samples", "logging_steps", "dry_run")
THIS_CALL_ONLY = ("resume", "out", "stop_after", "deadline", "dry_run")           # never taken from the run that is resumed


@dataclass
class Job:
    """Everything a run needs before its first step: resolved settings and where each came from, device, recipe, data, tokenizer, folder."""

    config: TrainConfig
    origin: dict[str, str]
    model_config: ModelConfig
    device: precision.Device
    precision: str
    reason: str
    corpus: data.Corpus
    validation: data.Corpus
    tokenizer: Any
    folder: Path
    source: Path | None                                           # the run that is resumed
    micro_batch: int
    notes: list[str] = field(default_factory=list)

    @property
    def recipe(self) -> precision.Recipe:
        return precision.RECIPES[self.precision]

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
        return step % self.config.eval_steps == 0 or step == self.schedule_end()

    def say(self, text: str) -> None:
        """Print once, however many processes train."""
        if self.device.rank == 0:
            print(text, flush=True)


def open_job(config: TrainConfig) -> Job:
    """Resolve every setting, open device, data and tokenizer, and check that they fit together. Writes nothing but a prepared corpus.

    Raises UserError with all problems of the settings at once.
    """
    source = None
    if config.resume is not None:
        config, source = resumed_config(config)
    origin = {f.name: "run" if source else "flag" for f in dataclasses.fields(config) if getattr(config, f.name) not in (None, False)}
    config = dataclasses.replace(config, **{name: value for name, value in DEFAULTS.items() if getattr(config, name) is None})
    device = precision.open_device(config.device)
    key, reason = config.precision, origin.get("precision")
    if key == "auto":
        key, reason = precision.choose_precision(device.kind, config.size in FP16_CARDS)
    model_config = config.model or SIZES[config.size]
    if config.init:
        model_config = ModelConfig.from_json(Path(config.init) / "config.json")
    on_cpu = device.kind in ("cpu", "mps") or os.environ.get("PJRT_DEVICE") == "CPU"
    recipe = config.recipe or ("laptop" if on_cpu else "card")
    folder, notes = corpus_folder(config, device)
    config, from_recipe = resolve(config, recipe, folder)
    origin.update({name: from_recipe for name in LAPTOP if name not in origin})
    config = dataclasses.replace(config, recipe=recipe, fused=config.fused or device.kind == "cuda", compile=config.compile or device.kind == "cuda")
    check_settings(config, model_config, device)
    rows = config.batch_size // device.world
    micro_batch = config.micro_batch or rows
    corpus = data.Corpus(folder, config.seq_len, config.batch_size, config.steps, config.seed)
    validation = validation_corpus(folder, config, micro_batch, device)
    words = tokenizer.load(corpus.vocab_path)
    if words.vocab_size > model_config.vocab_size:
        raise UserError(f"{folder}: its vocabulary has {words.vocab_size} ids, the model only {model_config.vocab_size}; prepare it with another --vocab")
    if words.vocab_size < model_config.vocab_size:
        notes.append(f"the vocabulary has {words.vocab_size} ids; the model's other {model_config.vocab_size - words.vocab_size} rows stay unused")
    out = Path(config.out) if config.out else source or free_folder(Path("runs"), config.size)
    return Job(config, origin, model_config, device, key, reason, corpus, validation, words, out, source, micro_batch, notes)


def resumed_config(config: TrainConfig) -> tuple[TrainConfig, Path]:
    """The stored settings of the run that --resume names, with what this call may change. Raises UserError listing every other change."""
    source = Path(config.resume) if config.resume else newest_run()
    stored = read_json(source / "run.json").get("settings", {})
    if stored.get("model"):
        stored["model"] = ModelConfig(**stored["model"])
    refused = []
    for f in dataclasses.fields(config):
        asked = getattr(config, f.name)
        if asked in (None, False) or asked == stored.get(f.name):
            continue
        if f.name not in MAY_CHANGE_ON_RESUME:
            refused.append(f"{f.name} {stored.get(f.name)} -> {asked}")
        stored[f.name] = asked
    if refused:
        raise UserError(f"{source}: a resumed run cannot change {'; '.join(refused)}; start a new run for that")
    stored.update({name: getattr(config, name) for name in THIS_CALL_ONLY})
    known = {f.name for f in dataclasses.fields(config)}
    return dataclasses.replace(config, **{name: value for name, value in stored.items() if name in known}), source


def resolve(config: TrainConfig, recipe: str, folder: Path) -> tuple[TrainConfig, str]:
    """Fill every field that is still None from the recipe of the size. Returns it and the words for where those values came from."""
    card = CARDS[config.size]
    values = dict(LAPTOP_TINY if config.size == "tiny" else LAPTOP) if recipe == "laptop" else dict(card)
    values.update({f.name: getattr(config, f.name) for f in dataclasses.fields(config) if getattr(config, f.name) is not None})
    if config.steps is None:
        limits = [values["steps"]]
        if config.tokens:
            limits.append(max(1, config.tokens // (values["batch_size"] * values["seq_len"])))
        epochs = config.epochs or (4 if config.data is None and recipe == "card" else None)
        if epochs:
            limits.append(data.steps_for_epochs(folder, values["seq_len"], values["batch_size"], epochs))
        values["steps"] = min(limits)
    as_the_card = recipe == "card" and values["steps"] == card["steps"]
    shares = {"warmup_steps": 0.05, "stable_steps": 0.80}
    for name, share in shares.items():
        if getattr(config, name) is None:
            values[name] = card[name] if as_the_card else max(1, round(share * values["steps"]))
    if config.stop_after is None and not as_the_card:
        values["stop_after"] = None
    return dataclasses.replace(config, **values), "recipe laptop" if recipe == "laptop" else f"card of {config.size}"


def check_settings(config: TrainConfig, model_config: ModelConfig, device: precision.Device) -> None:
    """Raise UserError with everything that is impossible about these settings, all at once."""
    found = model_config.problems()
    for name in (*LAPTOP, "warmup_steps", "stable_steps", "micro_batch", "tokens", "epochs", "stop_after", "deadline", "max_grad_norm"):
        value = getattr(config, name)
        if value is not None and not (value > 0 or (name in ("warmup_steps", "stable_steps") and value == 0)):
            found.append(f"--{name.replace('_', '-')} {value} must be positive")
    if not found:
        parts = device.world * device.shards * (config.micro_batch or 1)
        if config.batch_size % parts:
            found.append(f"--batch-size {config.batch_size} is not a multiple of {parts} (processes x chips x --micro-batch)")
        if config.seq_len > model_config.max_position_embeddings:
            found.append(f"--seq-len {config.seq_len} is more than the model's max_position_embeddings {model_config.max_position_embeddings}")
        if config.seq_len < 2:
            found.append("--seq-len 1 leaves nothing to predict; use at least 2")
        if config.warmup_steps + (config.stable_steps if config.schedule == "wsd" else 0) > config.steps:
            found.append(f"--warmup-steps {config.warmup_steps} and --stable-steps {config.stable_steps} are more than --steps {config.steps}")
    if config.weight_decay < 0:
        found.append(f"--weight-decay {config.weight_decay} must not be negative")
    if found:
        raise UserError("impossible settings: " + "; ".join(found))


def corpus_folder(config: TrainConfig, device: precision.Device) -> tuple[Path, list[str]]:
    """The prepared corpus of this run, prepared now if need be (by the first process), and what the user should know about it."""
    if config.data and (Path(config.data) / "manifest.json").is_file():
        return Path(config.data), []
    notes = []
    vocab = config.init or VOCABULARY.get(config.size)
    if vocab and not config.init:
        try:
            vocab = tokenizer.find(vocab, network=False)
        except UserError:
            notes.append(f"{vocab}, the vocabulary of {config.size}, is not on this machine: the built-in one takes its place")
            vocab = None
    name = Path(config.data).stem if config.data else "builtin"
    out = Path("corpora") / (name if vocab is None else f"{name}-{Path(vocab).stem}")
    if device.rank > 0:
        torch.distributed.barrier()
    folder = data.prepare_files([config.data], out, vocab) if config.data else data.prepare_builtin(out, vocab)
    if device.rank == 0 and device.world > 1:
        torch.distributed.barrier()
    return folder, notes


def validation_corpus(folder: Path, config: TrainConfig, micro_batch: int, device: precision.Device) -> data.Corpus:
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


def announce(job: Job, model: Llama) -> None:
    """The resolved settings with where each came from, the model, the device, and what to expect."""
    config = job.config
    hidden = ("model", "resume", "dry_run", "deadline")
    rows = [(f.name, getattr(config, f.name)) for f in dataclasses.fields(config) if f.name not in hidden]
    job.say("\n".join(f"  {name:<22}{value!s:<28}{job.origin.get(name, 'default')}" for name, value in rows if value not in (None, False)))
    tokens = job.tokens_per_step()
    total = job.schedule_end() * tokens
    lines = {
        "model": f"{config.size}: {count(job.model_config)['total']:,} parameters",
        "first loss": f"about ln({job.model_config.vocab_size:,}) = {math.log(job.model_config.vocab_size):.2f}",
        "device": f"{job.device.kind} ({job.device.reason}), {job.device.world * job.device.shards} in parallel",
        "precision": f"{job.precision}: {job.reason}",
        "data": f"{job.corpus.folder}: {job.tokens_per_epoch():,} tokens",
        "run": f"{job.schedule_end():,} steps of {tokens:,} tokens = {total:,} tokens",
        "folder": str(job.folder),
    }
    if job.end() < config.steps:
        lines["run"] += f"; stops at step {job.end():,} of a schedule laid out for {config.steps:,}"
    if config.recipe == "laptop":
        lines["recipe"] = f"laptop; the real thing is: python train.py --size {config.size} --recipe card --data FOLDER"
    if job.device.kind != "xla":
        lines["time"] = f"about {total / measured_speed(model, job) / 60:.1f} minutes, from one trial pass"
    lines.update({f"note {i + 1}": note for i, note in enumerate(job.notes)})
    job.say("\n".join(f"{name:<12}{text}" for name, text in lines.items()))
    job.say(textwrap.indent(data.mixture_table(job.corpus), "  ") + "\n")


def measured_speed(model: Llama, job: Job) -> float:
    """Training tokens per second of one forward and backward pass over a short row, after one to warm up."""
    ids = torch.zeros(1, min(job.config.seq_len, 256), dtype=torch.long, device=job.device.device)
    for _ in range(2):
        begun = time.perf_counter()
        next_token_loss(model(ids), ids).backward()
        model.zero_grad(set_to_none=True)
        if job.device.kind == "cuda":
            torch.cuda.synchronize()
    return ids.numel() * job.device.world / (time.perf_counter() - begun)


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
