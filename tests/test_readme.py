# SPDX-License-Identifier: Apache-2.0
"""Every command of README.md runs, shortened by flags where it is long, from an empty folder; the frozen list
of train.py's flags.
"""
import dataclasses
import functools
import re
import shlex
import shutil
from pathlib import Path
from typing import Iterator

import pytest

import train
from corpus import builtin
from in_process import run_script
from params import CARD_OF, count
from model import SIZES
from publishing import card
from training import learned

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHORT = shlex.split(
    "--steps 3 --seq-len 32 --batch-size 2 --eval-steps 3 --max-eval-samples 2 --device cpu"
)
MAIN_JOB = "python train.py --size tiny"                # run once, for all tests of this file
# the set-up and the test command themselves
NOT_RUN = ("python3 -m venv", "pip install", ". .venv", "pytest")


def commands() -> list[str]:
    """Lines of sh blocks and the first column of tables, as far as they are commands; each once."""
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL))
    found = [part.strip() for line in blocks.splitlines() for part in line.split("&&") if part.strip()]
    found += re.findall(r"^\| `(python [^`]+)`", README, flags=re.MULTILINE)
    found += re.findall(
        r"(?<!\| )`(python (?:train|sample|params|tokenizer|data|evaluate)\.py [^`]+)`", README
    )
    found = [command for command in dict.fromkeys(found) if not any(word in command for word in NOT_RUN)]
    # run by test_data_prepare.py, on local files, by test_lessons.py and by test_xla.py
    elsewhere = ("--source hub", "python lessons/", "--device xla")
    found = [command for command in found if not any(word in command for word in elsewhere)]
    return sorted(found, key=lambda command: "--size 20m" in command)   # last: --resume takes the newest run


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Iterator[Path]:
    """A folder with the user's files that the README speaks of, a twentieth of the built-in corpus, and one
    short run to sample from. What the runs write as samples is short.
    """
    folder = tmp_path_factory.mktemp("readme")
    prose = "\n\n".join(
        f"The {word} of number {i} went home, and it was not the last to do so."
        for i in range(300)
        for word in ("cat", "dog", "crow")
    )
    (folder / "my.txt").write_text(prose)
    (folder / "my_texts").mkdir()
    (folder / "my_texts" / "one.txt").write_text(prose)
    (folder / "my_programs").mkdir()
    shutil.copy(ROOT / "common.py", folder / "my_programs")
    shutil.copy(ROOT / "train.py", folder / "my_programs")
    with pytest.MonkeyPatch.context() as patch:
        for name, kind in builtin.KINDS.items():
            patch.setitem(builtin.KINDS, name, dataclasses.replace(kind, documents=kind.documents // 20))
        patch.setattr(learned, "continuations", functools.partial(learned.continuations, most=20))
        patch.setattr(card, "STENTOR3", dataclasses.replace(card.STENTOR3, max_new_tokens=5))
        assert run(folder, MAIN_JOB).strip()
        shutil.copytree(folder / "runs" / "tiny", folder / "runs" / "20m")
        yield folder


def run(folder: Path, command: str) -> str:
    words = shlex.split(command)
    script = words[1]
    if script == "train.py" and "--dry-run" not in words and "--resume" not in words:
        words += SHORT
    if script == "tokenizer.py" and "4096" in words:
        words[words.index("4096")] = "400"
    if script == "evaluate.py" and "--curve" not in words:
        words += ["--limit", "20"]
    if script == "sample.py":
        words += ["--max-new-tokens", "5"]
    done = run_script(script, *words[2:], folder=folder)
    assert done.returncode == 0, f"{command}\n{done.stdout[-1500:]}\n{done.stderr[-1500:]}"
    return done.stdout


def test_readme_has_commands():
    assert len(commands()) >= 10 and MAIN_JOB in commands() and len(README.splitlines()) < 200


@pytest.mark.parametrize("command",
    [pytest.param(command,
        marks=pytest.mark.ci if "train builtin" in command else ())
        for command in commands() if command != MAIN_JOB])
def test_command_of_the_readme_runs(workplace, command):
    if "info corpora/mine" in command and not (workplace / "corpora" / "mine").exists():
        run(workplace, next(other for other in commands() if "--out corpora/mine" in other))
    if "--audit runs/tiny" in command:      # a card that is older than an evaluation is found, and rightly so
        assert run_script("publishing/card.py", "runs/tiny", folder=workplace).returncode == 0
    assert run(workplace, command).strip()


def test_size_table_is_true():
    rows = re.findall(
        r"^\| `([\w-]+)` \| ([^|]+) \| ([\d,]+) \| ([\d,]+) \| (\d+) / (\d+) \| (\d+) \| (\d+) / (\d+)"
        r" \| ([\d,]+) \|$",
        README,
        re.MULTILINE,
    )
    assert {row[0] for row in rows} >= {"tiny", *CARD_OF}
    own_head = re.search(r"(.+) have an output head of their own", README)[1]
    for name, _, total, *numbers in rows:
        config = SIZES[name]
        stated = [int(number.replace(",", "")) for number in numbers]
        assert int(total.replace(",", "")) == count(config)["total"]
        assert stated == [
            config.vocab_size,
            config.hidden_size,
            config.intermediate_size,
            config.num_hidden_layers,
            config.num_attention_heads,
            config.num_key_value_heads,
            config.max_position_embeddings,
        ]
        assert (f"`{name}`" in own_head) != config.tie_word_embeddings


def test_flags_of_train_are_frozen():
    """A flag is a liability: adding one means adding it here."""
    flags = [field.name for field in dataclasses.fields(train.TrainSettings) if "help" in field.metadata]
    assert flags == [
        "size",
        "data",
        "out",
        "resume",
        "init",
        "recipe",
        "precision",
        "device",
        "steps",
        "tokens",
        "epochs",
        "stop_after",
        "deadline",
        "seq_len",
        "batch_size",
        "micro_batch",
        "learning_rate",
        "warmup_steps",
        "schedule",
        "stable_steps",
        "weight_decay",
        "max_grad_norm",
        "seed",
        "eval_steps",
        "best_eval_start_step",
        "max_eval_samples",
        "logging_steps",
        "recompute",
        "loss_chunk",
        "fused",
        "compile",
        "skip_nonfinite",
        "document_mask",
        "snapshots",
        "dry_run",
    ]
