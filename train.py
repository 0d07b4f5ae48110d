# SPDX-License-Identifier: Apache-2.0
"""Train a model of the family: one plain loop for CPU, CUDA and the TPU v5e-8.

    main -> train -> Corpus.batch -> training_step -> Llama.forward -> next_token_loss

Reading order: TrainConfig, the schedule, AdamW, one training step, the loop (`train`), then what surrounds it: evaluation, the log, checkpoints
and resume. How a setting that is not given gets its value (the cards' presets) stands in training/resolve.py, how data and device are opened in
training/open_job.py.
"""
from __future__ import annotations

import contextlib
import json
import math
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Before torch, which takes seconds: Ctrl-C meanwhile is one line (common.before_run).
from common import Parser, UserError, add_flags, duration, flag, folder_problem, lock_folder, progress, read_json, replace_folder, run

import numpy
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import precision
from model import SIZES, Llama, ModelConfig, next_token_loss

BETA1, BETA2, EPS = 0.9, 0.95, 1e-8
Job = Any                              # training.open_job.Job, which is imported when a run starts: settings, device, recipe, data, tokenizer, folder
Log = Any                              # training.log.Log


@dataclass(frozen=True)
class TrainConfig:
    """All settings of a run. A field with a help text is a flag; None means: resolved by the size and the recipe, see `resolve`."""

    size: str | None = flag(None, "which model of the family (default: tiny)", choices=list(SIZES))
    model: ModelConfig | None = None                              # any other architecture, from a program
    data: str | None = flag(None, "a prepared folder, or a text file or folder of texts to prepare (default: the built-in corpus)")
    out: str | None = flag(None, "run folder to create (default: runs/SIZE, then runs/SIZE-2 ...)")
    resume: str | None = flag(None, "continue this run (without RUN: the newest under runs/)", nargs="?", const="", metavar="RUN")
    init: str | None = flag(None, "start from the weights of this model folder instead of random ones", metavar="FOLDER")
    recipe: str | None = flag(None, "length, batch and context: laptop (default on a CPU) or card; for --init also the cards' for fine-tuning",
                              choices=["laptop", "card", "finetune-stentor3", "finetune-portimbria"])
    precision: str | None = flag(None, "which products run in which dtype (default: auto)", choices=["auto", *precision.RECIPES])
    device: str | None = flag(None, "where to compute (default: auto)", choices=["auto", "cpu", "cuda", "mps", "xla"])
    steps: int | None = flag(None, "optimizer steps of the whole schedule (default: the recipe's)")
    tokens: int | None = flag(None, "stop after this many training tokens; without --steps the schedule ends there too")
    epochs: int | None = flag(None, "stop after this many passes over the data; without --steps the schedule ends there too")
    stop_after: int | None = flag(None, "evaluate, save and stop at this step, without moving the schedule")
    deadline: float | None = flag(None, "evaluate, save and stop before this much time has passed, for example 8h45m", type=duration, metavar="TIME")
    seq_len: int | None = flag(None, "tokens in a row (default: the recipe's)")
    batch_size: int | None = flag(None, "rows in an optimizer step, over all devices (default: the recipe's)")
    micro_batch: int | None = flag(None, "rows at once on a device (default: all of them, halved when memory runs out)")
    learning_rate: float | None = flag(None, "peak learning rate (default: the recipe's)")
    warmup_steps: int | None = flag(None, "steps of linear warmup (default: the card's, or 5% of the steps)")
    schedule: str | None = flag(None, "what follows the warmup (default: cosine)", choices=["cosine", "wsd"])
    stable_steps: int | None = flag(None, "wsd: steps at the peak (default: the card's, or 80% of the steps)")
    weight_decay: float | None = flag(None, "decay of Linear weights (default: 0.01)")
    max_grad_norm: float | None = flag(None, "clip the gradient's norm to this (default: 1.0)")
    seed: int | None = flag(None, "of weights and data order (default: 42)")
    eval_steps: int | None = flag(None, "evaluate and save every so many steps (default: the recipe's)")
    best_eval_start_step: int | None = flag(None, "first step whose evaluation may become best/ (default: the recipe's)")
    max_eval_samples: int | None = flag(None, "validation rows (default: the recipe's)")
    logging_steps: int | None = flag(None, "read losses and write the log every so many steps (default: the recipe's)")
    recompute: bool = flag(False, "recompute activations in the backward pass: less memory, a third more work")
    loss_chunk: int | None = flag(None, "positions whose logits are held at once (default: all; 512 on a TPU where the vocabulary is large)")
    fused: bool = flag(False, "update with torch's fused AdamW kernel instead of ours (always on CUDA)")
    compile: bool = flag(False, "torch.compile blocks and loss (on CUDA wherever that can be done)")
    skip_nonfinite: bool = flag(False, "skip a step whose gradient is not finite, instead of stopping")
    document_mask: bool = flag(False, "attention sees only its own document (the cards: no mask)")
    dry_run: bool = flag(False, "print the settings and stop")


@dataclass
class History:
    """What a call of `train` did: one mean loss per optimizer step, evaluation rows as in log.jsonl, the run folder, and how it ended."""

    losses: list[float] = field(default_factory=list)
    evals: list[dict] = field(default_factory=list)
    folder: Path = Path()
    interrupted: bool = False
    signal: int = 0


# ------------------------------------------------------------------------------------- schedule and optimizer

def learning_rate(config: TrainConfig, step: int) -> float:
    """The rate of optimizer step `step` (from 0) of a resolved configuration.

    Linear from 0 over warmup_steps; then a half cosine to 0 (Loshchilov and Hutter 2017), or for `wsd` the peak for stable_steps and a straight
    line to 0 (Hu et al. 2024). Step 0 has rate 0, as in the cards' scheduler.
    """
    if step < config.warmup_steps:
        return config.learning_rate * step / config.warmup_steps
    if config.schedule == "cosine":
        done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
        return config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
    falling = config.steps - config.warmup_steps - config.stable_steps
    done = max(0, step - config.warmup_steps - config.stable_steps) / max(1, falling)
    return config.learning_rate * (1 - done)


class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2), bit-equal on CPU to torch.optim.AdamW.

    With g the gradient and t the number of steps:  m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;
    w = w (1 - lr * decay) - lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps).

    Decay applies to Linear weights only, so to an untied lm_head but not to a tied embedding, nor to norms, as in the cards.
    `fused` uses torch's one-kernel update on the same moments.
    """

    def __init__(self, model: nn.Module, weight_decay: float, fused: bool = False, beta2: float = BETA2):
        linear = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        self.names = [name for name, _ in model.named_parameters()]
        self.params = [parameter for _, parameter in model.named_parameters()]
        self.decays = [weight_decay if name in linear else 0.0 for name in self.names]
        self.exp_avg = [torch.zeros_like(parameter) for parameter in self.params]
        self.exp_avg_sq = [torch.zeros_like(parameter) for parameter in self.params]
        self.fused, self.beta2 = fused, beta2

    @torch.no_grad()
    def step(self, t: int, lr: float) -> None:
        """Update number t (from 1). The step's numbers travel in one small tensor, so that XLA sees an input and not a new constant.

        Nothing is divided by the rate, so a rate of 0, the cards' first step, is harmless (torch.optim.AdamW(capturable=True) divides, and is NaN).
        """
        if self.fused:
            return self.fused_step(t, lr)
        scalars = torch.tensor([lr / (1 - BETA1**t), math.sqrt(1 - self.beta2**t)] + [1 - lr * decay for decay in self.decays], dtype=torch.float32)
        scalars = scalars.to(self.params[0].device)
        for i, p in enumerate(self.params):
            m, v = self.exp_avg[i], self.exp_avg_sq[i]
            p.mul_(scalars[2 + i])
            m.lerp_(p.grad, 1 - BETA1)
            v.mul_(self.beta2).addcmul_(p.grad, p.grad, value=1 - self.beta2)
            denominator = v.sqrt().div_(scalars[1]).add_(EPS)
            p.sub_((scalars[0] * m).div_(denominator))

    def fused_step(self, t: int, lr: float) -> None:
        """The same update by torch's fused kernel, one call per decay value."""
        for decay in set(self.decays):
            chosen = [i for i, d in enumerate(self.decays) if d == decay]
            params, m, v = ([tensors[i] for i in chosen] for tensors in (self.params, self.exp_avg, self.exp_avg_sq))
            counts = [torch.tensor(float(t), device=p.device) for p in params]
            torch._fused_adamw_(params, [p.grad for p in params], m, v, [], counts, amsgrad=False, lr=lr, beta1=BETA1, beta2=self.beta2,
                                weight_decay=decay, eps=EPS, maximize=False)

    def state(self) -> dict[str, Tensor]:
        """Name -> moment on the CPU, for a file."""
        moments = {f"exp_avg.{name}": m for name, m in zip(self.names, self.exp_avg)}
        moments.update({f"exp_avg_sq.{name}": v for name, v in zip(self.names, self.exp_avg_sq)})
        return {name: tensor.to("cpu").contiguous() for name, tensor in moments.items()}

    def load(self, file: Path) -> None:
        """Read the moments back. Raises UserError for a file that is damaged or of another model."""
        try:
            moments = load_file(file)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{file}: damaged or missing ({error})") from None
        for kind, tensors in (("exp_avg", self.exp_avg), ("exp_avg_sq", self.exp_avg_sq)):
            for name, tensor in zip(self.names, tensors):
                found = moments.get(f"{kind}.{name}")
                if found is None or found.shape != tensor.shape:
                    raise UserError(f"{file}: {kind}.{name}: expected shape {list(tensor.shape)}, found {list(getattr(found, 'shape', []))}")
                tensor.copy_(found)


@torch.no_grad()
def clip_gradients(params: list[Tensor], max_norm: float) -> Tensor:
    """Scale all gradients by min(1, max_norm / norm) and return the norm before: the root of the sum of all squares (Pascanu et al. 2013)."""
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(p.grad) for p in params]))
    factor = torch.clamp(max_norm / (norm + 1e-6), max=1.0)
    for p in params:
        p.grad.mul_(factor)
    return norm


# ------------------------------------------------------------------------------------------ one training step

def training_step(network: nn.Module, ids: numpy.ndarray, micro_batch: int, job: Job, loss_scale: float = 1.0) -> Tensor:
    """Forward and backward over this process's rows `ids` (B, T), `micro_batch` at a time; gradients add up to those of the mean loss.

    All micro-batches have the same number of tokens, so the mean of their means is the mean over all tokens. Returns it, FP32, on the device.
    """
    pieces = numpy.split(ids, len(ids) // micro_batch)
    total = torch.zeros((), device=job.device.torch_device)
    for i, piece in enumerate(pieces):
        last = i == len(pieces) - 1
        input_ids = job.device.put(piece)                                     # (B, T)
        mask = document_mask(input_ids, job.tokenizer.eos_id) if job.config.document_mask else None
        with contextlib.nullcontext() if job.device.world == 1 or last else network.no_sync():
            if job.config.loss_chunk or job.config.compile:
                loss = network(input_ids, mask=mask)                          # training/chunked_loss.py, training/compiled.py
            else:
                logits = network(input_ids, mask=mask)                        # (B, T, V)
                loss = next_token_loss(logits, input_ids)
            loss = loss / len(pieces)
            (loss * loss_scale).backward()
        total += loss.detach()
        if not last:
            job.device.sync()                                                 # XLA: the activations of one micro-batch at a time
    return total


def document_mask(input_ids: Tensor, separator: int) -> Tensor:
    """(B, 1, T, T), true where query t may read position s: s <= t and both in the same document. A separator ends its document."""
    T = input_ids.shape[1]
    ends = (input_ids == separator).long()                                    # (B, T)
    document = ends.cumsum(1) - ends                                          # (B, T)
    same = document[:, :, None] == document[:, None, :]                       # (B, T, T)
    causal = torch.ones(T, T, dtype=torch.bool, device=input_ids.device).tril()
    return (same & causal)[:, None]                                           # (B, 1, T, T)


def step_within_memory(network: nn.Module, ids: numpy.ndarray, job: Job, loss_scale: float) -> Tensor:
    """`training_step`; when CUDA runs out of memory, again with half the micro-batch. Raises UserError when one row is too much.

    Several processes wait for each other inside a step, so there the user has to choose the micro-batch.
    """
    while True:
        try:
            return training_step(network, ids, job.micro_batch, job, loss_scale)
        except torch.OutOfMemoryError:
            job.halve_micro_batch(len(ids))
            network.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()


# --------------------------------------------------------------------------------------------------- the loop

def train(config: TrainConfig) -> History:
    """Train as `config` says, in a run folder that always holds a whole checkpoint. Returns the history of this call.

    Raises UserError for a mistake in settings, data or files, CheckFailed when loss or gradient stop being finite.
    """
    from training.announce import announce
    from training.open_job import open_job
    from training.signals import StopSignals
    from training.log import Log
    started = time.monotonic()
    job = open_job(config)
    config = job.config
    model = build_model(job)
    beta2 = job.beta2 or BETA2
    announce(job, model, {"betas": [BETA1, beta2], "eps": EPS})
    if config.dry_run:
        return History(folder=job.folder)
    optimizer = AdamW(model, config.weight_decay, config.fused, beta2)
    state = State(loss_scale=precision.FIRST_SCALE if job.recipe.loss_scaling else 1.0)
    history = History(folder=job.folder)
    log = Log(job, history, state, started)
    with RunFolder(job, model, optimizer, state) as folder:
        job.device.replicate([*model.parameters(), *optimizer.exp_avg, *optimizer.exp_avg_sq])
        network = wrap(model, job)
        with StopSignals() as stop, progress(total=job.end(), initial=state.step, unit="step", desc="train") as bar:
            if state.step and job.evaluation_due(state.step):
                history.signal = folder.evaluate(log, stop)       # the one that was due when this checkpoint was written
            while state.step < job.end() and not history.signal:
                ids = job.corpus.batch(state.step, job.device.rank, job.device.world)
                lr = learning_rate(config, state.step)
                loss = step_within_memory(network, ids, job, state.loss_scale)
                norm = update(optimizer, job, state, lr)
                job.device.sync()
                state.step += 1
                log.add(state.step, loss, norm, lr)
                bar.update()
                history.signal, late = agreed(job, stop.received, log.deadline_is_near())
                due = job.evaluation_due(state.step)
                last = state.step == job.end() or history.signal or late
                if due or last or state.step % config.logging_steps == 0:
                    log.flush(bar)
                if due or last:
                    folder.save()
                if due and not history.signal:
                    history.signal = folder.evaluate(log, stop)
                if late:
                    break
        history.signal = history.signal or agreed(job, stop.received, False)[0]
        if job.device.kind == "xla":
            job.say(job.device.summary())
        history.interrupted = history.signal > 0
        if history.interrupted:
            job.say(f"stopped at step {state.step} with everything saved; continue with: python train.py --resume {job.folder}")
        else:
            folder.finish(log)
    return history


def agreed(job: Job, received: int, late: bool) -> tuple[int, bool]:
    """The signal and the deadline as all processes see them: they must stop at the same step, or they would wait for each other for ever."""
    if job.device.world == 1:
        return received, late
    seen = torch.tensor([received, int(late)], device=job.device.torch_device)
    torch.distributed.all_reduce(seen, op=torch.distributed.ReduceOp.MAX)
    return int(seen[0]), bool(seen[1])


def update(optimizer: AdamW, job: Job, state: State, lr: float) -> Tensor:
    """Clip, then one AdamW step; under loss scaling or --skip-nonfinite a step without a finite gradient is left out. Returns the norm."""
    if job.recipe.loss_scaling:
        for p in optimizer.params:
            p.grad.div_(state.loss_scale)
    norm = clip_gradients(optimizer.params, job.config.max_grad_norm)
    guarded = job.recipe.loss_scaling or job.config.skip_nonfinite
    finite = not guarded or bool(torch.isfinite(norm))
    if finite:
        optimizer.step(state.step + 1 - state.skipped, lr)
    else:
        state.skipped += 1
    if job.recipe.loss_scaling:
        state.loss_scale, state.good_steps = precision.next_scale(state.loss_scale, state.good_steps, finite)
    for p in optimizer.params:
        p.grad = None
    return norm


@dataclass
class State:
    """What changes from step to step beside weights and moments; `trainer_state.json`.

    `skipped` counts steps without an update; `usual_norm` is a running mean of the gradient norm.
    """

    step: int = 0
    skipped: int = 0
    usual_norm: float = 0.0
    best_loss: float | None = None
    best_step: int = 0
    loss_scale: float = 1.0
    good_steps: int = 0

    def read(self, file: Path) -> None:
        """Take over a stored state. Raises UserError for a file that holds anything else."""
        values = read_json(file)
        numbers = [value for name, value in values.items() if name != "best_loss" or value is not None]
        if set(values) != set(vars(self)) or not all(type(number) in (int, float) for number in numbers):
            raise UserError(f"{file}: not a trainer state of this program")
        vars(self).update(values)


def build_model(job: Job) -> Llama:
    """The model of this run with its first weights, on its device, under its precision recipe."""
    torch.manual_seed(job.config.seed)
    model = Llama.from_pretrained(job.init) if job.init else Llama(job.model_config)
    for layer in model.model.layers:
        layer.self_attn.attend = job.device.attend
    if job.config.recompute:
        model.model.recompute = job.device.checkpoint()
    return precision.apply_recipe(model, job.recipe, job.device.torch_device)


def wrap(model: Llama, job: Job) -> nn.Module:
    """What the loop calls: the model, or on several processes DistributedDataParallel, which averages the gradients; compiled on request."""
    network = model
    if job.config.compile:
        from training.compiled import CompiledLoss
        network = CompiledLoss(model)                             # compiles the blocks in place, for a chunked loss too
    if job.config.loss_chunk:
        from training.chunked_loss import ChunkedLoss
        network = ChunkedLoss(model, job.config.loss_chunk, job.device.checkpoint())
    if job.device.world == 1:
        return network
    return nn.parallel.DistributedDataParallel(network)


# ------------------------------------------------------------------------------------------------- evaluation

@torch.no_grad()
def evaluate(model: Llama, job: Job, stop: Any = None) -> float | None:
    """Mean loss per token (nats) over the validation blocks, in fixed order. Summed on the host in double precision, whatever the device.

    None where `stop` has received a signal meanwhile (of several processes each would have to know, so there it goes on).
    """
    losses = []
    for i in range(job.validation_batches()):
        if stop and stop.received and job.device.world == 1:
            return None
        losses.append(validation_loss(model, job.validation.batch(i, job.device.rank, job.device.world), job))
        job.device.sync()
    mean = torch.stack(losses).cpu().double().mean()
    if job.device.world > 1:
        mean = mean.to(job.device.torch_device)
        torch.distributed.all_reduce(mean)
    return mean.item() / job.device.world


def validation_loss(model: Llama, ids: numpy.ndarray, job: Job) -> Tensor:
    """Mean loss of the rows `ids` (B, T), at most a micro-batch of them at once, which CUDA may have made smaller than B."""
    while True:
        try:
            total = torch.zeros((), device=job.device.torch_device)
            for piece in numpy.split(ids, range(job.micro_batch, len(ids), job.micro_batch)):
                input_ids = job.device.put(piece)                             # (B, T)
                total += next_token_loss(model(input_ids), input_ids) * (len(piece) / len(ids))
            return total
        except torch.OutOfMemoryError:
            job.halve_micro_batch(len(ids))
            torch.cuda.empty_cache()


# -------------------------------------------------------------------------------------- run folder and resume

class RunFolder:
    """runs/NAME: created or resumed on entry, locked while open; `save` writes last/, `evaluate` may write best/, `finish` ends the run."""

    def __init__(self, job: Job, model: Llama, optimizer: AdamW, state: State):
        self.job, self.model, self.optimizer, self.state = job, model, optimizer, state
        self.path = job.folder
        self.writes = job.device.rank == 0

    def __enter__(self) -> RunFolder:
        from training.open_job import create_folder, note_changes
        if self.writes and self.job.source != self.path:
            create_folder(self.job)
        if self.job.device.world > 1:
            torch.distributed.barrier()
        self.lock = lock_folder(self.path) if self.writes else None
        if self.job.source:
            self.load(self.job.source)
        if self.writes and self.job.source == self.path:
            note_changes(self.job)
        elif self.state.step:
            self.save()                                           # the new folder can be resumed from its first moment on
        return self

    def __exit__(self, *_: Any) -> None:
        if self.lock:
            self.lock.close()

    def load(self, source: Path) -> None:
        """Weights, moments and state of the newest whole checkpoint of `source`; the log is cut back to it.

        That is last/, else a complete last.new/, else last.old/. Raises UserError if there were checkpoints and none is whole.
        """
        from training.log import cut_log
        problems, found = [], None
        for checkpoint in (source / name for name in ("last", "last.new", "last.old")):
            if found or not checkpoint.is_dir():
                continue
            problem = folder_problem(checkpoint)
            if problem and checkpoint.name == "last.new":
                continue                                          # a kill may leave it half-written
            problem = problem or self.read_checkpoint(checkpoint)
            if problem is None:
                found = checkpoint
            else:
                problems.append(problem)
                print(f"warning: {problem}; looking for the checkpoint before it", file=sys.stderr)
        if problems and not found:
            raise UserError(f"{source}: no whole checkpoint is left: {'; '.join(problems)}")
        self.job.say(f"continuing {source} at step {self.state.step} from {found.name}/" if found
                     else f"{source}: stopped before its first checkpoint; starting at step 0")
        if self.writes:
            cut_log(self.path / "log.jsonl", self.state.step)

    def read_checkpoint(self, folder: Path) -> str | None:
        """Take over weights, moments and state, or say what is wrong with this checkpoint."""
        try:
            weights = Llama.from_pretrained(folder)
            if weights.config != self.job.model_config:
                raise UserError(f"{folder}: its config.json is not the model of run.json")
            self.model.load_state_dict(weights.state_dict())
            self.optimizer.load(folder / "optimizer.safetensors")
            self.state.read(folder / "trainer_state.json")
        except UserError as error:
            return str(error)
        return None

    def save(self) -> None:
        """last/: a model folder with optimizer moments and trainer state, whole or not at all."""
        if self.writes:
            replace_folder(self.path / "last", self.write_checkpoint)

    def write_checkpoint(self, folder: Path) -> None:
        """All files of last/."""
        self.write_model(folder)
        save_file(self.optimizer.state(), folder / "optimizer.safetensors")
        (folder / "trainer_state.json").write_text(json.dumps(vars(self.state)) + "\n")

    def write_model(self, folder: Path) -> None:
        """The files of best/, which last/ has too: model and tokenizer."""
        words = self.job.tokenizer
        self.model.save_pretrained(folder, eos_token_id=words.eos_id, bos_token_id=words.bos_id, pad_token_id=words.pad_id)
        words.save_pretrained(folder)

    def evaluate(self, log: Log, stop: Any = None, note: str = "") -> int:
        """Evaluate; from best_eval_start_step on, and at the run's end in any case, the lowest loss so far becomes best/.

        An evaluation made only to stop does not compete; until one has competed, best/ is the first there was.
        Returns the number of the signal that ended it, which leaves it to the resumed run, else 0.
        """
        begun = time.monotonic()
        loss = evaluate(self.model, self.job, stop)
        if loss is None:
            return stop.received
        competes = not note and self.state.step >= min(self.job.config.best_eval_start_step, self.job.schedule_end())
        better = competes and (self.state.best_loss is None or loss < self.state.best_loss)
        if better:
            self.state.best_loss, self.state.best_step = loss, self.state.step
        if self.writes and (better or not (self.path / "best").exists()):
            replace_folder(self.path / "best", self.write_model)
            shutil.rmtree(self.path / "best.old", ignore_errors=True)
        log.evaluation(self.state.step, loss, "best" if better else note, time.monotonic() - begun)
        return 0

    def finish(self, log: Log) -> None:
        """Evaluate where the run stops, if that has not been done, and say what was learned."""
        from training.announce import conclude
        if not log.history.evals or log.history.evals[-1]["step"] != self.state.step:
            self.evaluate(log, note="stop")
        conclude(self.job, log.history.evals[-1], complete=self.state.step >= self.job.schedule_end())


# ----------------------------------------------------------------------------------------------- command line

EXAMPLES = """  python train.py --size tiny                        a few minutes on a laptop, nothing to download
  python train.py --size 20m                         the Stentor3-20M shape, laptop recipe on a CPU
  python train.py --size 20m --data corpora/mine     on a corpus of data.py prepare
  python train.py --size 20m --data my.txt           on a text of one's own
  python train.py --resume runs/20m                  continue exactly where it stopped
  python train.py --size 150m --recipe card --dry-run   print the card's settings"""


def main(argv: list[str] | None = None) -> int:
    """Parse the flags, train, and return the exit code: 0, or 130 / 143 after Ctrl-C / SIGTERM."""
    parser = Parser("Train a small Llama-style language model from scratch.", EXAMPLES, prog="train.py")
    add_flags(parser, TrainConfig)
    history = train(TrainConfig(**vars(parser.parse_args(argv))))
    return 128 + history.signal if history.interrupted else 0


if __name__ == "__main__":
    sys.exit(run(main))
