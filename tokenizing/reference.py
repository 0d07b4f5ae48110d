# SPDX-License-Identifier: Apache-2.0
"""The second engine: encode through the `tokenmonster` package, the reference implementation.

The package starts a Go program, `tokenmonsterserver`, from the folder `_tokenmonster` in the home folder.
It is several times as fast as our encoder, and ours is tested against it. The package would download a
missing program without a checksum, so this module stops before that. Before the engine is used, both engines
encode and decode a probe text; a difference is an error.
"""
from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

from common import UserError
from tokenizer import Tokenizer, Vocab, find, read_vocab

# Where tokenizers usually differ: words, digits, line ends, marks, other scripts, markers, bytes that are not
# UTF-8.
PROBE = ("Because the cat's 1999 hats (it doesn't care)...\n\tZygote\r\ncaf\u00e9 na\u00efve 2024 \"x\""
         " e\u0301\u0327" + "\u0300" * 40 +
         " \u4e16\u754c \u0417\u0434\u0440 \ud55c\uae00 \U0001f600 don\u2019t \x7f\x00"
         " def f(x_1): return x**2  # 3.14\n\n\n")
PROBE = PROBE.encode() + b"\xff\xc3 \xe2\x82"


class ReferenceTokenizer(Tokenizer):
    """A tokenizer whose `encode` calls the reference; decoding and special ids are ours.

    Raises UserError if the package or its program is missing or does not answer, and if it differs from ours
    on the probe text.
    """

    def __init__(self, path: Path, vocab: Vocab, **special: Any):
        super().__init__(vocab, **special)
        try:
            import tokenmonster
        except ImportError:
            raise UserError('--engine tokenmonster needs its package: pip install ".[tokenmonster]"; '
                            "or leave it out") from None
        name = "tokenmonsterserver.exe" if os.name == "nt" else "tokenmonsterserver"
        program = Path.home() / "_tokenmonster" / name
        if not program.is_file():
            raise UserError(f"--engine tokenmonster needs {program}, which the package downloads on its "
                            "first use; or leave it out")
        try:
            self.reference = tokenmonster.load_multiprocess_safe(str(path.resolve()))
            ids = self.encode(PROBE)
            text = self.reference.decode(ids)
        except (OSError, RuntimeError, ValueError, IndexError, TypeError, struct.error) as error:
            raise UserError(f"{program} does not work ({error}); leave out --engine tokenmonster") from None
        ours = self.encode_plain(PROBE)
        if ids != ours or text != self.decode(ours):
            shorter = min(len(ids), len(ours))
            place = next((i for i, pair in enumerate(zip(ids, ours)) if pair[0] != pair[1]), shorter)
            difference = f"token {place}: {ids[place:place + 1]}, ours {ours[place:place + 1]}"
            raise UserError(f"{program} and tokenizer.py differ on the probe text ({difference}); "
                            "leave the flag out")

    def encode(self, text: str | bytes, document: bool = False) -> list[int]:
        """The ids of a text, by the reference."""
        data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
        if document:
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        ids = self.reference.tokenize(data) if data else None
        return [] if ids is None else ids.tolist()


def load_reference(name: str | Path) -> ReferenceTokenizer:
    """`tokenizer.load` with the reference engine. Raises UserError for a BPE too, which it cannot read."""
    path = find(name)
    if path.suffix in (".json", ".model"):
        raise UserError(f"--engine tokenmonster reads .vocab files; {path} is a BPE")
    vocab, special = read_vocab(path)
    return ReferenceTokenizer(path, vocab, **special)
