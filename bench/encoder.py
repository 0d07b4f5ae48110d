# SPDX-License-Identifier: Apache-2.0
"""Measure a tokenizer in MB of text per CPU second, beside the plain loop and the reference.

    python -m bench.encoder
    python -m bench.encoder --vocab english-4096-strict-nocapcode-v1 --text web.jsonl.gz --megabytes 4
    python -m bench.encoder --profile

CPU time does not depend on other programs on the machine. The reference works in its own process, so its
figure is wall time. Without --text, Python's documentation is read. All ids are compared, because the speed
of a wrong encoder means nothing.
"""
from __future__ import annotations

import json
import platform
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from common import Parser, UserError, run
from corpus.documents import documents_of
from corpus.python_docs import python_documents
from tokenizer import DEFAULT, Tokenizer, load, normalize_pieces
from tokenizing.reference import load_reference


def read_text(path: str | None, size: int) -> str:
    """About `size` characters of a file of documents (corpus/documents.py), or of Python's documentation."""
    if path is None:
        parts = (text for _, text in python_documents("web"))
    else:
        parts = (text for text in documents_of(Path(path)) if text)
    text, total = [], 0
    for part in parts:
        text.append(part)
        total += len(part)
        if total >= size:
            break
    return "\n\n".join(text)[:size]


def seconds(
    work: Callable[[], Any], clock: Callable[[], float] = time.process_time, times: int = 3
) -> tuple[float, Any]:
    """The best time of a few runs, and the last result."""
    best = float("inf")
    for _ in range(times):
        start = clock()
        result = work()
        best = min(best, clock() - start)
    return best, result


def peak_memory(tokenizer: Tokenizer, text: str) -> int:
    """Peak memory in bytes while a text is encoded block by block, without the text itself."""
    tracemalloc.start()
    for _ in tokenizer.fast.encode_blocks(text):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def measure(name: str, text: str) -> dict[str, float]:
    """All figures of one vocabulary on one text: MB/s of the text's UTF-8."""
    tokenizer = load(name)
    size = len(text.encode()) / 1e6
    part = text[:max(1, len(text) // 10)]
    tokenizer.fast.encode("")  # makes the tables, once
    figures = {"load and tables, s": seconds(lambda: load(name).fast, times=1)[0]}
    figures["normalize, MB/s"] = size / seconds(lambda: sum(map(len, normalize_pieces(text))))[0]
    spent, ids = seconds(lambda: np.concatenate(list(tokenizer.fast.encode_blocks(text))))
    figures["encode, numpy, MB/s"] = size / spent
    spent, plain = seconds(lambda: tokenizer.encode_plain(part), times=1)
    figures["encode, plain loop, MB/s"] = len(part.encode()) / 1e6 / spent
    if plain != tokenizer.fast.encode(part):
        raise UserError("the numpy form differs from the plain loop")
    as_list = ids.tolist()
    spent, decoded = seconds(lambda: tokenizer.decode(as_list))
    figures["decode, MB/s"] = size / spent
    figures["characters per token"] = len(text) / len(ids)
    few, many = peak_memory(tokenizer, text[:len(text) // 4]), peak_memory(tokenizer, text)
    figures["peak memory at a quarter of the text, MB"], figures["peak memory, MB"] = few / 1e6, many / 1e6
    try:
        reference = load_reference(name)
    except UserError as error:
        print(f"without the reference: {error}", file=sys.stderr)
        return figures
    data = text.encode()
    spent, theirs = seconds(lambda: reference.reference.tokenize(data), time.perf_counter)
    if not np.array_equal(theirs, ids) or reference.reference.decode(theirs) != decoded:
        raise UserError("our ids or text differ from the reference's")
    figures["encode, reference (its own process, wall time), MB/s"] = size / spent
    return figures


def main() -> None:
    parser = Parser("Measure a tokenizer.", "  python -m bench.encoder --vocab builtin-4096 --megabytes 2")
    parser.add_argument(
        "--vocab", action="append",
        help=f"vocabulary file, folder or name; may be repeated (default: {DEFAULT})",
    )
    parser.add_argument("--text", metavar="FILE", help="text to measure on (default: Python's documentation)")
    parser.add_argument("--megabytes", type=float, default=2.0, help="how much of it (default: 2)")
    parser.add_argument(
        "--profile", action="store_true", help="show where the time of the numpy form goes instead"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    text = read_text(args.text, int(args.megabytes * 1e6))
    if args.profile:
        import cProfile
        import pstats
        tokenizer = load(args.vocab[0] if args.vocab else DEFAULT)
        tokenizer.fast.encode("")
        with cProfile.Profile(time.process_time) as profile:
            tokenizer.fast.encode(text)
        pstats.Stats(profile).sort_stats("tottime").print_stats(12)
        return
    found = {name: measure(name, text) for name in args.vocab or [DEFAULT]}
    if args.json:
        print(json.dumps(found))
        return
    versions = f"Python {platform.python_version()}, numpy {np.__version__}"
    print(f"{len(text.encode()) / 1e6:.1f} MB of text; {versions}; MB per second of CPU time, best of 3")
    for name, figures in found.items():
        print(name)
        for figure, value in figures.items():
            print(f"  {figure:55} {value:10.2f}")


if __name__ == "__main__":
    raise SystemExit(run(main))
