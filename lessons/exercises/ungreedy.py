# SPDX-License-Identifier: Apache-2.0
"""Exercise of lesson 02: one step of the ungreedy tokenizer.

Grade it with: pytest lessons/exercises/test_ungreedy.py
"""
from __future__ import annotations

from tokenizer import TokenMonster


def ungreedy_step(tokenizer: TokenMonster, data: bytes, start: int) -> int:
    """The number of the record to take at `start`, found by looking one token further.

    The candidates are the longest record at `start` and its two shorter alternatives (`alt1` and `alt2` of
    `tokenizer.vocab.records[number]`, None where there is none). For each candidate:

    * `tokenizer.longest(data, middle, len(data) - 1)` finds what could follow at `middle`, the place where
      the candidate ends. If it is None, nothing follows, and the candidate cannot be chosen.
    * `tokenizer.weigh(data, start, covered, 0, number, first, second, 0).score` is the score of the pair.
      `covered` is the length of the longest token; `number` is 1 for the longest candidate, 2 and 3 for its
      alternatives.

    The highest score wins; of equal scores, the earlier candidate. Do not consider pairs with a delete token
    between the two.
    `data` ends in a zero byte that is not part of the text.
    """
    raise NotImplementedError("ungreedy_step in lessons/exercises/ungreedy.py")
