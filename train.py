# SPDX-License-Identifier: Apache-2.0
"""Train a model of the family: one plain loop for CPU, CUDA and TPU.

    main calls train. For each step, train calls Corpus.batch and training_step;
    training_step calls Llama.forward and next_token_losses.

In reading order: the schedule, AdamW, one training step, the loop (`train`) and its parts, the validation
loss. The settings are in training/settings.py, opening a run is in training/job.py, checkpoints are in
training/run_folder.py.
"""
from __future__ import annotations

import contextlib
import math
import sys
import time
from pathlib import Path
from typing import Any

# Before torch, whose import takes seconds: Ctrl-C during that time then prints one line (common.before_run).
from common import (
    CheckFailed, Parser, StopSignals, UserError, add_flags, command, for_terminal, progress, run, wrapped,
)

import numpy
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

import precision
from model import Llama, next_token_losses
from training.announce import announce, conclude, nothing_left
from training.chunked_loss import ChunkedLoss
from training.compiled import CompiledLoss
from training.job import History, Job, State, open_job
from training.log import Log, after_nonfinite, shortened
from training.run_folder import RunFolder
from training.settings import TrainSettings


# ------------------------------------------------------------------------------------- schedule and optimizer

def learning_rate(settings: TrainSettings, step: int) -> float:
    """The rate of optimizer step `step`, counted from 0. Row N of the log has learning_rate(N - 1).

    Linear from 0 over warmup_steps. Then half a cosine down to 0 (Loshchilov and Hutter 2017); or for `wsd`
    the peak rate for stable_steps, then a straight line to 0 (Hu et al. 2024). With a warmup, step 0 has rate
    0, as in the cards' scheduler.
    """
    if step < settings.warmup_steps:
        return settings.learning_rate * step / settings.warmup_steps
    if settings.schedule == "cosine":
        done = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
        return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
    falling = settings.steps - settings.warmup_steps - settings.stable_steps      # wsd
    done = max(0, step - settings.warmup_steps - settings.stable_steps) / max(1, falling)
    return settings.learning_rate * (1 - done)


class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2).

    With g the gradient and t the number of updates:  m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;
    w = w (1 - lr * decay) - lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps).

    On a CPU the result is bit-equal to that of torch.optim.AdamW. Only the weights of Linear layers decay, as
    in the cards: an untied lm_head does, a tied embedding and the norms do not. `fused` makes the same update
    with torch's fused kernel, equal up to rounding.
    """

    def __init__(self, model: nn.Module, weight_decay: float, beta1: float = TrainSettings.beta1,
                 beta2: float = TrainSettings.beta2, eps: float = TrainSettings.eps, fused: bool = False):
        linear = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        self.names = [name for name, _ in model.named_parameters()]
        self.params = [parameter for _, parameter in model.named_parameters()]
        self.decays = [weight_decay if name in linear else 0.0 for name in self.names]
        self.exp_avg = [torch.zeros_like(parameter) for parameter in self.params]
        self.exp_avg_sq = [torch.zeros_like(parameter) for parameter in self.params]
        self.beta1, self.beta2, self.eps, self.fused = beta1, beta2, eps, fused

    @torch.no_grad()
    def step(self, t: int, lr: float) -> None:
        """Update number t (from 1).

        The step's numbers are in one small tensor, which is an input for XLA. As constants they would be new
        at each step, and XLA would compile a new program each time. Nothing is divided by the rate, so the
        rate 0 of the first step is harmless (torch.optim.AdamW(capturable=True) divides by it, and the
        weights become NaN).
        """
        if self.fused:
            return self.fused_step(t, lr)
        kept = [1 - lr * decay for decay in self.decays]
        numbers = [lr / (1 - self.beta1**t), math.sqrt(1 - self.beta2**t), *kept]
        scalars = torch.tensor(numbers, dtype=torch.float32).to(self.params[0].device)    # (2 + parameters,)
        for i, p in enumerate(self.params):
            m, v = self.exp_avg[i], self.exp_avg_sq[i]
            p.mul_(scalars[2 + i])
            m.lerp_(p.grad, 1 - self.beta1)
            v.mul_(self.beta2).addcmul_(p.grad, p.grad, value=1 - self.beta2)
            denominator = v.sqrt().div_(scalars[1]).add_(self.eps)
            p.sub_((scalars[0] * m).div_(denominator))

    def fused_step(self, t: int, lr: float) -> None:
        """The same update by torch's fused kernel, one call per decay value."""
        for decay in set(self.decays):
            chosen = [i for i, d in enumerate(self.decays) if d == decay]
            params = [self.params[i] for i in chosen]
            m, v = [self.exp_avg[i] for i in chosen], [self.exp_avg_sq[i] for i in chosen]
            counts = [torch.tensor(float(t), device=p.device) for p in params]
            torch._fused_adamw_(params, [p.grad for p in params], m, v, [], counts, amsgrad=False, lr=lr,
                                beta1=self.beta1, beta2=self.beta2, weight_decay=decay, eps=self.eps,
                                maximize=False)

    def state(self) -> dict[str, Tensor]:
        """Name -> moment on the CPU, for a file."""
        moments = {f"exp_avg.{name}": m for name, m in zip(self.names, self.exp_avg)}
        moments.update({f"exp_avg_sq.{name}": v for name, v in zip(self.names, self.exp_avg_sq)})
        return {name: tensor.to("cpu").contiguous() for name, tensor in moments.items()}

    def load(self, file: Path) -> None:
        """Read the moments of the same model back. Raises UserError for a file that cannot be read."""
        try:
            moments = load_file(file)
        except SafetensorError as error:
            raise UserError(f"{file}: damaged ({error})") from None
        except OSError as error:
            raise UserError(f"{file}: cannot be read ({error.strerror or error})") from None
        for kind, tensors in (("exp_avg", self.exp_avg), ("exp_avg_sq", self.exp_avg_sq)):
            for name, tensor in zip(self.names, tensors):
                tensor.copy_(moments[f"{kind}.{name}"])


@torch.no_grad()
def clip_gradients(params: list[Tensor], max_norm: float) -> Tensor:
    """Scale all gradients by min(1, max_norm / norm); return the original norm (Pascanu et al. 2013).

    The norm is that of all gradients together: the root of the sum of all squares.
    """
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(p.grad) for p in params]))
    factor = torch.clamp(max_norm / (norm + 1e-6), max=1.0)
    for p in params:
        p.grad.mul_(factor)
    return norm


# ------------------------------------------------------------------------------------------ one training step

def training_step(network: nn.Module, ids: numpy.ndarray, job: Job,
                  loss_scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """Forward and backward over the rows `ids` (B, T) of this process.

    Returns the mean loss (scalar) and the loss of each row (B,), in FP32, on the device. `job.micro_batch`
    rows are computed at a time, and their gradients add up to those of the mean loss. All micro-batches have
    the same number of tokens, so the mean of their losses is the mean over all tokens.
    """
    pieces, rows = numpy.split(ids, len(ids) // job.micro_batch), []
    total = torch.zeros((), device=job.device.torch_device)
    for i, piece in enumerate(pieces):
        last = i == len(pieces) - 1
        input_ids = job.device.put(piece)                                     # (B, T)
        mask = document_mask(input_ids, job.tokenizer.eos_id) if job.settings.document_mask else None
        with contextlib.nullcontext() if job.device.world == 1 or last else network.no_sync():
            if job.settings.loss_chunk or job.settings.compile:
                loss, losses = network(input_ids, mask=mask)                  # see `wrap`; (), (B,)
            else:
                logits = network(input_ids, mask=mask)                        # (B, T, V)
                loss, losses = job.device.loss(logits, input_ids)             # (), (B,)
            loss = loss / len(pieces)
            (loss * loss_scale).backward()
        total += loss.detach()
        rows.append(job.device.gathered(losses))                              # (B,)
        if not last:
            job.device.sync()                                                 # XLA: one micro-batch at a time
    return total, torch.cat(rows)


def document_mask(input_ids: Tensor, separator: int) -> Tensor:
    """(B, 1, T, T), true where position t may attend to position s: s <= t, and both in the same document.

    A separator is the last token of its document.
    """
    T = input_ids.shape[1]
    ends = (input_ids == separator).long()                                    # (B, T)
    document = ends.cumsum(1) - ends                                          # (B, T)
    same = document[:, :, None] == document[:, None, :]                       # (B, T, T)
    causal = torch.ones(T, T, dtype=torch.bool, device=input_ids.device).tril()
    return (same & causal)[:, None]                                           # (B, 1, T, T)


# --------------------------------------------------------------------------------------------------- the loop

def train(**given: Any) -> History:
    """Train in a run folder that always holds a complete checkpoint, and return what this call did.

    The arguments are fields of training/settings.py:TrainSettings; every other setting has its default, or
    the value of its recipe. Raises UserError for a mistake in settings, data or files, and CheckFailed when
    loss or gradient are no longer finite. The model card and the sample after a complete run are made by
    `main`.
    """
    started = time.monotonic()
    job = open_job(given)
    settings, device = job.settings, job.device
    model = build_model(job)
    announce(job, model)
    history = History(folder=job.folder, first=device.rank == 0)
    if settings.dry_run:
        return history
    optimizer = AdamW(model, settings.weight_decay, settings.beta1, settings.beta2, settings.eps,
                      settings.fused)
    state = State(loss_scale=precision.FIRST_SCALE if job.precision.loss_scaling else 1.0)
    log = Log(job, history, state, started)
    with RunFolder(job, model, optimizer, state) as folder:
        history.folder = job.folder                               # RunFolder may have had to choose another
        device.replicate([*model.parameters(), *optimizer.exp_avg, *optimizer.exp_avg_sq])
        network = wrap(model, job)
        total = max(job.end(), state.step)
        with StopSignals() as stop, progress(total=total, initial=state.step, bar_format=BAR) as bar:
            if state.step and job.evaluation_due(state.step):     # the last call stopped before evaluating
                history.signal = evaluate_and_keep(job, folder, log, stop)
            if state.step >= job.end():
                job.say(wrapped(nothing_left(job, state.step)))
            while state.step < job.end() and not history.signal:
                ids = job.corpus.batch(state.step, device.rank, device.world)             # (B, T)
                lr = learning_rate(settings, state.step)
                try:
                    loss, rows = training_step(network, ids, job, state.loss_scale)   # forward, backward
                except torch.OutOfMemoryError:
                    job.halve_micro_batch(len(ids))
                    network.zero_grad(set_to_none=True)
                    torch.cuda.empty_cache()
                    continue                                      # the same step again
                norm = update(optimizer, job, state, lr)          # clip, AdamW
                device.sync()
                state.step += 1
                log.add(state.step, loss, norm, lr, rows)
                bar.update()
                history.signal, late = agreed(job, stop.received, log.deadline_is_near())
                due = job.evaluation_due(state.step)
                last = state.step == job.end() or history.signal or late
                if due or last or log.due():
                    log.flush(bar)
                if due or last:
                    folder.save()
                if due and not history.signal:
                    history.signal = evaluate_and_keep(job, folder, log, stop)
                elif state.step == 1 and not history.signal:      # step 0 has rate 0: still the first weights
                    folder.snapshot()
                    log.sample(1, job.learned.sample(folder.model))
                if late:
                    break
        history.signal = history.signal or agreed(job, stop.received, False)[0]
        finish(job, folder, log, history)
    return history


def agreed(job: Job, received: int, late: bool) -> tuple[int, bool]:
    """The signal and the deadline that any process has seen: all must stop at the same step.

    A process that continued alone would wait for the others forever.
    """
    if job.device.world == 1:
        return received, late
    seen = torch.tensor([received, int(late)], dtype=torch.int32, device=job.device.torch_device)
    torch.distributed.all_reduce(seen, op=torch.distributed.ReduceOp.MAX)
    return int(seen[0]), bool(seen[1])


def update(optimizer: AdamW, job: Job, state: State, lr: float) -> Tensor:
    """Clip the gradients and make one AdamW step; returns the gradient norm.

    Under loss scaling and with --skip-nonfinite, a step whose gradient is not finite is skipped.
    """
    if job.precision.loss_scaling:
        for p in optimizer.params:
            p.grad.div_(state.loss_scale)
    norm = clip_gradients(optimizer.params, job.settings.max_grad_norm)
    guarded = job.precision.loss_scaling or job.settings.skip_nonfinite
    finite = not guarded or bool(torch.isfinite(norm))
    if finite:
        optimizer.step(state.step + 1 - state.skipped, lr)
    else:
        state.skipped += 1
    if job.precision.loss_scaling:
        state.loss_scale, state.good_steps = precision.next_scale(state.loss_scale, state.good_steps, finite)
    for p in optimizer.params:
        p.grad = None
    return norm


def build_model(job: Job) -> Llama:
    """The model of this run with its first weights, on its device, in its precision."""
    torch.manual_seed(job.settings.seed)
    model = Llama.from_pretrained(job.init) if job.init else Llama(job.model_config)
    for layer in model.model.layers:
        layer.self_attn.attend = job.device.attend
    if job.settings.recompute:
        model.model.recompute = job.device.checkpoint()
    return precision.apply_precision(model, job.precision, job.device.torch_device)


def wrap(model: Llama, job: Job) -> nn.Module:
    """The module that the loop calls: the model, or one that computes its loss in another way.

    On several processes it is inside DistributedDataParallel, which averages the gradients.
    """
    network = model
    if job.settings.compile:
        network = CompiledLoss(model)                             # compiles the blocks in place
    if job.settings.loss_chunk:
        network = ChunkedLoss(model, job.settings.loss_chunk, job.device.checkpoint())
    if job.device.world == 1:
        return network
    return nn.parallel.DistributedDataParallel(network)


# ------------------------------------------------------------------------------------------------- evaluation

@torch.no_grad()
def evaluate(model: Llama, job: Job, stop: Any = None) -> dict[str, float] | None:
    """Mean loss per token (nats) over the validation rows: of each source, and of all ("").

    The rows are the same for any micro-batch, device and number of processes. Process r of N takes
    micro-batches r, r + N, r + 2N ...; the last ones may have fewer rows. All rows have the same number of
    tokens, so the mean of their losses is the mean over tokens. It is summed in double precision on the host.
    Returns None if `stop` receives a signal meanwhile; several processes, which would have to agree on that,
    evaluate to the end.
    """
    validation, device, at_once = job.validation, job.device, job.micro_batch
    sums = torch.zeros(len(validation.names), 2, dtype=torch.float64)         # per source: loss, rows
    for start in range(device.rank * at_once, job.validation_rows(), device.world * at_once):
        if stop and stop.received and device.world == 1:
            return None
        rows = range(start, min(start + at_once, job.validation_rows()))
        ids = numpy.concatenate([validation.batch(row) for row in rows])      # (B, T)
        if device.compiles_shapes or job.settings.compile:                    # add copies, never counted
            ids = ids[numpy.arange(at_once) % len(rows)]                      # (at_once, T)
        losses = validation_losses(model, ids, job)                           # (B,)
        device.replicate([losses])                    # XLA: gather inside this graph, not in another one
        for row, loss in zip(rows, losses.cpu().double()):
            source, _ = validation.locate(row)
            sums[source] += torch.tensor([loss, 1.0], dtype=torch.float64)
    if device.world > 1:
        sums = sums.to(device.torch_device)
        torch.distributed.all_reduce(sums)
    total, count = sums.sum(0).tolist()
    means = {name: float(loss / rows) for name, (loss, rows) in zip(validation.names, sums.cpu()) if rows}
    return {"": total / count, **means}


def validation_losses(model: Llama, ids: numpy.ndarray, job: Job) -> Tensor:
    """The loss of each row of `ids` (B, T), at most a micro-batch at a time: (B,), on the device."""
    while True:
        try:
            losses = []
            for piece in numpy.split(ids, range(job.micro_batch, len(ids), job.micro_batch)):
                input_ids = job.device.put(piece)                             # (B, T)
                mask = document_mask(input_ids, job.tokenizer.eos_id) if job.settings.document_mask else None
                losses.append(next_token_losses(model(input_ids, mask=mask), input_ids)[1])     # (B,)
            return torch.cat(losses)
        except torch.OutOfMemoryError:
            job.halve_micro_batch(len(ids))
            torch.cuda.empty_cache()


def evaluate_and_keep(job: Job, folder: RunFolder, log: Log, stop: StopSignals | None = None,
                      note: str = "") -> int:
    """Evaluate, log the result, and write best/ if it is the lowest loss so far.

    A model can become best/ from step best_eval_start_step on, and at the end of the run, if an update has
    changed the weights. An evaluation with a `note` cannot make it best: it happens only because the call
    stops there. Returns the number of the signal that ended the evaluation, else 0; after a signal the
    resumed run evaluates again.
    """
    started, step = time.monotonic(), folder.state.step
    losses = evaluate(folder.model, job, stop)
    if losses is None:
        return stop.received
    loss = losses.pop("")
    first = min(job.settings.best_eval_start_step, job.schedule_end())
    moved = step > folder.state.skipped + (learning_rate(job.settings, 0) == 0)
    best = folder.keep_best(loss, not note and step >= first and moved)
    measures = job.device.rank == 0 and math.isfinite(loss)
    fields = job.learned.measure(folder.model) if measures else {}
    if len(losses) > 1:
        weights = job.corpus.weights(min(step, job.settings.steps) - 1)
        fields["losses"] = losses
        fields["training_mixture"] = sum(weights[name] * loss for name, loss in losses.items())
    folder.snapshot()
    log.evaluation(step, loss, "best" if best else note, time.monotonic() - started, fields)
    log.sample(step, job.learned.sample(folder.model) if measures else "")
    return 0


def finish(job: Job, folder: RunFolder, log: Log, history: History) -> None:
    """After the last step: evaluate it and say what was learned; if a signal came, say how to resume."""
    step = folder.state.step
    if job.device.kind == "xla":
        job.say(job.device.summary())
    history.interrupted = history.signal > 0
    if history.interrupted:
        job.say(f"stopped at step {step} with everything saved; continue with:\n{job.resume_command()}")
        return
    if not history.evals or history.evals[-1]["step"] != step:
        evaluate_and_keep(job, folder, log, note="stop")
    if history.evals[-1]["eval_loss"] is None:
        raise CheckFailed(f"step {step}: the validation loss is not finite. {after_nonfinite(job)}")
    history.complete = step >= job.schedule_end()
    conclude(job, history.evals[-1])
    if not history.complete:
        job.say(f"\nstopped at step {step} of {job.schedule_end()}; continue with:\n{job.resume_command()}")


# ----------------------------------------------------------------------------------------------- command line

BAR = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}, {remaining} left{postfix}"
EXAMPLES = """  python train.py --size tiny                      a few minutes on a laptop
  python train.py --size 20m                       the shape of Stentor3-20M
  python train.py --size 20m --data my.txt         on your own text
  python train.py --size 20m --data corpora/mine   a corpus of data.py prepare
  python train.py --size 20m --data python-docs    Python's documentation
  python train.py --resume runs/20m                continue where it stopped
  python train.py --size 150m --recipe card --dry-run  print all settings"""


def main(argv: list[str] | None = None) -> int:
    """Train with the flags of the command line.

    After a complete run, write the model card and report.html, and show a sample. Returns the exit code: 0,
    or 128 + the number of the signal that ended the run.
    """
    parser = Parser("Train a small Llama-style language model from scratch.", EXAMPLES, prog="train.py")
    add_flags(parser, TrainSettings)
    history = train(**vars(parser.parse_args(argv)))
    if history.complete and history.first:
        from publishing.card import show_sample, write_card
        from publishing.report import write_report
        write_card(history.folder)
        sample = show_sample(history.folder)
        prompt = "Once upon a time" if sample.startswith("Once upon a time") else "The"
        print(f"\nA sample:\n{for_terminal(shortened(sample, lines=6))}")
        print("\nNext:")
        print(f"  learn  {command('lessons/01_map.py')}")
        print(f"  ask    {command('sample.py', history.folder, prompt)}")
        print(f"  look   {write_report(history.folder)}")           # last, just above the shell's prompt
    return 128 + history.signal if history.signal else 0


if __name__ == "__main__":
    sys.exit(run(main))
