# SPDX-License-Identifier: Apache-2.0
"""What a run says before its first step and after its last one. Nothing here computes a forward pass."""
from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch

import data
from common import colour, command, wrapped
from devices import attention_cpu
from model import Llama, shown_perplexity
from params import CARD_OF, read_cards
from precision import lifted_counts
from training.compiled import lacking
from training.job import Job
from training.log import read_samples, shortened
from training.settings import RECIPES

LABEL = 10                                                        # columns before the text of a line
IN_SUMMARY = ("size", "model", "data", "out", "resume", "recipe", "precision", "device", "dry_run")
HIDDEN = ("model", "resume", "dry_run")                           # in the table of --dry-run
PLACES = {"default": "training/settings.py", "device": "training/resolve.py", "model": "model.py",
          "run": "run.json"}                                      # layer -> the file that has its values


def announce(job: Job, model: Llama) -> None:
    """Print what is trained, on what and where, then the settings that were asked for; with --dry-run all."""
    lines = [*summary(job, model), *(("note", note) for note in job.notes)]
    if job.device.kind == "cuda" and not job.settings.compile:
        missing = lacking("cuda") or "--compile"
        lines.append(("note", f"no torch.compile here (it needs {missing}): a step takes about 1.6 times as "
                      "long"))
    if job.settings.dry_run:
        lines += details(job)
    elif changed := changed_settings(job):
        lines.append(("settings", f"{changed}; all of them: --dry-run"))
    for name, text in lines:
        job.say(wrapped(text, name.ljust(LABEL), " " * LABEL))
    job.say("")
    if job.settings.dry_run:
        job.say("\n".join(setting_rows(job)))
        if job.settings.recipe == "card":
            job.say(card_table(job, model))
        job.say("\n" + wrapped(data.mixture_table(job.corpus)))


def summary(job: Job, model: Llama) -> list[tuple[str, str]]:
    """What will happen, as (name, text) for each line."""
    device, tokens, vocabulary = job.device, job.tokens_per_step(), job.model_config.vocab_size
    parameters = sum(parameter.numel() for parameter in model.parameters())
    first = f"the first loss is about ln({vocabulary:,}) = {math.log(vocabulary):.2f}"
    if job.init:
        first = f"its first weights are those of {job.init}"
    if job.resumed:
        first = f"continued from {job.resumed}"
    steps = f"{job.schedule_end():,} steps of {tokens:,} tokens = {job.schedule_end() * tokens:,} tokens"
    if job.schedule_end() < job.settings.steps:
        steps += f" of a schedule of {job.settings.steps:,} steps"
    if job.end() < job.schedule_end():
        steps += f"; this call stops after step {job.end():,}"
    parts = device.world * device.shards
    where = "" if device.kind == "cpu" else f" ({device.reason})"
    where += f", {parts} in parallel" if parts > 1 else ""
    return [
        ("model", f"{job.name}: {parameters:,} parameters; {first}"),
        ("data", f"{job.corpus.folder}: {job.tokens_per_epoch():,} tokens{kind_of_text(job)}"),
        *mixture(job),
        ("run", f"{steps}, into {job.folder}"),
        ("device", f"{device.kind}{where}, in {job.settings.precision} ({job.precision_reason})"),
        *recipe(job),
    ]


def kind_of_text(job: Job) -> str:
    """Words for a generated corpus, with the flag that trains on real text; "" for any other corpus."""
    if job.validation.entropy() is None:
        return ""
    return ", generated; real text: --data my.txt"


def mixture(job: Job) -> list[tuple[str, str]]:
    """The shares of the sources at the start and at the end, where there are several."""
    if len(job.corpus.names) == 1:
        return []
    start, end = shares(job, 0), shares(job, job.settings.steps)
    names = [data.source_name(name, job.validation.entropy() is not None) for name in job.corpus.names]
    first = ", ".join(f"{name} {share}" for name, share in zip(names, start))
    return [("mixture", first if start == end else f"{first}; at the end {', '.join(end)}")]


def shares(job: Job, step: int) -> list[str]:
    """The share of each source at a step, in percent."""
    weights = job.corpus.weights(step)
    return [f"{100 * weights[name]:.3g}%" for name in job.corpus.names]


def recipe(job: Job) -> list[tuple[str, str]]:
    """The recipe, and the command for the card's own where the run takes another."""
    size = job.settings.size
    card = command("train.py", "--size", size, "--recipe", "card", "--data")
    if job.settings.recipe == "laptop" and size in RECIPES["card"]:
        return [("recipe", f"laptop: short rows, small batches, few steps. The card's own:\n{card} FOLDER")]
    if job.settings.recipe == "card" and job.settings.data == "auto":
        return [("recipe", "card, but the built-in corpus is small: at most 4 epochs, which also end the "
                 f"schedule. On a larger one (python data.py prepare --help):\n{card} FOLDER")]
    short = ": short rows, small batches, few steps" if job.settings.recipe == "laptop" else ""
    return [("recipe", job.settings.recipe + short)]


def details(job: Job) -> list[tuple[str, str]]:
    """The additional lines of --dry-run: why this device, which kernels, the entropy of the corpus."""
    settings, device = job.settings, job.device
    lines = [("chosen", f"{device.kind} ({device.reason})")]
    if device.kind == "cuda":
        products = "TF32" if torch.get_float32_matmul_precision() == "high" else "FP32"
        compiled = "torch.compile for blocks and loss" if settings.compile else "no torch.compile"
        lines.append(("kernels", f"fused AdamW; {compiled}; FP32 products in {products}"))
    if device.kind == "cpu":
        adamw = "fused AdamW" if settings.fused else "AdamW as written out in train.py"
        blocks = "; loss in blocks" if job.precision.autocast == torch.bfloat16 else ""
        attention = attention_cpu.summary(job.precision.autocast, job.micro_batch,
                                          job.model_config.num_attention_heads, settings.seq_len)
        lines.append(("kernels", f"{adamw}{blocks}; {attention}"))
    if job.validation.entropy() is not None:
        lines.append(("corpus", f"its entropy is {job.validation.entropy():.3f} nats per token: no model can "
                      "have a lower loss"))
    return lines


def changed_settings(job: Job) -> str:
    """The settings that somebody asked for and that are not in the summary, in one line."""
    asked = ("flag",) if job.resumed else ("flag", "run")
    names = [name for name, layer in job.origin.items() if layer in asked and name not in IN_SUMMARY]
    return ", ".join(f"{name} {getattr(job.settings, name)}" for name in names)


def setting_rows(job: Job) -> list[str]:
    """A line per setting for --dry-run: its value, the layer that it comes from, and that layer's file."""
    rows = [f"{'setting':<22}{'value':<20}from"]
    for name, value in dataclasses.asdict(job.settings).items():
        if name in HIDDEN or name == "stable_steps" and job.settings.schedule != "wsd":
            continue
        layer = job.origin[name]
        file = PLACES.get(layer.split()[0], PLACES["default"] if layer.startswith("recipe") else "")
        file = "precision.py" if (name, layer) == ("precision", "device") else file
        value = "none" if value is None else f"auto: {job.micro_batch}" if name == "micro_batch" else value
        rows.append(f"{name:<22}{value!s:<20}{layer}{f' ({file})' if file else ''}")
    return rows


def nothing_left(job: Job, step: int) -> str:
    """Why a resumed run makes no step, and what to do."""
    settings = job.settings
    if step >= settings.steps:
        longer = command("train.py", "--init", job.folder, "--data", job.corpus.folder)
        return (f"nothing is left to train: the schedule of {settings.steps:,} steps has ended, and --tokens "
                "and --epochs can only end a run earlier. For more training, start a new run from this "
                "model:\n"
                f"{longer} --steps N")
    ended = [name for name, end in job.limits().items() if end <= step]
    if ended:
        names = " and ".join(f"--{name} {getattr(settings, name):,}" for name in ended)
        place = "the end of" if step == job.schedule_end() else "after the end of"
        return f"nothing is left to train: step {step:,} is {place} {names}; raise it to continue"
    return f"nothing is left to train: --stop-after {settings.stop_after:,} is not after step {step:,}"


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
            own = [found["value"] for found in statements if found["card"] == name and "value" in found]
            if own:
                stated[key] = own[-1]  # the last one is in the hyper-parameter table
    if not stated:
        return (f"\nNo card says how {job.settings.size} was trained; these settings are ours, near those "
                "of the other sizes.")
    mine = ours(job, model)
    lines = [f"  {'the card of ' + name:<30}{'card':<24}this run"]
    for key in (key for key in stated if key in mine):
        mark = " *" if departs(key, stated[key], mine[key]) else ""
        theirs, own = said(stated[key]), said(mine[key]) + mark
        if len(theirs) < 24:
            lines.append(f"  {key:<30}{theirs:<24}{own}")
        else:
            lines.append(wrapped(f"{theirs}; this run: {own}", f"  {key:<30}", " " * 34))
    lines.append(wrapped("* departs from the card. One process drives all chips of a TPU (SPMD), where the "
                         "card ran one per chip. token_budget: the tokens of this schedule; "
                         "source_token_budget: the tokens in the prepared corpus.", "  ", "    "))
    return "\n" + "\n".join(lines)


def said(value: Any) -> str:
    """A value as the cards print it."""
    return f"{value:,}" if type(value) is int else str(value)


# ---------------------------------------------------------------------------------------------------- the end

def conclude(job: Job, last: dict) -> None:
    """Say the result in a sentence, and with the built-in corpus what the model wrote from step to step.

    `last` is the row of the last evaluation.
    """
    job.say("\n" + colour(wrapped(result(job, last), "", "  "), "1"))
    samples = read_samples(job.folder) if job.device.rank == 0 else []
    if samples:
        job.say("\nHow the same beginning was continued, step by step:")
    for row in samples:
        job.say(f"step {row['step']}\n{shortened(row['text'])}")


def result(job: Job, last: dict) -> str:
    """What was learned, in one unit: nats per token.

    For the built-in corpus, the loss on complete documents, since only that can be compared with its entropy.
    For any other corpus, the validation loss and the loss of token frequencies alone.
    """
    if last.get("whole_loss") is not None:
        said = f"Result: {last['whole_loss']:.3f} nats per token on complete documents"
        bound = f"(best possible: {last['entropy']:.3f})"
        if last["share_of_the_way"] <= 0:
            return f"{said}: not yet better than counting tokens, {last['unigram_entropy']:.3f} {bound}."
        return (f"{said}: {last['share_of_the_way']:.1%} of the way from counting tokens, "
                f"{last['unigram_entropy']:.3f}, to the entropy of the corpus, {last['entropy']:.3f}.")
    entropy = job.validation.unigram_entropy(job.validation_rows())
    gain = entropy - last["eval_loss"]
    learned = f"{gain:.3f} nats learned from context" if gain > 0 else "not yet better than counting tokens"
    loss = f"validation loss {last['eval_loss']:.3f} (perplexity {shown_perplexity(last['eval_loss'])})"
    return f"Result: {loss}: {learned}; token frequencies alone give {entropy:.3f}."
