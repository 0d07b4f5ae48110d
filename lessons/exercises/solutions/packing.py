# SPDX-License-Identifier: Apache-2.0
"""A solution of lessons/exercises/packing.py, for teachers."""
from __future__ import annotations


def pack(documents: list[list[int]], separator: int, seq_len: int) -> list[list[int]]:
    stream = [token for document in documents for token in [*document, separator]]
    return [stream[start:start + seq_len] for start in range(0, len(stream) - seq_len + 1, seq_len)]
