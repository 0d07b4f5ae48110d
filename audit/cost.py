# SPDX-License-Identifier: Apache-2.0
"""The cost of a training run: FLOPs, time and energy on named hardware, and other vocabularies.

`params.py` counts; this file turns its counts into hours and kilowatt-hours. That needs figures of hardware
and assumptions: all of them are in the first lines below. `python params.py --flops` prints it.
"""
from __future__ import annotations

import argparse
import dataclasses
import math
import time
from dataclasses import dataclass

from model import Llama, ModelConfig, next_token_loss
from params import FAMILY, Table, count, embedding_share, flops

CHINCHILLA = 20  # tokens per parameter of a compute-optimal run (Hoffmann et al. 2022, table 3, rounded)
KG_CO2_PER_KWH = 0.37               # assumption: the grid of the United States, about 2023
THIS_MACHINE_WATTS = 100.0          # assumption


@dataclass(frozen=True)
class Hardware:
    """Peak of dense matrix products in FLOP/s, its dtype, and the power while training in watts."""

    peak: float
    dtype: str
    watts: float


# Peaks are from the makers' data sheets. Watts are the rated power of a T4 and an H200; Google publishes none
# for v5e, so 200 a chip is an assumption.
HARDWARE = {
    "TPU v5e-8": Hardware(8 * 197e12, "bf16", 8 * 200),
    "T4": Hardware(65e12, "fp16", 70),
    "2x T4": Hardware(2 * 65e12, "fp16", 2 * 70),
    "H200": Hardware(989e12, "bf16", 700),
}


def tables(name: str, config: ModelConfig, length: int, args: argparse.Namespace) -> list[Table]:
    """What `--flops` prints. The run has `--tokens`, or the tokens of the card, or CHINCHILLA a parameter."""
    tokens = args.tokens or FAMILY.get(name, CHINCHILLA * count(config)["total"])
    step_tokens = args.step_tokens or (8192 if config.max_position_embeddings <= 1024 else 262144)
    work = flops(config, length)["training"]
    reached = measure(config) if args.measure else None
    return [
        compute_table(name, config, length, tokens, step_tokens),
        time_table(name, work, tokens, args.throughput, args.utilization, reached),
        what_if(name, config, length, tokens),
    ]


def compute_table(name: str, config: ModelConfig, length: int, tokens: float, step_tokens: int) -> Table:
    """FLOPs per token, step and run (as `params.flops` counts), tokens per parameter and per token type."""
    work = flops(config, length)
    total = count(config)["total"]
    table = Table(f"{name}: compute at context {length:,}", {"quantity": "", "value": ",.5g", "how": ""})
    table.rows = [
        ("MFLOP per token, forward", work["forward"] / 1e6, "2N + 4LHFT, N all parameters"),
        ("MFLOP per token, training", work["training"] / 1e6, "6N + 12LHFT"),
        ("  attention's share, percent", 100 * work["attention share"], "the term in T, in full"),
        ("  if the masked half is skipped", work["training causal"] / 1e6, "6N + 6LHFT"),
        ("  matrix products only", work["training matmul"] / 1e6, "without an untied input embedding"),
        ("TFLOP per step", work["training"] * step_tokens / 1e12, f"{step_tokens:,} tokens"),
        ("EFLOP per run", work["training"] * tokens / 1e18, f"{tokens:,.0f} tokens"),
        ("steps", math.ceil(tokens / step_tokens), "run / step, rounded up"),
        (
            "tokens per parameter", tokens / total,
            f"Chinchilla: {CHINCHILLA}, which is {CHINCHILLA * total / 1e6:,.0f}M",
        ),
        ("thousand tokens per token type", tokens / config.vocab_size / 1e3, "tokens of the run / V"),
    ]
    table.notes = ["MFLOP: 10^6 floating-point operations, TFLOP 10^12, EFLOP 10^18."]
    return table


def time_table(name: str, work: float, tokens: float, throughput: float | None, utilization: float,
               reached: float | None = None) -> Table:
    """Time and energy of a run of `tokens` at `work` FLOPs each.

    The speed is `throughput` tokens/s, or else the share `utilization` of each peak. `reached`, in FLOP/s, is
    what `measure` found on this machine; it adds a row.
    """
    where = f"{throughput:,.0f} tokens/s" if throughput else f"{100 * utilization:.0f}% of peak"
    columns = {
        "tokens/s": ",.0f", "% of peak": ".1f", "hours": ",.2f", "watts": ",.0f", "kWh": ",.2f",
        "kg CO2": ",.2f",
    }
    heading = f"{name}: a run of {tokens:,.0f} tokens at {where}"
    table = Table(heading, {"device": "", "TFLOP/s": ",.5g", "dtype": "", **columns})
    for label, hardware in HARDWARE.items():
        rate = throughput or utilization * hardware.peak / work
        share = 100 * rate * work / hardware.peak
        cost = energy(tokens / rate, hardware.watts)
        table.rows.append((label, hardware.peak / 1e12, hardware.dtype, rate, share, *cost))
    if reached:
        cost = energy(tokens * work / reached, THIS_MACHINE_WATTS)
        table.rows.append(("this machine", None, "fp32", reached / work, None, *cost))
        table.notes += [
            f"this machine: measured, {reached / 1e9:,.1f} GFLOP/s without the optimizer; "
            f"{THIS_MACHINE_WATTS:.0f} W assumed."
        ]
    table.notes += [
        "Energy: these watts for all of the time, without host and cooling; assumed are",
        f"{KG_CO2_PER_KWH} kg CO2 per kWh and 200 W a v5e chip. Above 100% of peak is impossible.",
    ]
    return table


def energy(seconds: float, watts: float) -> tuple[float, float, float, float]:
    """Hours, watts, kWh, kg CO2."""
    kwh = watts * seconds / 3.6e6
    return seconds / 3600, watts, kwh, kwh * KG_CO2_PER_KWH


def what_if(name: str, config: ModelConfig, length: int, tokens: float) -> Table:
    """The same model with the vocabularies of the family, tied and untied: what a small one saves."""
    sizes = {"parameters": ",d", "embedding %": ".1f", "FP16 MB": ",.1f"}
    columns = sizes | {"MFLOP/token": ",.0f", "tokens/type": ",.0f"}
    table = Table(f"{name}: what if the vocabulary were ...", {"vocabulary": ",d", "head": "", **columns})
    for tied in (True, False):
        for vocab in (4096, 8064, 32768):
            other = dataclasses.replace(config, vocab_size=vocab, tie_word_embeddings=tied)
            total = count(other)["total"]
            work = flops(other, length)["training"] / 1e6
            head = "tied" if tied else "untied"
            table.rows.append(
                (vocab, head, total, embedding_share(other), 2 * total / 1e6, work, tokens / vocab)
            )
    table.notes = [
        "MFLOP/token is for training; tokens/type is how often the run meets each token.",
        "With a larger vocabulary the same number of tokens is more text.",
    ]
    return table


def measure(config: ModelConfig, seconds: float = 3.0) -> float:
    """FLOP/s of this machine: forward and backward of a random model, one row of up to 256 tokens, FP32."""
    import torch
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = Llama(config).to(device)
    ids = torch.randint(config.vocab_size, (1, min(256, config.max_position_embeddings)), device=device)
    steps = -1                      # the first step prepares kernels and memory and is not counted
    start = time.perf_counter()
    while steps < 1 or time.perf_counter() - start < seconds:
        loss = next_token_loss(model(ids), ids)
        loss.backward()
        loss.item()                 # waits for the device
        steps += 1
        if steps == 0:
            start = time.perf_counter()
    return steps * ids.numel() * flops(config, ids.numel())["training"] / (time.perf_counter() - start)
