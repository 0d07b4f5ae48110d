# SPDX-License-Identifier: Apache-2.0
"""KAGGLE.md: its commands are understood, its notebooks hold them, and preparing runs with local files in
place of the hub.
"""
import itertools
import json
import re
import shlex

import data
from corpus.command import parser, prepare_files
from common import ROOT
from corpus.builtin import builtin_documents
from in_process import run_script
from publishing.kaggle_notebook import write_notebooks

BLOCKS = re.findall(r"```bash\n(.*?)```", (ROOT / "KAGGLE.md").read_text(encoding="utf-8"), flags=re.S)
COMMANDS = [line for block in BLOCKS for line in block.splitlines() if line.strip()]


def test_notebooks_hold_every_command(tmp_path):
    notebooks = write_notebooks(tmp_path)
    assert len(notebooks) == 3
    cells = [cell for path in notebooks for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]]
    code = "\n".join(cell["source"] for cell in cells if cell["cell_type"] == "code")
    assert all(command in code for command in COMMANDS) and code.count("%%bash") == 4


def test_data_commands_are_understood():
    data_commands = [shlex.split(command)[2:] for command in COMMANDS if command.startswith("python data.py")]
    assert [parser().parse_args(arguments).action for arguments in data_commands] == ["prepare", "info"]


def test_training_commands_are_understood(tmp_path):
    """Each `train.py` line with the page's own flags, the folders replaced, up to the first step: --dry-run
    resolves and prints everything.
    """
    (tmp_path / "my.txt").write_text(
        "\n\n".join(itertools.islice(builtin_documents("math"), 300))
    )
    corpus = prepare_files([tmp_path / "my.txt"], tmp_path / "corpus")
    lines = [command[command.index("train.py"):] for command in COMMANDS if "train.py" in command]
    assert len(lines) == 3 and all(
        "--deadline" in line and "--data /kaggle/input/corpus/corpus" in line for line in lines
    )
    for line in lines:
        words = shlex.split(
            line.replace("/kaggle/input/corpus/corpus", str(corpus))
            .replace("--device xla", "--device cpu")
            .replace("/kaggle/", f"{tmp_path}/")
        )
        if "--resume" in words:
            assert words[words.index("--resume") + 1] == f"{tmp_path}/input/run/run-1" and "--out" in words
            continue  # it needs a run; tests/test_train.py resumes from a folder into another
        done = run_script(*words, "--dry-run", "--recipe", "laptop")
        assert done.returncode == 0 and not (tmp_path / "working").exists(), done.stderr


def test_preparing_as_on_the_page_with_local_files(tmp_path):
    texts = list(itertools.islice(builtin_documents("math"), 120))
    for kind in ("web", "code", "math"):
        rows = "".join(json.dumps({"text": f"{kind} {text}"}) + "\n" for text in texts)
        (tmp_path / f"{kind}.jsonl").write_text(rows)
    local = [
        part for kind in ("web", "code", "math") for part in ("--source", f"{kind}={tmp_path / kind}.jsonl")
    ]
    for command in [command for command in COMMANDS if command.startswith("python data.py")]:
        arguments = shlex.split(
            command.replace("/kaggle/working", str(tmp_path))
            .replace("1e9", "20k")
            .replace("4096 --batch", "64 --batch")
        )[1:]
        if "--source" in arguments:
            at, vocab = arguments.index("--source"), arguments.index("--vocab")
            arguments = arguments[:at] + local + arguments[at + 2:vocab] + arguments[vocab + 2:]
        done = run_script(*arguments)
        assert done.returncode == 0, done.stderr
    assert set(data.read_manifest(tmp_path / "corpus")["sources"]) == {"web", "code", "math"}
