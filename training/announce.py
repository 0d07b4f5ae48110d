# SPDX-License-Identifier: Apache-2.0
"""What a run says before its first step and after its last. Nothing here computes a forward pass."""
from __future__ import annotations

import dataclasses
import math
import textwrap
from typing import Any

import torch

import data
from common import command
from devices import attention_cpu
from model import SIZES, Llama
from params import CARD_OF, count, read_cards
from precision import lifted_counts
from training.compiled import lacking
from training.job import Job
from training.learned import Learned
from training.log import read_samples, shortened, way

HIDDEN = ("model", "resume", "dry_run")
PLACES = {"default": "training/settings.py", "model": "model.py", "run": "run.json"}


def announce(job: Job, model: Llama) -> None:
    """Print what is trained, on what and where, and the settings: with --dry-run all, else those of this run."""
    lines = {**summary(job), **{f"note {i + 1}": note for i, note in enumerate(job.notes)}}
    job.say("\n".join(wrapped(name, text) for name, text in lines.items()))
    rows = setting_rows(job)
    if rows:
        job.say("\n" + "\n".join(rows))
    if job.settings.dry_run and job.settings.recipe == "card":
        job.say(card_table(job, model))
    job.say("\n" + textwrap.indent(data.mixture_table(job.corpus), "  ") + "\n")


def wrapped(name: str, text: str) -> str:
    """A line of the summary, broken between words."""
    return textwrap.fill(f"{name:<12}{text}", 100, subsequent_indent=12 * " ", break_long_words=False,
                         break_on_hyphens=False)


def summary(job: Job) -> dict[str, str]:
    """What will happen, one line each."""
    settings, device, tokens = job.settings, job.device, job.tokens_per_step()
    name = next((size for size, known in SIZES.items() if known == job.model_config), "custom")
    first_loss = f"the first loss is about ln({job.model_config.vocab_size:,}) = {math.log(job.model_config.vocab_size):.2f}"
    if job.init:
        first_loss = f"its first weights are those of {job.init}"
    lines = {
        "model": f"{name}: {count(job.model_config)['total']:,} parameters; {first_loss}",
        "data": f"{job.corpus.folder}: {job.tokens_per_epoch():,} tokens",
        **about_the_corpus(job),
        "run": f"{job.schedule_end():,} steps of {tokens:,} tokens = {job.schedule_end() * tokens:,} tokens",
        "device": f"{device.kind} ({device.reason}), {device.world * device.shards} in parallel",
        "precision": f"{settings.precision}: {job.precision_reason}",
        "folder": str(job.folder),
    }
    if job.end() < settings.steps:
        lines["run"] += f"; stops at step {job.end():,} of a schedule of {settings.steps:,}"
    if settings.recipe == "laptop":
        lines["recipe"] = (f"laptop; the real thing is: python train.py --size {settings.size} --recipe card "
                           "--data FOLDER")
    elif settings.recipe == "card" and settings.data == "auto":
        lines["recipe"] = (f"card of {settings.size}, but the built-in corpus is small: at most 4 epochs of it, "
                           "which also end the schedule; the real thing is: python train.py --size "
                           f"{settings.size} --data FOLDER (see python data.py prepare --help)")
    if device.kind == "cuda":
        without = f"no torch.compile (it needs {lacking('cuda')}): a step takes some 1.6 times as long"
        compiled = "torch.compile for blocks and loss" if settings.compile else without
        products = "TF32" if torch.get_float32_matmul_precision() == "high" else "FP32"
        lines["kernels"] = f"fused AdamW; {compiled}; FP32 products in {products}"
    if device.kind == "cpu":
        heads, low = job.model_config.num_attention_heads, job.precision.autocast
        lines["attention"] = attention_cpu.summary(low, job.micro_batch, heads, settings.seq_len)
    return lines


def about_the_corpus(job: Job) -> dict[str, str]:
    """That the built-in corpus is generated, why, and how to train on real text."""
    if job.validation.entropy() is None:
        return {}
    return {
        "corpus": "generated tales (web), programs (code) and exercises (math), nothing to download: a small "
                  "model masters them in minutes, and none can go below their entropy, "
                  f"{job.validation.entropy():.3f} nats per token. Real text: --data my.txt (your own), "
                  "--data python-docs (Python's documentation), python data.py prepare --source hub (the cards')"
    }


def nothing_left(job: Job, step: int) -> str:
    """Why a resumed run makes no step, and what to do."""
    settings = job.settings
    if step >= settings.steps:
        longer = command("train.py", "--init", job.folder, "--data", job.corpus.folder)
        return (f"nothing is left to train: the schedule of {settings.steps:,} steps has ended, and --tokens "
                "and --epochs can only end a run earlier. For more training start a new run from this model: "
                f"{longer} --steps N")
    if step >= job.schedule_end():
        limit = " and ".join(f"--{name} {getattr(settings, name):,}" for name in ("tokens", "epochs")
                             if getattr(settings, name))
        return f"nothing is left to train: step {step:,} is the end of {limit}; raise it to continue"
    return f"nothing is left to train: --stop-after {settings.stop_after:,} is not after step {step:,}"


def setting_rows(job: Job) -> list[str]:
    """A line per setting: its value and the layer that it comes from, with --dry-run also the file."""
    settings = dataclasses.asdict(job.settings)
    if not job.settings.dry_run:
        shown = [name for name in settings if job.origin[name] in ("flag", "run") and name not in HIDDEN]
        if job.resumed:
            shown = [name for name in shown if job.origin[name] == "flag"]
        return [f"  {name:<22}{settings[name]!s:<28}{job.origin[name]}" for name in shown]
    rows = [f"  {'setting':<22}{'value':<28}from"]
    for name in (name for name in settings if name not in HIDDEN):
        if name == "stable_steps" and job.settings.schedule != "wsd":
            continue
        layer = job.origin[name]
        file = PLACES["default"] if layer.startswith("recipe") else PLACES.get(layer)
        value = "none" if settings[name] is None else settings[name]
        if settings[name] == "auto" and name == "micro_batch":
            value = f"auto: {job.micro_batch}"
        rows.append(f"  {name:<22}{value!s:<28}{layer}{f' ({file})' if file else ''}")
    return rows


# --------------------------------------------------------------------------------------- the card's own table

def ours(job: Job, model: Llama) -> dict[str, Any]:
    """What this run does, under the names that the cards' tables use."""
    settings = job.settings
    parts = job.device.world * job.device.shards
    rows = min(job.micro_batch, settings.batch_size // job.device.world)
    counts = lifted_counts(model)
    epochs = job.schedule_end() * job.tokens_per_step() / job.tokens_per_epoch()
    return {
        "betas": [settings.beta1, settings.beta2], "eps": settings.eps,
        "optimizer": "AdamW", "learning_rate": settings.learning_rate, "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.max_grad_norm, "scheduler": settings.schedule,
        "warmup_steps": settings.warmup_steps,
        "warmup_percent": round(100 * settings.warmup_steps / settings.steps),
        "stable_steps": settings.stable_steps,
        "stable_percent": round(100 * settings.stable_steps / settings.steps),
        "max_train_steps": settings.steps, "token_budget": job.schedule_end() * job.tokens_per_step(),
        "source_token_budget": job.tokens_per_epoch(), "seed": settings.seed,
        "mixed_precision": settings.precision, "total_batch_size": settings.batch_size,
        "block_size": settings.seq_len, "tokens_per_optimizer_step": job.tokens_per_step(),
        "per_device_train_batch_size": rows // job.device.shards, "num_processes": job.device.world,
        "gradient_accumulation_steps": settings.batch_size // job.device.world // rows, "pack": True,
        "num_train_epochs": max(1, math.ceil(epochs)),
        "eval_steps": settings.eval_steps, "best_eval_steps": settings.eval_steps,
        "best_eval_start_step": settings.best_eval_start_step, "max_eval_samples": settings.max_eval_samples,
        "logging_steps": settings.logging_steps, "chips": parts, "training_processes": job.device.world,
        "fp32_norm_modules": counts["fp32_norms"], "fp32_critical_layers": counts["fp32_layers"],
        "fp32_softmax_modules": counts["fp32_softmax"],
        "limit_that_ended_the_run": "steps" if job.schedule_end() == settings.steps else "token budget",
    }


def departs(key: str, card: Any, value: Any) -> bool:
    """Whether our value differs from the card's, which may use more words, or round."""
    if isinstance(card, str):
        return card not in str(value) and str(value) not in card
    if key in ("token_budget", "source_token_budget"):
        return abs(value - card) > 0.01 * card
    return value != card


def card_table(job: Job, model: Llama) -> str:
    """The card's tables of hyper-parameters, batch, evaluation, hardware and precision beside this run.

    `*` marks a departure from the card.
    """
    name = CARD_OF.get(job.settings.size, "")
    groups = read_cards().get(name, {})
    stated = {}
    for group in ("training", "batch", "evaluation_checkpointing", "hardware", "precision_recipe"):
        for key, statements in groups.get(group, {}).items():
            own = [statement["value"] for statement in statements if statement["card"] == name and "value" in statement]
            if own:
                stated[key] = own[-1]                             # the last one is of the hyper-parameter table
    if not stated:
        return f"\n  no card states how {job.settings.size} was trained; these settings are ours, after its siblings"
    mine = ours(job, model)
    lines = [f"  {'the card of ' + name:<30}{'card':<30}this run"]
    for key in (key for key in stated if key in mine):
        mark = "*" if departs(key, stated[key], mine[key]) else ""
        lines.append(f"  {key:<30}{said(stated[key]):<30}{said(mine[key])} {mark}".rstrip())
    lines += ["  * departs from the card. One process drives all chips of a TPU (SPMD) where the card ran one",
              "    process a chip, and torch_xla is 2.9; token_budget is what this schedule adds up to,",
              "    source_token_budget what the prepared corpus holds."]
    return "\n" + "\n".join(lines)


def said(value: Any) -> str:
    """A value as the cards print it."""
    return f"{value:,}" if type(value) is int else str(value)


# ---------------------------------------------------------------------------------------------------- the end

def conclude(job: Job, last: dict, complete: bool, learned: Learned) -> None:
    """Say what was learned, and of an incomplete run how to resume it.

    With the built-in corpus: what the model wrote from step to step, and on complete documents three numbers
    in one unit. With another corpus: the loss beside that of token frequencies alone.
    """
    if learned.documents and job.device.rank == 0:
        job.say("\nfrom step to step, the same beginning:")
        for row in read_samples(job.folder):
            job.say(f"{row['step']:>7,}\n{shortened(row['text'])}")
    if "entropy" in last:
        job.say("\ncomplete documents, nats per token: token frequencies alone "
                f"{last['unigram_entropy']:.3f}, this model {last['whole_loss']:.3f}, the corpus's entropy "
                f"{last['entropy']:.3f}: {way(last)} to what no model can pass")
        job.say(f"validation rows {last['eval_loss']:.3f} (perplexity {last['eval_ppl']:.2f}): they begin in "
                "the middle of a document, which costs a few hundredths")
    else:
        entropy = job.validation.unigram_entropy(job.validation_rows())
        gain = entropy - last["eval_loss"]
        learnt = f"{gain:.3f} nats learned from context" if gain > 0 else "not yet better than counting tokens"
        job.say(f"\nvalidation loss {last['eval_loss']:.3f} (perplexity {last['eval_ppl']:.1f}); without any "
                f"context, from token frequencies alone, it would be {entropy:.3f}: {learnt}")
    if not complete:
        job.say(f"stopped at step {last['step']} of {job.schedule_end()}; continue with: {job.resume_command()}")
