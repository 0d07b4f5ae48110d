# SPDX-License-Identifier: Apache-2.0
"""Compile the real training step for a TPU v5e on a machine without one; print the compiler's figures.

    python -m bench.tpu_compile                          20m, 50m and 150m with the settings of a TPU run
    python -m bench.tpu_compile --size 20m --attention sdpa     the same step with plain attention
    python -m bench.tpu_compile --evaluation             the loss of a validation batch instead of the step
    python -m bench.tpu_compile --backend torchtpu       the step of one chip as TorchTPU lowers it

Each program takes two processes. The first records `train.training_step` and `train.update`, or
`train.validation_losses`, computes nothing, and writes the program to a file.

torch_xla   records on eight virtual CPU devices; the program carries the shardings of all eight chips
torchtpu    a CPU takes the chip's place (bench/torchtpu_on_cpu.py); fake tensors are traced into one graph.
            It is the program of one chip: the all-reduce between processes is not part of it

The second process gives the file to libtpu's compile-only client for the topology v5e:2x4. All figures are
the compiler's, per chip; none is a measured time. FLOPs inside TorchTPU's attention kernels are not counted.
A program fits if arguments + temporaries do, because a step donates its weights and moments: the new values
replace the old. An evaluation's arguments are the weights; the moments beside them are added to its sum.

The calls into the compilers are private, so the versions are exact: torch_xla 2.9.0, jax 0.7.1 and libtpu
0.0.21 (`pip install ".[tpu]"`), or the packages in tests/oracles/torchtpu.txt.
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
from typing import TYPE_CHECKING, Any

from common import ROOT, Parser, UserError, run

if TYPE_CHECKING:
    from devices.device import Device
    from training.job import Job

CHIPS = 8
VIRTUAL = {"PJRT_DEVICE": "CPU", "CPU_NUM_DEVICES": str(CHIPS)}
COMPILER = {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
NEEDS = {"torch_xla": ["torch_xla", "jax", "libtpu"],
         "torchtpu": ["torch_tpu", "fastatomstruct_xla_cpu", "jax", "libtpu"]}
COLUMNS = {
    "size": "", "backend": "", "program": "", "attention": "", "recompute": "", "loss chunk": "",
    "arguments GiB": ".2f", "temporaries GiB": ".2f", "moments GiB": ".2f", "sum GiB": ".2f", "TFLOP": ".2f",
    "GB moved": ".1f", "collectives": "", "compile s": ".0f",
}


# -------------------------------------------------------------------------------------- first process: record

def job_of(args: argparse.Namespace, device: Device) -> Job:
    """The job of a run with the card's settings on a v5e-8; it needs no data."""
    import precision
    from model import SIZES
    from training.job import Job
    from training.resolve import default_values, fit_on_chip, recipe_values
    from training.settings import TrainSettings
    values = {**default_values(), **recipe_values("card", args.size)}
    values.update(size=args.size, recipe="card", precision="tpu-bf16", recompute=args.recompute)
    values.update(loss_chunk=args.loss_chunk or "auto", compile=False)
    config = SIZES[args.size]
    changes = fit_on_chip(TrainSettings(**values), config, device, precision.PRECISIONS["tpu-bf16"])
    settings = TrainSettings(**{**values, **changes})
    return Job(settings, {}, config, device, "", None, None, None, Path(), None, None, settings.batch_size)


def described(args: argparse.Namespace, job: Job, optimizer: Any) -> dict:
    """The settings of the recorded program, and the moments in GiB that an evaluation leaves in memory."""
    moments = sum(moment.nbytes for moment in (*optimizer.exp_avg, *optimizer.exp_avg_sq)) / 2**30
    return {
        "size": args.size,
        "backend": args.backend,
        "program": "evaluation" if args.evaluation else "step",
        "rows": job.settings.batch_size,
        "seq_len": job.settings.seq_len,
        "moments GiB": moments if args.evaluation else 0.0,
        "attention": args.attention,
        "recompute": "layer" if job.settings.recompute else "none",
        "loss chunk": str(job.settings.loss_chunk or "whole"),
    }


def recorded_by_xla(args: argparse.Namespace, file: Path) -> dict:
    """Record with torch_xla, all eight chips, and write the program to `file`."""
    import numpy
    import torch
    import torch_xla

    import train
    from devices.attention_tpu import FlashAttention
    from devices.open import open_device
    from training.job import State
    device = open_device("xla")
    if args.attention == "flash":
        lower_kernels_for_tpu()
        device.attend = FlashAttention(device.mesh)
    job = job_of(args, device)
    model = train.build_model(job)
    optimizer = train.AdamW(model, job.settings.weight_decay)
    device.replicate([*model.parameters(), *optimizer.exp_avg, *optimizer.exp_avg_sq])
    ids = numpy.zeros((job.settings.batch_size, job.settings.seq_len), dtype=numpy.int64)
    if args.evaluation:
        with torch.no_grad():
            written = [train.validation_losses(model, ids, job)]
    else:
        loss, rows = train.training_step(train.wrap(model, job), ids, job)
        norm = train.update(optimizer, job, State(), 1e-3)
        written = [loss, rows, norm, *model.parameters(), *optimizer.exp_avg, *optimizer.exp_avg_sq]
    file.write_bytes(torch_xla._XLAC._get_xla_tensors_hlo_proto(written))
    return described(args, job, optimizer)


def lower_kernels_for_tpu() -> None:
    """Make torch_xla ask jax for the TPU form of a Pallas kernel, although jax sees a CPU only."""
    import jax
    import jax.experimental.pallas.tpu                            # registers what the lowering needs
    import torch
    from jax._src import tpu_custom_call
    from torch_xla.experimental import custom_kernel

    def trace_pallas(kernel, *args, static_argnums=None, static_argnames=None, use_cache=False, **named):
        to_jax = custom_kernel.to_jax_shape_dtype_struct
        shapes = [to_jax(arg) if torch.is_tensor(arg) else arg for arg in args]
        jitted = jax.jit(kernel, static_argnums=static_argnums, static_argnames=static_argnames)
        program = jitted.trace(*shapes, **named).lower(lowering_platforms=("tpu",)).compiler_ir()
        return custom_kernel._extract_backend_config(program), [arg for arg in args if torch.is_tensor(arg)]

    def get_ir_version(_):
        return 7                                      # what libtpu 0.0.21 reads

    custom_kernel.trace_pallas = trace_pallas
    tpu_custom_call.get_ir_version = get_ir_version


def recorded_by_torchtpu(args: argparse.Namespace, file: Path) -> dict:
    """Trace the step of one chip, let TorchTPU lower it, and write its StableHLO program to `file`."""
    from bench import torchtpu_on_cpu
    torchtpu_on_cpu.replace_chip()
    import numpy
    import torch
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.nn.utils.stateless import _reparametrize_module
    from torch_tpu._internal.compile.tpu_torch_compile import placeholder
    from torch_tpu._internal.export import fx_to_mlir

    import train
    from devices.device import Device
    from training.job import State
    torch.backends.cuda.enable_flash_sdp(args.attention == "flash")
    device = Device("tpu", torch.device("tpu"), "", shards=CHIPS, compiles_shapes=True)
    job = job_of(args, device)
    job.micro_batch = job.settings.batch_size // CHIPS
    shape = (job.micro_batch, job.settings.seq_len)
    model = train.build_model(job)
    network = model if args.evaluation else train.wrap(model, job)
    optimizer = train.AdamW(model, job.settings.weight_decay)
    names = [name for name, _ in network.named_parameters()]
    weights = [parameter.detach() for parameter in optimizer.params]

    def step(ids, *tensors):
        device.put = lambda _: ids
        params, optimizer.exp_avg, optimizer.exp_avg_sq = (
            list(tensors[i * len(names):(i + 1) * len(names)]) for i in range(3)
        )
        optimizer.params = [tensor.detach().requires_grad_() for tensor in params]
        with _reparametrize_module(network, dict(zip(names, optimizer.params))):
            if args.evaluation:
                with torch.no_grad():
                    return [train.validation_losses(network, numpy.zeros(shape, dtype=numpy.int64), job)]
            loss, rows = train.training_step(network, numpy.zeros(shape, dtype=numpy.int64), job)
        norm = train.update(optimizer, job, State(), 1e-3)
        return [loss, rows, norm, *optimizer.params, *optimizer.exp_avg, *optimizer.exp_avg_sq]

    ids = torch.zeros(shape, dtype=torch.long, device="tpu")
    inputs = [ids, *weights, *optimizer.exp_avg, *optimizer.exp_avg_sq]
    settings = described(args, job, optimizer)
    traced = make_fx(step, tracing_mode="fake", _allow_non_fake_inputs=True)(*inputs)
    inputs += constants_to_inputs(traced)

    def write(arguments):
        program = torchtpu_on_cpu.Arguments.from_address(arguments.contents.own[1])
        file.write_bytes(torchtpu_on_cpu.ctypes.string_at(program.own[0], program.own[1]))
        return compile_for_cpu(arguments)

    compile_for_cpu = torchtpu_on_cpu.hook(torchtpu_on_cpu.CLIENT_COMPILE, write)
    donated = [] if args.evaluation else list(range(1, 1 + 3 * len(names)))
    try:
        fx_to_mlir(traced, [placeholder(list(x.shape), x.dtype) for x in inputs], donated_inputs=donated)
    except RuntimeError:                              # the CPU cannot compile a TPU kernel, and need not
        if not file.exists():
            raise
    return settings


def constants_to_inputs(traced: Any) -> list:
    """Make the constants of a traced graph (rotary tables, AdamW's scalars) its last inputs; return them."""
    inputs = [node for node in traced.graph.nodes if node.op == "placeholder"]
    constants = []
    for node in [node for node in traced.graph.nodes if node.op == "get_attr"]:
        constants.append(getattr(traced, node.target))
        with traced.graph.inserting_after(inputs[-1]):
            inputs.append(traced.graph.placeholder(f"constant_{len(constants)}"))
        node.replace_all_uses_with(inputs[-1])
        traced.graph.erase_node(node)
    traced.recompile()
    return constants


# ------------------------------------------------------------------------------------ second process: compile

def compiled(args: argparse.Namespace, file: Path) -> dict:
    """libtpu's figures for the program in `file`; {"refused": the message} if the program does not fit."""
    import numpy
    from jax._src.lib import xla_client
    from jax.experimental import topologies
    topology = topologies.get_topology_desc(topology_name="v5e:2x4", platform="tpu")
    client = topology.devices[0].client
    if args.backend == "torch_xla":
        chips, computation = CHIPS, xla_client.XlaComputation(file.read_bytes())
        program = xla_client._xla.mlir.xla_computation_to_mlir_module(computation).encode()
    else:
        from jax._src.interpreters.mlir import make_ir_context
        from jaxlib.mlir.dialects.stablehlo import deserialize_portable_artifact
        chips, context = 1, make_ir_context()
        with context:
            program = deserialize_portable_artifact(context, file.read_bytes())
    options = xla_client.CompileOptions()
    build = options.executable_build_options
    options.num_replicas = build.num_replicas = 1
    options.num_partitions = build.num_partitions = chips
    build.use_spmd_partitioning, build.use_shardy_partitioner = chips > 1, False
    build.device_assignment = xla_client.DeviceAssignment.create(numpy.arange(chips).reshape(1, chips))
    devices = xla_client.DeviceList(tuple(topology.devices[:chips]))
    started = time.monotonic()
    try:
        program = client.compile(program, devices, options)
    except Exception as error:  # the class is private, and differs between versions of jax
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return {"refused": str(error).split("\n")[0][:300], "compile s": time.monotonic() - started}
    memory, cost = program.get_compiled_memory_stats(), program.cost_analysis()
    return {
        "arguments GiB": memory.argument_size_in_bytes / 2**30,
        "temporaries GiB": memory.temp_size_in_bytes / 2**30,
        "peak GiB": memory.peak_memory_in_bytes / 2**30,
        "TFLOP": cost["flops"] / 1e12,
        "GB moved": cost["bytes accessed"] / 1e9,
        "compile s": time.monotonic() - started,
        "collectives": collectives(program.hlo_modules()[0].to_string()),
    }


def collectives(text: str) -> str:
    """The operations between chips in a compiled program, with the number of tensors of each dtype.

    >>> collectives("%a = (f32[2], bf16[4], f32[8]) all-reduce(%b, %c, %d)")
    'all-reduce x1 (2 f32, 1 bf16)'
    """
    found = []
    for kind in ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute"):
        shapes = re.findall(rf"= (.*?) {kind}(?:-start)?\(", text)
        if shapes:
            dtypes = re.findall(r"\b(f32|bf16|s32|pred)\[", " ".join(shapes))
            carried = ", ".join(f"{dtypes.count(name)} {name}" for name in dict.fromkeys(dtypes))
            found.append(f"{kind} x{len(shapes)} ({carried})")
    return "; ".join(found) or "none"


# ---------------------------------------------------------------------------------------- the calling process

def in_another_process(environment: dict[str, str], *arguments: str) -> dict:
    """Run this module in a new process, since imports read `environment`; return the JSON that it prints."""
    kept = {name: value for name, value in os.environ.items() if name not in VIRTUAL}
    command = [sys.executable, "-m", "bench.tpu_compile", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=kept | environment, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{' '.join(arguments)} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def one_program(args: argparse.Namespace, size: str) -> dict:
    """Record and compile the program of one size: its settings, and the compiler's figures."""
    flags = ["--size", size, "--backend", args.backend, "--attention", args.attention]
    flags += ["--recompute"] * args.recompute + ["--evaluation"] * args.evaluation
    flags += ["--loss-chunk", str(args.loss_chunk)] if args.loss_chunk else []
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "program")
        virtual = VIRTUAL if args.backend == "torch_xla" else {}
        program = in_another_process(virtual, "--record", file, *flags)
        program |= in_another_process(COMPILER, "--compile", file, *flags)
    if "refused" not in program:
        program["sum GiB"] = program["arguments GiB"] + program["temporaries GiB"] + program["moments GiB"]
    return program


def main() -> int:
    """Print a table of compiled programs; exit code 1 if one does not fit."""
    p = Parser("Compile the training step for a TPU v5e: memory, work and traffic per chip.",
               prog="python -m bench.tpu_compile")
    p.add_argument("--size", help="one size (default: 20m, 50m and 150m)")
    p.add_argument("--backend", choices=list(NEEDS), default="torch_xla",
                   help="who makes the program (default: torch_xla)")
    p.add_argument("--attention", choices=["flash", "sdpa"], default="flash",
                   help="the fused kernel or plain operations (default: flash)")
    p.add_argument("--recompute", action="store_true", help="recompute layers also where a run does not")
    p.add_argument("--loss-chunk", type=int, metavar="N",
                   help="positions whose logits are held at once (default: as train.py)")
    p.add_argument("--evaluation", action="store_true",
                   help="the loss of one validation batch, as large as a step's, instead of the step")
    p.add_argument("--json", action="store_true", help="print the figures as JSON, one program a line")
    p.add_argument("--record", help=argparse.SUPPRESS)
    p.add_argument("--compile", help=argparse.SUPPRESS)
    args = p.parse_args()
    missing = [name for name in NEEDS[args.backend] if find_spec(name) is None]
    if missing:
        how = 'pip install ".[tpu]"' if args.backend == "torch_xla" else "see tests/oracles/torchtpu.txt"
        raise UserError(f"{', '.join(missing)}: not installed; {how}")
    os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"             # TorchTPU is loaded where it is used
    if args.record:
        record = recorded_by_xla if args.backend == "torch_xla" else recorded_by_torchtpu
        print(json.dumps(record(args, Path(args.record))))
        return 0
    if args.compile:
        print(json.dumps(compiled(args, Path(args.compile))))
        return 0
    from params import LIMIT, Table
    what = "evaluation batch" if args.evaluation else "training step"
    table = Table(f"one {what} on a TPU v5e-8, compiled, never run: per chip, of {LIMIT} GiB", COLUMNS)
    for size in [args.size] if args.size else ["20m", "50m", "150m"]:
        program = one_program(args, size)
        if args.json:
            print(json.dumps(program), flush=True)
        table.rows.append(tuple(program.get(name) for name in COLUMNS))
        table.notes += [f"{size}: does not fit: {program['refused']}"] if "refused" in program else []
    if not args.json:
        print(table.text(), end="")
    return 1 if table.notes else 0


if __name__ == "__main__":
    sys.exit(run(main))
