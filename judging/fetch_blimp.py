# SPDX-License-Identifier: Apache-2.0
"""Download BLiMP from its authors' repository (CC-BY-4.0, Warstadt et al. 2020).

`python evaluate.py --blimp` without a file does it once.
"""
from __future__ import annotations

import gzip
import io
import urllib.request
import zipfile
from pathlib import Path

from common import UserError, atomic_write

ARCHIVE = "https://github.com/alexwarstadt/blimp/archive/3e56b06fcabca9b30822fc66435fca6b1aa40bb1.zip"
PAIRS = 67_000


def fetch_blimp(path: str | Path = "corpora/blimp.jsonl.gz") -> Path:
    """Download all pairs to `path` unless it exists; returns `path`. Raises UserError without a network."""
    path = Path(path)
    if path.is_file():
        return path
    try:
        with urllib.request.urlopen(ARCHIVE, timeout=60) as answer:
            archive = zipfile.ZipFile(io.BytesIO(answer.read()))
        names = sorted(name for name in archive.namelist() if "/data/" in name and name.endswith(".jsonl"))
        lines = [line for name in names for line in archive.read(name).splitlines() if line.strip()]
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(
            f"BLiMP could not be fetched from {ARCHIVE} ({error}); give a file: --blimp blimp.jsonl.gz"
        ) from None
    if len(lines) != PAIRS:
        raise UserError(
            f"{ARCHIVE} holds {len(lines)} pairs, expected {PAIRS}; give a file: --blimp blimp.jsonl.gz"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, gzip.compress(b"\n".join(lines) + b"\n", mtime=0))
    return path
