# SPDX-License-Identifier: Apache-2.0
"""x"""
import itertools
import textwrap
def side_by_side(texts: list[str], width: int) -> str:
    """Texts in columns that fill `width` characters."""
    width = max(16, width // len(texts) - 2)
    columns = [[piece for line in text.splitlines() for piece in textwrap.wrap(line, width) or [""]] for text in texts]
    return "\n".join("  ".join(piece.ljust(width) for piece in pieces).rstrip() for pieces in itertools.zip_longest(*columns, fillvalue=""))
