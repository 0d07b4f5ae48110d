# SPDX-License-Identifier: Apache-2.0
"""Compile the real training step for a TPU v5e-8 on a machine without one, and print what the compiler says
of it.

    python -m bench.tpu_compile                          the defaults of 20m, 50m and 150m, 64 rows of 4,096
                                                         tokens
    python -m bench.tpu_compile --size 20m --attention sdpa     the same step with plain attention
    python -m bench.tpu_compile --evaluation             the loss of a validation batch instead of the step

Two processes a program. The first runs `train.training_step` and `train.update`, or `train.validation_loss`,
on eight virtual CPU devices; torch_xla only records, nothing is computed, and the recorded program is written
down with its shardings. The second gives it to libtpu's compile-only client for the topology v5e:2x4. Figures
are the compiler's, per chip; none is a measured time. What fits is judged by arguments + temporaries, because
a real step donates its weights and moments: their new values take the place of the old. An evaluation's
arguments are the weights; the moments, which lie beside them, are added to its sum. Needs the packages of
`pip install ".[tpu]"`, at exactly these versions (torch_xla 2.9.0, jax 0.7.1, libtpu 0.0.21), since the calls
into the compiler are private.
"""
from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from common import ROOT, Parser, UserError, run

VIRTUAL = {"PJRT_DEVICE": "CPU", "CPU_NUM_DEVICES": "8"}
COMPILER = {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
COLUMNS = {
    "size": "",
    "program": "",
    "attention": "",
    "recompute": "",
    "loss chunk": "",
    "arguments GiB": ".2f",
    "temporaries GiB": ".2f",
    "moments GiB": ".2f",
    "sum GiB": ".2f",
    "TFLOP": ".2f",
    "GB moved": ".1f",
    "collectives": "",
    "compile s": ".0f",
}


# --------------------------------------------------------------------------------------- first process: trace

def traced(
    size: str, attention: str, recompute: bool, loss_chunk: int | None, evaluation: bool, file: Path
) -> dict:
    """Record one optimizer step, or one batch of an evaluation, as the defaults of `size` make it on a TPU;
    write its program to `file`.

    Returns the settings it had, and what an evaluation leaves in memory beside its own arguments: the
    moments, in GiB.
    """
    import numpy
    import torch
    import torch_xla

    import precision
    import train
    from training.job import Job
    from training.resolve import fit_on_chip
    from training.settings import TrainSettings, default_values, recipe_values
    from devices.attention_tpu import FlashAttention
    from devices.open import open_device
    from model import SIZES
    device = open_device("xla")
    if attention == "flash":
        lower_kernels_for_tpu()
        device.attend = FlashAttention(device.mesh)
    values = {**default_values(), **recipe_values("card", size)}
    values.update(size=size, recipe="card", precision="tpu-bf16", recompute=recompute, loss_chunk=loss_chunk)
    changes = fit_on_chip(TrainSettings(**values), SIZES[size], device, precision.PRECISIONS["tpu-bf16"])
    settings = TrainSettings(**{**values, **changes})
    job = Job(settings, {}, SIZES[size], device, "", None, None, None, Path(), None, None,
              settings.batch_size)
    model = train.build_model(job)
    optimizer = train.AdamW(model, settings.weight_decay)
    device.replicate([*model.parameters(), *optimizer.exp_avg, *optimizer.exp_avg_sq])
    ids = numpy.zeros((settings.batch_size, settings.seq_len), dtype=numpy.int64)
    if evaluation:
        with torch.no_grad():
            written = [train.validation_loss(model, ids, job)]
    else:
        loss = train.training_step(train.wrap(model, job), ids, job)
        norm = train.update(optimizer, job, train.State(), 1e-3)
        written = [loss, norm, *model.parameters(), *optimizer.exp_avg, *optimizer.exp_avg_sq]
    file.write_bytes(torch_xla._XLAC._get_xla_tensors_hlo_proto(written))
    moments = sum(moment.nbytes for moment in (*optimizer.exp_avg, *optimizer.exp_avg_sq)) / 2**30
    return {
        "size": size,
        "program": "evaluation" if evaluation else "step",
        "rows": settings.batch_size,
        "seq_len": settings.seq_len,
        "moments GiB": moments if evaluation else 0.0,
        "attention": attention,
        "recompute": "layer" if settings.recompute else "none",
        "loss chunk": str(settings.loss_chunk or "whole"),
    }


def lower_kernels_for_tpu() -> None:
    """torch_xla takes a Pallas kernel's text from jax, which here sees a CPU only: ask jax for its TPU text
    all the same, in libtpu's version.
    """
    import jax
    import jax.experimental.pallas.tpu                            # registers what the lowering needs
    import torch
    from jax._src import tpu_custom_call
    from torch_xla.experimental import custom_kernel

    def trace_pallas(kernel, *args, static_argnums=None, static_argnames=None, use_cache=False, **named):
        shapes = [
            custom_kernel.to_jax_shape_dtype_struct(arg) if torch.is_tensor(arg) else arg for arg in args
        ]
        traced = jax.jit(kernel, static_argnums=static_argnums, static_argnames=static_argnames).trace(
            *shapes, **named
        )
        program = traced.lower(lowering_platforms=("tpu",)).compiler_ir()
        return custom_kernel._extract_backend_config(program), [arg for arg in args if torch.is_tensor(arg)]

    def get_ir_version(_):
        return 7

    custom_kernel.trace_pallas = trace_pallas
    tpu_custom_call.get_ir_version = get_ir_version


# ------------------------------------------------------------------------------------ second process: compile

def compiled(file: Path) -> dict:
    """What libtpu's compiler says of the program in `file`, for eight v5e chips; {"refused": its words} where
    memory does not suffice.
    """
    import numpy
    from jax._src.lib import xla_client
    from jax.experimental import topologies
    topology = topologies.get_topology_desc(topology_name="v5e:2x4", platform="tpu")
    client = topology.devices[0].client
    program = xla_client._xla.mlir.xla_computation_to_mlir_module(
        xla_client.XlaComputation(file.read_bytes())
    )
    options = xla_client.CompileOptions()
    options.num_replicas, options.num_partitions = 1, 8
    build = options.executable_build_options
    build.num_replicas, build.num_partitions = 1, 8
    build.use_spmd_partitioning, build.use_shardy_partitioner = True, False
    build.device_assignment = xla_client.DeviceAssignment.create(numpy.arange(8).reshape(1, 8))
    begun = time.monotonic()
    try:
        program = client.compile(program.encode(), xla_client.DeviceList(tuple(topology.devices)), options)
    except Exception as error:  # the class is private, and differs between versions of jax
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return {"refused": str(error).split("\n")[0][:300], "compile s": time.monotonic() - begun}
    memory, cost = program.get_compiled_memory_stats(), program.cost_analysis()
    return {
        "arguments GiB": memory.argument_size_in_bytes / 2**30,
        "temporaries GiB": memory.temp_size_in_bytes / 2**30,
        "TFLOP": cost["flops"] / 1e12,
        "GB moved": cost["bytes accessed"] / 1e9,
        "compile s": time.monotonic() - begun,
        "collectives": collectives(program.hlo_modules()[0].to_string()),
    }


def collectives(text: str) -> str:
    """The operations between chips in a compiled program, with how many tensors of each dtype they carry:
    "all-reduce x3 (41 f32, 71 bf16)".
    """
    found = []
    for kind in ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute"):
        shapes = re.findall(rf"= (.*?) {kind}(?:-start)?\(", text)
        if shapes:
            dtypes = re.findall(r"\b(f32|bf16|s32|pred)\[", " ".join(shapes))
            carried = ", ".join(f"{dtypes.count(name)} {name}" for name in dict.fromkeys(dtypes))
            found.append(f"{kind} x{len(shapes)} ({carried})")
    return "; ".join(found) or "none"


# ----------------------------------------------------------------------------------------------- first of all

def in_another_process(environment: dict[str, str], *arguments: str) -> dict:
    """Run this module again under other settings, which must be there before the imports; the JSON of its
    last line.
    """
    kept = {name: value for name, value in os.environ.items() if name not in VIRTUAL}
    command = [sys.executable, "-m", "bench.tpu_compile", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=kept | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    if done.returncode:
        raise UserError(f"{' '.join(arguments)} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def one_program(
    size: str,
    attention: str,
    recompute: bool = False,
    loss_chunk: int | None = None,
    evaluation: bool = False,
) -> dict:
    """Trace and compile the step, or the evaluation, of one size: the settings it had, and the compiler's
    figures.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "step.pb")
        flags = (
            ["--recompute"] * recompute
            + (["--loss-chunk", str(loss_chunk)] if loss_chunk else [])
            + ["--evaluation"] * evaluation
        )
        settings = in_another_process(
            VIRTUAL, "--trace", file, "--size", size, "--attention", attention, *flags
        )
        program = settings | in_another_process(COMPILER, "--compile", file)
    if "refused" not in program:
        program["sum GiB"] = program["arguments GiB"] + program["temporaries GiB"] + program["moments GiB"]
    return program


def main() -> int:
    p = Parser(
        "Compile the training step for a TPU v5e-8, without one: memory, work and traffic per chip.",
        prog="python -m bench.tpu_compile",
    )
    p.add_argument("--size", help="one size (default: 20m, 50m and 150m)")
    p.add_argument(
        "--attention",
        choices=["flash", "sdpa"],
        default="flash",
        help="what runs on a TPU with jax, or without (default: flash)",
    )
    p.add_argument(
        "--recompute", action="store_true", help="recompute layers also where the default does not"
    )
    p.add_argument(
        "--loss-chunk",
        type=int,
        metavar="N",
        help="positions whose logits are held at once (default: as train.py)",
    )
    p.add_argument(
        "--evaluation",
        action="store_true",
        help="the loss of one validation batch, as large as a step's, instead of the step",
    )
    p.add_argument("--json", action="store_true", help="print the figures as JSON, one program a line")
    p.add_argument("--trace", help=argparse.SUPPRESS)
    p.add_argument("--compile", help=argparse.SUPPRESS)
    args = p.parse_args()
    missing = [name for name in ("torch_xla", "jax", "libtpu") if find_spec(name) is None]
    if missing:
        raise UserError(f'{", ".join(missing)}: not installed; this needs pip install ".[tpu]"')
    if args.trace:
        settings = traced(
            args.size, args.attention, args.recompute, args.loss_chunk, args.evaluation, Path(args.trace)
        )
        print(json.dumps(settings))
        return 0
    if args.compile:
        print(json.dumps(compiled(Path(args.compile))))
        return 0
    from params import LIMIT, Table
    what = "evaluation batch" if args.evaluation else "training step"
    table = Table(f"one {what} on a TPU v5e-8, compiled, never run: per chip, of {LIMIT} GiB", COLUMNS)
    for size in [args.size] if args.size else ["20m", "50m", "150m"]:
        program = one_program(size, args.attention, args.recompute, args.loss_chunk, args.evaluation)
        if args.json:
            print(json.dumps(program), flush=True)
        table.rows.append(tuple(program.get(name) for name in COLUMNS))
        table.notes += [f"{size}: does not fit: {program['refused']}"] if "refused" in program else []
    if not args.json:
        print(table.text(), end="")
    return 1 if table.notes else 0


if __name__ == "__main__":
    sys.exit(run(main))
