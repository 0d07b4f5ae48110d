# SPDX-License-Identifier: Apache-2.0
"""Several answers to one prompt on a terminal: side by side, and where they part."""
from __future__ import annotations

import itertools
import os
import textwrap


def side_by_side(texts: list[str], width: int) -> str:
    """Texts in columns that together fill `width` characters; a text keeps its own line breaks."""
    width = max(16, width // len(texts) - 2)
    columns = [
        [piece for line in text.splitlines() for piece in textwrap.wrap(line, width) or [""]]
        for text in texts
    ]
    rows = itertools.zip_longest(*columns, fillvalue="")
    return "\n".join("  ".join(piece.ljust(width) for piece in row).rstrip() for row in rows)


def where_they_part(texts: list[str]) -> str:
    """How far the texts are the same, in words.

    >>> where_they_part(["one two", "one ten"])
    "they first differ after 5 characters: 'wo' | 'en'"
    """
    same = len(os.path.commonprefix(texts))
    if all(len(text) == same for text in texts):
        return "they are all the same"
    return f"they first differ after {same} characters: " + " | ".join(repr(text[same:same + 20]) for text in texts)
