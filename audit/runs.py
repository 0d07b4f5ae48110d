# SPDX-License-Identifier: Apache-2.0
"""The audit of training runs: batches and steps, schedule, throughput and time, losses, perplexities."""
from __future__ import annotations

import math
import re

from audit.cards import OWN_CARD, Audit, Card, interval, spread
from audit.cost import CHINCHILLA, HARDWARE, energy
from params import FAMILY, count

S2, S3, _ = OWN_CARD


def integers(text: str) -> list[int]:
    """The integers in a text, without thousands separators.

    >>> integers("steps 0-1,621 linear")
    [0, 1621]
    """
    return [int(number.replace(",", "")) for number in re.findall(r"\d+(?:,\d{3})*", text)]


# ------------------------------------------------------------------------------------------ batches and steps

def steps(cards: Audit) -> None:
    """Tokens per step, epochs, warmup and stable shares, and the borders of the schedule."""
    for card in cards.own:
        context = card.shape.max_position_embeddings
        rows = card.value("batch.total_batch_size")
        budget, source = (
            card.value(f"training.{key}", "training hyper")
            for key in ("token_budget", "source_token_budget")
        )
        last, warmup, stable = (
            card.value(f"training.{key}")
            for key in ("max_train_steps", "warmup_steps", "stable_steps")
        )
        for path in (
            "batch.block_size", "packing.block_tokens", "tokenizer.model_max_length",
            "generation.context_limit", "lora.max_sequence_supported",
        ):
            card.check(path, context, "the model's context", exact=True)
        for path in ("batch.tokens_per_optimizer_step", "throughput.global_batch_tokens_per_step"):
            card.check(path, rows * context, f"{rows} rows * {context} tokens", exact=True)
        for path in ("batch.num_train_epochs", "data.epochs"):
            card.check(path, budget / source, "token budget / source token budget", exact=True)
        card.check("training.warmup_steps", [float(int(0.05 * last)), 0.05 * last], f"5% of {last:,}")
        card.check("training.stable_steps", [float(int(0.8 * last)), 0.8 * last], f"80% of {last:,}")
        card.check("training.warmup_percent", 100 * warmup / last, f"{warmup:,} / {last:,}")
        card.check("training.stable_percent", 100 * stable / last, f"{stable:,} / {last:,}")
        for phase, borders in (("phase_1", [0, warmup]), ("phase_2", [warmup, last])):
            found = integers(card.value(f"schedule.{phase}"))[:2]
            card.note(f"schedule.{phase}", found == borders, borders, "warmup and last step")
    stentor2, stentor3, portimbria = cards.own
    budget_steps(stentor3)
    budget_steps(portimbria)
    stentor2_steps(stentor2)
    for path in ("training.source_token_budget", "training.token_budget"):
        cards["Stentor-30M v1"].check(path, FAMILY["30m-v1"], "training_tokens")
    portimbria_phases(portimbria)


def budget_steps(card: Card) -> None:
    """The TPU runs: steps = token budget / tokens per step, rounded up."""
    budget = card.value("training.token_budget")
    per_step = card.value("batch.tokens_per_optimizer_step")
    last = card.value("training.max_train_steps")
    words = f"{budget:,} / {per_step:,} = {budget / per_step:,.1f}, rounded up"
    for path in ("training.max_train_steps", "throughput.steps_completed", "training_dynamics.steps_run"):
        card.check(path, math.ceil(budget / per_step), words, exact=True)
    for path in (
        "throughput.total_tokens", "training.token_budget", "training.source_token_budget",
        "training.training_tokens", "data.tokens_processed",
    ):
        card.check(path, float(last * per_step), f"{last:,} steps * {per_step:,} tokens")
    card.check("batch.total_batch_size", 8 * 8, "8 rows * 8 processes * 1 accumulation", exact=True)
    for path, value in (("per_device_train_batch_size", 64 / 8), ("gradient_accumulation_steps", 64 / 64)):
        card.check(f"batch.{path}", value, "64 rows = rows * processes * accumulation", exact=True)
    for path in ("batch.num_processes", "hardware.training_processes", "hardware.chips"):
        card.check(path, 8, "v5e-8: eight chips", exact=True)
    card.note(
        "training.limit_that_ended_the_run", True, last,
        "the budget ends within the last step: both limits are one",
    )


def stentor2_steps(card: Card) -> None:
    """Stentor2-30M: the card's last step gives a third of the tokens that the card says were seen."""
    per_step = card.value("batch.tokens_per_optimizer_step")
    budget = card.value("training.token_budget", "training hyper")
    last = card.value("training.max_train_steps")
    end = card.value("throughput.end_step")
    first, second = (card.value(f"throughput.epoch_{epoch}_steps") for epoch in (0, 1))
    needed = budget / per_step
    words = (f"{budget:,} tokens / {per_step:,} a step; {end:,} steps hold {end * per_step / 1e6:.0f}M, "
             f"or needed {budget / end:,.0f} a step")
    card.check("throughput.end_step", first + second, f"{first:,} + {second:,}", part="sum")
    card.check("throughput.end_step", needed, words, part="budget")
    for epoch in (0, 1):
        card.check(
            f"throughput.epoch_{epoch}_steps", needed / 2, f"400M tokens an epoch / {per_step:,} a step"
        )
    words = (f"{needed:,.0f} steps use the budget up, so the limit of {last:,} steps "
             f"({last * per_step / 1e6:.0f}M tokens) would come first")
    for path in ("training.limit_that_ended_the_run", "schedule.early_end"):
        card.note(path, last > needed, round(needed), words)
    card.check(
        "training.max_train_steps", spread(lambda steps: steps / 0.05, (3030.5, 3031.5)),
        "warmup of 3,031 steps / 5%", exact=True,
    )
    for path in ("training.token_budget", "training.training_tokens", "data.tokens_processed"):
        card.check(path, 2 * 400e6, "2 epochs of 400M")


def portimbria_phases(card: Card) -> None:
    """Portimbria calls steps 1,144 to 18,311 of a cosine "stable": neither the shape nor the borders fit."""
    warmup, stable, last = (
        card.value(f"training.{key}") for key in ("warmup_steps", "stable_steps", "max_train_steps")
    )
    share = 0.5 * (1 + math.cos(math.pi * (stable - warmup) / (last - warmup)))
    words = (
        f"at step {stable:,} a cosine has fallen to {100 * share:.1f}% of its peak; {stable:,} stable steps "
        f"after {warmup:,} of warmup would end at {warmup + stable:,}"
    )
    card.note("schedule.mid_phase", False, f"{100 * share:.1f}% of the peak rate at its end", words)
    card.note("schedule.late_phase", False, f"steps {warmup + stable:,}-{last:,}", words)


# ---------------------------------------------------------------------------------------- throughput and time

def speed(cards: Audit) -> None:
    """Seconds as hours, tokens per second, one chip and eight, devices and processes."""
    hours = ("throughput.wall_clock", "throughput.training_time", "environment.duration")
    stentor2, stentor3, portimbria = cards.own
    for card, overhead in ((stentor3, 0), (portimbria, 8 * 60)):
        seconds = card.value("throughput.wall_clock_s")
        rate = card.value("throughput.global_tokens_per_s")
        for path in hours:
            card.check(path, seconds / 3600, f"{seconds:,} s / 3600")
        card.check(
            "throughput.per_chip_tokens_per_s", spread(lambda value: value / 8, interval(rate)),
            f"{rate:,} / 8",
        )
        card.note(
            "throughput.wall_clock_s", True, seconds / 3600,
            "in hours; the stated hours are checked against it",
        )
        stated_rate(card, "throughput.global_tokens_per_s", rate, seconds, overhead)
    stentor3.check(
        "training_dynamics.wall_clock", stentor3.value("throughput.wall_clock_s"),
        "throughput.wall_clock_s", exact=True,
    )
    first, second = (stentor2.value(f"throughput.epoch_{epoch}_s") for epoch in (0, 1))
    for path in hours:
        stentor2.check(path, (first + second) / 3600, f"({first:,} + {second:,}) s / 3600")
    for epoch in (0, 1):
        stentor2.note(
            f"throughput.epoch_{epoch}_s", True, first + second,
            "the two epochs add up to the stated 6.75 hours",
        )
    stated_rate(
        stentor2, "throughput.tokens_per_s", sum(stentor2.value("throughput.tokens_per_s")) / 2,
        first + second, 0,
    )
    memory = stentor2.value("hardware.vram_per_gpu_GB")
    stentor2.check("hardware.total_vram_GB", 2 * memory, f"2 * {memory}")
    for card in (cards["Stentor-30M v1"], stentor2):
        processes = int(card.value("hardware.training_processes"))
        card.check(
            "hardware.accelerator", processes, "training_processes, one for each accelerator",
            fix="accelerator",
        )


def stated_rate(card: Card, path: str, rate: float, seconds: float, overhead: float) -> None:
    """The stated tokens/s against tokens and seconds; the rest must be evaluation or stated overhead.

    Evaluation is forward only, a third of the training cost of a token, on 5,000 blocks every `eval_steps`.
    If more than 5% of the time is left over, rate, tokens and seconds contradict each other: rounding cannot
    explain so much.
    """
    tokens = card.tokens
    last = card.value("throughput.end_step" if card.model == S2 else "training.max_train_steps")
    rounds = last // card.value("evaluation_checkpointing.eval_steps")
    blocks = card.value("evaluation_checkpointing.max_eval_samples")
    evaluation = rounds * blocks * card.value("batch.block_size") / (3 * rate)
    rest = seconds - tokens / rate - evaluation - overhead
    words = (
        f"{tokens / 1e9:g}B tokens / {seconds:,.0f} s; at the stated rate they take {tokens / rate:,.0f} s, "
        f"{rounds} evaluations some {evaluation:,.0f} s, other overhead stated {overhead} s: "
        f"{rest:,.0f} s ({100 * rest / seconds:.0f}%) are left over"
    )
    card.note(path, rest < 0.05 * seconds, round(tokens / seconds), words)


def footprint(cards: Audit) -> None:
    """Tokens per parameter; carbon is shown and not judged, because it depends on assumptions."""
    runs = (("2x T4", 6.75), ("TPU v5e-8", 8.15), ("TPU v5e-8", 8.02))
    for card, (device, hours) in zip(cards.own, runs):
        watts = HARDWARE[device].watts
        words = f"{hours} h at {watts:.0f} W, 0.37 kg CO2 per kWh: both assumed (audit/cost.py)"
        card.note("environment.carbon", None, f"{energy(3600 * hours, watts)[3]:.2f} kg", words)
    for card in cards.own[1:]:
        tokens, total = card.tokens, count(card.shape)["total"]
        low, high = interval(f"{tokens / 1e9:g}B")
        words = (
            f"{tokens / 1e9:g}B tokens, as rounded / {total:,} parameters"
            + "; 425 is 8.5B / 20M, by the name" * (card.model == S3)
        )
        card.check("meta.chinchilla_tokens_per_parameter", (low / total, high / total), words)
    stentor2 = cards[S2]
    ratio = stentor2.tokens / count(stentor2.shape)["total"]
    stentor2.note(
        "meta.chinchilla_claim", 0.5 < ratio / CHINCHILLA < 2, ratio,
        "tokens per parameter, within a factor of two of 20",
    )


# ------------------------------------------------------------------------------------ losses and perplexities

def bf16_interval(loss: float) -> tuple[float, float]:
    """The losses that round to a BF16 number: half its spacing to either side, with 8 bits of significand.

    >>> bf16_interval(2.6406)
    (2.6328125, 2.6484375)
    """
    spacing = 2.0 ** (math.floor(math.log2(loss)) - 7)
    nearest = round(loss / spacing) * spacing
    return nearest - spacing / 2, nearest + spacing / 2


def losses(cards: Audit) -> None:
    """Perplexity = exp(loss), best steps against the table of checkpoints, reductions, initial losses."""
    path = "checkpoint_history.table"
    for card in cards.own:
        table = card.rows(path)
        best = min(table, key=lambda row: row["eval_loss"])
        for row in table:
            loss = row["eval_loss"]
            near = interval(loss, 4) if card.model == S2 else bf16_interval(loss)
            words = f"exp({loss})" + ", the loss as BF16 rounds it" * (card.model != S2)
            card.check(
                path, spread(math.exp, near), words, part=f"perplexity {row['step']}",
                stated=row["perplexity"],
            )
            if row is best:
                for key in (
                    "best_perplexity", "final_perplexity", "metadata_best_perplexity", "best_step_perplexity",
                ):
                    card.check(f"results.{key}", spread(math.exp, near), words)
        falling = [row["eval_loss"] for row in table]
        card.note(
            path, falling == sorted(falling, reverse=True), "falling",
            "no new best is higher than the one before", part="order",
        )
        for name in (
            "results.best_validation_loss", "results.metadata_best_loss", "results.final_loss",
            "training_dynamics.final_loss",
        ):
            card.check(
                name, (table[-1] if "final" in name else best)["eval_loss"], "the table of checkpoints"
            )
        best_steps(card, [row["step"] for row in table if isinstance(row["step"], int)], best["step"])
    stentor2, stentor3, portimbria = cards.own
    portimbria.check(
        "training_dynamics.no_improvement_after_step", 18000, "the last best step of the table", exact=True
    )
    stentor2.check("training_dynamics.epoch_0_end_loss", 3.047, "the table of checkpoints")
    words = ("the end of epoch 0, \"~15000\" in the table of checkpoints, has 3.047; "
             "the card does not say whether the two are one evaluation")
    stentor2.note("training_dynamics.loss_at_step_15000", None, 3.047, words)
    before = {
        "reduction_vs_v1_percent": 33.02, "perplexity_reduction_vs_v1": 33.02,
        "reduction_vs_12m_percent": 26.61,
    }
    for key, old in before.items():
        reduction = spread(lambda new, old: 100 - 100 * new / old, interval(18.07), interval(old))
        stentor2.check(f"results.{key}", reduction, f"1 - 18.07 / {old}")
    words = "45.3% compares two vocabularies; their perplexities do not compare, bits per byte would"
    stentor2.note("results.comparability", None, "45.3% is stated across generations", words)
    stentor3.note(
        "meta.comparability", True, "14.02 and 9.64",
        "the two best perplexities as stated elsewhere; one vocabulary",
    )
    for card, key in ((stentor3, "initial_loss"), (stentor2, "epoch_0_start_loss")):
        vocab = card.shape.vocab_size
        card.check(f"training_dynamics.{key}", math.log(vocab), f"ln {vocab}: every token equally likely")
    for step in (1800, 13200):
        words = ("read as a range; as two statements of one spike, 3.7 and 3.72 would agree "
                 "and 8.5 and 8.56 would not")
        portimbria.note(f"training_dynamics.grad_spike_step_{step}", None, "two values", words)


def best_steps(card: Card, marked: list[int], best: int | str) -> None:
    """The steps of a table of checkpoints against the settings of evaluation and the list of new bests."""
    every = card.value("evaluation_checkpointing.eval_steps")
    start = card.value("evaluation_checkpointing.best_eval_start_step")
    on_grid = all((step - start) % every == 0 for step in marked)
    card.note(
        "evaluation_checkpointing.eval_steps", on_grid, every,
        f"each step of the table is {start:,} + a multiple of it",
    )
    card.note(
        "evaluation_checkpointing.best_eval_start_step", min(marked) == start, min(marked),
        "the first best checkpoint",
    )
    if card.model != S2:
        stated = card.value("training_dynamics.new_best_steps")
        card.note(
            "training_dynamics.new_best_steps", stated == marked, len(marked),
            "the steps of the table of checkpoints",
        )
        card.check("results.best_step", best, "lowest loss of the table", exact=True)


PARTS = (steps, speed, footprint, losses)
