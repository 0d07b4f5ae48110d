# SPDX-License-Identifier: Apache-2.0
"""Prepared folders made by hand, so that the reading side can be tested without a tokenizer."""
import hashlib
import json
from pathlib import Path

import numpy as np

import data

EOS = 2


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def write_corpus(
    folder: Path, tokens: dict[str, dict[str, np.ndarray]], shard_tokens: int = 1000, vocab_size: int = 4096
) -> Path:
    """A corpus folder that holds the given tokens: source -> split -> uint16 array. Shares are the cards'
    where the names allow it.
    """
    (folder / "tokenizer").mkdir(parents=True)
    (folder / "tokenizer" / "tokenmonster.vocab").write_bytes(b"a vocabulary")
    sources = {}
    for name, splits in tokens.items():
        sources[name] = {}
        for split, values in splits.items():
            shards = []
            for number, first in enumerate(range(0, len(values), shard_tokens)):
                piece = values[first:first + shard_tokens].astype("<u2")
                file = f"{name}.{split}.{number:05d}.bin"
                (folder / file).write_bytes(piece.tobytes())
                shards.append({"file": file, "tokens": len(piece), "sha256": sha256(piece.tobytes())})
            sources[name][split] = {
                "documents": 1,
                "characters": 3 * len(values),
                "tokens": len(values),
                "shards": shards,
            }
    start = {name: data.START.get(name, 1.0) for name in tokens}
    end = {name: data.END.get(name, 1.0) for name in tokens}
    manifest = {
        "format": data.FORMAT,
        "sources": sources,
        "tokenizer": {
            "fingerprint": "0" * 64,
            "vocab_size": vocab_size,
            "eos_id": EOS,
            "files": {"tokenmonster.vocab": sha256(b"a vocabulary")},
        },
        "mixture": {
            "start": {name: share / sum(start.values()) for name, share in start.items()},
            "end": {name: share / sum(end.values()) for name, share in end.items()},
            "anneal": data.ANNEAL,
        },
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def numbered(count: int, offset: int = 0) -> np.ndarray:
    """Tokens that say where they stand: offset, offset + 1, ... within the vocabulary."""
    return (np.arange(count) + offset) % 4096


def small_corpus(folder: Path, **options) -> Path:
    """Three sources of 20,000, 5,003 and 3,001 training tokens and a twentieth of it for validation."""
    sizes = {"web": 20_000, "code": 5_003, "math": 3_001}
    tokens = {
        name: {"train": numbered(size, 7 * size), "validation": numbered(size // 20)}
        for name, size in sizes.items()
    }
    return write_corpus(folder, tokens, **options)
