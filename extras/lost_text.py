# SPDX-License-Identifier: Apache-2.0
"""What a vocabulary cannot hold: the published ones have no token for most bytes of other scripts than the
Latin one, and drop them silently.
"""
from __future__ import annotations

import unicodedata
from collections import Counter
from typing import Iterable

from tokenizer import Tokenizer

SAMPLE = 1 << 17  # characters that are looked at


def lost_share(tokenizer: Tokenizer, documents: Iterable[str]) -> float:
    """Share of the characters (NFD) of the first documents that encoding and decoding does not give back."""
    given, back, seen = Counter(), Counter(), 0
    for document in documents:
        # as encode(document=True) reads it
        document = document[:SAMPLE - seen].replace("\r\n", "\n").replace("\r", "\n")
        given.update(unicodedata.normalize("NFD", document))
        back.update(unicodedata.normalize("NFD", tokenizer.decode(tokenizer.encode(document, document=True))))
        seen += len(document)
        if seen == SAMPLE:
            break
    return (given - back).total() / max(1, given.total())


def lost_text(tokenizer: Tokenizer, documents: Iterable[str]) -> str | None:
    """A sentence about it if it is half a percent or more."""
    share = lost_share(tokenizer, documents)
    return f"{100 * share:.0f}% of the characters have no token in this vocabulary and are dropped" if share >= 0.005 else None
