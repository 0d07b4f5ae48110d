# SPDX-License-Identifier: Apache-2.0
"""The training step on this machine beside transformers' LlamaForCausalLM: same loop, same dtype, same batch, in one run.

    python -m extras.bench_train                     # 20m at the laptop recipe
    python -m extras.bench_train --size 150m --seq-len 4096 --batch-size 8    # on a GPU

Each round times every contender for some steps in turn, so that a busy machine is busy for all of them; the figure is the median over rounds.
A step is zero_grad, forward, loss, backward, clip, AdamW. transformers gets torch's own clip and AdamW, as its Trainer does; "FP32 default" is
that model without autocast, which is what it does when nobody asks for anything else. On a CPU our run keeps freed memory (extras/keep_memory.py);
what that alone is worth, to either, stands in two rows of its own. At the end a profile says where our step's time goes.
"""
from __future__ import annotations

import contextlib
import json
import platform
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any, Callable

import torch

from common import Parser, UserError, add_flags, flag, run
from extras.keep_memory import keep_freed_memory
from extras.settings import LAPTOP, LAPTOP_TINY
from model import SIZES, Llama, next_token_loss
from precision import RECIPES, apply_recipe, choose_precision, open_device

Step = Callable[[], Any]


@dataclass(frozen=True)
class Options:
    """The flags."""

    size: str = flag("20m", "which model of the family", choices=list(SIZES))
    precision: str | None = flag(None, "key of RECIPES (default: what train.py chooses here)", choices=list(RECIPES))
    device: str = flag("auto", "where to compute", choices=["auto", "cpu", "cuda"])
    seq_len: int | None = flag(None, "tokens in a row (default: the laptop recipe's)")
    batch_size: int | None = flag(None, "rows in a step (default: the laptop recipe's)")
    rounds: int = flag(7, "how often each contender is timed")
    steps: int = flag(3, "steps in a round")
    compile: bool = flag(False, "also our step as train.py --fused --compile makes it, on a CPU")
    json: bool = flag(False, "print JSON")


def our_step(options: Options, recipe: str, ids: torch.Tensor, device: Any, fused: bool, compiled: bool) -> Step:
    """One step of train.py's own pieces, with AdamW written out or torch's fused kernel of it, eager or by torch.compile."""
    import train
    torch.manual_seed(0)
    model = apply_recipe(Llama(SIZES[options.size]), recipe, device.device)
    network = torch.compile(model) if compiled else model
    optimizer = train.AdamW(model, 0.01, fused)
    count = iter(range(1, 10**9))

    def step() -> torch.Tensor:
        loss = next_token_loss(network(ids), ids)
        loss.backward()
        train.clip_gradients(optimizer.params, 1.0)
        optimizer.step(next(count), 1e-4)
        for p in optimizer.params:
            p.grad = None
        return loss.detach()

    return step


def transformers_step(options: Options, recipe: str, ids: torch.Tensor, device: Any) -> Step:
    """The same step with LlamaForCausalLM, its own loss, torch's clipping and torch.optim.AdamW."""
    try:
        from transformers import LlamaConfig, LlamaForCausalLM
    except ImportError:
        raise UserError("bench_train compares with transformers: pip install transformers") from None
    import train
    torch.manual_seed(0)
    config = LlamaConfig(**asdict(SIZES[options.size]), attn_implementation="sdpa", use_cache=False)
    model = LlamaForCausalLM(config).to(device.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(train.BETA1, train.BETA2), eps=train.EPS, weight_decay=0.01)
    low = RECIPES[recipe].autocast

    def step() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.kind, dtype=low) if low else contextlib.nullcontext():
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.detach()

    return step


def seconds_of(step: Step, steps: int, device: Any) -> tuple[float, float]:
    """Seconds per step, over `steps` of them: on the clock, and of processor time (all threads), which a busy machine changes less."""
    begun, busy = time.perf_counter(), time.process_time()
    for _ in range(steps):
        step()
    if device.kind == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - begun) / steps, (time.process_time() - busy) / steps


def profile(step: Step) -> list[tuple[str, float]]:
    """The operations that take most of one step, with their share of its time on the CPU (or the GPU, where there is one)."""
    from torch.profiler import ProfilerActivity, profile as profiled
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    with profiled(activities=activities) as found:
        step()
    key = "self_device_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
    rows = sorted(((event.key, getattr(event, key)) for event in found.key_averages()), key=lambda row: -row[1])
    total = sum(number for _, number in rows)
    return [(name, number / total) for name, number in rows[:10]]


def main() -> int:
    """Time all contenders and print the table, the ratios and the profile."""
    parser = Parser("Training steps beside transformers' LlamaForCausalLM.", "  python -m extras.bench_train --size tiny", prog="extras.bench_train")
    add_flags(parser, Options)
    options = Options(**vars(parser.parse_args()))
    recipe = LAPTOP_TINY if options.size == "tiny" else LAPTOP
    device = open_device(options.device)
    key = options.precision or choose_precision(device.kind, False)[0]
    shape = (options.batch_size or recipe["batch_size"], options.seq_len or recipe["seq_len"])
    torch.manual_seed(1)
    ids = torch.randint(0, SIZES[options.size].vocab_size, shape, device=device.device)
    on_gpu = device.kind == "cuda"
    ours = our_step(options, key, ids, device, fused=on_gpu, compiled=on_gpu)
    theirs = transformers_step(options, key, ids, device)
    contenders = {f"ours, {key}": (ours, True), f"transformers, {key}": (theirs, False)}
    if device.kind == "cpu":
        contenders[f"ours, {key}, --fused"] = (our_step(options, key, ids, device, fused=True, compiled=False), True)
        if options.compile:
            contenders[f"ours, {key}, --fused --compile"] = (our_step(options, key, ids, device, fused=True, compiled=True), True)
    if key != "fp32":
        contenders["transformers, FP32 default"] = (transformers_step(options, "fp32", ids, device), False)
    if keep_freed_memory():
        contenders |= {f"ours, {key}, memory given back": (ours, False), f"transformers, {key}, memory kept": (theirs, True)}
    losses = {name: step().item() for name, (step, _) in contenders.items()}          # the first step also warms up
    rounds = {name: [] for name in contenders}
    for _ in range(options.rounds):
        for name, (step, keep) in contenders.items():
            keep_freed_memory(keep)                               # as train.py does on a CPU, and as a plain loop does not
            rounds[name].append(seconds_of(step, options.steps, device))
    medians = {name: [statistics.median(column) for column in zip(*seconds)] for name, seconds in rounds.items()}
    first = next(iter(medians.values()))
    keep_freed_memory(True)
    shares = profile(ours)
    if options.json:
        print(json.dumps({"size": options.size, "shape": shape, "seconds": rounds, "first_losses": losses, "profile": shares}))
        return 0
    print(f"{options.size}, {shape[0]} x {shape[1]} tokens, {device.kind}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
          f"python {platform.python_version()}")
    print(f"  {'':<36}{'tokens/s':>10}{'s a step':>10}{'of CPU':>10}{'ours is faster, clock':>24}{'of CPU':>10}{'loss':>10}")
    for name, (clock, busy) in medians.items():
        ratios = f"{clock / first[0]:>22.2f} x{busy / first[1]:>8.2f} x"
        print(f"  {name:<36}{ids.numel() / clock:>10,.0f}{clock:>10.3f}{busy:>10.3f}{ratios}{losses[name]:>10.3f}")
    print("  where our step goes: " + ", ".join(f"{name} {100 * share:.0f}%" for name, share in shares))
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
