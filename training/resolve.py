# SPDX-License-Identifier: Apache-2.0
"""Settings of a run: the cards' presets by size, and how every value that is not given is found and each one checked.

Kept out of train.py because it is no lesson: nothing here is computed in a training step.
"""
from __future__ import annotations

import argparse
import dataclasses
import math
import numbers
import os
import typing
from pathlib import Path
from typing import TYPE_CHECKING

import torch

import data
import precision
from common import UserError, newest_run, read_json
from devices.device import Device
from training.compiled import lacking
from model import ModelConfig
from params import training_memory

if TYPE_CHECKING:
    from train import TrainConfig

# The published hyper-parameters (Stentor3-20M, Stentor2-30M and Portimbria-150M cards). Ours where a card is silent: logging_steps of the two
# TPU models, everything of a sibling that has no card (50m from its 8.3B tokens, 12m as 30m, the v1 line as 30m at its context of 512).
# The 30m card's limits exclude each other (800 million tokens are 97,656 steps); its run ended near step 30,300 of a cosine laid out for
# 60,626, and so does its preset: `tokens` ends a run and leaves the schedule where it is.
STENTOR3 = {
    "seq_len": 4096, "batch_size": 64, "steps": 32_425, "warmup_steps": 1_621, "stable_steps": 25_940, "learning_rate": 8e-4,
    "eval_steps": 1_000, "best_eval_start_step": 1_000, "logging_steps": 100, "max_eval_samples": 5_000,
}
STENTOR2 = {
    "seq_len": 1024, "batch_size": 8, "steps": 60_626, "tokens": 30_300 * 8192, "warmup_steps": 3_031, "stable_steps": 48_500,
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
    "seq_len": 128, "batch_size": 4, "steps": 660, "learning_rate": 2e-3, "eval_steps": 220, "best_eval_start_step": 1,
    "logging_steps": 10, "max_eval_samples": 192,
}
LAPTOP_TINY = {**LAPTOP, "seq_len": 256, "batch_size": 8, "steps": 400, "eval_steps": 100, "learning_rate": 3e-3, "logging_steps": 25,
               "max_eval_samples": 96}
# The cards' settings for fine-tuning (their section "LoRA starter"; here all weights train), a range's lower end. They go with --init.
FINETUNING = {"seq_len": 512, "epochs": 2, "eval_steps": 50, "best_eval_start_step": 1, "logging_steps": 10, "max_eval_samples": 500}
FINETUNE = {
    "finetune-stentor3": {**FINETUNING, "batch_size": 8, "learning_rate": 3e-5},
    "finetune-portimbria": {**FINETUNING, "batch_size": 4, "learning_rate": 2e-4},
}
FINETUNE_BETA2 = 0.999
FP16_CARDS = ("12m-v1", "30m-v1", "12m", "30m")           # trained on T4s
VOCABULARY = {"12m": "english-8000-strict-nocapcode-v1", "30m": "english-8000-strict-nocapcode-v1",
              "20m": "english-4096-strict-nocapcode-v1", "50m": "english-4096-strict-nocapcode-v1"}
# What a v5e chip's 15.75 GiB do not hold otherwise at the card's 8 rows of 4,096 tokens, by its compiler's figures (bench/tpu_compile.py).
RECOMPUTE_ON_TPU = ("150m",)
CHUNK_ON_TPU = 512
MEMORY_SHARE = 0.9                                                # of what is free on a GPU; the rest is for gaps between tensors
DEFAULTS = {"size": "tiny", "precision": "auto", "device": "auto", "schedule": "cosine", "weight_decay": 0.01, "max_grad_norm": 1.0, "seed": 42}
MAY_CHANGE_ON_RESUME = ("resume", "out", "data", "device", "stop_after", "tokens", "epochs", "deadline", "eval_steps", "best_eval_start_step",
                        "max_eval_samples", "logging_steps", "dry_run")
LASTING_CHANGES = ("tokens", "epochs", "eval_steps", "best_eval_start_step", "max_eval_samples", "logging_steps")   # of those, run.json keeps
THIS_CALL_ONLY = ("resume", "out", "stop_after", "deadline", "dry_run")           # never taken from the run that is resumed


def checked(config: TrainConfig) -> TrainConfig:
    """The same settings with every value of its field's type. Raises UserError that lists all values which are of no such kind."""
    hints = typing.get_type_hints(type(config))
    values, found = {}, []
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        kind = next(kind for kind in typing.get_args(hints[f.name]) or (hints[f.name],) if kind is not type(None))
        try:
            if value is None or isinstance(value, kind) and isinstance(value, bool) == (kind is bool):
                values[f.name] = value
            elif isinstance(value, str) and "type" in f.metadata:
                values[f.name] = f.metadata["type"](value)
            elif kind is str:
                values[f.name] = os.fspath(value)
            elif kind in (int, float) and isinstance(value, numbers.Real if kind is float else numbers.Integral) and not isinstance(value, bool):
                values[f.name] = kind(value)
            else:
                raise TypeError(f"it must be {kind.__name__}")
            if value is not None and "choices" in f.metadata and value not in f.metadata["choices"]:
                raise TypeError(f"choose from {', '.join(f.metadata['choices'])}")
        except (TypeError, argparse.ArgumentTypeError) as error:
            found.append(f"--{f.name.replace('_', '-')} {value!r}: {error}")
    if found:
        raise UserError("impossible settings: " + "; ".join(found))
    return dataclasses.replace(config, **values)


def resumed_config(config: TrainConfig) -> tuple[TrainConfig, Path, dict]:
    """The stored settings of the run that --resume names, with what this call may change, and its whole run.json.

    Raises UserError listing every other change.
    """
    source = Path(config.resume) if config.resume else newest_run()
    stored = read_json(source / "run.json")
    settings = stored.get("settings")
    names = [f.name for f in dataclasses.fields(config)]
    try:
        settings = {name: settings[name] for name in names}
        model = ModelConfig(**stored["model"])
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{source / 'run.json'}: not the settings of a run of this program ({error!r})") from None
    settings["model"] = model if settings["model"] else None
    refused = []
    for name in names:
        asked = getattr(config, name)
        if asked is None or asked is False or asked == settings[name]:
            continue
        if name not in MAY_CHANGE_ON_RESUME:
            refused.append(f"{name} {settings[name]} -> {asked}")
        settings[name] = asked
    if refused:
        raise UserError(f"{source}: a resumed run cannot change {'; '.join(refused)}; start a new run for that")
    if config.data is None and (Path(str(stored.get("data"))) / "manifest.json").is_file():
        settings["data"] = stored["data"]                         # what was prepared then, found again
    settings.update({name: getattr(config, name) for name in THIS_CALL_ONLY})
    return checked(dataclasses.replace(config, **settings)), source, stored


def for_device(config: TrainConfig, device: Device, stored: dict) -> TrainConfig:
    """On CUDA: the fused AdamW, and torch.compile where it finds what it needs. `stored` is the run.json of a run that goes on here.

    If that began on a device of another kind, what was decided for that one is left behind: its compiling, its micro-batch.
    """
    if stored and stored.get("device") != device.kind:
        config = dataclasses.replace(config, compile=False, micro_batch=config.micro_batch if device.kind in ("cpu", "mps") else None)
    asked, on_gpu = config.compile and not stored, device.kind == "cuda"
    compiles = (config.compile or on_gpu) and not lacking(device.kind)
    return dataclasses.replace(config, fused=config.fused or on_gpu, compile=asked or compiles)


def fit_on_chip(config: TrainConfig, model_config: ModelConfig, device: Device, recipe: precision.Recipe) -> TrainConfig:
    """On an XLA device: recompute layers where the card's size needs it, and chunk the loss where one chip's FP32 logits pass 1 GiB.

    On CUDA: as many rows at once as `params.training_memory` thinks will fit into MEMORY_SHARE of what is free (compiled, they need less).
    """
    if device.kind == "cuda" and not config.micro_batch:
        free = MEMORY_SHARE * torch.cuda.mem_get_info(device.torch_device)[0]
        rows = config.batch_size // device.world
        need = {size: training_memory(model_config, size, config.seq_len, recipe.autocast is not None, config.recompute, size < rows,
                                      config.loss_chunk)["peak"] for size in range(1, rows + 1) if rows % size == 0}
        fitting = torch.tensor(max((size for size in need if need[size] < free), default=1), device=device.torch_device)
        if device.world > 1:                                      # the same for all processes, whose GPUs may differ
            torch.distributed.all_reduce(fitting, op=torch.distributed.ReduceOp.MIN)
        return dataclasses.replace(config, micro_batch=int(fitting))
    if device.kind != "xla":
        return config
    rows = config.micro_batch or config.batch_size // device.shards
    large = 4 * rows * config.seq_len * model_config.vocab_size > 2**30
    recompute = config.recompute or (config.recipe == "card" and config.size in RECOMPUTE_ON_TPU)
    return dataclasses.replace(config, recompute=recompute, loss_chunk=config.loss_chunk or (CHUNK_ON_TPU if large else None))


def resolve(config: TrainConfig, recipe: str, folder: Path) -> tuple[TrainConfig, str]:
    """Fill every field that is still None from the recipe of the size. Returns it and the words for where those values came from."""
    card = CARDS[config.size]
    laptop = LAPTOP_TINY if config.size == "tiny" else LAPTOP
    values = {"laptop": laptop, "card": card, **FINETUNE}[recipe].copy()
    if config.model:                                              # no shape of the family: the recipe's rows may be longer than its context
        values["seq_len"] = min(values["seq_len"], config.model.max_position_embeddings)
    usual_epochs = values.pop("epochs", 4 if config.data is None and recipe == "card" else None)
    values.update({f.name: getattr(config, f.name) for f in dataclasses.fields(config) if getattr(config, f.name) is not None})
    if config.steps is None:
        limits = [values["steps"]] if "steps" in values else []
        if config.tokens:
            limits.append(max(1, config.tokens // (values["batch_size"] * values["seq_len"])))
        epochs = config.epochs or usual_epochs
        if epochs:
            limits.append(data.steps_for_epochs(folder, values["seq_len"], values["batch_size"], epochs))
        values["steps"] = min(limits)
    as_the_card = recipe == "card" and values["steps"] == card["steps"]
    if not as_the_card:
        values["tokens"] = config.tokens                          # a card's own budget belongs to the card's own schedule
    if config.warmup_steps is None:
        values["warmup_steps"] = card["warmup_steps"] if as_the_card else max(1, round(0.05 * values["steps"]))
    if config.stable_steps is None:
        share = min(round(0.80 * values["steps"]), values["steps"] - values["warmup_steps"])
        values["stable_steps"] = card["stable_steps"] if as_the_card else max(0, share)
    return dataclasses.replace(config, **values), f"card of {config.size}" if recipe == "card" else f"recipe {recipe}"


def check_settings(config: TrainConfig, model_config: ModelConfig, device: Device) -> None:
    """Raise UserError with everything that is impossible about these settings, all at once. What is still None is not judged."""
    found = model_config.problems()
    if config.recipe in FINETUNE and not config.init:
        found.append(f"--recipe {config.recipe} goes on from a trained model: name its folder with --init")
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if type(value) in (int, float):
            at_least_zero = f.name in ("warmup_steps", "stable_steps", "weight_decay", "seed")
            if not (math.isfinite(value) and (value > 0 or value == 0 and at_least_zero) and value < 2**63):
                found.append(f"--{f.name.replace('_', '-')} {value} must be {'zero or more' if at_least_zero else 'positive'}")
    if not found:
        parts = device.world * device.shards * (config.micro_batch or 1)
        if config.batch_size and config.batch_size % parts:
            found.append(f"--batch-size {config.batch_size} is not a multiple of {parts} (processes x chips x --micro-batch)")
        if (config.seq_len or 0) > model_config.max_position_embeddings:
            found.append(f"--seq-len {config.seq_len} is more than the model's max_position_embeddings {model_config.max_position_embeddings}")
        if config.compile and device.kind == "xla":
            found.append("--compile is of no use on XLA, which compiles the step by itself")
        elif config.compile and lacking(device.kind):
            found.append(f"--compile needs {lacking(device.kind)}, and there is none here: install it, or leave --compile out")
        if config.seq_len == 1:
            found.append("--seq-len 1 leaves nothing to predict; use at least 2")
        ramps = (config.warmup_steps or 0) + (config.stable_steps or 0) * (config.schedule == "wsd")
        if config.steps and ramps > config.steps:
            also = f" and --stable-steps {config.stable_steps}" if config.schedule == "wsd" and config.stable_steps else ""
            found.append(f"--warmup-steps {config.warmup_steps or 0}{also}: more than --steps {config.steps}")
    if found:
        raise UserError("impossible settings: " + "; ".join(found))
