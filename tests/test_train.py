# SPDX-License-Identifier: Apache-2.0
"""train.py: optimizer, schedule, one step, the golden trace, exact resume, signals, settings, misuse."""
import dataclasses
import itertools
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import data
import training.run_folder
import training.log
import train
from common import CheckFailed, StopSignals, UserError, replace_folder, run
from devices.device import Device
from training import resolve as presets
from corpus.documents import path_source
from training.job import open_job
from corpus.prepare import prepare
from model import SIZES, Llama, ModelConfig, next_token_loss
from params import CARD_OF, count
from train import AdamW, TrainSettings

ROOT = Path(__file__).resolve().parent.parent
SMALL = ModelConfig(4096, 32, 64, 2, 2, 1, 16, 128, tie_word_embeddings=True)


def settings(corpus: Path, out: Path, **changes) -> dict:
    """A run of a few seconds."""
    values = dict(
        model=SMALL, data=str(corpus), out=str(out), device="cpu", precision="fp32", steps=12, seq_len=32,
        batch_size=4, eval_steps=4, logging_steps=2, max_eval_samples=4, learning_rate=1e-3,
    )
    return {**values, **changes}


@pytest.fixture(scope="module")
def whole(corpus, tmp_path_factory) -> Path:
    """The folder of a complete run of these settings. Nothing is written into it."""
    return train.train(**settings(corpus, tmp_path_factory.mktemp("whole") / "run")).folder


@pytest.fixture(scope="module")
def half(corpus, tmp_path_factory) -> Path:
    """The folder of the same run stopped after step 6. Nothing is written into it."""
    return train.train(**settings(corpus, tmp_path_factory.mktemp("half") / "run", stop_after=6)).folder


@pytest.fixture
def ended(whole, tmp_path) -> Path:
    """A copy of the complete run, for a test that writes into it."""
    return shutil.copytree(whole, tmp_path / "run")


@pytest.fixture
def stopped(half, tmp_path) -> Path:
    """A copy of the stopped run, for a test that writes into it."""
    return shutil.copytree(half, tmp_path / "run")


def rows_without_times(folder: Path) -> list[dict]:
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [
        {key: value for key, value in row.items() if key not in ("seconds", "tokens_per_second")}
        for row in rows
    ]


def same_files(one: Path, two: Path, names: tuple[str, ...]) -> None:
    for name in names:
        assert (one / name).read_bytes() == (two / name).read_bytes(), name


EXACT = (
    "last/model.safetensors", "last/optimizer.safetensors", "last/trainer_state.json",
    "best/model.safetensors", "training_curves.csv",
)


# ------------------------------------------------------------------------------------- optimizer and schedule

def copy_of(model: Llama) -> Llama:
    twin = Llama(model.config)
    twin.load_state_dict(model.state_dict())
    return twin


@pytest.mark.parametrize("config", [SMALL, dataclasses.replace(SMALL, tie_word_embeddings=False)])
def test_adamw_is_bit_equal_to_torch_and_decays_linear_weights_only(config):
    torch.manual_seed(0)
    ours, theirs = Llama(config), Llama(config)
    theirs.load_state_dict(ours.state_dict())
    optimizer = AdamW(ours, weight_decay=0.01)
    assert len(optimizer.params) == len(list(ours.parameters()))
    decayed = {name for name, decay in zip(optimizer.names, optimizer.decays) if decay}
    assert ("lm_head.weight" in decayed) == (not config.tie_word_embeddings)
    assert not any("norm" in name or "embed" in name for name in decayed)
    assert sum("proj" in name for name in decayed) == 7 * config.num_hidden_layers
    groups = [{"params": [p for n, p in theirs.named_parameters() if n in decayed], "weight_decay": 0.01},
              {"params": [p for n, p in theirs.named_parameters() if n not in decayed], "weight_decay": 0.0}]
    reference = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), eps=1e-8, foreach=False, fused=False)
    ids = torch.randint(0, 4096, (2, 16))
    for t in range(1, 8):
        lr = 0.0 if t == 1 else 1e-3 / t
        for group in reference.param_groups:
            group["lr"] = lr
        for model in (ours, theirs):
            model.zero_grad(set_to_none=True)
            next_token_loss(model(ids), ids).backward()
        optimizer.step(t, lr)
        reference.step()
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters()):
        assert torch.equal(p, q), name


def test_fused_update_equals_the_written_out_one():
    torch.manual_seed(0)
    model = Llama(SMALL)
    twin = copy_of(model)
    plain, fused = AdamW(model, 0.01), AdamW(twin, 0.01, fused=True)
    for t in range(1, 5):
        for p, q in zip(plain.params, fused.params):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        plain.step(t, 1e-3)
        fused.step(t, 1e-3)
    for p, q in zip(plain.params, fused.params):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-7)


def test_schedules():
    config = TrainSettings(
        steps=1000, warmup_steps=50, stable_steps=800, learning_rate=8e-4, schedule="cosine"
    )
    rates = [train.learning_rate(config, step) for step in range(1001)]
    assert rates[0] == 0 and rates[25] == pytest.approx(4e-4) and rates[50] == pytest.approx(8e-4)
    assert rates[525] == pytest.approx(4e-4) and rates[1000] == pytest.approx(0, abs=1e-12)
    assert max(rates) == rates[50] and all(a >= b for a, b in zip(rates[50:], rates[51:]))
    wsd = dataclasses.replace(config, schedule="wsd")
    rates = [train.learning_rate(wsd, step) for step in range(1001)]
    assert rates[50] == rates[850] == 8e-4 and rates[925] == pytest.approx(4e-4) and rates[1000] == 0


def test_clipping_scales_to_the_limit_and_reports_the_norm_before():
    p = torch.nn.Parameter(torch.zeros(4))
    q = torch.nn.Parameter(torch.zeros(2))
    p.grad, q.grad = torch.full((4,), 3.0), torch.full((2,), 4.0)
    norm = train.clip_gradients([p, q], 1.0)
    assert norm.item() == pytest.approx(math.sqrt(4 * 9 + 2 * 16))
    assert math.sqrt(float((p.grad**2).sum() + (q.grad**2).sum())) == pytest.approx(1.0, abs=1e-5)
    p.grad, q.grad = torch.full((4,), 0.1), torch.full((2,), 0.1)
    train.clip_gradients([p, q], 1.0)
    assert torch.equal(p.grad, torch.full((4,), 0.1))


# ----------------------------------------------------------------------------------------- one step and a run

def test_accumulation_equals_one_large_batch(corpus, tmp_path):
    whole = train.train(**settings(corpus, tmp_path / "whole", steps=4))
    pieces = train.train(**settings(corpus, tmp_path / "pieces", steps=4, micro_batch=1))
    assert whole.losses == pytest.approx(pieces.losses, abs=2e-6)


def test_initial_loss_is_ln_v(corpus):
    for size in ("tiny", "20m"):
        torch.manual_seed(42)
        model = Llama(SIZES[size])
        ids = torch.from_numpy(data.Corpus(corpus, 64, 4, 10).batch(0))
        with torch.no_grad():
            assert next_token_loss(model(ids), ids).item() == pytest.approx(math.log(4096), abs=0.1)


def test_overfits_one_batch(corpus):
    torch.manual_seed(0)
    model = Llama(SMALL)
    ids = torch.from_numpy(data.Corpus(corpus, 64, 4, 10).batch(0))
    optimizer = AdamW(model, 0.0)
    for t in range(1, 121):
        loss = next_token_loss(model(ids), ids)
        loss.backward()
        train.clip_gradients(optimizer.params, 1.0)
        optimizer.step(t, 1e-2)
        model.zero_grad(set_to_none=True)
    assert loss.item() < 0.1


GOLDEN = ROOT / "tests" / "golden_tiny_math.json"


def golden_run(corpus: Path, out: Path, **changes) -> list[float]:
    changes = dict(model=None, size="tiny", steps=20, seq_len=64, eval_steps=20, **changes)
    return train.train(**settings(corpus, out, **changes)).losses


def test_golden_trace(corpus, tmp_path):
    """The first 20 losses of tiny on generated mathematics.

    CPUs add in different orders: 2e-3 is allowed, 20 times the difference between two of them.
    """
    losses = golden_run(corpus, tmp_path / "one")
    assert losses == pytest.approx(json.loads(GOLDEN.read_text(encoding="utf-8"))["losses"], abs=2e-3)
    assert golden_run(corpus, tmp_path / "two", stop_after=5) == losses[:5]


# ----------------------------------------------------------------------------------------------------- resume

def test_interrupted_and_resumed_equals_uninterrupted(generated, tmp_path):
    """Stopped after the first step, at an evaluation, beside one, and before the last step."""
    train.train(**settings(generated, tmp_path / "whole", micro_batch=2))
    run = tmp_path / "cut"
    train.train(**settings(generated, run, micro_batch=2, stop_after=1))
    for cut in (4, 9, 11, None):
        train.train(resume=str(run), stop_after=cut)
    same_files(tmp_path / "whole", run, EXACT)
    assert rows_without_times(tmp_path / "whole") == rows_without_times(run)


def test_resume_refuses_other_settings_and_lists_them(corpus, half):
    run = half
    with pytest.raises(UserError, match=r"size tiny -> 20m.*batch_size 4 -> 8.*seed 42 -> 7"):
        train.train(resume=str(run), size="20m", seed=7, batch_size=8)
    with pytest.raises(UserError, match="weight_decay 0.01 -> 0.*seed 42 -> 0"):
        train.train(resume=str(run), seed=0, weight_decay=0.0)
    with pytest.raises(UserError, match="--eval-steps 0 must be positive"):
        train.train(resume=str(run), eval_steps=0)
    with pytest.raises(UserError, match="exists already"):
        train.train(**settings(corpus, run))


def test_what_a_resume_changed_lasts(corpus, tmp_path):
    run = tmp_path / "run"
    train.train(**settings(corpus, run, stop_after=4))
    train.train(resume=str(run), eval_steps=3, stop_after=6)
    stored = json.loads((run / "run.json").read_text(encoding="utf-8"))["settings"]
    assert stored["eval_steps"] == 3 and stored["stop_after"] is None and stored["steps"] == 12
    # that at 6 was only to stop
    assert [row["step"] for row in train.train(resume=str(run)).evals] == [6, 9, 12]


def test_best_is_the_last_model_where_no_evaluation_competed_before(corpus, tmp_path):
    """With a `best_eval_start_step` beyond the end, best/ is the last model, interrupted or not."""
    train.train(**settings(corpus, tmp_path / "whole", best_eval_start_step=100))
    train.train(**settings(corpus, tmp_path / "run", best_eval_start_step=100, stop_after=5))
    train.train(resume=str(tmp_path / "run"))
    same_files(tmp_path / "whole", tmp_path / "run", EXACT)
    assert (tmp_path / "run/best/model.safetensors").read_bytes() == (
        tmp_path / "run/last/model.safetensors"
    ).read_bytes()


def test_resume_into_another_folder_leaves_the_source_untouched(whole, stopped, tmp_path):
    source, out = stopped, tmp_path / "out"
    before = {file: file.read_bytes() for file in source.rglob("*") if file.is_file()}
    train.train(resume=str(source), out=str(out))
    assert before == {file: file.read_bytes() for file in source.rglob("*") if file.is_file()}
    same_files(whole, out, EXACT)


def test_a_new_folder_holds_the_checkpoint_from_the_start(stopped, tmp_path, monkeypatch):
    """After a kill before the new folder's first own save, it continues at the source's step."""
    source, out = stopped, tmp_path / "out"
    for path in [source, *source.rglob("*")]:
        path.chmod(path.stat().st_mode & ~0o222)
    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr(train, "training_step", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        train.train(resume=str(source), out=str(out))
    assert len(train.train(resume=str(out)).losses) == 6
    assert out.joinpath("best").stat().st_mode & 0o200


def test_evaluation_in_smaller_pieces_is_the_same_mean(corpus, tmp_path, monkeypatch):
    job = open_job(settings(corpus, tmp_path / "run"))
    model = Llama(SMALL)
    whole = train.evaluate(model, job)[""]
    real, sizes = train.next_token_losses, []

    def scarce(logits, ids):
        sizes.append(len(ids))
        if len(ids) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(logits, ids)
    monkeypatch.setattr(train, "next_token_losses", scarce)
    assert (
        abs(train.evaluate(model, job)[""] - whole) < 1e-6
        and job.micro_batch == 2
        and sizes[0] == 4
        and set(sizes[1:]) == {2}
    )


def test_the_training_loss_of_each_source_is_logged(two_sources, tmp_path, capsys):
    """In each step the mean over its rows, at an evaluation that of the last steps; losses stay the same."""
    run = tmp_path / "run"
    changes = dict(logging_steps=5, micro_batch=2, eval_steps=6, max_eval_samples=60)
    train.train(**settings(two_sources, run, **changes))
    job = open_job(settings(two_sources, tmp_path / "other"))
    rows = rows_without_times(run)
    steps = [row for row in rows if "loss" in row]
    assert len(steps) == 12
    for row in steps:
        names = [job.corpus.names[source] for source in job.corpus.sources(row["step"] - 1)]
        assert set(row["train_losses"]) == set(names)
        mean = sum(row["train_losses"][name] for name in names) / len(names)
        assert mean == pytest.approx(row["loss"], rel=1e-5)
    model, ids = train.build_model(job), torch.from_numpy(job.corpus.batch(0))     # step 1: the first weights
    losses = [next_token_loss(model(row[None]), row[None]).item() for row in ids]
    for number, name in enumerate(job.corpus.names):
        own = [loss for loss, source in zip(losses, job.corpus.sources(0)) if source == number]
        assert sum(own) / len(own) == pytest.approx(steps[0]["train_losses"][name], rel=1e-4)
    last = next(row for row in reversed(rows) if "eval_loss" in row)
    known = [row["train_losses"]["text"] for row in steps if "text" in row["train_losses"]]
    assert last["train_losses"]["text"] == pytest.approx(sum(known) / len(known))
    assert f"(training {last['train_losses']['text']:.3f})" in capsys.readouterr().out
    head = (run / "training_curves.csv").read_text(encoding="utf-8").splitlines()[0]
    assert head.startswith("step,epoch,train_loss,eval_loss,eval_ppl,note,train_loss_text,train_loss_code,")
    assert "text, training" in (run / "training_curves.svg").read_text(encoding="utf-8")


def test_a_finished_run_resumed_changes_nothing(ended):
    run = ended
    weights, rows = (run / "last/model.safetensors").read_bytes(), rows_without_times(run)
    history = train.train(resume=str(run))
    assert history.losses == []
    assert (run / "last/model.safetensors").read_bytes() == weights and rows_without_times(run) == rows


def test_damaged_checkpoint_falls_back_to_the_one_before(ended, capsys):
    run = ended
    with open(run / "last/optimizer.safetensors", "r+b") as file:
        file.seek(1000)
        file.write(b"\xff")
    train.train(resume=str(run), stop_after=10)
    text = capsys.readouterr()
    assert (
        "optimizer.safetensors is damaged" in text.err
        and "continuing" in text.out
        and "step 8 from last.old" in text.out
    )
    for folder in run.glob("last*"):
        (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="no complete checkpoint is left"):
        train.train(resume=str(run))


def test_full_disk_during_save_keeps_the_checkpoint_before(stopped, monkeypatch):
    run = stopped
    before = (run / "last/SHA256SUMS").read_bytes()

    def no_space(*_, **__):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(training.run_folder, "save_file", no_space)
    with pytest.raises(UserError, match="No space left on device.*unchanged"):
        train.train(resume=str(run))
    monkeypatch.undo()
    assert (run / "last/SHA256SUMS").read_bytes() == before and not (run / "last.new").exists()
    train.train(resume=str(run))


def test_two_processes_cannot_train_into_one_folder(stopped):
    busy = pytest.raises(UserError, match="another process is writing")
    with training.run_folder.lock_folder(stopped), busy:
        train.train(resume=str(stopped))


def test_folder_is_replaced_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "last"

    def broken(new: Path) -> None:
        (new / "a").write_text("half")
        raise OSError(28, "No space left on device")
    with pytest.raises(UserError, match="No space left on device$"):
        replace_folder(folder, broken)
    replace_folder(folder, lambda new: (new / "a").write_text("one"))
    with pytest.raises(UserError, match="the previous one is unchanged$"):
        replace_folder(folder, broken)
    assert (folder / "a").read_text() == "one" and sorted(path.name for path in tmp_path.iterdir()) == [
        "last"
    ]


@pytest.fixture(scope="session")
def mixed(tmp_path_factory) -> Path:
    """A corpus of two sources, so that the mixture matters and turns at its anneal."""
    folder = tmp_path_factory.mktemp("mixed")
    (folder / "web.txt").write_text(
        "\n\n".join(f"Sentence {i} of a text about {7 * i} apples and {i % 13} pears." for i in range(1500))
    )
    (folder / "code.txt").write_text(
        "\n\n".join(f"def f{i}(x):\n    return x * {i} + {i % 17}" for i in range(1500))
    )
    return prepare(
        [path_source(kind, folder / f"{kind}.txt") for kind in ("web", "code")],
        folder / "corpus",
        validation_share=0.05,
    )


def test_resume_is_exact_where_the_curriculum_turns(mixed, tmp_path):
    changes = dict(micro_batch=2, steps=20, eval_steps=5)
    whole = train.train(**settings(mixed, tmp_path / "whole", **changes))
    shares = [data.Corpus(mixed, 32, 4, 20).weights(step) for step in (0, 17, 20)]
    assert shares[0] == shares[1] != shares[2]                    # the anneal begins at 85% of 20 steps
    run = tmp_path / "cut"
    losses = train.train(**settings(mixed, run, stop_after=3, **changes)).losses
    for cut in (16, 18, None):
        losses += train.train(resume=str(run), stop_after=cut).losses
    assert losses == whole.losses
    same_files(tmp_path / "whole", run, EXACT)
    assert rows_without_times(tmp_path / "whole") == rows_without_times(run)


def test_resume_needs_neither_the_folder_of_init_nor_the_same_place(corpus, tmp_path, monkeypatch):
    first = train.train(**settings(corpus, tmp_path / "first", steps=2))
    shutil.copytree(first.folder / "best", tmp_path / "start")
    changes = dict(model=None, init=str(tmp_path / "start"), steps=4)
    whole = train.train(**settings(corpus, tmp_path / "whole", **changes))
    train.train(**settings(corpus, tmp_path / "cut", stop_after=1, **changes))
    shutil.rmtree(tmp_path / "start")
    monkeypatch.chdir(tmp_path / "first")
    rest = train.train(resume=str(tmp_path / "cut"))
    assert rest.losses == whole.losses[1:]
    with pytest.raises(UserError, match="another shape than --size 20m"):
        train.train(**settings(corpus, tmp_path / "other", model=None, size="20m", init=str(first.folder)))


@pytest.mark.parametrize("damage",
    ["empty SHA256SUMS", "no state", "state of something else", "shorter SHA256SUMS", "cut SHA256SUMS",
    "bit of the weights"])
def test_damage_of_any_file_is_found(ended, capsys, damage):
    run = ended
    last, sums = run / "last", run / "last/SHA256SUMS"
    if damage == "empty SHA256SUMS":
        sums.write_text("")
    elif damage == "shorter SHA256SUMS":
        sums.write_text("".join(sums.read_text(encoding="utf-8").splitlines(True)[:2]))
    elif damage == "cut SHA256SUMS":  # in the middle of a name: not the file is missing, the list is damaged
        sums.write_text(sums.read_text(encoding="utf-8").partition("model.safe")[0] + "model.safe")
    elif damage == "no state":
        (last / "trainer_state.json").unlink()
    elif damage == "state of something else":
        (last / "trainer_state.json").write_text("{}")
    else:
        content = bytearray((last / "model.safetensors").read_bytes())
        content[-5] ^= 1
        (last / "model.safetensors").write_bytes(content)
    train.train(resume=str(run), stop_after=9)
    text = capsys.readouterr()
    assert text.err.startswith("warning: ") and "step 8 from last.old" in text.out
    assert ("SHA256SUMS does not list" in text.err) == damage.endswith("SHA256SUMS")


def test_a_damaged_log_does_not_stop_a_resume(stopped):
    run = stopped
    log = run / "log.jsonl"
    log.write_bytes(b"\xff{{\n[]\n" + log.read_bytes() + b'{"step": 7, "lo')
    train.train(resume=str(run))
    assert [row["step"] for row in rows_without_times(run) if "loss" in row] == list(range(1, 13))


def test_the_gradient_norms_spikes_are_marked_and_survive_a_resume(corpus, tmp_path, monkeypatch):
    real, calls = train.clip_gradients, []

    def spiky(params, limit):
        calls.append(0)
        return real(params, limit) * (50 if len(calls) in (5, 9, 17, 21) else 1)
    monkeypatch.setattr(train, "clip_gradients", spiky)
    train.train(**settings(corpus, tmp_path / "whole"))
    assert [row["step"] for row in rows_without_times(tmp_path / "whole") if row.get("spike")] == [5, 9]
    train.train(**settings(corpus, tmp_path / "cut", stop_after=3))
    train.train(resume=str(tmp_path / "cut"))
    assert rows_without_times(tmp_path / "cut") == rows_without_times(tmp_path / "whole")


def test_a_signal_ends_an_evaluation_and_the_resumed_run_makes_it(corpus, tmp_path, monkeypatch):
    class Stop:
        received = signal.SIGTERM
    monkeypatch.setattr(StopSignals, "__enter__", lambda self: Stop)
    monkeypatch.setattr(StopSignals, "__exit__", lambda self, *_: None)
    history = train.train(**settings(corpus, tmp_path / "cut", eval_steps=1, steps=4))
    assert history.interrupted and history.signal == 15 and history.evals == [] and len(history.losses) == 1
    # the evaluation that was due is begun, and ended by the signal
    history = train.train(resume=str(tmp_path / "cut"))
    assert history.interrupted and history.evals == [] and history.losses == []
    monkeypatch.undo()
    train.train(resume=str(tmp_path / "cut"))
    train.train(**settings(corpus, tmp_path / "whole", eval_steps=1, steps=4))
    same_files(tmp_path / "whole", tmp_path / "cut", EXACT)
    assert rows_without_times(tmp_path / "cut") == rows_without_times(tmp_path / "whole")


def test_the_plot_is_drawn_at_evaluations_only_and_the_log_is_bounded(corpus, tmp_path, monkeypatch):
    drawn = []
    real = training.log.write_curves
    monkeypatch.setattr(training.log, "write_curves", lambda *arguments: drawn.append(real(*arguments)))
    history = train.train(**settings(corpus, tmp_path / "run", steps=30, eval_steps=10, logging_steps=1))
    assert len(drawn) == len(history.evals) == 3
    assert (tmp_path / "run/log.jsonl").stat().st_size < 250 * (30 + 3)


@pytest.mark.slow
def test_memory_is_flat_over_2000_steps_of_tiny(corpus, tmp_path):
    """Resident memory after 2,000 steps is that after 400, but for a few MiB of the allocator's.

    The first evaluations and samples are before step 400; their buffers are kept (24 MiB were measured).
    """
    code = (
        "import sys, pathlib, training.log, train\n"
        "def rss(): return int(next(l for l in open('/proc/self/status') if "
        "l.startswith('VmRSS')).split()[1]) / 1024\n"
        "real, seen = training.log.Log.flush, {}\n"
        "def flush(log, bar):\n    real(log, bar)\n    seen[log.state.step] = rss()\n"
        "training.log.Log.flush = flush\n"
        f"train.train(size='tiny', data={str(corpus)!r}, out={str(tmp_path / 'run')!r}, device='cpu',"
        " precision='fp32', steps=2000, seq_len=16, batch_size=2, eval_steps=100, logging_steps=50,"
        " max_eval_samples=4)\n"
        "print('rss', *(f'{step}:{seen[step]:.0f}' for step in sorted(seen) if step % 200 == 0))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    measured = [
        float(pair.split(":")[1])
        for line in done.stdout.splitlines()
        if line.startswith("rss ")
        for pair in line.split()[1:]
    ]
    print(measured)
    assert len(measured) == 10 and max(measured[1:]) - measured[1] < 20


# ----------------------------------------------------------------------------------------- the command itself

def command(corpus: Path, out: Path, *more: str) -> list[str]:
    return [
        sys.executable, str(ROOT / "train.py"), "--size", "tiny", "--data", str(corpus), "--out", str(out),
        "--device", "cpu", "--precision", "fp32", "--seq-len", "32", "--batch-size", "2", "--eval-steps", "5",
        "--max-eval-samples", "2", *more,
    ]


def wait_for_step(process: subprocess.Popen, step: int) -> None:
    for line in process.stdout:
        if line.startswith("step ") and int(line.split()[1].split("/")[0].rstrip(":")) >= step:
            return
    raise AssertionError(f"ended before step {step}")


def test_ctrl_c_finishes_the_step_and_saves(corpus, tmp_path):
    """SIGTERM and SIGHUP are in test_train_faults.py."""
    run = tmp_path / "run"
    process = subprocess.Popen(
        command(corpus, run, "--steps", "100000", "--logging-steps", "1"),
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    wait_for_step(process, 6)
    process.send_signal(signal.SIGINT)
    rest = process.stdout.read()
    assert process.wait(60) == 130
    assert f"--resume {run}" in rest
    state = json.loads((run / "last/trainer_state.json").read_text(encoding="utf-8"))
    assert state["step"] >= 6
    assert train.train(resume=str(run), stop_after=state["step"] + 1).losses


@pytest.mark.parametrize("arguments, words", [
    (["--bach-size", "4"], ["unknown argument --bach-size", "did you mean --batch-size"]),
    (["--size", "21m"], ["invalid choice", "20m"]),
    (["--steps", "many"], ["'many' is not a number"]),
    (["--deadline", "soon"], ["'soon' is not a time"]),
    (["--resume", "runs/none"], ["runs/none/run.json", "no such file"]),
    (["--resume"], ["no run found", "python train.py --size tiny"]),
    (["--data", "nothing.txt"], ["nothing.txt"]),
])
def test_misuse_is_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    assert run(lambda: train.main(arguments)) == 2
    line = capsys.readouterr().err
    assert len(line.strip().splitlines()) == 1 and all(word in line for word in words), line
    assert not (tmp_path / "runs").exists()


def test_a_text_that_was_edited_gets_a_corpus_of_its_own(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text, folders, notes = tmp_path / "my.txt", [], []
    for words in ("one two three", "four five six", "four five six"):
        text.write_text("\n\n".join([f"{words} {number}" for number in range(3000)]))
        job = open_job(settings(text, tmp_path / "run", model=None, size="tiny"))
        folders.append(job.corpus.folder.name)
        notes.append(any("was changed since corpora/my-" in note for note in job.notes))
    assert [name[9:] for name in folders] == ["", "-2", "-2"] and notes == [False, True, True]
    assert not any("dropped" in note for note in job.notes)
    text.write_text("Все счастливые семьи похожи друг на друга.\n\n" * 999, encoding="utf-8")
    job = open_job(settings(text, tmp_path / "run", model=None, size="tiny"))
    assert re.search(
        r"\d\d%\) have no token in this vocabulary and are dropped", job.notes[-1]
    )
    text.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="my.txt: not UTF-8"):
        open_job(settings(text, tmp_path / "run", model=None, size="tiny"))
    assert sorted(path.name for path in (tmp_path / "corpora").iterdir()) == [
        folders[0], f"{folders[0]}-2", f"{folders[0]}-3"
    ]


def test_a_run_is_no_corpus(half, tmp_path):
    with pytest.raises(UserError, match=f"{half} is a run, not a corpus: .* --resume {half}$"):
        train.train(**settings(half, tmp_path / "other"))


def test_all_impossible_settings_at_once(corpus, tmp_path):
    wrong = settings(corpus, tmp_path / "run", seq_len=1000, batch_size=3, micro_batch=2, warmup_steps=99)
    with pytest.raises(
        UserError, match=r"--batch-size 3 is not a multiple of 2.*--seq-len 1000 is more.*--warmup-steps 99"
    ):
        train.train(**wrong)
    with pytest.raises(UserError, match=r"num_attention_heads 3 is not a multiple.*head_dim 5 is odd"):
        train.train(**settings(
                corpus,
                tmp_path / "run",
                model=dataclasses.replace(SMALL, num_attention_heads=3, num_key_value_heads=2, head_dim=5),
            )
        )
    assert not (tmp_path / "run").exists()


def test_compile_without_a_compiler(corpus, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        UserError, match=r"--compile needs a C\+\+ compiler \(g\+\+\), and there is none here"
    ):
        train.train(**settings(corpus, tmp_path / "run", compile=True))
    assert not (tmp_path / "run").exists()


def test_a_run_of_a_gpu_continues_on_a_cpu_without_a_compiler(corpus, tmp_path, monkeypatch):
    whole = train.train(**settings(corpus, tmp_path / "whole", fused=True)).losses
    run = train.train(**settings(corpus, tmp_path / "run", fused=True, stop_after=6)).folder
    stored = json.loads((run / "run.json").read_text(encoding="utf-8"))
    stored["device"], stored["settings"]["compile"] = "cuda", True     # as a GPU's run says it
    (run / "run.json").write_text(json.dumps(stored))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert train.train(resume=str(run)).losses == whole[6:]


@pytest.mark.ci
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_compiled_steps_give_the_same_losses_and_the_same_file(corpus, tmp_path):
    eager = train.train(**settings(corpus, tmp_path / "eager"))
    train.train(**settings(corpus, tmp_path / "compiled", compile=True, stop_after=6))
    rest = train.train(resume=str(tmp_path / "compiled"))
    assert rest.losses == pytest.approx(eager.losses[-len(rest.losses):], rel=1e-4) and len(rest.losses) == 6
    plain, compiled = (
        load_file(tmp_path / name / "best/model.safetensors") for name in ("eager", "compiled")
    )
    assert plain.keys() == compiled.keys() and all(
        torch.allclose(plain[name], compiled[name], atol=1e-4) for name in plain
    )


def test_nonfinite_loss_stops_with_a_diagnosis_and_an_intact_checkpoint(stopped, monkeypatch):
    run = stopped
    before = (run / "last/model.safetensors").read_bytes()
    real = train.clip_gradients

    def poisoned(params, limit):
        params[0].grad[0, 0] = math.nan
        return real(params, limit)
    monkeypatch.setattr(train, "clip_gradients", poisoned)
    with pytest.raises(CheckFailed, match="step 7: .*not finite.*last good checkpoint"):
        train.train(resume=str(run))
    assert (run / "last/model.safetensors").read_bytes() == before


def test_skip_nonfinite_leaves_the_step_out_and_counts_it(corpus, tmp_path, monkeypatch):
    real, calls = train.clip_gradients, []

    def sometimes(params, limit):
        calls.append(0)
        if len(calls) == 3:
            params[0].grad[0, 0] = math.inf
        return real(params, limit)
    monkeypatch.setattr(train, "clip_gradients", sometimes)
    train.train(**settings(corpus, tmp_path / "run", skip_nonfinite=True))
    rows = rows_without_times(tmp_path / "run")
    assert [row["step"] for row in rows if row.get("skipped")] == [3]
    assert json.loads((tmp_path / "run/last/trainer_state.json").read_text(encoding="utf-8"))["skipped"] == 1


def test_deadline_stops_in_time_and_resumes(corpus, tmp_path, monkeypatch):
    """By a clock that advances by a twentieth of a second each time it is read."""
    ticks = itertools.count()
    clock = types.SimpleNamespace(monotonic=lambda: next(ticks) / 20)
    for module in (train, training.log):
        monkeypatch.setattr(module, "time", clock)
    run = tmp_path / "run"
    history = train.train(**settings(corpus, run, steps=100_000, eval_steps=100_000, deadline=4.0))
    assert clock.monotonic() < 4 and not history.interrupted and 5 < len(history.losses) < 80
    assert (run / "best/model.safetensors").is_file()
    assert train.train(resume=str(run), stop_after=len(history.losses) + 2).losses


def test_out_of_memory_halves_the_micro_batch(corpus, tmp_path, monkeypatch, capsys):
    real = train.training_step

    def small_machine(network, ids, job, scale):
        if job.micro_batch > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(network, ids, job, scale)
    plain = train.train(**settings(corpus, tmp_path / "plain", steps=3)).losses
    monkeypatch.setattr(train, "training_step", small_machine)
    assert train.train(**settings(corpus, tmp_path / "small", steps=3)).losses == pytest.approx(
        plain, abs=2e-6
    )
    assert "--micro-batch 1" in capsys.readouterr().err


# ------------------------------------------------------------------------------------ the cards' own settings

CARDS = json.loads((ROOT / "cards/cards.json").read_text(encoding="utf-8"))["models"]


def test_presets_are_the_cards():
    models = CARDS
    for size, name in (("20m", "Stentor3-20M"), ("30m", "Stentor2-30M"), ("150m", "Portimbria-150M")):
        groups = {key: value[0]["value"] for group in ("training", "batch", "evaluation_checkpointing")
                  for key, value in models[name][group].items() if "value" in value[0]}
        preset = presets.recipe_values("card", size)
        for ours, theirs in (
            ("steps", "max_train_steps"), ("warmup_steps",) * 2, ("stable_steps",) * 2,
            ("learning_rate",) * 2, ("batch_size", "total_batch_size"), ("seq_len", "block_size"),
            ("eval_steps",) * 2, ("best_eval_start_step",) * 2, ("max_eval_samples",) * 2,
        ):
            assert preset[ours] == groups[theirs], (size, ours)
        assert preset.get("logging_steps") == groups.get("logging_steps", preset["logging_steps"])
        for ours, theirs in (("weight_decay",) * 2, ("max_grad_norm",) * 2, ("seed",) * 2):
            assert getattr(TrainSettings, ours) == groups[theirs]
        assert [TrainSettings.beta1, TrainSettings.beta2] == groups["betas"] and TrainSettings.eps == groups[
            "eps"
        ]
        assert preset["batch_size"] * preset["seq_len"] == groups["tokens_per_optimizer_step"]


@pytest.mark.parametrize("size", list(SIZES))
def test_dry_run_of_every_size_prints_its_card_and_writes_no_run(corpus, tmp_path, monkeypatch, capsys, size):
    monkeypatch.chdir(tmp_path)
    short = dict(seq_len=64) if size in ("20m", "50m", "150m") else {}
    train.train(size=size, recipe="card", data=str(corpus), dry_run=True, **short)
    text = capsys.readouterr().out
    assert f"{count(SIZES[size])['total']:,} parameters" in text and "ln(" in text
    assert not (tmp_path / "runs").exists()
    name = CARD_OF.get(size)
    if name in ("Stentor3-20M", "Stentor2-30M", "Portimbria-150M"):
        assert f"the card of {name}" in text and "* departs from the card" in text
        rows = {line.split()[0]: line for line in text.splitlines() if line.startswith("  ") and line.strip()}
        for key in (
            "learning_rate", "betas", "eps", "warmup_steps", "stable_steps", "max_train_steps", "seed",
            "total_batch_size", "eval_steps",
        ):
            assert key in rows, key
        assert rows["total_batch_size"].count("64" if size != "30m" else "8") == 2 and not rows[
            "total_batch_size"
        ].endswith("*")
        for key in {"num_processes", "training_processes"} & set(rows):
            assert rows[key].endswith("*")                        # one process here, 8 (or 2) there


def test_the_30m_preset_ends_where_its_run_did(corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    train.train(size="30m", recipe="card", data=str(corpus), dry_run=True)
    assert "30,300 steps of 8,192 tokens" in capsys.readouterr().out
    asked = dict(size="30m", recipe="card", data=str(corpus))
    card = open_job(asked).settings
    assert (card.steps, card.warmup_steps, card.tokens) == (60_626, 3_031, 30_300 * 8_192)
    # of a cosine over 60,626 steps
    assert train.learning_rate(card, 30_300) == pytest.approx(4.3e-4, rel=0.02)
    shorter = open_job({**asked, "steps": 100}).settings
    assert shorter.tokens is None and shorter.warmup_steps == 5
    wsd = open_job({**asked, "size": "150m", "seq_len": 64, "schedule": "wsd"}).settings
    assert (wsd.warmup_steps, wsd.stable_steps, wsd.steps) == (1_144, 18_311, 22_889)
    assert train.learning_rate(wsd, 1_144) == train.learning_rate(wsd, 1_144 + 18_311) == 8e-4
    assert train.learning_rate(wsd, 22_889) == 0


def test_tokens_and_epochs_end_a_run_whichever_comes_first(corpus, tmp_path):
    per_epoch = data.steps_for_epochs(corpus, 32, 4, 1)
    assert len(train.train(**settings(corpus, tmp_path / "a", steps=9, tokens=5 * 128)).losses) == 5
    assert len(train.train(**settings(corpus, tmp_path / "b", steps="auto", tokens=3 * 128)).losses) == 3
    assert (
        per_epoch > 9 and len(train.train(**settings(corpus, tmp_path / "c", steps=9, epochs=1)).losses) == 9
    )


def test_throughput_leaves_out_windows_in_which_xla_compiled(corpus, tmp_path, monkeypatch):
    graphs = iter([2, 2, 3, 3, 3, 3, 3])                          # after steps 1, 2, 4, 6, 8, 10, 12
    monkeypatch.setattr(Device, "compiled_graphs", lambda self: next(graphs))
    train.train(**settings(corpus, tmp_path / "run"))
    rows = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row and row["tokens_per_second"] is None] == [1, 3, 4]


@pytest.mark.parametrize("changes, words", [
    (dict(steps="12", learning_rate="fast", recompute="yes"),
    r"--steps '12'.*--learning-rate 'fast'.*--recompute 'yes'"),
    (dict(size="21m", schedule="linear"), "--size '21m': choose from tiny.*--schedule 'linear': choose from"),
    (dict(learning_rate=math.nan, weight_decay=-1.0, seed=-1),
    "--learning-rate nan.*--weight-decay -1.0.*--seed -1"),
    (dict(stop_after=0, steps=0), "--steps 0 must be positive.*--stop-after 0"),
])
def test_values_of_the_wrong_kind_from_a_program(corpus, tmp_path, changes, words):
    with pytest.raises(UserError, match=words):
        train.train(**settings(corpus, tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_out_that_cannot_be_made(corpus, tmp_path):
    (tmp_path / "file").write_text("")
    for out, words in (("file", "exists already"), ("file/run", "nothing can be written into")):
        with pytest.raises(UserError, match=words):
            train.train(**settings(corpus, tmp_path / out))
    pathlike = {**settings(corpus, tmp_path, steps=1), "data": corpus, "out": tmp_path / "run"}
    assert train.train(**pathlike).folder == tmp_path / "run"
