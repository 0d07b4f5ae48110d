# SPDX-License-Identifier: Apache-2.0
"""Exercise of lesson 02: one step of the ungreedy tokenizer.

Grade it with: pytest lessons/exercises/test_ungreedy.py
"""
from __future__ import annotations

from tokenizer import TokenMonster


def ungreedy_step(tokenizer: TokenMonster, data: bytes, start: int) -> int:
    """The number of the record to take at `start`, found by looking one token further.

    A record is a token of the vocabulary: `tokenizer.vocab.records[i].token` are the bytes of number i.
    `data` ends in a zero byte that is not part of the text. So `tokenizer.longest(data, start, len(data) -
    1)` is the number of the longest record at `start`. The candidates are this one and its two shorter
    alternatives (the fields `alt1` and `alt2` of its record: numbers, or None where there is none). For each
    candidate `first`:

    * `second`, found by `tokenizer.longest` in the same way, is what could follow where the candidate ends.
      If it is None, nothing follows, and the candidate cannot be chosen.
    * `tokenizer.weigh(data, start, covered, 0, number, first, second, 0).score` is the score of the pair.
      `covered` is the length in bytes of the longest token; `number` is 1 for the longest candidate, 2 and 3
      for its alternatives.

    The highest score wins; of equal scores, the earlier candidate. If no candidate can be chosen, take the
    longest. (The real encoder also tries pairs with a marker between the two; leave them out.)
    """
    raise NotImplementedError("ungreedy_step in lessons/exercises/ungreedy.py")
