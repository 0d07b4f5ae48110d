# SPDX-License-Identifier: Apache-2.0
"""Every setting of a training run, as data: the defaults, then what each recipe changes.

Where several of these give a value, the last one counts: the defaults of `TrainSettings`, the recipe's row in
RECIPES, the device, the run that --resume continues, the command line. `resolve.py` does this.
`python train.py --dry-run` shows each value and where it comes from.
"""
from __future__ import annotations

import argparse
from dataclasses import dataclass

from common import duration, flag
from model import SIZES, ModelConfig
from precision import PRECISIONS


@dataclass(frozen=True)
class TrainSettings:
    """Every setting of a run. A field with a help text is a flag of train.py.

    The defaults are those of the laptop recipe. "auto": decided when the run opens, by the device or the
    corpus. None: no limit, or not given.
    """

    size: str = flag("tiny", "which model of the family", choices=list(SIZES))
    model: ModelConfig | None = None                              # any other shape, from a program
    data: str = flag("auto", "a prepared folder, a text file or folder of texts to prepare, or python-docs",
                     shown="the built-in corpus")
    out: str = flag("auto", "run folder to create", shown="runs/SIZE, then runs/SIZE-2 ...")
    resume: str | None = flag(None, "continue this run (without RUN: the newest one in runs/)",
                              nargs="?", const="", metavar="RUN")
    init: str | None = flag(None, "start from the weights of this model folder, not from random ones",
                            metavar="FOLDER")
    recipe: str = flag("auto", "length, batch and context: laptop (default on a CPU or a Mac) or card; "
                       "with --init also finetune-stentor3 or finetune-portimbria", metavar="RECIPE",
                       shown="auto",
                       choices=["auto", "laptop", "card", "finetune-stentor3", "finetune-portimbria"])
    precision: str = flag("auto", "which dtype each operation runs in", choices=["auto", *PRECISIONS])
    device: str = flag("auto", "where to compute", choices=["auto", "cpu", "cuda", "mps", "tpu", "xla"])
    steps: int | str = flag(660, "optimizer steps of the complete schedule", shown="the recipe's")
    tokens: int | None = flag(None, "stop after this many training tokens; without --steps the schedule "
                              "ends there too")
    epochs: int | None = flag(None, "stop after this many passes over the data; without --steps the "
                              "schedule ends there too")
    stop_after: int | None = flag(None, "evaluate, save and stop at this step, without moving the schedule")
    deadline: float | None = flag(None, "evaluate, save and stop before this much time has passed, "
                                  "for example 8h45m", type=duration, metavar="TIME")
    seq_len: int = flag(128, "tokens in a row", shown="the recipe's")
    batch_size: int = flag(4, "rows in an optimizer step, over all devices", shown="the recipe's")
    micro_batch: int | str = flag("auto", "rows that a device computes at once",
                                  shown="all of them, halved when memory runs out")
    learning_rate: float = flag(2e-3, "peak learning rate", shown="the recipe's")
    warmup_steps: int | str = flag("auto", "steps of linear warmup",
                                   shown="the recipe's, or 5% of the steps")
    schedule: str = flag("cosine", "what follows the warmup", choices=["cosine", "wsd"], shown="the recipe's")
    stable_steps: int | str = flag("auto", "wsd: steps at the peak",
                                   shown="the recipe's, or 80% of the steps")
    weight_decay: float = flag(0.01, "decay of Linear weights")
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    max_grad_norm: float = flag(1.0, "clip the gradient's norm to this")
    seed: int = flag(42, "seed of the first weights and the data order")
    eval_steps: int = flag(220, "evaluate and save every so many steps", shown="the recipe's")
    best_eval_start_step: int = flag(1, "first step whose evaluation may become best/", shown="the recipe's")
    max_eval_samples: int = flag(192, "most validation rows of an evaluation", shown="the recipe's")
    logging_steps: int = flag(10, "read losses and write the log every so many steps", shown="the recipe's")
    recompute: bool = flag(False, "recompute activations in the backward pass: less memory, a third more "
                           "work")
    loss_chunk: int | str | None = flag("auto", "positions whose logits are held in memory at once",
                                        shown="all; 512 on a TPU where the vocabulary is large")
    fused: bool | str = flag("auto", "update with torch's fused AdamW kernel instead of ours (default: on "
                             "a CPU and on CUDA)", action=argparse.BooleanOptionalAction)
    compile: bool = flag(False, "torch.compile blocks and loss (always with TorchTPU, on CUDA if possible)")
    skip_nonfinite: bool = flag(False, "skip a step whose gradient is not finite, instead of stopping")
    document_mask: bool = flag(False, "a token attends only to its own document (the cards: no mask)")
    snapshots: bool = flag(False, "keep the model of each evaluation; models of less than 5M parameters "
                           "always do")
    dry_run: bool = flag(False, "print every setting and where it comes from, and stop")


# -------------------------------------------------------------------------------------------------- recipes

# The hyper-parameters that the cards of Stentor3-20M, Stentor2-30M and Portimbria-150M publish. Where a card
# gives no value, the value is ours: `logging_steps` of the two TPU models, and all settings of a size without
# a card (50m has the steps of its 8.3B tokens, 12m is trained as 30m, the v1 sizes as 30m at their context of
# 512).
# The 30m card gives two ends that contradict each other: 800 million tokens, which are 97,656 steps, and step
# 30,300 (about) of a cosine planned for 60,626. We follow the second: `tokens` ends the run, `steps` ends the
# schedule.
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
# The cards' settings for fine-tuning: the lower end of each range in their section "LoRA starter", but all
# weights are trained here. They need --init.
FINETUNING = {
    "seq_len": 512, "steps": "auto", "epochs": 2, "eval_steps": 50, "max_eval_samples": 500, "beta2": 0.999,
}
# recipe -> size -> the settings that it changes. "other" is for every size without a row; where there is no
# "other" either (laptop, for six of the sizes), the defaults of TrainSettings hold.
RECIPES = {
    "laptop": {
        "tiny": {"seq_len": 256, "batch_size": 8, "steps": 1200, "learning_rate": 5e-3, "schedule": "wsd",
                 "stable_steps": 550, "eval_steps": 300, "max_eval_samples": 96, "logging_steps": 25},
        "20m": {"steps": 850, "learning_rate": 1e-3, "schedule": "wsd", "stable_steps": 425,
                "eval_steps": 425, "max_eval_samples": 96},
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
BUILTIN_EPOCHS = 4                                                # of the card recipe, on the built-in corpus
FP16_SIZES = ("12m-v1", "30m-v1", "12m", "30m")                   # their cards' models were trained on T4s
VOCABULARY = {
    "12m": "english-8000-strict-nocapcode-v1", "30m": "english-8000-strict-nocapcode-v1",
    "20m": "english-4096-strict-nocapcode-v1", "50m": "english-4096-strict-nocapcode-v1",
}
# On a v5e chip (15.75 GiB) the card's 8 rows of 4,096 tokens need these, by the figures of its compiler
# (bench/tpu_compile.py).
RECOMPUTE_ON_TPU = ("150m",)
CHUNK_ON_TPU = 512
# Settings that --resume may change: those of one call only, those that last (they are written into run.json),
# and data and device.
THIS_CALL_ONLY = ("resume", "out", "stop_after", "deadline", "dry_run")
LASTING_CHANGES = (
    "tokens", "epochs", "eval_steps", "best_eval_start_step", "max_eval_samples", "logging_steps",
)
MAY_CHANGE_ON_RESUME = (*THIS_CALL_ONLY, *LASTING_CHANGES, "data", "device")
