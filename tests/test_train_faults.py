# SPDX-License-Identifier: Apache-2.0
"""train.py under bad luck: numbers that are not finite, links, signals, full disks, damaged run.json."""
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import common
import train
import training.job
from common import CheckFailed, UserError, lock_folder
from model import Llama, ModelConfig, next_token_loss
from training.job import History, State, open_job
from training.log import read_log
from training.settings import TrainSettings

ROOT = Path(__file__).resolve().parent.parent
SMALL = ModelConfig(4096, 32, 64, 2, 2, 1, 16, 128, tie_word_embeddings=True)


def settings(corpus: Path, out: Path, **changes) -> dict:
    """A run of about a second."""
    values = dict(model=SMALL, data=str(corpus), out=str(out), device="cpu", precision="fp32", steps=6,
                  seq_len=32, batch_size=4, eval_steps=2, logging_steps=2, max_eval_samples=7,
                  learning_rate=1e-3)
    return {**values, **changes}


@pytest.fixture(scope="module")
def whole(corpus, tmp_path_factory) -> History:
    """A complete run of these settings. Nothing is written into its folder."""
    return train.train(**settings(corpus, tmp_path_factory.mktemp("whole") / "run"))


@pytest.fixture(scope="module")
def begun(corpus, tmp_path_factory) -> Path:
    """The folder of the same run stopped after step 2. Nothing is written into it."""
    return train.train(**settings(corpus, tmp_path_factory.mktemp("begun") / "run", stop_after=2)).folder


@pytest.fixture
def ended(whole, tmp_path) -> Path:
    """A copy of the complete run, for a test that writes into it."""
    return shutil.copytree(whole.folder, tmp_path / "run")


@pytest.fixture
def stopped(begun, tmp_path) -> Path:
    """A copy of the stopped run, for a test that writes into it."""
    return shutil.copytree(begun, tmp_path / "run")


def rows_of(folder: Path) -> list[dict]:
    """The rows of log.jsonl, which must be JSON: NaN and Infinity are not."""
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line, parse_constant=refuse) for line in lines]


# ------------------------------------------------------------------------------------------- validation rows

def test_validation_rows_do_not_depend_on_the_micro_batch(corpus, tmp_path):
    job = open_job(settings(corpus, tmp_path / "run", batch_size=16, max_eval_samples=15))
    model, losses = Llama(SMALL), []
    for job.micro_batch in (1, 2, 4, 8, 16):
        losses.append(train.evaluate(model, job)[""])
    assert job.validation_rows() == 15
    assert max(losses) - min(losses) < 1e-6
    rows = [torch.from_numpy(job.validation.batch(row)) for row in range(15)]
    with torch.no_grad():
        exact = [next_token_loss(model(ids), ids).double() for ids in rows]
    assert losses[0] == pytest.approx(float(sum(exact) / 15), abs=1e-6)


@pytest.mark.parametrize("micro_batch", [2, 4])
def test_several_processes_divide_the_same_rows(corpus, tmp_path, monkeypatch, micro_batch):
    """Four processes, seven rows: some have fewer rows, some none."""
    job = open_job(settings(corpus, tmp_path / "run"))
    model = Llama(SMALL)
    alone = train.evaluate(model, job)
    parts = []
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda sums: parts.append(sums.clone()))
    job.device.world, job.micro_batch = 4, micro_batch
    for job.device.rank in range(4):
        try:
            train.evaluate(model, job)
        except ZeroDivisionError:                                 # this process had no row
            pass
    total, rows = sum(parts).sum(0).tolist()
    assert rows == 7 and total / rows == pytest.approx(alone[""], abs=1e-6)


def test_a_device_that_compiles_shapes_sees_one_shape(corpus, tmp_path, monkeypatch):
    job = open_job(settings(corpus, tmp_path / "run"))
    model, shapes = Llama(SMALL), []
    plain = train.evaluate(model, job)
    monkeypatch.setattr(job.device, "compiles_shapes", True)
    model.register_forward_pre_hook(lambda module, args: shapes.append(tuple(args[0].shape)))
    assert train.evaluate(model, job)[""] == pytest.approx(plain[""], abs=1e-6)
    assert shapes == [(4, 32), (4, 32)]


def test_validation_is_masked_where_training_is(corpus, tmp_path):
    job = open_job(settings(corpus, tmp_path / "run", document_mask=True, max_eval_samples=3))
    torch.manual_seed(1)
    model = Llama(SMALL)
    for parameter in model.parameters():                          # so large that a mask matters
        parameter.data.mul_(3)
    exact = []
    with torch.no_grad():
        for row in range(3):
            ids = torch.from_numpy(job.validation.batch(row))
            mask = train.document_mask(ids, job.tokenizer.eos_id)
            exact.append(float(next_token_loss(model(ids, mask=mask), ids)))
    masked = train.evaluate(model, job)[""]
    assert masked == pytest.approx(sum(exact) / 3, abs=1e-5)
    unmasked = open_job(settings(corpus, tmp_path / "run", max_eval_samples=3))
    assert abs(train.evaluate(model, unmasked)[""] - masked) > 1e-3


# ---------------------------------------------------------------------------------------- what is not finite

def test_a_run_that_explodes_has_no_best_and_says_so(corpus, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(CheckFailed, match="not finite.*No checkpoint was good"):
        train.train(**settings(corpus, run, learning_rate=1e9, warmup_steps=0, eval_steps=1))
    rows = rows_of(run)
    assert [row["eval_loss"] for row in rows if "eval_loss" in row] == [None]
    assert not (run / "best").exists() and not (run / "last").exists()


def test_a_nan_evaluation_never_competes_and_its_checkpoint_goes(corpus, tmp_path, monkeypatch, capsys):
    real, calls = train.evaluate, []

    def sometimes(model, job, stop=None):
        calls.append(0)
        losses = real(model, job, stop)
        return dict.fromkeys(losses, math.nan) if len(calls) == 2 else losses
    monkeypatch.setattr(train, "evaluate", sometimes)
    run = tmp_path / "run"
    train.train(**settings(corpus, run))
    evals = [row for row in rows_of(run) if "eval_loss" in row]
    assert [row["note"] for row in evals] == ["best", "not finite", "best"] and evals[1]["eval_loss"] is None
    assert "The last good checkpoint is that of step 2" in capsys.readouterr().out
    state = State()
    state.read(run / "last/trainer_state.json")
    assert state.step == 6


def test_the_last_good_checkpoint_is_the_one_that_is_named(corpus, whole, tmp_path, monkeypatch):
    """The checkpoint of step 4 evaluates to NaN, so that of step 2 is in last/ when step 5 stops the run."""
    real, evaluations, clip = train.evaluate, [], train.clip_gradients

    def broken(model, job, stop=None):
        evaluations.append(0)
        return {"": math.nan} if len(evaluations) == 2 else real(model, job, stop)

    def poisoned(params, limit):
        if len(evaluations) == 2:
            params[0].grad[0, 0] = math.nan
        return clip(params, limit)
    monkeypatch.setattr(train, "evaluate", broken)
    monkeypatch.setattr(train, "clip_gradients", poisoned)
    run = tmp_path / "a run"
    with pytest.raises(CheckFailed, match="of step 2: python train.py --resume '.*a run'"):
        train.train(**settings(corpus, run))
    monkeypatch.undo()
    assert json.loads((run / "last/trainer_state.json").read_text(encoding="utf-8"))["step"] == 2
    resumed = train.train(resume=str(run))
    assert resumed.losses == whole.losses[2:]


def test_an_old_state_whose_best_is_nan_is_mended(tmp_path):
    file = tmp_path / "trainer_state.json"
    file.write_text(json.dumps({**vars(State(step=3)), "best_loss": math.nan}))
    state = State()
    state.read(file)
    assert state.step == 3 and state.best_loss is None


def test_nan_in_an_old_log_is_read_as_null(tmp_path):
    file = tmp_path / "log.jsonl"
    file.write_text('{"step": 1, "loss": NaN, "grad_norm": Infinity}\n{"step": 1, "eval_loss": NaN}\n')
    assert list(read_log(file)) == [{"step": 1, "loss": None, "grad_norm": None},
                                    {"step": 1, "eval_loss": None}]


def test_skip_nonfinite_is_not_advised_where_it_is_on(corpus, tmp_path, capsys):
    exploding = settings(corpus, tmp_path / "run", learning_rate=1e9, warmup_steps=0, steps=2,
                         skip_nonfinite=True)
    with pytest.raises(CheckFailed, match="not finite"):
        train.train(**exploding)
    assert "--skip-nonfinite" not in capsys.readouterr().out.split("step 2", 1)[1]


def test_a_step_at_rate_0_is_not_best(corpus, tmp_path):
    train.train(**settings(corpus, tmp_path / "run", steps=1))
    assert [row["note"] for row in rows_of(tmp_path / "run") if "eval_loss" in row] == [""]
    assert (tmp_path / "run/best/model.safetensors").is_file()


def test_an_evaluation_worse_than_a_uniform_guess_says_so(corpus, tmp_path, monkeypatch, capsys):
    losses = iter([{"": 9.0}, {"": 8.0}, {"": 5000.0}])
    monkeypatch.setattr(train, "evaluate", lambda model, job, stop=None: next(losses))
    train.train(**settings(corpus, tmp_path / "run"))
    lines = capsys.readouterr().out.splitlines()
    said = [lines[i + 1].startswith("  worse than knowing nothing") for i, line in enumerate(lines)
            if re.match(r"step \d: validation loss", line)]
    assert said == [True, False, True] and any("perplexity above 1e+300" in line for line in lines)


def test_a_few_steps_are_not_said_to_have_learned(corpus, tmp_path, capsys):
    train.train(**settings(corpus, tmp_path / "run", steps=2))
    text = capsys.readouterr().out
    assert "not yet better than counting tokens" in text and "nats learned" not in text


# ------------------------------------------------------------------------------------------ folders and disks

def test_linked_checkpoint_folders_stay_links(whole, stopped, tmp_path):
    run, scratch = stopped, tmp_path / "scratch"
    scratch.mkdir()
    for name in ("last", "best"):
        os.rename(run / name, scratch / f"{name} of run")
        os.symlink(scratch / f"{name} of run", run / name)
    rest = train.train(resume=str(run))
    assert rest.losses == whole.losses[2:]
    for name in ("last", "best"):
        assert (run / name).is_symlink() and not (run / f"{name}.new").exists()
        new = (scratch / f"{name} of run" / "model.safetensors").read_bytes()
        assert new == (whole.folder / name / "model.safetensors").read_bytes()
    (run / "last/optimizer.safetensors").write_bytes(b"")         # the one before is beside the linked folder
    train.train(resume=str(run))
    assert json.loads((run / "last/trainer_state.json").read_text(encoding="utf-8"))["step"] == 6


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_disk_names_the_file(tmp_path):
    log = tmp_path / "log.jsonl"
    log.symlink_to("/dev/full")
    with pytest.raises(OSError) as caught, common.naming(log), open(log, "a") as file:
        file.write("x")
        file.flush()
    assert caught.value.filename == str(log)


def test_a_file_system_without_locks_is_said_and_used(tmp_path, monkeypatch, capsys):
    fcntl = pytest.importorskip("fcntl")

    def none(*_):
        raise OSError(95, "Operation not supported")
    monkeypatch.setattr(fcntl, "flock", none)
    lock_folder(tmp_path).close()
    assert "this file system has no locks (Operation not supported)" in capsys.readouterr().err


def test_a_run_folder_that_cannot_be_written_is_refused_at_once(begun, monkeypatch):
    monkeypatch.setattr(training.job.os, "access", lambda path, mode: False)
    monkeypatch.setattr(training.job, "corpus_folder", lambda *_: pytest.fail("work before the check"))
    with pytest.raises(UserError, match="cannot be written; continue it in another one with --out"):
        train.train(resume=str(begun))


def test_a_file_that_cannot_be_read_is_not_called_damaged(tmp_path):
    (tmp_path / "optimizer.safetensors").mkdir()
    with pytest.raises(UserError, match="cannot be read"):
        train.AdamW(Llama(SMALL), 0.0).load(tmp_path / "optimizer.safetensors")


# ---------------------------------------------------------------------------------------------------- signals

def start(corpus: Path, out: Path, ignored: int | None = None, **options) -> subprocess.Popen:
    """train.py in a process of its own, with the usual signals, or one of them ignored."""
    def prepare() -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN if number == ignored else signal.SIG_DFL)
    words = ["--size", "tiny", "--data", corpus, "--out", out, "--device", "cpu", "--precision", "fp32",
             "--steps", "100000", "--seq-len", "32", "--batch-size", "2", "--eval-steps", "100000",
             "--max-eval-samples", "2", "--logging-steps", "1"]
    script = [sys.executable, ROOT / "train.py"]
    return subprocess.Popen([*script, *words], preexec_fn=prepare, cwd=corpus, **options)


def wait_for_log(out: Path, rows: int) -> None:
    """Until log.jsonl has this many rows more."""
    def count() -> int:
        return len((out / "log.jsonl").read_bytes().splitlines()) if (out / "log.jsonl").is_file() else 0
    goal, give_up = count() + rows, time.monotonic() + 120
    while count() < goal:
        assert time.monotonic() < give_up
        time.sleep(0.1)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")
def test_a_closed_terminal_saves(corpus, tmp_path):
    """Its output is a pseudo-terminal that closes; the signal may come from shell and kernel, twice."""
    pty = pytest.importorskip("pty")
    run = tmp_path / "run"
    controller, terminal = pty.openpty()
    process = start(corpus, run, stdout=terminal, stderr=terminal, stdin=terminal)
    os.close(terminal)
    wait_for_log(run, 3)
    os.close(controller)
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGHUP)
    assert process.wait(60) == 129
    assert json.loads((run / "last/trainer_state.json").read_text(encoding="utf-8"))["step"] >= 3


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")
def test_an_ignored_signal_stays_ignored(corpus, tmp_path):
    run = tmp_path / "run"
    process = start(corpus, run, ignored=signal.SIGHUP, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for_log(run, 3)
    process.send_signal(signal.SIGHUP)
    wait_for_log(run, 3)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143


# --------------------------------------------------------------------------------------------------- run.json

OLD = {                                                           # settings as written by commit 4d8ebd7
    "size": "tiny", "data": None, "out": None, "resume": None, "init": None, "recipe": "laptop",
    "precision": "fp32", "device": "cpu", "steps": 6, "tokens": None, "epochs": None, "stop_after": None,
    "deadline": None, "seq_len": 32, "batch_size": 4, "micro_batch": None, "learning_rate": 0.001,
    "warmup_steps": 1, "schedule": "cosine", "stable_steps": 5, "weight_decay": 0.01,
    "max_grad_norm": 1.0, "seed": 42, "eval_steps": 2, "best_eval_start_step": 1, "max_eval_samples": 7,
    "logging_steps": 2, "recompute": False, "loss_chunk": None, "fused": False, "compile": False,
    "skip_nonfinite": False, "document_mask": False, "dry_run": False,
}


def test_a_run_of_the_version_before_resumes_exactly(corpus, tmp_path):
    run = tmp_path / "run"
    whole = train.train(**settings(corpus, tmp_path / "whole", schedule="cosine", fused=False))
    train.train(**settings(corpus, run, schedule="cosine", fused=False, stop_after=2))
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    record["settings"] = {**OLD, "model": record["model"]}
    del record["entropy"]
    (run / "run.json").write_text(json.dumps(record))
    rest = train.train(resume=str(run))
    assert rest.losses == whole.losses[2:]
    weights = [(folder / "last/model.safetensors").read_bytes() for folder in (run, tmp_path / "whole")]
    assert weights[0] == weights[1]


def test_an_old_fine_tuning_keeps_its_beta2():
    from training.resolve import stored_settings
    record = {"settings": {**OLD, "recipe": "finetune-stentor3", "model": None}, "model": {}}
    assert stored_settings(record)["beta2"] == 0.999
    assert stored_settings({**record, "settings": {**OLD, "model": None}})["beta2"] == TrainSettings.beta2


@pytest.mark.parametrize("name, value", [
    ("seq_len", None), ("seq_len", "auto"), ("steps", "auto"), ("seed", []), ("recipe", "none"), ("size", 3),
    ("learning_rate", "fast"), ("warmup_steps", None),
])
def test_a_damaged_run_json_is_one_line(corpus, tmp_path, name, value):
    run = tmp_path / "run"
    run.mkdir()
    record = {"settings": {**OLD, "model": None, name: value}, "model": {}}
    (run / "run.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="run.json: not the settings of a run"):
        train.train(resume=str(run))


@pytest.mark.parametrize("model", [None, 0, [1], {}, {"vocab_size": 5}, {**vars(SMALL), "head_dim": 7}])
def test_a_run_json_with_an_impossible_model_is_one_line(tmp_path, model):
    record = {"settings": {**OLD, "model": None}, "model": model}
    (tmp_path / "run.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="run.json: not the settings of a run"):
        train.train(resume=str(tmp_path))


@pytest.mark.parametrize("changes, words", [
    (dict(tokens=10**9), "the schedule of 6 steps has ended.*python train.py --init .* --steps N"),
    (dict(epochs=50), "the schedule of 6 steps has ended"),
    (dict(stop_after=3), "the schedule of 6 steps has ended"),
])
def test_a_finished_run_says_that_nothing_is_left(ended, capsys, changes, words):
    assert train.train(resume=str(ended), **changes).losses == []
    text = " ".join(capsys.readouterr().out.split())
    assert re.search(words, text), text


def test_a_budget_that_ended_can_be_raised(corpus, tmp_path, capsys):
    run = tmp_path / "run"
    train.train(**settings(corpus, run, tokens=2 * 128))
    train.train(resume=str(run))
    assert "step 2 is the end of --tokens 256; raise it" in capsys.readouterr().out
    assert len(train.train(resume=str(run), tokens=4 * 128).losses) == 2
    train.train(resume=str(run), tokens=128, epochs=9)            # only the limit that ended is named
    assert "step 4 is after the end of --tokens 128; raise it" in capsys.readouterr().out


NEW_SIZE = """
import dataclasses
import model
model.SIZES["newest"] = dataclasses.replace(model.SIZES["tiny"], num_hidden_layers=1)
import train
for recipe in ("laptop", "card"):
    train.main(["--size", "NEWEST", "--data", {corpus!r}, "--out", {out!r}, "--device", "cpu",
                "--precision", "fp32", "--steps", "2", "--max-eval-samples", "2", "--recipe", recipe,
                "--seq-len", "32", "--batch-size", "2", "--dry-run"])
"""


def test_a_row_in_sizes_is_all_that_a_new_size_needs(corpus, tmp_path):
    code = NEW_SIZE.format(corpus=str(corpus), out=str(tmp_path / "run"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("newest:") == 2
