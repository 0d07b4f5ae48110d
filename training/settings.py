# SPDX-License-Identifier: Apache-2.0
"""Every setting of a training run: the common values, then what each recipe changes.

A value is found by laying layers over each other, the later over the earlier: the defaults of `TrainSettings`,
the row of RECIPES, what the device needs, the stored settings of a resumed run, and what was asked for.
`python train.py --dry-run` shows the result and the layer of each value.
"""
from __future__ import annotations

import argparse
import dataclasses
import numbers
import os
import typing
from dataclasses import dataclass
from typing import Any

from common import UserError, duration, flag
from model import SIZES, ModelConfig
from precision import PRECISIONS


@dataclass(frozen=True)
class TrainSettings:
    """Every setting of a run, each with a value. A field with a help text is a flag of train.py.

    The values are those of the laptop recipe; RECIPES says what another recipe changes. "auto" means that
    the device or the corpus decides when the run opens. None means "no limit" or "none".
    """

    size: str = flag("tiny", "which model of the family", choices=list(SIZES))
    model: ModelConfig | None = None                              # any other shape, from a program
    data: str = flag("auto", "a prepared folder, a text file or folder of texts to prepare, or python-docs",
                     shown="the built-in corpus")
    out: str = flag("auto", "run folder to create", shown="runs/SIZE, then runs/SIZE-2 ...")
    resume: str | None = flag(None, "continue this run (without RUN: the newest under runs/)",
                              nargs="?", const="", metavar="RUN")
    init: str | None = flag(None, "start from the weights of this model folder, not from random ones",
                            metavar="FOLDER")
    recipe: str = flag("auto", "length, batch and context: laptop (default on a CPU) or card; with --init also "
                       "the cards' for fine-tuning", shown="auto",
                       choices=["auto", "laptop", "card", "finetune-stentor3", "finetune-portimbria"])
    precision: str = flag("auto", "which dtype each operation runs in", choices=["auto", *PRECISIONS])
    device: str = flag("auto", "where to compute", choices=["auto", "cpu", "cuda", "mps", "tpu", "xla"])
    steps: int | str = flag(660, "optimizer steps of the complete schedule", shown="the recipe's")
    tokens: int | None = flag(None, "stop after this many training tokens; without --steps the schedule ends "
                              "there too")
    epochs: int | None = flag(None, "stop after this many passes over the data; without --steps the schedule "
                              "ends there too")
    stop_after: int | None = flag(None, "evaluate, save and stop at this step, without moving the schedule")
    deadline: float | None = flag(None, "evaluate, save and stop before this much time has passed, for example "
                                  "8h45m", type=duration, metavar="TIME")
    seq_len: int = flag(128, "tokens in a row", shown="the recipe's")
    batch_size: int = flag(4, "rows in an optimizer step, over all devices", shown="the recipe's")
    micro_batch: int | str = flag("auto", "rows at once on a device",
                                  shown="all of them, halved when memory runs out")
    learning_rate: float = flag(2e-3, "peak learning rate", shown="the recipe's")
    warmup_steps: int | str = flag("auto", "steps of linear warmup", shown="the card's, or 5% of the steps")
    schedule: str = flag("cosine", "what follows the warmup", choices=["cosine", "wsd"])
    stable_steps: int | str = flag("auto", "wsd: steps at the peak", shown="the card's, or 80% of the steps")
    weight_decay: float = flag(0.01, "decay of Linear weights")
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    max_grad_norm: float = flag(1.0, "clip the gradient's norm to this")
    seed: int = flag(42, "of weights and data order")
    eval_steps: int = flag(220, "evaluate and save every so many steps", shown="the recipe's")
    best_eval_start_step: int = flag(1, "first step whose evaluation may become best/", shown="the recipe's")
    max_eval_samples: int = flag(192, "validation rows", shown="the recipe's")
    logging_steps: int = flag(10, "read losses and write the log every so many steps", shown="the recipe's")
    recompute: bool = flag(False, "recompute activations in the backward pass: less memory, a third more work")
    loss_chunk: int | None = flag(None, "positions whose logits are held at once (default: all; 512 on a TPU "
                                  "where the vocabulary is large)")
    fused: bool = flag(False, "update with torch's fused AdamW kernel instead of ours (always on CUDA)")
    compile: bool = flag(False, "torch.compile blocks and loss (on a TPU by TorchTPU, on CUDA where possible)")
    skip_nonfinite: bool = flag(False, "skip a step whose gradient is not finite, instead of stopping")
    document_mask: bool = flag(False, "attention sees only its own document (the cards: no mask)")
    snapshots: bool = flag(False, "keep the model of each evaluation; models of less than 5M parameters "
                           "always do")
    dry_run: bool = flag(False, "print all settings and where each comes from, and stop")


# -------------------------------------------------------------------------------------------------- recipes

# The published hyper-parameters (Stentor3-20M, Stentor2-30M and Portimbria-150M cards). Ours where a card is
# silent: logging_steps of the two TPU models, everything of a sibling that has no card (50m from its 8.3B
# tokens, 12m as 30m, the v1 line as 30m at its context of 512). The limits of the 30m card exclude each other
# (800 million tokens are 97,656 steps); its run ended near step 30,300 of a cosine planned for 60,626, and so
# does ours: `tokens` ends a run and leaves the schedule where it is.
STENTOR3 = {
    "seq_len": 4096, "batch_size": 64, "steps": 32_425, "warmup_steps": 1_621, "stable_steps": 25_940,
    "learning_rate": 8e-4, "eval_steps": 1_000, "best_eval_start_step": 1_000, "logging_steps": 100,
    "max_eval_samples": 5_000,
}
STENTOR2 = {
    "seq_len": 1024, "batch_size": 8, "steps": 60_626, "tokens": 30_300 * 8192, "warmup_steps": 3_031,
    "stable_steps": 48_500, "learning_rate": 8e-4, "eval_steps": 900, "best_eval_start_step": 1_500,
    "logging_steps": 300, "max_eval_samples": 5_000,
}
# The cards' settings for fine-tuning (their section "LoRA starter"; here all weights train), the lower end of
# each range. They need --init.
FINETUNING = {
    "seq_len": 512, "steps": "auto", "epochs": 2, "eval_steps": 50, "max_eval_samples": 500, "beta2": 0.999,
}
# recipe -> size -> what it changes; "other" is every size without a row, and no row means the defaults above.
RECIPES = {
    "laptop": {
        "tiny": {"seq_len": 256, "batch_size": 8, "steps": 1700, "learning_rate": 3e-3, "schedule": "wsd",
                 "stable_steps": 1000, "eval_steps": 340, "max_eval_samples": 96, "logging_steps": 25},
    },
    "card": {
        "20m": STENTOR3,
        "50m": {**STENTOR3, "steps": 31_662, "warmup_steps": 1_583, "stable_steps": 25_330},
        "150m": {**STENTOR3, "steps": 22_889, "warmup_steps": 1_144, "stable_steps": 18_311},
        "30m": STENTOR2,
        "12m": STENTOR2,
        "30m-v1": {**STENTOR2, "seq_len": 512, "batch_size": 16},
        "12m-v1": {**STENTOR2, "seq_len": 512, "batch_size": 16},
        "other": {**STENTOR3, "seq_len": 1024, "steps": 2_000, "warmup_steps": 100, "stable_steps": 1_600,
                  "eval_steps": 100},
    },
    "finetune-stentor3": {"other": {**FINETUNING, "batch_size": 8, "learning_rate": 3e-5}},
    "finetune-portimbria": {"other": {**FINETUNING, "batch_size": 4, "learning_rate": 2e-4}},
}
WARMUP_SHARE, STABLE_SHARE = 0.05, 0.80                           # of the steps, where a recipe has no number
BUILTIN_EPOCHS = 4                                                # the card recipe on the small built-in corpus
FP16_SIZES = ("12m-v1", "30m-v1", "12m", "30m")                   # trained on T4s
VOCABULARY = {
    "12m": "english-8000-strict-nocapcode-v1", "30m": "english-8000-strict-nocapcode-v1",
    "20m": "english-4096-strict-nocapcode-v1", "50m": "english-4096-strict-nocapcode-v1",
}
# What the 15.75 GiB of a v5e chip cannot hold otherwise at the card's 8 rows of 4,096 tokens, by the figures of
# its compiler (bench/tpu_compile.py).
RECOMPUTE_ON_TPU = ("150m",)
CHUNK_ON_TPU = 512
# Settings that --resume may change; of those, run.json keeps the second list. The third list holds for one call.
MAY_CHANGE_ON_RESUME = (
    "resume", "out", "data", "device", "stop_after", "tokens", "epochs", "deadline", "eval_steps",
    "best_eval_start_step", "max_eval_samples", "logging_steps", "dry_run",
)
LASTING_CHANGES = (
    "tokens", "epochs", "eval_steps", "best_eval_start_step", "max_eval_samples", "logging_steps",
)
THIS_CALL_ONLY = ("resume", "out", "stop_after", "deadline", "dry_run")


def recipe_values(recipe: str, size: str) -> dict[str, Any]:
    """What `recipe` ("laptop", "card", ...) changes for a model of `size`, which need not be one of the family."""
    rows = RECIPES[recipe]
    return rows.get(size, rows.get("other", {}))


def default_values() -> dict[str, Any]:
    """Field -> default of TrainSettings."""
    return dataclasses.asdict(TrainSettings())


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
    """`value` as the type that `hint` names. Raises TypeError or ArgumentTypeError that says what is allowed."""
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
    if not isinstance(value, kind):
        raise TypeError(f"it must be {kind.__name__}")
    if kind is str and value != value.encode(errors="replace").decode():
        raise TypeError("the name has bytes that are not UTF-8; rename it")
    if "choices" in field.metadata and value not in field.metadata["choices"]:
        raise TypeError(f"choose from {', '.join(field.metadata['choices'])}")
    return value
