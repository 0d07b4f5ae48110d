# SPDX-License-Identifier: Apache-2.0
"""What an item of a multiple-choice file must have, beyond the types of its fields: `evaluate.py --choices`
asks before it scores.
"""
from __future__ import annotations

import re
from pathlib import Path

from common import UserError


def check_item(path: str | Path, number: int, item: dict) -> None:
    """Raise UserError if an item of a multiple-choice file cannot be scored."""
    choices, labels = item["choices"], item.get("labels")
    label_is_good = isinstance(item.get("label"), int) and 0 <= item["label"] < len(choices)
    if labels is not None:
        label_is_good = (
            isinstance(labels, list)
            and len(labels) == len(choices)
            and all(label in (0, 1) for label in labels)
            and any(labels)
        )
    rules = {
        "choices must be two or more texts": len(choices) > 1
        and all(isinstance(choice, str) and choice for choice in choices),
        "kind must be question, continuation or cloze": item["kind"] in ("question", "continuation", "cloze"),
        "a cloze has one _ in its context, and text after it": item["kind"] != "cloze"
        or re.fullmatch(r"[^_]*_[^_]*\S[^_]*", item["context"]),
        "label must be the index of a choice, or labels 0 or 1 for each, with at least one 1": label_is_good,
    }
    broken = [rule for rule, kept in rules.items() if not kept]
    if broken:
        raise UserError(f"{path}, item {number}: {broken[0]}")


def check_words(boundary: str, prompt: str) -> None:
    """Raise UserError for a way to cut or to join that there is not: another spelling would silently be
    another score.
    """
    for name, value, known in (
        ("boundary", boundary, ("bytes", "lm-eval")),
        ("prompt", prompt, ("plain", "lm-eval")),
    ):
        if value not in known:
            raise UserError(f"unknown {name} {value!r}; choose from {', '.join(known)}")
