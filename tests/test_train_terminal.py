# SPDX-License-Identifier: Apache-2.0
"""What a person sees while train.py runs: on a terminal of 80 columns, in a notebook, with --dry-run."""
import fcntl
import io
import os
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

import common
import train
from corpus import builtin
from corpus.documents import builtin_source
from corpus.prepare import prepare
from model import ModelConfig
from training.log import rounded_time
from training.settings import RECIPES

ROOT = Path(__file__).resolve().parent.parent
SMALL = ModelConfig(4096, 32, 64, 2, 2, 1, 16, 128, tie_word_embeddings=True)
pty = pytest.importorskip("pty")


def screen(text: str, columns: int) -> list[str]:
    """The lines that a terminal shows of `text`: a carriage return goes back to the start of the line."""
    lines, column = [""], 0
    for piece in re.findall(r"\x1b\[[0-9;]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", text):
        if piece == "\n":
            lines.append("")
        elif piece == "\r":
            column = 0
        elif piece[0] != "\x1b":
            line = lines[-1].ljust(column)
            lines[-1] = line[:column] + piece + line[column + len(piece):]
            column += len(piece)
        assert len(lines[-1].rstrip()) <= columns, lines[-1]
    return [line.rstrip() for line in lines]


@pytest.fixture(scope="module")
def shown(generated, tmp_path_factory) -> tuple[str, list[str]]:
    """A run on a pseudo-terminal of 80 columns: its raw output, and the lines of the screen."""
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 80, 0, 0))
    words = ["--size", "tiny", "--data", generated, "--device", "cpu", "--precision", "fp32", "--steps", "24",
             "--seq-len", "32", "--batch-size", "2", "--eval-steps", "8", "--max-eval-samples", "2",
             "--logging-steps", "2"]
    environment = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS")}
    process = subprocess.Popen(
        [sys.executable, ROOT / "train.py", *words], stdout=terminal, stderr=terminal, stdin=terminal,
        cwd=tmp_path_factory.mktemp("run"), env=environment,
    )
    os.close(terminal)
    raw = b""
    while True:
        try:
            piece = os.read(controller, 1 << 16)
        except OSError:                                           # the process has ended
            break
        if not piece:
            break
        raw += piece
    os.close(controller)
    assert process.wait() == 0, raw.decode()
    return raw.decode(), screen(raw.decode(), 80)


def test_the_first_screen_has_eight_lines_that_say_what_where_and_on_what(shown):
    first = shown[1][:shown[1].index("")]
    assert [line.startswith("settings") for line in first].index(True) <= 8
    text = " ".join(" ".join(first).split())
    for words in ("tiny: 1,115,264 parameters", "ln(4,096) = 8.32", "into runs/tiny", "cpu, in fp32",
                  "24 steps of 64 tokens", "recipe laptop", "eval_steps 8", "all of them: --dry-run"):
        assert words in text, words
    assert "stable_steps" not in text and "learning_rate" not in text


def test_the_first_screen_of_the_built_in_corpus_has_eight_lines(tmp_path, monkeypatch, capsys):
    """20m has one line more than tiny: the command of the card's own recipe."""
    monkeypatch.setattr(common, "text_width", lambda: 80)
    sources = [builtin_source(kind) for kind in builtin.KINDS]
    monkeypatch.chdir(tmp_path)
    prepare(sources, Path("corpora/builtin"), source_token_budget=12_000, validation_share=0.2)
    train.train(size="20m", data="corpora/builtin", device="cpu", precision="bf16", dry_run=True)
    lines = capsys.readouterr().out.splitlines()
    summary = lines[:[line.startswith("chosen") for line in lines].index(True)]
    assert any(line.startswith("mixture") for line in summary) and "--recipe card" in summary[-1]
    assert len(summary) <= 7                                      # and one that the vocabulary is another


def test_evaluations_are_above_the_bar(shown):
    results = [line for line in shown[1] if "validation loss" in line]
    assert [re.match(r"step (\d+): validation loss \d+\.\d{3}, perplexity [\d,]+\.\d", line)[1]
            for line in results] == ["8", "16", "24"]


def test_the_bar_has_loss_speed_and_the_time_that_is_left(shown):
    bars = re.findall(r"\r([^\r\n]*\|[^\r\n]*)", shown[0])
    complete = re.compile(r"\|.{8,}\| \d+/24, [\d:?]+ left, loss \d\.\d{3}, [\d,]+ tokens/s")
    assert any(complete.search(bar) for bar in bars)


def test_the_last_screen_is_the_result_and_three_next_steps(shown):
    end = shown[1][shown[1].index("Next:"):]
    assert [line.split()[0] for line in end[1:4]] == ["learn", "ask", "look"]
    assert end[3].endswith("runs/tiny/report.html") and not any(end[4:]), "the last line names the report"
    assert "python sample.py runs/tiny 'Once upon a time'" in end[2]
    assert any(line.startswith("Result: ") for line in shown[1])
    assert "\x1b[1mResult" in shown[0] and "\x1b[32mbest" in shown[0]


def test_an_error_is_broken_between_words_on_a_terminal_and_its_command_is_not(monkeypatch, capsys):
    text = ("train.py: error: corpora/nowhere: no prepared corpus here (no manifest.json); make one with: "
            "python data.py prepare --out corpora/nowhere; then try again with the same command")
    common.tell(text)
    assert capsys.readouterr().err == text + "\n", "one line in a pipe"
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    with os.fdopen(terminal, "w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        common.tell(text)
        stderr.flush()
        lines = os.read(controller, 1 << 16).decode().split("\r\n")
    os.close(controller)
    assert " ".join(lines).strip() == text and max(map(len, lines)) <= 60 and len(lines) > 3
    assert "python data.py prepare --out corpora/nowhere;" in "\n".join(lines)


def test_no_colour_without_a_terminal(corpus, tmp_path, capsys):
    train.train(**run(corpus, tmp_path / "run"))
    assert "\x1b" not in capsys.readouterr().out


def run(corpus: Path, out: Path, **changes) -> dict:
    values = dict(model=SMALL, data=str(corpus), out=str(out), device="cpu", precision="fp32", steps=2,
                  seq_len=32, batch_size=4, max_eval_samples=2, schedule="cosine")
    return {**values, **changes}


def test_dry_run_says_where_each_setting_comes_from(corpus, tmp_path, capsys):
    train.train(**run(corpus, tmp_path / "run", model=None, size="tiny", dry_run=True))
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert rows["beta2"].split() == ["beta2", "0.95", "default", "(training/settings.py)"]
    peak = str(RECIPES["laptop"]["tiny"]["learning_rate"])
    assert rows["learning_rate"].split()[1:] == [peak, "recipe", "laptop", "(training/settings.py)"]
    assert rows["steps"].split()[1:] == ["2", "flag"]
    assert rows["loss_chunk"].split()[1:] == ["none", "device", "(training/resolve.py)"]
    assert "stable_steps" not in rows                             # a cosine schedule ignores them
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("notebook", [False, True])
def test_a_bar_is_drawn_in_a_notebook_and_not_in_a_log(monkeypatch, notebook):
    """In a notebook, bar and lines are in one stream: the text after the last carriage return is shown."""
    out, log = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", log)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    if notebook:
        monkeypatch.setitem(sys.modules, "ipykernel", sys)
    for i in common.progress(range(3), mininterval=0):
        if i == 1:
            common.say("a line")
    assert log.getvalue() == ""
    lines = screen(out.getvalue(), 80)
    assert lines[0] == "a line"
    assert lines[1:] == [""] if not notebook else len(lines) == 3 and "3/3" in lines[1]


@pytest.mark.parametrize("seconds, words", [(41.6, "42 seconds"), (5562, "93 minutes"), (40_000, "11 hours")])
def test_times_have_one_unit(seconds, words):
    assert rounded_time(seconds) == words


def test_text_is_broken_between_words_and_commands_are_not(monkeypatch):
    monkeypatch.setattr(common, "text_width", lambda: 20)
    text = common.wrapped("one two three four five six\npython train.py --resume runs/a", "name  ", "      ")
    assert text.splitlines() == [
        "name  one two three", "      four five six", "      python train.py --resume runs/a"
    ]


def test_two_runs_at_once_get_two_names(corpus, tmp_path, monkeypatch, capsys):
    """Another process takes runs/custom after this one has chosen it, before it makes the folder."""
    monkeypatch.chdir(tmp_path)
    real = train.build_model

    def late(job):
        if job.folder == Path("runs/custom"):
            job.folder.mkdir(parents=True)
            (job.folder / "run.json").write_text("{}")
        return real(job)
    monkeypatch.setattr(train, "build_model", late)
    values = run(corpus, tmp_path)
    del values["out"]
    made = train.train(**values)
    assert made.folder == Path("runs/custom-2") and (made.folder / "best/config.json").is_file()
    assert [file.name for file in Path("runs/custom").iterdir()] == ["run.json"]
    assert "runs/custom was taken by another run meanwhile" in capsys.readouterr().out
