# SPDX-License-Identifier: Apache-2.0
"""The run folder, runs/NAME: made or resumed, locked while it is written, and its checkpoints.

    run.json    every setting and its origin, model, corpus, versions
    last/       the newest checkpoint: model, tokenizer, optimizer moments, trainer state
    best/       model and tokenizer of the lowest validation loss
    snapshots/  BF16 models after step 1 and at each evaluation, of small models or with --snapshots

A folder of a checkpoint appears complete or not at all (`common.replace_folder`).
"""
from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy
import torch
from safetensors.torch import load_file, save_file

from common import (
    ROOT, UserError, atomic_write, beside, folder_problem, lock_folder, read_json, replace_folder,
    restore_folder, tell, versions,
)
from model import Llama
from training.job import Job, State, free_folder
from training.log import cut_log
from training.settings import LASTING_CHANGES, THIS_CALL_ONLY, TrainSettings

SNAPSHOT_PARAMETERS = 5_000_000                                   # smaller models keep snapshots anyway


class RunFolder:
    """A run folder: created or resumed on entry, locked while open.

    `optimizer.state()` gives its tensors for a file by name, and `optimizer.load(file)` reads them back.
    """

    def __init__(self, job: Job, model: Llama, optimizer: Any, state: State):
        self.job, self.model, self.optimizer, self.state = job, model, optimizer, state
        self.writes = job.device.rank == 0
        self.parameters = sum(parameter.numel() for parameter in model.parameters())

    @property
    def path(self) -> Path:
        return self.job.folder

    def __enter__(self) -> RunFolder:
        here = self.job.resumed == self.path
        if self.writes and not here:
            create_folder(self.job, self.parameters)
        if self.job.device.world > 1:
            torch.distributed.barrier()
        self.lock = lock_folder(self.path) if self.writes else None
        if self.job.resumed:
            self.load(self.job.resumed)
        if self.writes and here:
            note_changes(self.job)
        elif self.state.step:
            self.save()                                           # from now on the new folder can be resumed
        return self

    def __exit__(self, *_: Any) -> None:
        if self.lock:
            self.lock.close()

    def load(self, run: Path) -> None:
        """Load weights, moments and state from the newest complete checkpoint of `run`; cut the log.

        That is last/, else a complete last.new/, else last.old/. Raises UserError if there are checkpoints
        and none of them is complete.
        """
        problems, found = [], None
        for checkpoint in versions(run / "last"):
            if found or not checkpoint.is_dir():
                continue
            problem = folder_problem(checkpoint)
            if problem and checkpoint.name.endswith(".new"):
                continue  # a run that was killed leaves it half-written
            problem = problem or self.read_checkpoint(checkpoint)
            if problem is None:
                found = checkpoint
            else:
                problems.append(problem)
                tell(f"warning: {problem}; looking for the checkpoint before it")
        if problems and not found:
            raise UserError(f"{run}: no complete checkpoint is left: {'; '.join(problems)}")
        self.job.say(f"continuing {run} at step {self.state.step} from {found.name}/" if found
                     else f"{run}: stopped before its first checkpoint; starting at step 0")
        if self.writes:
            cut_log(self.path / "log.jsonl", self.state.step)

    def read_checkpoint(self, folder: Path) -> str | None:
        """Load weights, moments and state; return what is wrong with this checkpoint, or None."""
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
        """Write last/, all of it or nothing."""
        if self.writes:
            replace_folder(self.path / "last", self.write_checkpoint)

    def write_checkpoint(self, folder: Path) -> None:
        """Write the files of last/ into `folder`."""
        self.write_model(folder)
        save_file(self.optimizer.state(), folder / "optimizer.safetensors")
        (folder / "trainer_state.json").write_text(json.dumps(vars(self.state)) + "\n")

    def write_model(self, folder: Path) -> None:
        """Write model and tokenizer into `folder`: all of best/, a part of last/."""
        tokenizer = self.job.tokenizer
        self.model.save_pretrained(folder, eos_token_id=tokenizer.eos_id, bos_token_id=tokenizer.bos_id,
                                   pad_token_id=tokenizer.pad_id)
        tokenizer.save_pretrained(folder)

    def snapshot(self) -> None:
        """Write snapshots/STEP, a model folder with BF16 weights, if this run keeps snapshots."""
        if self.writes and (self.parameters < SNAPSHOT_PARAMETERS or self.job.settings.snapshots):
            (self.path / "snapshots").mkdir(exist_ok=True)
            replace_folder(self.path / "snapshots" / str(self.state.step), self.write_snapshot)

    def write_snapshot(self, folder: Path) -> None:
        """Write the files of a snapshot into `folder`."""
        self.write_model(folder)
        weights = load_file(folder / "model.safetensors")
        weights = {name: tensor.to(torch.bfloat16) for name, tensor in weights.items()}
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    def keep_best(self, loss: float, competes: bool) -> bool:
        """Write best/ if this validation loss is the lowest so far; return whether it is.

        `competes` says whether this evaluation can become best. Until one can, best/ holds the model of the
        first evaluation. One whose loss is not finite cannot, and last/ is set back to the checkpoint before.
        """
        if not math.isfinite(loss):
            if self.writes:
                restore_folder(self.path / "last")
            return False
        better = competes and (self.state.best_loss is None or loss < self.state.best_loss)
        if better:
            self.state.best_loss, self.state.best_step = loss, self.state.step
        if self.writes and (better or not (self.path / "best").exists()):
            replace_folder(self.path / "best", self.write_model)
            shutil.rmtree(beside(self.path / "best", ".old"), ignore_errors=True)
        return better


def run_json(job: Job, parameters: int) -> dict:
    """How this run was made: settings and their origin, model, data, precision, versions, git commit."""
    commit = None
    if shutil.which("git"):
        asked = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True,
                               check=False)
        commit = asked.stdout.strip() or None
    settings = dataclasses.asdict(job.settings)
    settings.update({name: getattr(TrainSettings, name) for name in THIS_CALL_ONLY})
    return {
        "settings": settings, "origin": job.origin,
        "model": dataclasses.asdict(job.model_config), "parameters": parameters,
        "corpus": job.corpus.fingerprint, "vocabulary": job.tokenizer.fingerprint,
        "data": str(job.corpus.folder), "entropy": job.validation.entropy(),
        "notes": job.notes, "device": job.device.kind, "replicas": job.device.world * job.device.shards,
        "precision_reason": job.precision_reason,
        "versions": {"python": platform.python_version(), "torch": torch.__version__,
                     "numpy": numpy.__version__},
        "machine": platform.processor() or platform.machine(), "git_commit": commit,
        "command": shlex.join(sys.argv),
    }


def create_folder(job: Job, parameters: int) -> None:
    """Make the run folder with its run.json in one step, so that it never exists without that file.

    If the user did not choose the name and another process has taken it, the next free one is used. Raises
    UserError if the folder cannot be made.
    """
    new = job.folder.with_name(f".{job.folder.name}.{os.getpid()}.new")
    try:
        new.mkdir(parents=True)
        (new / "run.json").write_text(json.dumps(run_json(job, parameters), indent=2) + "\n")
        if job.resumed and (job.resumed / "log.jsonl").exists():
            shutil.copyfile(job.resumed / "log.jsonl", new / "log.jsonl")
        if job.resumed and (job.resumed / "best").exists():
            shutil.copytree(job.resumed / "best", new / "best", copy_function=shutil.copyfile)
            (new / "best").chmod(0o755)                           # the resumed run may be read-only
        place(new, job)
    except OSError as error:
        shutil.rmtree(new, ignore_errors=True)
        raise UserError(f"{job.folder}: this run folder cannot be made: {error.strerror or error}; choose "
                        "another --out") from None


def place(new: Path, job: Job) -> None:
    """Rename the folder `new` to the run's name; if that is taken and --out is auto, to the next one."""
    while True:
        try:
            os.replace(new, job.folder)
            return
        except OSError as error:
            if job.settings.out != "auto" or error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        taken, job.folder = job.folder, free_folder(job.folder.parent, job.name)
        job.say(f"{taken} was taken by another run meanwhile: this one is {job.folder}")


def note_changes(job: Job) -> None:
    """Write into run.json what this --resume changed for good (limits, evaluation, logging)."""
    stored = read_json(job.folder / "run.json")
    now = {name: getattr(job.settings, name) for name in LASTING_CHANGES}
    if any(stored["settings"][name] != value for name, value in now.items()):
        stored["settings"].update(now)
        atomic_write(job.folder / "run.json", json.dumps(stored, indent=2) + "\n")
