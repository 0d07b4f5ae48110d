# SPDX-License-Identifier: Apache-2.0
"""A folder of ours: the numbers of its model card against its files (`python params.py --audit FOLDER`).

FOLDER is a run (run.json, log.jsonl, best/) or a model folder. The card is README.md beside the weights. Its
numbers are in four places: the fenced block ```json numbers```, in which `publishing/card.py` repeats each
figure under a name; its Markdown tables; its sentences (audit/own_card.py); the metrics of its front matter.
This file computes them again, from config.json, the header of the weights, run.json, log.jsonl,
evaluation.json and the manifest of the corpus. A number that no file gives is "not checkable". Numbers agree
if they are equal to the last stated digit (see audit/cards.py).
"""
from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

from common import UserError, command, find_run
from sample import recommended
from audit import own_card
from audit.cards import Finding, agree, interval, show
from model import ModelConfig, tensor_index
from params import count
from training.read_run import read_run

# Column of a table -> what follows the row's name in a finding; of other columns it is their own name.
COLUMNS = {"value": "", "parameters": "", "score": "", "95% interval": " interval",
           "validation loss": " loss"}
LOGGED = ("loss", "eval_loss", "eval_ppl", "seconds", "tokens_per_second")


class Folder:
    """The files of an audit and its findings; `run` is None for a model folder outside a run."""

    def __init__(self, folder: str | Path):
        self.model = find_run(folder)
        self.config = ModelConfig.from_json(self.model / "config.json")
        homes = [path for path in (self.model, self.model.parent) if (path / "run.json").is_file()]
        self.run = read_run(homes[0]) if homes else None
        self.info = self.run.info if self.run else {}
        self.log = self.run.rows if self.run else []
        if self.run:
            check_log(self.run.folder / "log.jsonl")
        card = self.model / "README.md"
        self.card = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
        self.findings: list[Finding] = []

    def note(
        self, source: str, name: str, holds: bool | None, stated: Any, computed: Any, formula: str
    ) -> None:
        """Record one finding; `source` is the file that states it, `name` what it states."""
        verdict = "not checkable" if holds is None else "consistent" if holds else "inconsistent"
        self.findings.append(
            Finding(
                f"{source}.{name}", source, name, self.model.name, stated, computed, formula, None, verdict
            )
        )

    def compare(self, source: str, name: str, stated: Any, computed: Any, formula: str) -> None:
        """Compare a stated number with a computed one, within its rounding; other values must be equal."""
        holds = stated == computed
        numbers = all(
            isinstance(value, (int, float)) and not isinstance(value, bool) for value in (stated, computed)
        )
        if numbers and not holds and math.isfinite(stated) and not math.isnan(computed):
            low, high = interval(str(stated).lstrip("-"), exact=isinstance(stated, int))
            holds = agree((low, high) if stated >= 0 else (-high, -low), computed)
        self.note(source, name, holds, stated, computed, formula)


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
    total = sum(math.prod(shape) for shape in found.values())
    folder.compare(
        "model.safetensors", "parameters", total, count(folder.config)["total"], "count of config.json"
    )
    if folder.info:
        folder.compare(
            "run.json", "parameters", folder.info.get("parameters"), total,
            "sum over the tensors of the weights",
        )
        shape = dataclasses.asdict(folder.config)
        folder.compare("run.json", "model", folder.info.get("model"), shape, "config.json")


def log(folder: Folder) -> None:
    """The rows of log.jsonl against run.json and against each other."""
    if not folder.log:
        return
    run = folder.run
    wrong = [row["step"] for row in folder.log if row["tokens"] != row["step"] * run.tokens_per_step]
    folder.note(
        "log.jsonl", "tokens", not wrong, f"{len(folder.log)} rows", wrong[:5] or "all",
        f"step * {run.tokens_per_step} tokens in every row",
    )
    wrong = [row["step"] for row in run.evals if not math.isclose(
        own_card.perplexity(row["eval_loss"]), row.get("eval_ppl") or 0, rel_tol=1e-4)]
    folder.note(
        "log.jsonl", "eval_ppl", not wrong, f"{len(run.evals)} rows", wrong[:5] or "all", "exp(eval_loss)"
    )
    first = next((row for row in folder.log if row.get("loss") is not None), None)
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
        return dict(json.loads(found[2], parse_float=Written))
    except (ValueError, TypeError) as error:
        raise UserError(f"README.md: the block \"json numbers\" is not a JSON object ({error})") from None


def markdown_tables(card: str) -> list[tuple[list[str], list[list[str]]]]:
    """(head, rows) of every Markdown table outside code fences, each row with as many cells as the head."""
    text = re.sub(r"^(`{3,}).*?^\1$", "", card, flags=re.MULTILINE | re.DOTALL)
    found = []
    for block in re.findall(r"(?:^\|.*\|\n?)+", text, re.MULTILINE):
        lines = [
            [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            for line in block.splitlines()
        ]
        if len(lines) > 2:
            head, width = lines[0], len(lines[0])
            found.append((head, [(row + [""] * width)[:width] for row in lines[2:]]))
    return found


class Written(float):
    """A number as a card writes it: `str` keeps the zeros at its end, which say how it was rounded."""

    def __new__(cls, text: str) -> Written:
        number = super().__new__(cls, text)
        number.text = text
        return number

    def __str__(self) -> str:
        return self.text


def number_of(cell: str) -> float | int | str:
    """A table's cell as a number if it is one. Integers stay integers, to be compared exactly."""
    text = cell.strip("`").replace(",", "")
    try:
        return int(text) if re.fullmatch(r"-?\d+", text) else Written(text)
    except ValueError:
        return {"True": True, "False": False}.get(text, text)


def tables(folder: Folder) -> None:
    """The card's tables, cell by cell, and its front matter."""
    known = own_card.tables(folder.config, folder.run)
    sources = known.get("source", {})
    of_today = numbers_block(folder.card).get("card") == own_card.FORM
    if not of_today:                                              # older cards give the bare name: web
        sources |= {re.sub(r".* \((.*)\)", r"\1", name): row for name, row in sources.items()}
    for head, rows in markdown_tables(folder.card):
        label, file = own_card.TABLES.get(head[0], ("", ""))
        for name, *cells in rows if label else []:
            row = known.get(head[0], {}).get(name.strip("`"))
            if row is None and (of_today or head[0] == "step"):
                holds = False if known.get(head[0]) else None     # None: the file is gone
                folder.note("README.md", f"{label} {name}", holds, name, None, f"{file} has no such name")
            for column, cell in zip(head[1:], cells) if row else []:
                unknown = cell == "" and row.get(column) is None
                if column in row and column != "note" and not unknown:
                    stated = cell if isinstance(row[column], str) else number_of(cell)
                    what = f"{label} {name.strip('`')}{COLUMNS.get(column, ' ' + column)}"
                    folder.compare("README.md", what, stated, row[column], file)
    front = re.search(r"^ +dataset: (.+)$", folder.card, re.MULTILINE)
    if front and folder.log:
        data, corpus = Path(str(folder.info.get("data"))).name, str(folder.info.get("corpus"))
        known = [json.dumps({"name": f"validation split of {data}", "type": kind})
                 for kind in (data, corpus[:16])]                 # older cards give the fingerprint
        stated = front[1]
        folder.compare("README.md", "front matter dataset", stated, stated if stated in known else known[0],
                       "run.json")
    licence = re.search(r"^license: (.+)$", folder.card, re.MULTILINE)
    if licence:
        folder.compare("README.md", "front matter license", licence[1], "apache-2.0", "the project's licence")
    top = folder.run and folder.run.best
    for kind, key in (("loss", "eval_loss"), ("perplexity", "eval_ppl")):
        found = re.search(rf"- type: {kind}\n +value: ([\d.]+)", folder.card)
        if found and top:
            folder.compare(
                "README.md", f"front matter {kind}", number_of(found[1]), top.get(key),
                "the best evaluation of log.jsonl",
            )


def sentences(folder: Folder) -> None:
    """The numbers in the card's sentences."""
    block = numbers_block(folder.card)
    if not block or not folder.log:
        return
    if block.get("card") != own_card.FORM:
        how = "the sentences of an older card; write it again with python -m publishing.card RUN"
        holds = None if block.get("card") in (None, *range(own_card.FORM)) else False
        folder.note("README.md", "prose", holds, block.get("card"), own_card.FORM, how)
        return
    settings, info, config = folder.info["settings"], folder.info, folder.config
    computed = own_card.numbers(folder.model, config, folder.run)
    values = {name: value for name, (value, _) in computed.items()}
    heading = re.search(r"^# (.+)$", folder.card, re.MULTILINE)
    name = heading[1] if heading else ""
    gallery = block.get("gallery") if isinstance(block.get("gallery"), dict) else {}
    percent = {key: 100 * gallery.get(key, 0) for key in ("ended", "looping", "replacement_character")}
    use = recommended(config, folder.run.folder)
    total = values["parameters"]["total"]
    versions = info.get("versions") if isinstance(info.get("versions"), dict) else {}
    values |= {**dataclasses.asdict(config), **gallery, **percent, "name": name, "total": total}
    values |= {f"use_{key}": getattr(use, key) for key in own_card.GALLERY_SETTINGS}
    copied = ("corpus", "vocabulary", "precision_reason", "device", "git_commit")
    values |= {key: info.get(key) for key in copied}
    values |= dict(zip(("beta1", "beta2", "eps"), own_card.adamw(settings)))
    values |= {
        "size": "own" if settings.get("model") else str(settings.get("size")),
        "init": Path(settings["init"]).name if isinstance(settings.get("init"), str) else None,
        "seq_len": settings["seq_len"],
        "precision": str(settings.get("precision")),
        "replicas": info.get("replicas"),
        "versions": ", ".join(f"{key} {value}" for key, value in versions.items()),
        "notes": info["notes"] if isinstance(info.get("notes"), list) else [],
        "identifier": re.sub(r"[^0-9A-Za-z]+", "_", name),
        "millions": total / 1e6,
    }
    manifest = folder.run.manifest
    if manifest:
        values["anneal"] = 100 * manifest["mixture"]["anneal"]
        values["command"] = manifest["command"]
    for key, stated, value, how in own_card.prose(folder.card, values, manifest is not None):
        folder.compare("README.md", f"prose {key} {stated}", number_of(stated), value, how)
    for key, value in own_card.recounted(folder.card).items():
        folder.compare("README.md", f"samples {key}", gallery.get(key), value, "counted in the samples")


def numbers(folder: Folder) -> None:
    """The block `numbers`, name by name; objects are compared value by value."""
    values = own_card.numbers(folder.model, folder.config, folder.run)
    if folder.run and folder.run.results:
        values["evaluation"] = (folder.run.results, "evaluation.json")
    block = numbers_block(folder.card)
    if block.get("card") == own_card.FORM:                        # a name that is missing was changed
        block = dict.fromkeys(values.keys() - {"evaluation"}) | block
    for name, stated in block.items():
        if name == "card":                                        # which sentences it has; see `sentences`
            continue
        computed, formula = values.get(name, (None, "no file of the folder has it"))
        if name not in values:
            folder.note("README.md", f"numbers.{name}", None, stated, None, formula)
        elif isinstance(stated, dict) and isinstance(computed, dict):
            for key in {**stated, **computed}:
                folder.compare(
                    "README.md", f"numbers.{name}.{key}", stated.get(key), computed.get(key), formula
                )
        else:
            folder.compare("README.md", f"numbers.{name}", stated, computed, formula)


def audit_folder(path: str | Path) -> list[Finding]:
    """All findings on a folder. Raises UserError where it holds no model, or a file of it cannot be read."""
    folder = Folder(path)
    for part in (weights, log, numbers, tables, sentences):
        part(folder)
    if not folder.card:
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
