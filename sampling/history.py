# SPDX-License-Identifier: Apache-2.0
"""The prompts and answers of a model: `sample.py --history` prints them.

Each call of sample.py appends one line of JSON to a file beside the run.
"""
from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from common import Flow, UserError, colour, for_terminal, json_lines, tell, wrapped
from sampling.answers import Answer, LoadedModel

# Bytes; a longer file is renamed to .old (replacing an earlier .old), and a new file starts.
LIMIT = 4 << 20
SHOWN = ("seed", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_new_tokens")


def history_file(folder: Path) -> Path:
    """`runs/20m.history.jsonl` for `runs/20m/best`; beside a model folder that is not part of a run."""
    folder = Path(os.path.abspath(folder))
    run_folder = folder.parent if (folder.parent / "run.json").is_file() else folder
    return run_folder.with_name(run_folder.name + ".history.jsonl")


def remember(loaded: LoadedModel, prompt: str, answers: list[Answer], seconds: float) -> dict[str, Any]:
    """Append a record of prompt and answers to the file, and return it.

    If the file cannot be written, a note on stderr says so; the answer is not lost.
    """
    tokens = sum(len(answer.ids) for answer in answers)
    kept = []
    for answer in answers:
        made = {"text": answer.text, "ids": answer.ids, "ended": answer.ended, "seed": answer.seed}
        kept.append({**made, **vars(answer.settings)})
    record = {
        "time": time.strftime("%Y-%m-%d %H:%M:%S"), "model": loaded.name, "prompt": prompt, "answers": kept,
        "tokens": tokens, "seconds": round(seconds, 3), "tokens_per_second": round(tokens / seconds, 1),
    }
    file = history_file(loaded.folder)
    try:
        if file.is_file() and file.stat().st_size > LIMIT:
            os.replace(file, file.with_suffix(".old"))
        with open(file, "a", encoding="utf-8") as lines:
            lines.write(json.dumps(record, ensure_ascii=False) + "\n")
    except OSError as error:
        tell(f"note: {file} was not written ({error.strerror})")
    return record


def records(folder: Path) -> list[dict[str, Any]]:
    """All records, oldest first; lines that are not complete (a full disk) are left out."""
    file = history_file(folder)
    if not file.is_file():
        raise UserError(f"{file}: no history yet; the first text that sample.py writes starts it")
    return [record for record in json_lines(file) if is_record(record)]


def is_record(record: Any) -> bool:
    """Whether a line of the file has everything that `show` prints; the file may have been edited."""
    try:
        kept = {"time", "model", "prompt", "tokens", "tokens_per_second"} <= set(record)
        return kept and all({"text", *SHOWN} <= set(answer) for answer in record["answers"])
    except (TypeError, KeyError):
        return False


def show(folder: Path, as_json: bool = False) -> None:
    """Print the history as text, or as one JSON object a line."""
    for record in records(folder):
        if as_json:
            print(json.dumps(record, ensure_ascii=False))
            continue
        speed = f"{record['tokens']} tokens, {record['tokens_per_second']} tokens/s"
        print(colour(for_terminal(f"{record['time']}  {record['model']}  {speed}"), "2"))
        for answer in record["answers"]:
            settings = ", ".join(f"{name} {answer[name]}" for name in SHOWN)
            print(colour(wrapped(settings, "  ", "  "), "2"))
            print(Flow().add(f"{record['prompt']}{answer['text']}\n", last=True))
