# SPDX-License-Identifier: Apache-2.0
"""Exercise of lesson 02: one step of the ungreedy tokenizer.

Grade it with: pytest lessons/exercises/test_ungreedy.py
"""
from __future__ import annotations

from tokenizer import TokenMonster


def ungreedy_step(tokenizer: TokenMonster, data: bytes, start: int) -> int:
    """The number of the record whose token is emitted at `start`, by looking one token further.

    The candidates are the longest record at `start` and its two shorter alternatives (`alt1` and `alt2` of
    `tokenizer.vocab.records[number]`, None where there is none). For each:

    * `tokenizer.longest(data, middle, len(data) - 1)` finds what could follow at `middle`, the place where
      the
      candidate ends (None: nothing follows, the candidate is out);
    * `tokenizer.weigh(data, start, covered, 0, number, first, second, 0).score` is the pair's score, with
      `covered`
      the length of the longest token, and `number` 1, 2 or 3 for candidate, first and second alternative.

    The highest score wins, the earlier of equals. Pairs with a delete token in between are left out here.
    `data` ends in a zero byte that is not part of the text.
    """
    raise NotImplementedError("ungreedy_step in lessons/exercises/ungreedy.py")
