# SPDX-License-Identifier: Apache-2.0
"""Find the value of every setting: a later layer replaces an earlier one; then all are checked.

`training.job.open_job` calls these functions in the order in which their answers depend on each other.
"""
from __future__ import annotations

import argparse
import dataclasses
import math
import numbers
import os
import typing
from pathlib import Path
from typing import Any

import torch

import data
from common import UserError, newest_run, read_json
from devices.device import Device
from model import ModelConfig
from params import training_memory
from precision import Precision
from training.compiled import lacking
from training.settings import (
    BUILTIN_EPOCHS, CHUNK_ON_TPU, MAY_CHANGE_ON_RESUME, RECIPES, RECOMPUTE_ON_TPU, STABLE_SHARE,
    THIS_CALL_ONLY, WARMUP_SHARE, TrainSettings,
)

MISSING_IN_OLD_RUNS = ("beta1", "beta2", "eps", "snapshots")
DEVICE_DECIDES = ("data", "device", "micro_batch", "loss_chunk")  # decided again when a run is resumed
MEMORY_SHARE = 0.9                                                # of a GPU's free memory that a step may use


def recipe_values(recipe: str, size: str) -> dict[str, Any]:
    """What `recipe` ("laptop", "card", ...) changes for a model of `size`, also for a size without a row."""
    rows = RECIPES[recipe]
    return rows.get(size, rows.get("other", {}))


def default_values() -> dict[str, Any]:
    """Field -> default of TrainSettings."""
    return dataclasses.asdict(TrainSettings())


# ----------------------------------------------------------------------------------------- what was asked for

def checked(given: dict[str, Any]) -> dict[str, Any]:
    """The same settings, each value converted to the type of its field.

    Raises UserError that lists every unknown name and every value that does not fit.
    """
    hints = typing.get_type_hints(TrainSettings)
    fields = {field.name: field for field in dataclasses.fields(TrainSettings)}
    values, found = {}, [f"there is no setting {name}" for name in given if name not in fields]
    for name in (name for name in fields if name in given):
        try:
            values[name] = converted(given[name], hints[name], fields[name])
        except (TypeError, argparse.ArgumentTypeError) as error:
            found.append(f"--{name.replace('_', '-')} {given[name]!r}: {error}")
    if found:
        raise UserError("impossible settings: " + "; ".join(found))
    return values


def converted(value: Any, hint: Any, field: dataclasses.Field) -> Any:
    """`value` as the type that `hint` names.

    Raises TypeError or ArgumentTypeError that says what is allowed.
    """
    kinds = typing.get_args(hint) or (hint,)
    kind = kinds[0]
    if value is None and type(None) in kinds or value == "auto" and str in kinds[1:]:
        return value
    if kind is str and isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, str) and "type" in field.metadata:
        value = field.metadata["type"](value)
    elif isinstance(value, str) and "choices" in field.metadata:
        value = value.lower()
    number = numbers.Real if kind is float else numbers.Integral
    if kind in (int, float) and isinstance(value, number) and not isinstance(value, bool):
        value = kind(value)
    if not isinstance(value, kind) or isinstance(value, bool) and kind is not bool:
        raise TypeError(f"it must be {kind.__name__}")
    if value == "" and field.name != "resume":
        raise TypeError("it is empty (an unset variable?)")
    if kind is str and value != value.encode(errors="replace").decode():
        raise TypeError("the name has bytes that are not UTF-8; rename it")
    if "choices" in field.metadata and value not in field.metadata["choices"]:
        raise TypeError(f"choose from {', '.join(field.metadata['choices'])}")
    return value


# ---------------------------------------------------------------------------------------------- a resumed run

def resumed_run(given: dict[str, Any]) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """The run that --resume names: its folder, its run.json, and the settings stored there.

    Raises UserError for a run.json that is damaged, and for settings that a resumed run cannot change.
    """
    folder = Path(given["resume"]) if given["resume"] else newest_run()
    file = folder / "run.json"
    record = read_json(file)
    try:
        stored = stored_settings(record)
        ModelConfig(**record["model"]).check()
    except (KeyError, TypeError, ValueError, AttributeError, UserError) as error:
        raise UserError(f"{file}: not the settings of a run of this program ({error!r})") from None
    refused = [f"{name} {stored.get(name)} -> {value}" for name, value in given.items()
               if name not in MAY_CHANGE_ON_RESUME and value != stored.get(name, value)]
    if refused:
        raise UserError(f"{folder}: a resumed run cannot change {'; '.join(refused)}; start a new run for "
                        "that")
    if "data" not in given and (Path(str(record.get("data"))) / "manifest.json").is_file():
        stored["data"] = record["data"]                           # the corpus that the run was trained on
    return folder, record, stored


def stored_settings(record: dict[str, Any]) -> dict[str, Any]:
    """The settings in a run.json, also in one of an older version.

    Older versions wrote null where the device decides, and had no beta1, beta2 and eps: the recipe's are
    used.
    """
    written, defaults = record["settings"], default_values()
    of_recipe = {**defaults, **recipe_values(written["recipe"], written["size"])}
    stored = {}
    for name in (name for name in defaults if name not in THIS_CALL_ONLY):
        value = written.get(name, of_recipe[name]) if name in MISSING_IN_OLD_RUNS else written[name]
        if value in (None, "auto") and name in DEVICE_DECIDES:
            continue
        if value == "auto" or value is None and defaults[name] is not None:
            raise UserError(f"{name} has no value")
        stored[name] = value
    stored["model"] = ModelConfig(**record["model"]) if written["model"] else None
    return checked(stored)


# ---------------------------------------------------------------------------- what device and corpus decide

def for_device(values: dict[str, Any], device: Device, record: dict[str, Any]) -> dict[str, Any]:
    """What the device changes before the corpus is known.

    The CPU and CUDA take the fused AdamW. CUDA and TorchTPU compile the model, if a compiler is there.
    `record` is the run.json of a resumed run. If that ran on another kind of device, its fused, compile and
    micro_batch are dropped.
    """
    changes = {}
    moved = record and record.get("device") != device.kind
    if values["fused"] == "auto" or moved:
        changes["fused"] = device.kind in ("cpu", "cuda")
    if moved and device.kind not in ("cpu", "mps"):
        changes["micro_batch"] = "auto"
    asked = values["compile"] and not record
    compiles = values["compile"] and not moved or device.kind in ("cuda", "tpu")
    changes["compile"] = asked or compiles and not lacking(device.kind)
    return {name: value for name, value in changes.items() if value != values[name]}


def schedule_values(values: dict[str, Any], asked: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The steps of the schedule, of the warmup and at the peak, where no number was asked for.

    The steps are the recipe's, or fewer if a limit of tokens or epochs ends the run before. The recipe's
    tokens, epochs, warmup and stable steps are used only with the recipe's own number of steps.
    """
    row = recipe_values(values["recipe"], values["size"])
    changes = {"steps": values["steps"]}
    if "steps" not in asked:
        epochs = values["epochs"]
        if not epochs and values["recipe"] == "card" and values["data"] == "auto":
            epochs = BUILTIN_EPOCHS
        limits = [] if values["steps"] == "auto" else [values["steps"]]
        if asked.get("tokens"):
            limits.append(max(1, asked["tokens"] // (values["batch_size"] * values["seq_len"])))
        if epochs:
            limits.append(data.steps_for_epochs(folder, values["seq_len"], values["batch_size"], epochs))
        changes["steps"] = min(limits)
    steps = changes["steps"]
    if steps != row.get("steps", TrainSettings.steps):
        own = [name for name in ("tokens", "epochs", "warmup_steps", "stable_steps") if name in row]
        changes.update({name: getattr(TrainSettings, name) for name in own if name not in asked})
    now = {**values, **changes}
    if now["warmup_steps"] == "auto":
        changes["warmup_steps"] = now["warmup_steps"] = max(1, round(WARMUP_SHARE * steps))
    if now["stable_steps"] == "auto":
        changes["stable_steps"] = max(0, min(round(STABLE_SHARE * steps), steps - now["warmup_steps"]))
    return {name: value for name, value in changes.items() if value != values[name]}


def fit_on_chip(settings: TrainSettings, config: ModelConfig, device: Device,
                precision: Precision) -> dict[str, Any]:
    """What the memory of the device changes.

    TPU   recompute layers where the card's size needs it; chunk the loss where the FP32 logits of one chip
          are larger than 1 GiB
    CUDA  as many rows at once as `params.training_memory` expects to fit into MEMORY_SHARE of what is free
    """
    changes = {}
    tpu = device.kind in ("xla", "tpu")
    if tpu and settings.recipe == "card" and settings.size in RECOMPUTE_ON_TPU:
        changes["recompute"] = True
    if settings.loss_chunk == "auto":
        chips = device.world * device.shards
        rows = settings.batch_size // chips if settings.micro_batch == "auto" else settings.micro_batch
        large = tpu and 4 * rows * settings.seq_len * config.vocab_size > 2**30
        changes["loss_chunk"] = CHUNK_ON_TPU if large else None
    if device.kind == "cuda" and settings.micro_batch == "auto":
        settings = dataclasses.replace(settings, **changes)
        changes["micro_batch"] = rows_that_fit(settings, config, device, precision)
    return changes


def rows_that_fit(settings: TrainSettings, config: ModelConfig, device: Device,
                  precision: Precision) -> int:
    """The largest micro-batch that divides this process's rows and fits into the GPU's free memory."""
    free = MEMORY_SHARE * torch.cuda.mem_get_info(device.torch_device)[0]
    rows = settings.batch_size // device.world
    fitting = 1
    for size in (size for size in range(1, rows + 1) if rows % size == 0):
        memory = training_memory(config, size, settings.seq_len, precision.autocast is not None,
                                 settings.recompute, size < rows, settings.loss_chunk)
        if memory["peak"] < free:
            fitting = size
    if device.world == 1:
        return fitting
    smallest = torch.tensor(fitting, device=device.torch_device)  # the same for all processes
    torch.distributed.all_reduce(smallest, op=torch.distributed.ReduceOp.MIN)
    return int(smallest)


# ----------------------------------------------------------------------------------------------------- checks

def check_settings(settings: TrainSettings, config: ModelConfig, device: Device) -> None:
    """Raise UserError with every setting that is impossible. "auto" is not checked."""
    found = config.problems()
    if settings.recipe.startswith("finetune") and not settings.init:
        found.append(f"--recipe {settings.recipe} starts from a trained model: name its folder with --init")
    for f in dataclasses.fields(settings):
        value = getattr(settings, f.name)
        if type(value) in (int, float):
            zero_allowed = f.name in ("warmup_steps", "stable_steps", "weight_decay", "seed")
            if not (math.isfinite(value) and (value > 0 or value == 0 and zero_allowed) and value < 2**63):
                needed = "zero or more" if zero_allowed else "positive"
                found.append(f"--{f.name.replace('_', '-')} {value} must be {needed}, and less than 2^63")
    if not found:
        found = impossible_together(settings, config, device)
    if found:
        raise UserError("impossible settings: " + "; ".join(found))


def impossible_together(settings: TrainSettings, config: ModelConfig, device: Device) -> list[str]:
    """Problems of settings that are possible one by one."""
    found = []
    parts = device.world * device.shards * (1 if settings.micro_batch == "auto" else settings.micro_batch)
    if settings.batch_size % parts:
        found.append(f"--batch-size {settings.batch_size} is not a multiple of {parts} "
                     "(processes x chips x --micro-batch)")
    longest = config.max_position_embeddings
    if settings.seq_len > longest:
        found.append(f"--seq-len {settings.seq_len} is more than the model's max_position_embeddings "
                     f"{longest}")
    if settings.seq_len == 1:
        found.append("--seq-len 1 leaves nothing to predict; use at least 2")
    if settings.compile and device.kind == "xla":
        found.append("--compile does nothing on XLA, which compiles every step; leave it out")
    elif settings.compile and lacking(device.kind):
        found.append(f"--compile needs {lacking(device.kind)}, and there is none here: install it, or leave "
                     "--compile out")
    warmup = 0 if settings.warmup_steps == "auto" else settings.warmup_steps
    stable = 0 if settings.stable_steps == "auto" or settings.schedule != "wsd" else settings.stable_steps
    if settings.steps != "auto" and warmup + stable > settings.steps:
        also = f" and --stable-steps {stable}" if stable else ""
        found.append(f"--warmup-steps {warmup}{also}: more than --steps {settings.steps}")
    return found
