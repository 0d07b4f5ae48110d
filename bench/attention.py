# SPDX-License-Identifier: Apache-2.0
"""The forms of attention on this CPU, by dtype and row length: what devices/attention_cpu.py chooses from.

    python -m bench.attention                        # the heads of 20m, rows of 64 to 4,096 positions
    python -m bench.attention --size 50m --lengths 128 512
    ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 python -m bench.attention     # as on an older processor

Every form computes the same function of the same q, k and v. The forms take turns, and each one's fastest
turn counts. The last columns are the largest error of the forward pass, against the written-out form in FP64.
"""
from __future__ import annotations

import sys
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from common import Parser, UserError, add_flags, flag, run
from devices.attention_cpu import attend, attend_in_blocks
from devices.open import keep_freed_memory
from model import SIZES, ModelConfig, attention_written_out, sdpa

FORMS = {"fused (sdpa)": sdpa, "written out": attention_written_out, "in blocks": attend_in_blocks}


@dataclass(frozen=True)
class Flags:
    """The flags."""

    size: str = flag("20m", "use the heads of this size", choices=list(SIZES))
    lengths: tuple[int, ...] = flag(
        (64, 128, 256, 512, 1024, 2048, 4096), "positions in a row", nargs="+", type=int
    )
    positions: int = flag(1024, "positions in a batch, in rows of each length (at least one row)")
    rounds: int = flag(5, "how often each form is timed")


def random_inputs(config: ModelConfig, B: int, T: int, dtype: torch.dtype) -> list[Tensor]:
    """q (B, H, T, F), k and v (B, K, T, F), laid out in memory as the projections leave them."""
    H, K, F = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    draw = torch.Generator().manual_seed(0)
    inputs = [torch.randn(B, T, heads, F, generator=draw).to(dtype).transpose(1, 2) for heads in (H, K, K)]
    return [tensor.requires_grad_() for tensor in inputs]


def seconds_of(form: object, inputs: list[Tensor]) -> tuple[float, float]:
    """Seconds of one forward and one backward pass."""
    began = time.perf_counter()
    y = form(*inputs)                                                         # (B, H, T, F)
    middle = time.perf_counter()
    torch.autograd.grad(y, inputs, torch.ones_like(y))
    return middle - began, time.perf_counter() - middle


def compare(config: ModelConfig, B: int, T: int, dtype: torch.dtype, rounds: int) -> str:
    """One row of the table: milliseconds forward + backward of each form, what is chosen, the errors."""
    inputs = random_inputs(config, B, T, dtype)
    with torch.no_grad():
        exact = attention_written_out(*(tensor[:1].double() for tensor in inputs))        # (1, H, T, F)
        errors = [(form(*inputs)[:1] - exact).abs().max().item() for form in FORMS.values()]
    best = {name: (float("inf"), float("inf")) for name in FORMS}
    for _ in range(rounds):
        for name, form in FORMS.items():
            best[name] = tuple(map(min, best[name], seconds_of(form, inputs)))
    chosen = attend(*inputs).grad_fn.name() != sdpa(*inputs).grad_fn.name()
    times = "".join(f"{1e3 * forward:>10.2f} +{1e3 * backward:>7.2f}" for forward, backward in best.values())
    ratio = sum(best["fused (sdpa)"]) / sum(best["in blocks"])
    name = str(dtype).removeprefix("torch.")
    return (
        f"{name:<9}{B:>4} x {T:<5}{times}{ratio:>10.2f}  {'in blocks' if chosen else 'fused':<9}"
        + "".join(f"{error:>9.0e}" for error in errors)
    )


def main() -> int:
    """Print the table."""
    example = "  python -m bench.attention --size 50m"
    parser = Parser("The forms of attention on this CPU.", example, prog="bench.attention")
    add_flags(parser, Flags)
    options = Flags(**vars(parser.parse_args()))
    if min(*options.lengths, options.positions, options.rounds) < 1:
        raise UserError("--lengths, --positions and --rounds must be at least 1")
    keep_freed_memory()
    config = SIZES[options.size]
    print(
        f"{config.num_attention_heads} query heads, {config.num_key_value_heads} key/value heads of width "
        f"{config.head_dim}; torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, "
        f"{torch.get_num_threads()} threads; milliseconds forward + backward"
    )
    print(f"{'':<21}{''.join(f'{name:>19}' for name in FORMS)}{'fused':>10}{'':12}largest error, each")
    print(f"{'':<9}{'rows x T':<12}{'':57}{'/ blocks':>10}  chosen")
    for dtype in (torch.float32, torch.bfloat16):
        for T in options.lengths:
            print(compare(config, max(1, options.positions // T), T, dtype, options.rounds), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
