# SPDX-License-Identifier: Apache-2.0
"""A folder of ours: its files against each other, and its model card against them.

    python params.py --audit FOLDER

FOLDER is a run (run.json, log.jsonl, best/) or a model folder. The card is README.md beside the weights. Its
block `json numbers` is compared name by name. For everything else the card is written again from the files of
the run, and each word of the card that has a digit must be in its place there. The texts of the samples are
not checked: no file repeats them.
"""
from __future__ import annotations

import dataclasses
import difflib
import json
import math
import re
from pathlib import Path
from typing import Any

from audit.cards import Finding, show, verdict_of
from common import UserError, command, find_run
from model import ModelConfig, tensor_index
from params import count
from publishing.card import FORM, GALLERY_SETTINGS, card_text, check_complete, measured, numbers
from training.read_run import read_run

LOGGED = ("loss", "eval_loss", "eval_ppl", "seconds", "tokens_per_second")
SAMPLES = re.compile(r"tokens, seed \S+\n\n(.*)\n\nOf these answers ", re.DOTALL)


class Folder:
    """The files of an audit and its findings; `run` is None for a model folder outside a run."""

    def __init__(self, folder: str | Path):
        self.model = find_run(folder)
        self.config = ModelConfig.from_json(self.model / "config.json")
        homes = [path for path in (self.model, self.model.parent) if (path / "run.json").is_file()]
        self.run = read_run(homes[0]) if homes else None
        if self.run:
            check_log(self.run.folder / "log.jsonl")
        card = self.model / "README.md"
        self.card = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
        self.findings: list[Finding] = []

    def note(
        self, source: str, name: str, holds: bool | None, stated: Any, computed: Any, formula: str
    ) -> None:
        """Record one finding; `source` is the file that states it, `name` what it states."""
        self.findings.append(Finding(f"{source}.{name}", source, name, self.model.name, stated, computed,
                                     formula, None, verdict_of(holds)))


def check_log(file: Path) -> None:
    """Raise UserError for a line of a log.jsonl that is not a row of a log."""
    lines = file.read_bytes().splitlines() if file.is_file() else []
    for number, line in enumerate(lines, 1):
        try:
            row = dict(json.loads(line.decode("utf-8"), parse_constant=lambda _: None))
        except (ValueError, TypeError, RecursionError):
            raise UserError(f"{file}: line {number} is not a JSON object") from None
        names = [name for name in LOGGED if not isinstance(row.get(name, 0), (int, float, type(None)))]
        if names or any(not isinstance(row.get(name), int) for name in ("step", "tokens")):
            raise UserError(f"{file}: line {number} is not a row of a log: step, tokens and "
                            f"{', '.join(LOGGED)} must be numbers")


# ------------------------------------------------------------------------------------------- files of the run

def weights(folder: Folder) -> None:
    """The header of the weights against config.json."""
    index = tensor_index(folder.model)
    found = {name: shape for name, (_, shape) in index.items() if not name.endswith("inv_freq")}
    if folder.config.tie_word_embeddings:
        found.pop("lm_head.weight", None)
    total, right = sum(math.prod(shape) for shape in found.values()), count(folder.config)["total"]
    folder.note("model.safetensors", "parameters", total == right, total, right, "count of config.json")
    if folder.run:
        stated, shape = folder.run.info, dataclasses.asdict(folder.config)
        folder.note("run.json", "parameters", stated.get("parameters") == total, stated.get("parameters"),
                    total, "sum over the tensors of the weights")
        folder.note("run.json", "model", stated["model"] == shape, stated["model"], shape, "config.json")


def log(folder: Folder) -> None:
    """The rows of log.jsonl against run.json and against each other."""
    run = folder.run
    if run is None or not run.rows:
        return
    wrong = [row["step"] for row in run.rows if row["tokens"] != row["step"] * run.tokens_per_step]
    folder.note(
        "log.jsonl", "tokens", not wrong, f"{len(run.rows)} rows", wrong[:5] or "all",
        f"step * {run.tokens_per_step} tokens in every row",
    )
    wrong = [row["step"] for row in run.evals if not math.isclose(
        math.exp(min(row["eval_loss"], 700)), row.get("eval_ppl") or 0, rel_tol=1e-4)]
    folder.note(
        "log.jsonl", "eval_ppl", not wrong, f"{len(run.evals)} rows", wrong[:5] or "all", "exp(eval_loss)"
    )
    first = next((row for row in run.rows if row.get("loss") is not None), None)
    if first and first["step"] == 1 and not run.settings.get("init"):
        expected = math.log(folder.config.vocab_size)
        folder.note(
            "log.jsonl", "initial loss", abs(first["loss"] - expected) < 0.2, first["loss"], expected,
            "ln V, within 0.2",
        )


# --------------------------------------------------------------------------------------------------- the card

def numbers_block(card: str) -> dict[str, Any]:
    """The object in the card's block `json numbers`; {} without one. Raises UserError for bad JSON."""
    found = re.search(r"^(`{3,})json numbers\n(.*?)^\1$", card, re.MULTILINE | re.DOTALL)
    if not found:
        return {}
    try:
        return dict(json.loads(found[2]))
    except (ValueError, TypeError) as error:
        raise UserError(f"README.md: the block \"json numbers\" is not a JSON object ({error})") from None


def sections(card: str) -> dict[str, list[str]]:
    """Heading -> words of a card."""
    parts = re.split(r"^## (.+)$", card, flags=re.MULTILINE)
    return {title: re.findall(r"[^\s|]+", text) for title, text in zip(["", *parts[1::2]], parts[::2])}


def card(folder: Folder) -> None:
    """The card's numbers, and its words beside those of a card that is written from the files now."""
    text, run, block = folder.card, folder.run, numbers_block(folder.card)
    form, asked = block.get("card"), block.get("gallery")
    if form != FORM:
        older = form is None or form in range(1, FORM)
        folder.note("README.md", "card", None if older else False, form, FORM,
                    "the form of today's cards; write it again with: python -m publishing.card RUN")
        return
    samples = SAMPLES.search(text)
    shown, asked = samples[1] if samples else "", asked if isinstance(asked, dict) else {}
    gallery = measured(shown) | {name: asked.get(name) for name in (*GALLERY_SETTINGS, "seed")}
    computed = numbers(folder.model, folder.config, run) | {"gallery": (gallery, "counted in the samples")}
    results = run.results if run and "evaluation" in block else {}
    if results:
        computed["evaluation"] = (results, "evaluation.json")
    for name, (value, how) in computed.items():
        folder.note("README.md", f"numbers.{name}", block.get(name) == value, block.get(name), value, how)
    if run is None:
        return
    check_complete(run)
    heading = re.search(r"^# (.+)$", text, re.MULTILINE)
    again = sections(card_text(run, heading[1] if heading else "", "", gallery, results))
    gone = {"Data": run.manifest is None, "Evaluation": "evaluation" in block and not results}
    if gone["Data"]:
        text = re.sub(r"^datasets: .*", "", text, flags=re.MULTILINE)
    for title, words in sections(text.replace(shown, "") if shown else text).items():
        if title in again and title != "Numbers":
            compare(folder, title, words, again[title], gone.get(title, False))


def compare(folder: Folder, title: str, words: list[str], right: list[str], gone: bool) -> None:
    """Record a finding for each word with a digit of a section; `gone`: its file is no longer there."""
    for kind, a, b, c, d in difflib.SequenceMatcher(None, words, right, False).get_opcodes():
        for place in range(a, b):
            if re.search(r"\d", words[place]):
                equal = kind == "equal"
                computed = words[place] if equal else " ".join(right[c:d])
                before = " ".join(words[max(0, place - 4):place])
                folder.note("README.md", f"{title}: {before}", equal or (None if gone else False),
                            words[place], computed, "the card, written again from the files")


def audit_folder(path: str | Path) -> list[Finding]:
    """All findings on a folder. Raises UserError where it holds no model, or a file of it cannot be read."""
    folder = Folder(path)
    weights(folder)
    log(folder)
    if folder.card:
        card(folder)
    else:
        folder.note(
            "README.md", "card", None, None, None,
            f"no model card here; write one with: {command('-m', 'publishing.card', path)}",
        )
    return folder.findings


def main(path: str, as_json: bool, full: bool = False) -> int:
    """Audit FOLDER and print the findings; exit code 1 if a file of ours contradicts another."""
    findings = audit_folder(path)
    show(findings, [], as_json, full)
    return 1 if any(finding.verdict == "inconsistent" for finding in findings) else 0
