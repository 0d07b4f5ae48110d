# SPDX-License-Identifier: Apache-2.0
"""What a model was asked and said: one line of JSON per call of sample.py, in a file beside the run.
`sample.py --history` prints it.
"""
from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from common import UserError, colour
from sample import Answer, Source

LIMIT = 4 << 20  # bytes; a longer file is renamed to .old, over the one before, and a new one is begun


def history_file(folder: Path) -> Path:
    """`runs/20m.history.jsonl` for `runs/20m/best`; beside the folder itself for a model folder that belongs
    to no run.
    """
    folder = folder.resolve()
    run_folder = folder.parent if (folder.parent / "run.json").is_file() else folder
    return run_folder.with_name(run_folder.name + ".history.jsonl")


def remember(source: Source, prompt: str, answers: list[Answer], seconds: float) -> dict:
    """Append a record of what was asked and said, and return it. A place that cannot be written is no reason
    to lose the answer: it is noted.
    """
    tokens = sum(len(answer.ids) for answer in answers)
    kept = [
        {
            "text": answer.text,
            "ids": answer.ids,
            "ended": answer.ended,
            "seed": answer.seed,
            **vars(answer.settings),
        }
        for answer in answers
    ]
    record = {
        "time": time.strftime("%Y-%m-%d %H:%M:%S"),
        "model": source.name,
        "prompt": prompt,
        "answers": kept,
        "tokens": tokens,
        "seconds": round(seconds, 3),
        "tokens_per_second": round(tokens / seconds, 1),
    }
    file = history_file(source.folder)
    try:
        if file.is_file() and file.stat().st_size > LIMIT:
            os.replace(file, file.with_suffix(".old"))
        with open(file, "a", encoding="utf-8") as lines:
            lines.write(json.dumps(record, ensure_ascii=False) + "\n")
    except OSError as error:
        print(f"note: {file} was not written ({error.strerror})", file=sys.stderr)
    return record


def records(folder: Path) -> list[dict]:
    """All records, oldest first; a line that was cut off (a full disk) is left out."""
    file = history_file(folder)
    if not file.is_file():
        raise UserError(f"{file}: no history yet; it begins with the first text that sample.py writes")
    found = []
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return [record for record in found if isinstance(record, dict) and "answers" in record]


def show(folder: Path, as_json: bool = False) -> None:
    """Print the history for people, or one JSON object a line."""
    for record in records(folder):
        if as_json:
            print(json.dumps(record, ensure_ascii=False))
            continue
        print(
            colour(
                f"{record['time']}  {record['model']}  {record['tokens']} tokens, {record['tokens_per_second']} tokens/s",
                "2",
            )
        )
        for answer in record["answers"]:
            names = ("seed", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_new_tokens")
            print(colour("  " + "  ".join(f"{name} {answer[name]}" for name in names), "2"))
            print(f"{record['prompt']}{answer['text']}\n")
