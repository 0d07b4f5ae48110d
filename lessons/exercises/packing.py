# SPDX-License-Identifier: Apache-2.0
"""Exercise of lesson 03: packing documents into rows.

Grade it with: pytest lessons/exercises/test_packing.py
"""
from __future__ import annotations


def pack(documents: list[list[int]], separator: int, seq_len: int) -> list[list[int]]:
    """Rows of exactly `seq_len` tokens: each document's tokens, then `separator`, one document after the
    other; a document may go on in the next row.

    Every token is used but those of a last row that is not full. No padding.
    """
    raise NotImplementedError("pack in lessons/exercises/packing.py")
