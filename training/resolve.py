# SPDX-License-Identifier: Apache-2.0
"""How the layers of a run's settings are found, laid over each other, and checked."""
from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import torch

import data
import precision
from common import UserError, newest_run, read_json
from devices.device import Device
from model import ModelConfig
from params import training_memory
from training.compiled import lacking
from training.settings import (
    BUILTIN_EPOCHS, CHUNK_ON_TPU, MAY_CHANGE_ON_RESUME, RECOMPUTE_ON_TPU, STABLE_SHARE, THIS_CALL_ONLY,
    WARMUP_SHARE, TrainSettings, checked, default_values, recipe_values,
)

NEWER = ("beta1", "beta2", "eps", "snapshots")                     # settings that older run.json files lack
MEMORY_SHARE = 0.9                                                # of a GPU's free memory; the rest is for gaps


def overlay(layers: list[tuple[str, dict[str, Any]]]) -> tuple[dict[str, Any], dict[str, str]]:
    """Lay named layers of settings over each other, the last on top. Returns name -> value, name -> layer."""
    values, origin = {}, {}
    for layer, settings in layers:
        values.update(settings)
        origin.update(dict.fromkeys(settings, layer))
    return values, origin


def resumed_run(given: dict[str, Any]) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """The run that --resume names: its folder, its run.json, and the settings that it stores.

    Raises UserError for a run.json of something else, and for settings that a resumed run cannot change, all
    at once.
    """
    folder = Path(given["resume"]) if given["resume"] else newest_run()
    file = folder / "run.json"
    record = read_json(file)
    try:
        stored = stored_settings(record)
    except (KeyError, TypeError, ValueError, AttributeError, UserError) as error:
        raise UserError(f"{file}: not the settings of a run of this program ({error!r})") from None
    refused = [f"{name} {stored.get(name)} -> {value}" for name, value in given.items()
               if name not in MAY_CHANGE_ON_RESUME and value != stored.get(name, value)]
    if refused:
        raise UserError(f"{folder}: a resumed run cannot change {'; '.join(refused)}; start a new run for that")
    if "data" not in given and (Path(str(record.get("data"))) / "manifest.json").is_file():
        stored["data"] = record["data"]                           # the corpus that was prepared then
    return folder, record, stored


def stored_settings(record: dict[str, Any]) -> dict[str, Any]:
    """The settings in a run.json, also of an older version.

    Older versions wrote null for what the device or the folder decides, and had no beta1, beta2 and eps: these
    are those of the recipe.
    """
    written, defaults = record["settings"], default_values()
    of_recipe = {**defaults, **recipe_values(written["recipe"], written["size"])}
    stored = {}
    for name in (name for name in defaults if name not in THIS_CALL_ONLY):
        value = written.get(name, of_recipe[name]) if name in NEWER else written[name]
        if value in (None, "auto") and name in ("data", "device", "micro_batch"):
            continue                                              # decided anew on this device
        if value == "auto" or value is None and defaults[name] is not None:
            raise UserError(f"{name} has no value")
        stored[name] = value
    stored["model"] = ModelConfig(**record["model"]) if written["model"] else None
    return checked(stored)


def for_device(values: dict[str, Any], device: Device, record: dict[str, Any]) -> dict[str, Any]:
    """What the device changes before the corpus is known: on CUDA the fused AdamW, there and
    with TorchTPU torch.compile if it can.

    `record` is the run.json of a resumed run. If that ran on a device of another kind, what was decided for
    that device is dropped: its compiling, its micro-batch.
    """
    changes = {}
    compiles = values["compile"]
    if record and record.get("device") != device.kind:
        compiles = False
        if device.kind not in ("cpu", "mps"):
            changes["micro_batch"] = "auto"
    asked = values["compile"] and not record
    changes["compile"] = asked or (compiles or device.kind in ("cuda", "tpu")) and not lacking(device.kind)
    changes["fused"] = values["fused"] or device.kind == "cuda"
    return {name: value for name, value in changes.items() if value != values[name]}


def schedule_values(values: dict[str, Any], asked: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Steps, and the warmup and stable steps that follow from them, where nobody asked for a number.

    The steps are those of the recipe, or fewer where a budget of tokens or epochs ends before. What a recipe
    says for its own number of steps (tokens, epochs, warmup) is dropped for any other number.
    """
    row = recipe_values(values["recipe"], values["size"])
    changes = {"steps": values["steps"]}
    if "steps" not in asked:
        epochs = values["epochs"] or (BUILTIN_EPOCHS if values["recipe"] == "card" and values["data"] == "auto" else None)
        limits = [] if values["steps"] == "auto" else [values["steps"]]
        if asked.get("tokens"):
            limits.append(max(1, asked["tokens"] // (values["batch_size"] * values["seq_len"])))
        if epochs:
            limits.append(data.steps_for_epochs(folder, values["seq_len"], values["batch_size"], epochs))
        changes["steps"] = min(limits)
    steps = changes["steps"]
    if steps != row.get("steps", TrainSettings.steps):
        own = ("tokens", "epochs", "warmup_steps", "stable_steps")
        changes.update({name: getattr(TrainSettings, name) for name in own if name in row and name not in asked})
    now = {**values, **changes}
    if now["warmup_steps"] == "auto":
        changes["warmup_steps"] = now["warmup_steps"] = max(1, round(WARMUP_SHARE * steps))
    if now["stable_steps"] == "auto":
        changes["stable_steps"] = max(0, min(round(STABLE_SHARE * steps), steps - now["warmup_steps"]))
    return {name: value for name, value in changes.items() if value != values[name]}


def fit_on_chip(settings: TrainSettings, config: ModelConfig, device: Device,
                recipe: precision.Precision) -> dict[str, Any]:
    """What the memory of the device changes.

    TPU   recompute layers where the card's size needs it; chunk the loss where the FP32 logits of one chip
          are larger than 1 GiB
    CUDA  as many rows at once as `params.training_memory` expects to fit into MEMORY_SHARE of what is free
    """
    if device.kind == "cuda" and settings.micro_batch == "auto":
        free = MEMORY_SHARE * torch.cuda.mem_get_info(device.torch_device)[0]
        rows = settings.batch_size // device.world
        fitting = 1
        for size in (size for size in range(1, rows + 1) if rows % size == 0):
            memory = training_memory(config, size, settings.seq_len, recipe.autocast is not None, settings.recompute,
                                     size < rows, settings.loss_chunk)
            if memory["peak"] < free:
                fitting = size
        if device.world > 1:                                      # the same for all processes
            smallest = torch.tensor(fitting, device=device.torch_device)
            torch.distributed.all_reduce(smallest, op=torch.distributed.ReduceOp.MIN)
            fitting = int(smallest)
        return {"micro_batch": fitting}
    if device.kind not in ("xla", "tpu"):
        return {}
    chips = device.world * device.shards
    rows = settings.batch_size // chips if settings.micro_batch == "auto" else settings.micro_batch
    changes = {}
    if settings.recipe == "card" and settings.size in RECOMPUTE_ON_TPU:
        changes["recompute"] = True
    if not settings.loss_chunk and 4 * rows * settings.seq_len * config.vocab_size > 2**30:
        changes["loss_chunk"] = CHUNK_ON_TPU
    return changes


def check_settings(settings: TrainSettings, config: ModelConfig, device: Device) -> None:
    """Raise UserError with everything that is impossible about these settings. "auto" is not judged."""
    found = config.problems()
    if settings.recipe.startswith("finetune") and not settings.init:
        found.append(f"--recipe {settings.recipe} starts from a trained model: name its folder with --init")
    for f in dataclasses.fields(settings):
        value = getattr(settings, f.name)
        if type(value) in (int, float):
            zero_allowed = f.name in ("warmup_steps", "stable_steps", "weight_decay", "seed")
            if not (math.isfinite(value) and (value > 0 or value == 0 and zero_allowed) and value < 2**63):
                needed = "zero or more" if zero_allowed else "positive"
                found.append(f"--{f.name.replace('_', '-')} {value} must be {needed}")
    if not found:
        found = impossible_together(settings, config, device)
    if found:
        raise UserError("impossible settings: " + "; ".join(found))


def impossible_together(settings: TrainSettings, config: ModelConfig, device: Device) -> list[str]:
    """What is wrong about settings that are possible one by one."""
    found = []
    parts = device.world * device.shards * (1 if settings.micro_batch == "auto" else settings.micro_batch)
    if settings.batch_size % parts:
        found.append(f"--batch-size {settings.batch_size} is not a multiple of {parts} "
                     "(processes x chips x --micro-batch)")
    longest = config.max_position_embeddings
    if settings.seq_len > longest:
        found.append(f"--seq-len {settings.seq_len} is more than the model's max_position_embeddings {longest}")
    if settings.seq_len == 1:
        found.append("--seq-len 1 leaves nothing to predict; use at least 2")
    if settings.compile and device.kind == "xla":
        found.append("--compile is of no use on XLA, which compiles the step by itself")
    elif settings.compile and lacking(device.kind):
        found.append(f"--compile needs {lacking(device.kind)}, and there is none here: install it, or leave "
                     "--compile out")
    warmup = 0 if settings.warmup_steps == "auto" else settings.warmup_steps
    stable = 0 if settings.stable_steps == "auto" or settings.schedule != "wsd" else settings.stable_steps
    if settings.steps != "auto" and warmup + stable > settings.steps:
        also = f" and --stable-steps {stable}" if stable else ""
        found.append(f"--warmup-steps {warmup}{also}: more than --steps {settings.steps}")
    return found
