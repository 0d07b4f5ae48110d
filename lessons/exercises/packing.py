# SPDX-License-Identifier: Apache-2.0
"""Exercise of lesson 03: packing documents into rows.

Grade it with: pytest lessons/exercises/test_packing.py
"""
from __future__ import annotations


def pack(documents: list[list[int]], separator: int, seq_len: int) -> list[list[int]]:
    """The documents as rows of exactly `seq_len` tokens, without padding.

    The documents follow each other, each ended with `separator`; a document may continue in the next row.
    Tokens at the end that do not fill a row are left out, all others are used.
    """
    raise NotImplementedError("pack in lessons/exercises/packing.py")
