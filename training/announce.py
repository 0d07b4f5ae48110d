# SPDX-License-Identifier: Apache-2.0
"""What a run says before its first step (settings and where each came from) and after its last."""
from __future__ import annotations

import dataclasses
import math
import textwrap
import time
from typing import TYPE_CHECKING, Any

import torch

import data
import sample
from training.compiled import lacking
from devices import attention_cpu
from model import SIZES, Llama, next_token_loss
from params import CARD_OF, count, read_cards
from precision import report

if TYPE_CHECKING:
    from training.open_job import Job

HIDDEN = ("model", "resume", "dry_run", "deadline")


def announce(job: Job, model: Llama, optimizer: dict[str, Any]) -> None:
    """Print the resolved settings with where each came from, the model, the device, and what to expect; `optimizer` is what no flag changes."""
    config = job.config
    rows = [(f.name, getattr(config, f.name)) for f in dataclasses.fields(config) if f.name not in HIDDEN]
    rows += [(name, value) for name, value in optimizer.items()]
    job.say("\n".join(f"  {name:<22}{value!s:<28}{job.origin.get(name, 'default')}" for name, value in rows
                      if value is not None and value is not False))
    if config.recipe == "card":
        job.say(card_table(job, model, optimizer))
    tokens = job.tokens_per_step()
    total = job.schedule_end() * tokens
    name = next((size for size, known in SIZES.items() if known == job.model_config), "custom")
    lines = {
        "model": f"{name}: {count(job.model_config)['total']:,} parameters",
        "first loss": f"about ln({job.model_config.vocab_size:,}) = {math.log(job.model_config.vocab_size):.2f}",
        "device": f"{job.device.kind} ({job.device.reason}), {job.device.world * job.device.shards} in parallel",
        "precision": f"{job.precision}: {job.reason}",
        "data": f"{job.corpus.folder}: {job.tokens_per_epoch():,} tokens",
        "run": f"{job.schedule_end():,} steps of {tokens:,} tokens = {total:,} tokens",
        "folder": str(job.folder),
    }
    if job.init:
        lines["first loss"] = f"that of {job.init}, whose weights are the first ones"
    if job.end() < config.steps:
        lines["run"] += f"; stops at step {job.end():,} of a schedule laid out for {config.steps:,}"
    if config.recipe == "laptop":
        lines["recipe"] = f"laptop; the real thing is: python train.py --size {config.size} --recipe card --data FOLDER"
    elif config.data is None:
        lines["recipe"] = (f"card of {config.size}, but the built-in corpus is small: at most 4 epochs of it, which is the schedule's horizon too; "
                           f"the real thing is: python train.py --size {config.size} --data FOLDER (see python data.py prepare --help)")
    if job.device.kind == "cuda":
        without = f"no torch.compile (it needs {lacking('cuda')}): a step takes some 1.6 times as long"
        compiled = "torch.compile for blocks and loss" if job.config.compile else without
        products = "TF32" if torch.get_float32_matmul_precision() == "high" else "FP32"
        lines["kernels"] = f"fused AdamW; {compiled}; FP32 products in {products}"
    if job.device.kind == "cpu":
        heads = job.model_config.num_attention_heads
        lines["attention"] = attention_cpu.summary(job.recipe.autocast, job.micro_batch, heads, config.seq_len)
    if job.device.kind != "xla":
        lines["time"] = f"about {total / measured_speed(model, job) / 60:.1f} minutes, from trial passes"
    lines.update({f"note {i + 1}": note for i, note in enumerate(job.notes)})
    job.say("\n".join(f"{name:<12}{text}" for name, text in lines.items()))
    job.say(textwrap.indent(data.mixture_table(job.corpus), "  ") + "\n")


def measured_speed(model: Llama, job: Job) -> float:
    """Training tokens per second of a forward and backward pass over a short row: the fastest of three, after one to warm up.

    A GPU has work for all its parts only in long rows; there the passes are not compiled, and the run is up to twice as fast.
    """
    shape = (min(4, job.micro_batch), job.config.seq_len) if job.device.kind == "cuda" else (1, min(job.config.seq_len, 256))
    ids = torch.zeros(shape, dtype=torch.long, device=job.device.torch_device)
    seconds = []
    for _ in range(4):
        begun = time.perf_counter()
        next_token_loss(model(ids), ids).backward()
        model.zero_grad(set_to_none=True)
        if job.device.kind in ("cuda", "mps"):
            getattr(torch, job.device.kind).synchronize()
        seconds.append(time.perf_counter() - begun)
    return ids.numel() * job.device.world / min(seconds[1:])


# --------------------------------------------------------------------------------------- the card's own table

def ours(job: Job, model: Llama, optimizer: dict[str, Any]) -> dict[str, Any]:
    """What this run does, under the names of the cards' tables of hyper-parameters and of the precision recipe."""
    config = job.config
    parts = job.device.world * job.device.shards
    rows = min(job.micro_batch, config.batch_size // job.device.world)
    counts = report(model)
    return {
        **optimizer, "optimizer": "AdamW", "learning_rate": config.learning_rate, "weight_decay": config.weight_decay,
        "max_grad_norm": config.max_grad_norm, "scheduler": config.schedule, "warmup_steps": config.warmup_steps,
        "warmup_percent": round(100 * config.warmup_steps / config.steps), "stable_steps": config.stable_steps,
        "stable_percent": round(100 * config.stable_steps / config.steps), "max_train_steps": config.steps,
        "token_budget": job.schedule_end() * job.tokens_per_step(), "source_token_budget": job.tokens_per_epoch(), "seed": config.seed,
        "mixed_precision": job.precision, "total_batch_size": config.batch_size, "block_size": config.seq_len,
        "tokens_per_optimizer_step": job.tokens_per_step(), "per_device_train_batch_size": rows // job.device.shards,
        "num_processes": job.device.world, "gradient_accumulation_steps": config.batch_size // job.device.world // rows, "pack": True,
        "num_train_epochs": max(1, math.ceil(job.schedule_end() * job.tokens_per_step() / job.tokens_per_epoch())),
        "eval_steps": config.eval_steps, "best_eval_steps": config.eval_steps, "best_eval_start_step": config.best_eval_start_step,
        "max_eval_samples": config.max_eval_samples, "logging_steps": config.logging_steps, "chips": parts,
        "training_processes": job.device.world, "fp32_norm_modules": counts["fp32_norms"], "fp32_critical_layers": counts["fp32_layers"],
        "fp32_softmax_modules": counts["fp32_softmax"], "limit_that_ended_the_run": "steps" if job.schedule_end() == config.steps else "token budget",
    }


def departs(key: str, card: Any, value: Any) -> bool:
    """Whether our value means something else than the card's, which may be said in more words, or rounded."""
    if isinstance(card, str):
        return card not in str(value) and str(value) not in card
    if key in ("token_budget", "source_token_budget"):
        return abs(value - card) > 0.01 * card
    return value != card


def card_table(job: Job, model: Llama, optimizer: dict[str, Any]) -> str:
    """The card's tables of hyper-parameters, batch, evaluation, hardware and precision beside what this run does; `*` marks a departure."""
    name = CARD_OF.get(job.config.size, "")
    groups = read_cards().get(name, {})
    stated = {}
    for group in ("training", "batch", "evaluation_checkpointing", "hardware", "precision_recipe"):
        for key, statements in groups.get(group, {}).items():
            own = [statement["value"] for statement in statements if statement["card"] == name and "value" in statement]
            if own:
                stated[key] = own[-1]                             # the last statement is the hyper-parameter table's
    if not stated:
        return f"\n  no card of its own states how {job.config.size} was trained; these settings are ours, after its siblings\n"
    mine = ours(job, model, optimizer)
    lines = [f"  {'the card of ' + name:<30}{'card':<30}this run"]
    for key in (key for key in stated if key in mine):
        mark = "*" if departs(key, stated[key], mine[key]) else ""
        lines.append(f"  {key:<30}{said(stated[key]):<30}{said(mine[key])} {mark}".rstrip())
    lines += ["  * departs from the card. One process drives all chips of a TPU (SPMD) where the card ran one process a chip, and torch_xla is 2.9;",
              "    token_budget is what this schedule adds up to, source_token_budget what the prepared corpus holds."]
    return "\n" + "\n".join(lines) + "\n"


def said(value: Any) -> str:
    """A value as the cards print it."""
    return f"{value:,}" if type(value) is int else str(value)


# ---------------------------------------------------------------------------------------------------- the end

def conclude(job: Job, last: dict, complete: bool) -> None:
    """Say what was learned, against token frequencies alone; of a complete run also write the model card and show a sample."""
    entropy = job.validation.unigram_entropy(job.validation_batches())
    job.say(f"\nvalidation loss {last['eval_loss']:.3f} (perplexity {last['eval_ppl']:.1f}); without any context, from token frequencies "
            f"alone, it would be {entropy:.3f}: {entropy - last['eval_loss']:.3f} nats learned from context")
    if not complete:
        job.say(f"stopped at step {last['step']} of {job.schedule_end()}; continue with: python train.py --resume {job.folder}")
    elif job.device.rank == 0:
        from publishing import card
        card.write_card(job.folder)
        job.say(f"sample      {show_sample(job)!r}")
        job.say(f'more        python sample.py {job.folder} "Once upon a time"')


def show_sample(job: Job) -> str:
    """Forty tokens of the best model after a fixed prompt, at the settings that its size's card recommends."""
    model = Llama.from_pretrained(job.folder / "best")
    ids = [job.tokenizer.eos_id] + job.tokenizer.encode("The", document=True)
    settings = sample.recommended(job.model_config)
    new = sample.generate(model, ids, 40, temperature=settings.temperature, top_p=settings.top_p,
                          repetition_penalty=settings.repetition_penalty, seed=job.config.seed, stop_id=job.tokenizer.eos_id)
    return job.tokenizer.decode(ids[1:] + new, skip_special=True)
