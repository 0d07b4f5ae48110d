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
import statistics
from pathlib import Path
from typing import Any

from common import UserError, command, find_run, read_json
from data import Corpus, title
from judging.scoreboard import headline
from sample import recommended
from audit import own_card
from audit.cards import Finding, agree, interval, show
from audit.shapes import lora_parameters
from model import ModelConfig, tensor_index
from params import count, embedding_share, kv_cache_bytes

LOGGED = ("loss", "eval_loss", "eval_ppl", "seconds", "tokens_per_second")


def perplexity(loss: float) -> float:
    """exp(loss), infinite where that is more than a float holds."""
    return math.exp(loss) if loss < 700 else math.inf


class Folder:
    """The files of an audit and its findings; `run` is None for a model folder outside a run."""

    def __init__(self, folder: str | Path):
        self.model = find_run(folder)
        self.config = ModelConfig.from_json(self.model / "config.json")
        self.run = next(
            (path for path in (self.model, self.model.parent) if (path / "run.json").is_file()), None
        )
        self.info = self.read_info() if self.run else {}
        self.log = self.read_log()
        card = self.model / "README.md"
        self.card = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
        self.manifest = self.read_manifest()
        self.findings: list[Finding] = []

    def read_manifest(self) -> dict | None:
        """The manifest of the run's corpus; None if the corpus is gone or has changed."""
        try:
            corpus = Corpus(self.info["data"], self.info["settings"]["seq_len"], 1, 1, verify=False)
        except (UserError, KeyError, TypeError, ValueError, OSError):
            return None
        return corpus.manifest if corpus.fingerprint == self.info.get("corpus") else None

    def read_info(self) -> dict[str, Any]:
        """run.json. Raises UserError if it lacks seq_len or batch_size."""
        info = read_json(self.run / "run.json")
        settings = info.get("settings")
        if not isinstance(settings, dict) or not all(
            isinstance(settings.get(name), int) for name in ("seq_len", "batch_size")
        ):
            raise UserError(f"{self.run / 'run.json'}: settings must have integers seq_len and batch_size")
        return info

    def read_log(self) -> list[dict[str, Any]]:
        """The rows of log.jsonl; empty without one. Raises UserError for a line that is not such a row."""
        file = self.run / "log.jsonl" if self.run else None
        if file is None or not file.is_file():
            return []
        rows = []
        for number, line in enumerate(file.read_bytes().splitlines(), 1):
            try:
                row = dict(json.loads(line.decode("utf-8"), parse_constant=lambda _: None))
            except (ValueError, TypeError, RecursionError):
                raise UserError(f"{file}: line {number} is not a JSON object") from None
            names = [name for name in LOGGED if not isinstance(row.get(name, 0), (int, float, type(None)))]
            if names or any(not isinstance(row.get(name), int) for name in ("step", "tokens")):
                raise UserError(
                    f"{file}: line {number} is not a row of a log: step, tokens and {', '.join(LOGGED)} must "
                    "be numbers"
                )
            rows.append(row)
        return rows

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
    settings = folder.info["settings"]
    per_step = settings["seq_len"] * settings["batch_size"]
    wrong = [row["step"] for row in folder.log if row["tokens"] != row["step"] * per_step]
    folder.note(
        "log.jsonl", "tokens", not wrong, f"{len(folder.log)} rows", wrong[:5] or "all",
        f"step * {per_step} tokens in every row",
    )
    evals = [row for row in folder.log if row.get("eval_loss") is not None]
    wrong = [
        row["step"]
        for row in evals
        if not math.isclose(perplexity(row["eval_loss"]), row.get("eval_ppl") or 0, rel_tol=1e-4)
    ]
    folder.note(
        "log.jsonl", "eval_ppl", not wrong, f"{len(evals)} rows", wrong[:5] or "all", "exp(eval_loss)"
    )
    first = next((row for row in folder.log if row.get("loss") is not None), None)
    if first and first["step"] == 1 and not settings.get("init"):
        expected = math.log(folder.config.vocab_size)
        folder.note(
            "log.jsonl", "initial loss", abs(first["loss"] - expected) < 0.2, first["loss"], expected,
            "ln V, within 0.2",
        )


def best(folder: Folder) -> dict[str, Any] | None:
    """The evaluation that best/ was saved at: the last one marked "best", or the first if none is."""
    evals = [row for row in folder.log if row.get("eval_loss") is not None]
    return next((row for row in reversed(evals) if row.get("note") == "best"), evals[0] if evals else None)


def seconds(folder: Folder) -> float:
    """Seconds of all calls of a run, added.

    The clock of the log restarts at 0 with each call, so the last row before each fall counts.
    """
    times = [row.get("seconds") or 0.0 for row in folder.log if "loss" in row]
    times += [row.get("seconds") or 0.0 for row in folder.log if row.get("eval_loss") is not None][-1:]
    return sum(now for now, following in zip(times, [*times[1:], 0.0]) if following < now)


# --------------------------------------------------------------------------------------------------- the card

def expected(folder: Folder) -> dict[str, tuple[Any, str]]:
    """Name in the block `numbers` -> (value computed from the files, how)."""
    config, parts = folder.config, count(folder.config)
    values = {
        "parameters": (parts, "count of config.json"),
        "embedding_share_percent": (embedding_share(config), "embedding and head / total"),
        "weights_bytes": (
            sum(4 * math.prod(shape) for _, shape in tensor_index(folder.model).values()),
            "4 bytes a value of the weights",
        ),
        "kv_cache_bytes_fp16": (
            kv_cache_bytes(config, config.max_position_embeddings),
            "2 * L * K * F * context * 2 bytes",
        ),
        "lora_r16_parameters": (lora_parameters(config, 16), "rank 16 on q, k, v, o"),
    }
    trained = [row for row in folder.log if row.get("loss") is not None]
    if trained:
        settings, last, top = folder.info["settings"], folder.log[-1], best(folder)
        speeds = [row["tokens_per_second"] for row in folder.log if row.get("tokens_per_second")]
        values |= {
            "steps": (last["step"], "last row of log.jsonl"),
            "tokens": (last["tokens"], "last row of log.jsonl"),
            "tokens_per_step": (settings["seq_len"] * settings["batch_size"], "run.json"),
            "tokens_per_parameter": (last["tokens"] / parts["total"], "tokens / parameters"),
            "last_train_loss": (trained[-1]["loss"], "last training row of log.jsonl"),
            "tokens_per_second": (statistics.median(speeds) if speeds else None, "median of log.jsonl"),
            "seconds": (seconds(folder), "log.jsonl, all calls added"),
        }
        evals = [row for row in folder.log if row.get("eval_loss") is not None]
        for key, row in (("best", top), ("last", evals[-1] if evals else None)):
            if row:
                values[f"{key}_eval_loss"] = (row["eval_loss"], f"{key} evaluation of log.jsonl")
                values[f"{key}_eval_ppl"] = (
                    perplexity(row["eval_loss"]), f"exp of the {key} evaluation's loss",
                )
        if top:
            values["best_step"] = (top["step"], "evaluation of log.jsonl that is marked best")
    if results := read_results(folder):
        values["evaluation"] = (results, "evaluation.json")
    return values


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
    """The card's tables of settings, components and evaluations, and its front matter."""
    parts = count(folder.config)
    results = own_card.results_of(read_results(folder))
    losses = {row["step"]: row["loss"] for row in folder.log if "loss" in row}
    rows_of = {row["step"]: row for row in folder.log if row.get("eval_loss") is not None}
    sources = (folder.manifest or {}).get("sources", {})
    named = {title(name, source): name for name, source in sources.items()} | {name: name for name in sources}
    of_today = numbers_block(folder.card).get("card") == own_card.FORM
    for head, rows in markdown_tables(folder.card):
        for row in rows:
            cells = [number_of(cell) for cell in row]
            if head == ["setting", "value"] and hasattr(folder.config, row[0].strip("`")):
                folder.compare(
                    "README.md", f"settings {cells[0]}", cells[1], getattr(folder.config, str(cells[0])),
                    "config.json",
                )
            elif head == ["component", "parameters", "percent"] and row[0] in parts:
                folder.compare(
                    "README.md", f"components {row[0]}", cells[1], parts[row[0]], "count of config.json"
                )
                share = 100 * parts[row[0]] / parts["total"]
                folder.compare("README.md", f"components {row[0]} percent", cells[2], share, "of the total")
            elif head == ["hyper-parameter", "value"] and row[0].strip("`") in folder.info.get(
                "settings", {}
            ):
                folder.compare(
                    "README.md", f"hyper-parameter {cells[0]}", cells[1], folder.info["settings"][cells[0]],
                    "run.json",
                )
            elif head == ["benchmark", "score", "95% interval", "chance"] and row[0] in results:
                score, ends = headline(results[row[0]])
                folder.compare("README.md", f"evaluation {row[0]}", cells[1], score, "evaluation.json")
                folder.compare("README.md", f"evaluation {row[0]} interval", row[2],
                               "{:.4f} to {:.4f}".format(*ends), "evaluation.json")
                chance = results[row[0]].get("chance", "")
                name = f"evaluation {row[0]} chance"
                folder.compare("README.md", name, cells[3], chance, "evaluation.json")
            elif head[0] == "source" and row[0] in named:                     # older cards give the bare name
                stated = [row[1], *cells[2:]]
                known = data_row(folder.manifest, named[row[0]])
                for name, cell, value in zip(head[1:], stated, known, strict=True):
                    folder.compare("README.md", f"data {row[0]} {name}", cell, value, "manifest.json")
            elif head[:5] == ["step", "tokens", "training loss", "validation loss", "perplexity"] and rows_of:
                logged = rows_of.get(cells[0], {})
                if losses.get(cells[0]) is not None:
                    loss = losses[cells[0]]
                    folder.compare("README.md", f"curve {row[0]} training loss", cells[2], loss, "log.jsonl")
                for name, key, cell in (
                    ("tokens", "tokens", 1), ("loss", "eval_loss", 3), ("perplexity", "eval_ppl", 4),
                ):
                    folder.compare(
                        "README.md", f"curve {row[0]} {name}", cells[cell], logged.get(key), "log.jsonl"
                    )
            elif head[0] in own_card.TABLES and of_today:
                folder.note("README.md", f"{head[0]} {row[0]}", False, row[0], None, "no file has this name")
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
    top = best(folder)
    for kind, key in (("loss", "eval_loss"), ("perplexity", "eval_ppl")):
        found = re.search(rf"- type: {kind}\n +value: ([\d.]+)", folder.card)
        if found and top:
            folder.compare(
                "README.md", f"front matter {kind}", number_of(found[1]), top[key],
                "the best evaluation of log.jsonl",
            )


def data_row(manifest: dict[str, Any], source: str) -> list[Any]:
    """What the card's table of data states about a source, after its name."""
    counts, mixture = manifest["sources"][source], manifest["mixture"]
    return [
        manifest["recipe"].get("sources", {}).get(source, ""), counts["train"]["documents"],
        counts["train"]["tokens"], counts["validation"]["tokens"], mixture["start"][source],
        mixture["end"][source],
    ]


def read_results(folder: Folder) -> dict[str, Any]:
    """The content of the run's evaluation.json, {} without one."""
    file = folder.run / "evaluation.json" if folder.run else None
    return read_json(file) if file and file.is_file() else {}


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
    values = {name: value for name, (value, _) in expected(folder).items()}
    heading = re.search(r"^# (.+)$", folder.card, re.MULTILINE)
    name = heading[1] if heading else ""
    gallery = block.get("gallery") if isinstance(block.get("gallery"), dict) else {}
    percent = {key: 100 * gallery.get(key, 0) for key in ("ended", "looping", "replacement_character")}
    use = recommended(config, folder.run)
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
    if folder.manifest:
        values["anneal"] = 100 * folder.manifest["mixture"]["anneal"]
        values["command"] = folder.manifest["command"]
    for key, stated, value, how in own_card.prose(folder.card, values, folder.manifest is not None):
        folder.compare("README.md", f"prose {key} {stated}", number_of(stated), value, how)
    for key, value in own_card.recounted(folder.card).items():
        folder.compare("README.md", f"samples {key}", gallery.get(key), value, "counted in the samples")


def numbers(folder: Folder) -> None:
    """The block `numbers`, name by name; objects are compared value by value."""
    values, block = expected(folder), numbers_block(folder.card)
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
