# SPDX-License-Identifier: Apache-2.0
"""The training step on this machine beside transformers' LlamaForCausalLM.

    python -m bench.training_step                     # 20m at the laptop recipe
    python -m bench.training_step --size tiny
    python -m bench.training_step --size 20m --seq-len 4096 --batch-size 64 --micro-batch 16 \\
        --nanogpt nanoGPT/model.py                    # on a GPU

All contenders run the same loop on the same batch in one process: forward, loss, backward, clip, AdamW. Each
round times each of them for a few steps, so that a busy machine is busy for all; the figure is the median
over the rounds.

* "ours": what train.py does on this device;
* "ours, plain forms": `model.sdpa`, `model.next_token_loss` and AdamW as train.py writes it out;
* "transformers": with torch's own clipping and AdamW, as its Trainer has them. "FP32 default" is that model
  without autocast, which is its default.

On a CPU train.py keeps freed memory (devices/open.py). Two more rows show the effect of that alone: ours
without it, transformers with it. One line gives the rate of a large matrix product and the share of it that
our step reaches.

On a GPU both are also compiled, and nanoGPT's GPT can be timed beside them. It has the width and head width
of the size and the number of layers that comes nearest to its parameters (GELU, learned positions, tied head,
its own optimizer). The table also has the share of the peak of an H100 or H200 (bf16), by the FLOPs of
`params.flops`, and the memory that a step needs on top of what is allocated between steps.

At the end a profile says where our step's time goes.
"""
from __future__ import annotations

import contextlib
import importlib.util
import json
import platform
import re
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Callable

import torch

from audit.cost import HARDWARE
from common import Parser, UserError, add_flags, flag, run
from devices.device import Device
from devices.open import keep_freed_memory, open_device
from model import SIZES, Llama, next_token_loss, sdpa
from params import count, flops, training_memory
from precision import PRECISIONS, apply_precision, choose_precision
from training.compiled import CompiledLoss, lacking
from training.resolve import default_values, recipe_values
from training.settings import TrainSettings

Step = Callable[[], Any]


@dataclass(frozen=True)
class Flags:
    """The flags."""

    size: str = flag("20m", "which model of the family", choices=list(SIZES))
    precision: str | None = flag(
        None, "key of PRECISIONS (default: what train.py chooses here)", choices=list(PRECISIONS)
    )
    device: str = flag("auto", "where to compute", choices=["auto", "cpu", "cuda"])
    seq_len: int | None = flag(None, "tokens in a row (default: the laptop recipe's)")
    batch_size: int | None = flag(None, "rows in a step (default: the laptop recipe's)")
    micro_batch: int | None = flag(None, "rows at once (default: all)")
    nanogpt: str | None = flag(None, "on a GPU: nanoGPT's model.py, to time its GPT too", metavar="FILE")
    rounds: int = flag(7, "how often each contender is timed")
    steps: int = flag(3, "steps in a round")
    compile: bool = flag(False, "also our step as train.py --compile makes it, on a CPU")
    json: bool = flag(False, "print JSON")


def accumulated(
    loss_of: Callable[[torch.Tensor], torch.Tensor], ids: torch.Tensor, options: Flags
) -> torch.Tensor:
    """Forward and backward over all rows, a micro-batch at a time; returns the mean loss.

    Every contender uses this function.
    """
    pieces = ids.split(options.micro_batch or len(ids))
    total = torch.zeros((), device=ids.device)
    for piece in pieces:
        loss = loss_of(piece) / len(pieces)
        loss.backward()
        total += loss.detach()
    return total


def our_step(options: Flags, recipe: str, ids: torch.Tensor, device: Device, *, plain: bool = False,
             compiled: bool = False) -> Step:
    """One step of train.py's own parts: as it trains on this device, or in their `plain` forms.

    `compiled` uses torch.compile as train.py --compile does.
    """
    import train
    torch.manual_seed(0)
    model = Llama(SIZES[options.size], sdpa if plain else device.attend)
    model = apply_precision(model, recipe, device.torch_device)
    network = CompiledLoss(model) if compiled else model
    optimizer = train.AdamW(model, 0.01, fused=not plain)
    numbers = iter(range(1, 10**9))

    def loss_of(piece: torch.Tensor) -> torch.Tensor:
        if plain:
            return next_token_loss(model(piece), piece)
        return network(piece)[0] if compiled else device.loss(model(piece), piece)[0]

    def step() -> torch.Tensor:
        loss = accumulated(loss_of, ids, options)
        train.clip_gradients(optimizer.params, 1.0)
        optimizer.step(next(numbers), 1e-4)
        for p in optimizer.params:
            p.grad = None
        return loss

    return step


def their_step(
    model: Any,
    loss_of: Callable[[torch.Tensor], torch.Tensor],
    optimizer: Any,
    low: torch.dtype | None,
    ids: torch.Tensor,
    options: Flags,
) -> Step:
    """The same step of another model: its loss under autocast to `low`, torch's clipping, and `optimizer`."""
    def cast(piece: torch.Tensor) -> torch.Tensor:
        with torch.autocast(ids.device.type, dtype=low) if low else contextlib.nullcontext():
            return loss_of(piece)

    def step() -> torch.Tensor:
        loss = accumulated(cast, ids, options)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss

    return step


def transformers_step(
    options: Flags, recipe: str, ids: torch.Tensor, device: Any, compiled: bool = False
) -> Step:
    """LlamaForCausalLM with its own loss, and torch.optim.AdamW as its Trainer makes it (fused on a GPU)."""
    try:
        from transformers import LlamaConfig, LlamaForCausalLM
    except ImportError:
        raise UserError("this benchmark compares with transformers: pip install transformers") from None
    torch.manual_seed(0)
    config = LlamaConfig(**asdict(SIZES[options.size]), attn_implementation="sdpa", use_cache=False)
    model = LlamaForCausalLM(config).to(device.torch_device)
    fused = device.kind == "cuda"
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=1e-4,
        betas=(TrainSettings.beta1, TrainSettings.beta2),
        eps=TrainSettings.eps,
        weight_decay=0.01,
        fused=fused,
    )
    network = torch.compile(model) if compiled else model
    return their_step(
        model,
        lambda piece: network(input_ids=piece, labels=piece).loss,
        optimizer,
        PRECISIONS[recipe].autocast,
        ids,
        options,
    )


def nanogpt_step(options: Flags, ids: torch.Tensor, device: Any) -> tuple[str, Step]:
    """(name with its parameters, step) of nanoGPT's GPT of equal size: compiled, bf16, its own optimizer."""
    spec = importlib.util.spec_from_file_location("nanogpt", options.nanogpt)
    nanogpt = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(nanogpt)
    size = SIZES[options.size]
    heads = size.hidden_size // size.head_dim
    fixed = (size.vocab_size + ids.shape[1]) * size.hidden_size
    layers = round((count(size)["total"] - fixed) / (12 * size.hidden_size**2))
    torch.manual_seed(0)
    model = nanogpt.GPT(
        nanogpt.GPTConfig(
            ids.shape[1], size.vocab_size, layers, heads, size.hidden_size, dropout=0.0, bias=False
        )
    ).to(device.torch_device)
    optimizer = model.configure_optimizers(0.01, 1e-4, (0.9, 0.95), device.kind)
    network = torch.compile(model)
    step = their_step(
        model, lambda piece: network(piece, following(piece))[1], optimizer, torch.bfloat16, ids, options
    )
    return f"nanoGPT {sum(p.numel() for p in model.parameters()) / 1e6:.1f}M, bf16, compiled", step


def following(ids: torch.Tensor) -> torch.Tensor:
    """Each token's successor (B, T), -1 (nanoGPT's word for none) at a row's end."""
    return torch.nn.functional.pad(ids[:, 1:], (0, 1), value=-1)


def peak_growth(step: Step) -> int:
    """The largest number of bytes on the GPU that a step needs on top of what is allocated before it."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def seconds_of(step: Step, steps: int, device: Any) -> tuple[float, float]:
    """Seconds per step, the mean of `steps`: by the clock, and CPU time of all threads.

    Other programs on the machine change the CPU time less.
    """
    began, busy = time.perf_counter(), time.process_time()
    for _ in range(steps):
        step()
    if device.kind == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - began) / steps, (time.process_time() - busy) / steps


def matrix_rate(dtype: torch.dtype) -> float:
    """FLOP/s of the product of two 1,024 x 1,024 matrices on this CPU, over a tenth of a second."""
    x = torch.randn(1024, 1024).to(dtype)                                     # (1024, 1024)
    products, began = 0, time.perf_counter()
    while time.perf_counter() < began + 0.1:
        x @ x
        products += 1
    return products * 2 * 1024**3 / (time.perf_counter() - began)


def processor() -> str:
    """The processor's name, and the instruction set that torch uses on it."""
    file = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", file.read_text(), re.M) if file.is_file() else None
    name = found[1] if found else platform.processor() or platform.machine()
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"


def profile(step: Step) -> list[tuple[str, float]]:
    """The ten operations that take most of a step, and their share of its time (on a GPU if there is one)."""
    from torch.profiler import ProfilerActivity, profile as profiled
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    with profiled(activities=activities) as found:
        step()
    # on a GPU the kernels count, not the operations that started them
    on_gpu = torch.cuda.is_available()
    key = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    events = [event for event in found.key_averages() if not on_gpu or event.device_type.name == "CUDA"]
    rows = sorted(((event.key[:70], getattr(event, key)) for event in events), key=lambda row: -row[1])
    total = sum(number for _, number in rows)
    return [(name, number / total) for name, number in rows[:10]]


def main() -> int:
    """Time all contenders and print the table, the ratios and the profile."""
    parser = Parser(
        "Training steps beside transformers' LlamaForCausalLM.",
        "  python -m bench.training_step --size tiny",
        prog="bench.training_step",
    )
    add_flags(parser, Flags)
    options = Flags(**vars(parser.parse_args()))
    recipe = {**default_values(), **recipe_values("laptop", options.size)}
    device = open_device(options.device)
    key = options.precision or choose_precision(device.kind, False)[0]
    shape = (options.batch_size or recipe["batch_size"], options.seq_len or recipe["seq_len"])
    torch.manual_seed(1)
    ids = torch.randint(0, SIZES[options.size].vocab_size, shape, device=device.torch_device)
    on_gpu = device.kind == "cuda"
    if (on_gpu or options.compile) and lacking(device.kind):
        raise UserError(f"this benchmark compiles here, which needs {lacking(device.kind)}: install it")
    contenders = {}
    if on_gpu:
        for recipe_key in dict.fromkeys([key, "bf16"]):           # as train.py trains, and as the others do
            compiled_step = our_step(options, recipe_key, ids, device, compiled=True)
            contenders[f"ours, {recipe_key}"] = (compiled_step, True)
        contenders["ours, bf16, eager"] = (our_step(options, "bf16", ids, device), True)
        contenders["transformers, bf16, compiled"] = (
            transformers_step(options, "bf16", ids, device, compiled=True),
            False,
        )
        contenders["transformers, bf16"] = (transformers_step(options, "bf16", ids, device), False)
        if options.nanogpt:
            name, step = nanogpt_step(options, ids, device)
            contenders[name] = (step, False)
    else:
        contenders[f"ours, {key}"] = (our_step(options, key, ids, device), True)
        contenders[f"transformers, {key}"] = (transformers_step(options, key, ids, device), False)
        if key != "fp32":
            in_fp32 = transformers_step(options, "fp32", ids, device)
            contenders["transformers, FP32 default"] = (in_fp32, False)
        contenders[f"ours, {key}, plain forms"] = (our_step(options, key, ids, device, plain=True), True)
        if options.compile:
            contenders[f"ours, {key}, --compile"] = (our_step(options, key, ids, device, compiled=True), True)
    ours = contenders[f"ours, {key}"][0]
    if keep_freed_memory():
        if not on_gpu:
            theirs = contenders[f"transformers, {key}"][0]
            contenders |= {
                f"ours, {key}, memory given back": (ours, False),
                f"transformers, {key}, memory kept": (theirs, True),
            }
    losses = {name: step().item() for name, (step, _) in contenders.items()}  # the first step also warms up
    rounds = {name: [] for name in contenders}
    rates = []
    for _ in range(options.rounds):
        rates += [] if on_gpu else [matrix_rate(PRECISIONS[key].autocast or torch.float32)]
        for name, (step, keep) in contenders.items():
            keep_freed_memory(keep)  # as train.py does on a CPU, and as a plain loop does not
            rounds[name].append(seconds_of(step, options.steps, device))
    medians = {
        name: [statistics.median(column) for column in zip(*seconds)] for name, seconds in rounds.items()
    }
    peaks = {name: peak_growth(step) for name, (step, _) in contenders.items()} if on_gpu else {}
    keep_freed_memory(True)
    shares = profile(ours)
    if options.json:
        print(json.dumps({
            "size": options.size, "shape": shape, "seconds": rounds, "first_losses": losses,
            "profile": shares, "peak_bytes": peaks, "matrix_flops": rates,
        }))
        return 0
    print(
        f"{options.size}, {shape[0]} x {shape[1]} tokens, {device.kind}, {processor()}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, python {platform.python_version()}"
    )
    print(f"  {'':<36}{'tokens/s':>10}{'s a step':>10}{'of CPU':>10}{'ours is faster, clock':>24}"
          f"{'of CPU':>10}{'loss':>10}")
    first = next(iter(medians.values()))
    work = flops(SIZES[options.size], shape[1])
    for name, (clock, busy) in medians.items():
        ratios = f"{clock / first[0]:>22.2f} x{busy / first[1]:>8.2f} x"
        gpu = f"{peaks[name] / 2**30:>10.1f} GiB" if on_gpu else ""
        if on_gpu and "nanoGPT" not in name:
            used = work["training"] * ids.numel() / clock / HARDWARE["H200"].peak
            gpu += f"{100 * used:>8.1f}% of 989 TFLOP/s"
        print(f"  {name:<36}{ids.numel() / clock:>10,.0f}{clock:>10.3f}{busy:>10.3f}{ratios}"
              f"{losses[name]:>10.3f}{gpu}")
    if on_gpu:
        rows = options.micro_batch or shape[0]
        memory = training_memory(SIZES[options.size], rows, shape[1], True, accumulate=rows < shape[0])
        growth = memory["peak"] - memory["weights"] - memory["moments"]
        print(f"  params.py --memory predicts {growth / 2**30:.1f} GiB for the eager step in bf16")
    else:
        rate, done = statistics.median(rates), work["training matmul"] * ids.numel() / first[0]
        print(f"  matrix products of our step: {done / 1e9:.0f} GFLOP/s, {100 * done / rate:.0f}% of the "
              f"{rate / 1e9:.0f} GFLOP/s of a product of two 1,024 x 1,024 matrices in the same rounds")
    print("  where our step goes: " + ", ".join(f"{name} {100 * share:.0f}%" for name, share in shares))
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
