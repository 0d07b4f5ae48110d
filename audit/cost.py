# SPDX-License-Identifier: Apache-2.0
"""What a training run costs: FLOPs, time and energy on named devices, data per parameter and per token type,
other vocabularies.

`params.py` counts; this file turns its counts into hours and kilowatt-hours, which needs figures of devices
and assumptions. All of them stand in the first lines below. `python params.py --flops` prints it.
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
class Device:
    """Peak of dense matrix products in FLOP/s, the dtype it holds for, and the power while training in watts.
    """

    peak: float
    dtype: str
    watts: float


# Peaks: the makers' data sheets. Watts: what a T4 and an H200 are rated at; Google publishes none for v5e,
# 200 a chip is assumed.
DEVICES = {
    "TPU v5e-8": Device(8 * 197e12, "bf16", 8 * 200),
    "T4": Device(65e12, "fp16", 70),
    "2x T4": Device(2 * 65e12, "fp16", 2 * 70),
    "H200": Device(989e12, "bf16", 700),
}


def tables(name: str, config: ModelConfig, length: int, args: argparse.Namespace) -> list[Table]:
    """What `--flops` prints. Without `--tokens` and `--step-tokens` the run is the card's, else `CHINCHILLA`
    tokens a parameter.
    """
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
    """FLOPs per token, step and run (conventions: `params.flops`), tokens per parameter and per token type.
    """
    work = flops(config, length)
    total = count(config)["total"]
    table = Table(
        f"{name}: compute at context {length:,}", {"quantity": "", "value": ",.5g", "convention": ""}
    )
    table.rows = [
        ("FLOPs per token, forward", work["forward"], "2N + 4LHFT, N all parameters"),
        ("FLOPs per token, training", work["training"], "6N + 12LHFT"),
        ("  attention's share, percent", 100 * work["attention share"], "the term in T, in full"),
        ("  if the masked half is skipped", work["training causal"], "6N + 6LHFT"),
        ("  matrix products only", work["training matmul"], "without the lookup of an untied embedding"),
        ("FLOPs per step", work["training"] * step_tokens, f"{step_tokens:,} tokens"),
        ("FLOPs per run", work["training"] * tokens, f"{tokens:,.0f} tokens"),
        ("steps", math.ceil(tokens / step_tokens), "tokens of the run / tokens per step, rounded up"),
        (
            "tokens per parameter",
            tokens / total,
            f"Chinchilla: about {CHINCHILLA}, here {CHINCHILLA * total / 1e6:,.0f}M tokens",
        ),
        ("occurrences per token type", tokens / config.vocab_size, "tokens of the run / V"),
    ]
    return table


def time_table(name: str, work: float, tokens: float, throughput: float | None, utilization: float,
               reached: float | None = None) -> Table:
    """Time and energy of a run of `tokens` at `work` FLOPs each: at `throughput` tokens/s, or else at a share
    of each device's peak.

    `reached` is what `measure` found here, in FLOP/s: this machine's row is that, and no peak.
    """
    where = f"{throughput:,.0f} tokens/s" if throughput else f"{100 * utilization:.0f}% of peak"
    columns = {
        "tokens/s": ",.0f",
        "% of peak": ".1f",
        "hours": ",.2f",
        "watts": ",.0f",
        "kWh": ",.2f",
        "kg CO2": ",.2f",
    }
    heading = f"{name}: a run of {tokens:,.0f} tokens at {where}"
    table = Table(heading, {"device": "", "peak TFLOP/s": ",.5g", "dtype": "", **columns})
    for label, device in DEVICES.items():
        rate = throughput or utilization * device.peak / work
        share = 100 * rate * work / device.peak
        table.rows.append(
            (label, device.peak / 1e12, device.dtype, rate, share, *energy(tokens / rate, device.watts))
        )
    if reached:
        cost = energy(tokens * work / reached, THIS_MACHINE_WATTS)
        table.rows.append(("this machine", None, "fp32", reached / work, None, *cost))
        measured = f"{reached / 1e9:,.1f} GFLOP/s without the optimizer"
        table.notes.append(f"this machine: measured, {measured}; {THIS_MACHINE_WATTS:.0f} W are assumed.")
    table.notes += [
        f"Energy: those watts all the time, no host, no cooling, {KG_CO2_PER_KWH} kg CO2 per kWh; 200 W a v5e chip are assumed.",
        "Over 100% of peak means that the device cannot do it.",
    ]
    return table


def energy(seconds: float, watts: float) -> tuple[float, float, float, float]:
    """Hours, watts, kWh, kg CO2."""
    kwh = watts * seconds / 3.6e6
    return seconds / 3600, watts, kwh, kwh * KG_CO2_PER_KWH


def what_if(name: str, config: ModelConfig, length: int, tokens: float) -> Table:
    """The same model with the vocabularies of the family, tied and untied: what a small vocabulary buys."""
    sizes = {"parameters": ",d", "embedding %": ".1f", "FP16 MB": ",.1f"}
    columns = sizes | {"training FLOPs/token": ".3g", "occurrences per type": ",.0f"}
    table = Table(f"{name}: what if the vocabulary were ...", {"vocabulary": ",d", "head": "", **columns})
    for tied in (True, False):
        for vocab in (4096, 8064, 32768):
            other = dataclasses.replace(config, vocab_size=vocab, tie_word_embeddings=tied)
            total = count(other)["total"]
            work = flops(other, length)["training"]
            head = "tied" if tied else "untied"
            table.rows.append(
                (vocab, head, total, embedding_share(other), 2 * total / 1e6, work, tokens / vocab)
            )
    table.notes = [
        "The same tokens are more text with a larger vocabulary: it needs fewer of them for one document."
    ]
    return table


def measure(config: ModelConfig, seconds: float = 3.0) -> float:
    """FLOP/s that this machine reaches: forward and backward of a random model on one row of up to 256
    tokens, FP32, no optimizer.
    """
    import torch
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = Llama(config).to(device)
    ids = torch.randint(config.vocab_size, (1, min(256, config.max_position_embeddings)), device=device)
    steps = -1                      # the first step sets up kernels and memory, and is not counted
    start = time.perf_counter()
    while steps < 1 or time.perf_counter() - start < seconds:
        loss = next_token_loss(model(ids), ids)
        loss.backward()
        loss.item()                 # waits for the device
        steps += 1
        if steps == 0:
            start = time.perf_counter()
    return steps * ids.numel() * flops(config, ids.numel())["training"] / (time.perf_counter() - start)
