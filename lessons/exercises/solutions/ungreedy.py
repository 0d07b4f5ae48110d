# SPDX-License-Identifier: Apache-2.0
"""A solution of lessons/exercises/ungreedy.py, for teachers."""
from __future__ import annotations

from tokenizer import TokenMonster


def ungreedy_step(tokenizer: TokenMonster, data: bytes, start: int) -> int:
    records, end = tokenizer.vocab.records, len(data) - 1
    longest = tokenizer.longest(data, start, end)
    covered = len(records[longest].token)
    best, best_score = longest, None
    for number, first in enumerate((longest, records[longest].alt1, records[longest].alt2), 1):
        if first is None:
            continue
        second = tokenizer.longest(data, start + len(records[first].token), end)
        if second is None:
            continue
        score = tokenizer.weigh(data, start, covered, 0, number, first, second, 0).score
        if best_score is None or score > best_score:
            best, best_score = first, score
    return best
