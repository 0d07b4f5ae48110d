# SPDX-License-Identifier: Apache-2.0
"""The graders of lessons/exercises: the solutions pass, the stubs are "not written yet", and typical wrong
answers get the line that helps.
"""
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXERCISES = ROOT / "lessons" / "exercises"
NAMES = sorted(file.stem for file in (EXERCISES / "solutions").glob("*.py"))
# exercise -> (part of the solution, what a reader may write instead, what the grader says)
WRONG = {
    "rms_norm": ("mean_square + eps", "mean_square", "eps is missing"),
    "rotary": ("2) / F)", "2) / F / 2)", "the exponent is -j/F"),
    "attention": (
        "repeat_interleave(group, dim=1)",
        "repeat(1, group, 1, 1)",
        "the heads are grouped the other way",
    ),
    "swiglu": (
        "F.silu(x @ gate.t()) * (x @ up.t())",
        "(x @ gate.t()) * F.silu(x @ up.t())",
        "silu is on the up branch",
    ),
    "cross_entropy": (".mean()", ".sum()", "the losses are summed"),
    "adamw": ("w * (1 - lr * decay)", "w", "the weight does not decay"),
    "schedule": ("step / warmup_steps", "(step + 1) / warmup_steps", "the warmup begins above 0"),
    "packing": (
        "[*document, separator]",
        "[separator, *document]",
        "the separator stands before each document",
    ),
    "top_p": ("before < p", "before + probability <= p", "the token that crosses p must be kept"),
    "ungreedy": ("return best", "return longest", "this is greedy"),
}


def grade(answers: Path, *names: str) -> tuple[int, str]:
    """Exit code and output of grading these answers."""
    tests = [str(EXERCISES / f"test_{name}.py") for name in names]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *tests, "--answers", str(answers)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout + done.stderr


def test_every_exercise_has_stub_grader_solution_and_a_wrong_answer():
    stubs = {file.stem for file in EXERCISES.glob("*.py")} - {"conftest", "grading"}
    assert {name for name in stubs if not name.startswith("test_")} == set(NAMES) == set(WRONG)
    assert {name.removeprefix("test_") for name in stubs if name.startswith("test_")} == set(NAMES)


def test_solutions_pass():
    code, printed = grade(EXERCISES / "solutions", *NAMES)
    assert code == 0, printed


def test_stubs_are_not_written_yet():
    code, printed = grade(EXERCISES, *NAMES)
    missing = re.findall(r"^not written yet: \w+ in lessons/exercises/(\w+)\.py", printed, re.MULTILINE)
    assert code == 1 and set(missing) == set(NAMES), printed


def test_stub_and_solution_have_the_same_signature():
    for name in NAMES:
        lines = [next(line for line in file.read_text().splitlines() if line.startswith("def "))
                 for file in (EXERCISES / f"{name}.py", EXERCISES / "solutions" / f"{name}.py")]
        assert lines[0] == lines[1], name


def test_wrong_answers_get_the_line_that_helps(tmp_path):
    for name, (right, wrong, _) in WRONG.items():
        text = (EXERCISES / "solutions" / f"{name}.py").read_text()
        assert right in text, f"the solution of {name} no longer holds {right!r}"
        (tmp_path / f"{name}.py").write_text(text.replace(right, wrong))
    code, printed = grade(tmp_path, *NAMES)
    silent = {name: message for name, (_, _, message) in WRONG.items() if message not in printed}
    assert code == 1 and not silent, (silent, printed)


def test_a_missing_or_renamed_answer_is_named(tmp_path):
    shutil.copy(EXERCISES / "solutions" / "rms_norm.py", tmp_path / "top_p.py")
    code, printed = grade(tmp_path, "top_p", "swiglu")
    assert code == 1 and "defines no top_p" in printed and "swiglu.py is missing: copy it" in printed, printed
