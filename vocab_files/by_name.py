# SPDX-License-Identifier: Apache-2.0
"""Find a TokenMonster vocabulary by its name, on this machine or on the hub.

The published ones are in the Hugging Face repository `alasdairforsythe/tokenmonster`. A downloaded file is
kept in the folder of the tokenmonster package, or in $STENTOR_VOCABS. Only files with a checksum below are
downloaded; any other vocabulary can be given as a path.
"""
from __future__ import annotations

import difflib
import hashlib
import os
import urllib.request
from pathlib import Path

from common import ROOT, UserError, atomic_write

CHECKSUMS = {
    "english-4096-strict-nocapcode-v1": "8b4270afaa2280d960efd52b0cbcb3986b7757f09cfbc6bc616ef35fc21597b6",
    "english-8000-strict-nocapcode-v1": "cd0f9d205c5f090374c8f556ec04958f4225868b80a20b2060e4d4dc5bbf4744",
}
LARGEST = 4 << 20  # bytes of a download
PATIENCE = 10  # seconds without an answer


def by_name(name: str, network: bool) -> Path:
    """The file of the vocabulary `name`: in `vocabs/`, $STENTOR_VOCABS, ..., or from the hub."""
    own = ROOT / "vocabs"
    folders = [own, Path(os.environ.get("STENTOR_VOCABS") or own), Path.home() / "_tokenmonster"]
    for folder in folders:
        if (folder / f"{name}.vocab").is_file():
            return folder / f"{name}.vocab"
    return download(name, folders, network)


def address(name: str) -> str:
    """The address of a vocabulary; $HF_ENDPOINT changes the host, as for the hub's own library."""
    host = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    return f"{host.rstrip('/')}/alasdairforsythe/tokenmonster/resolve/main/vocabs/{name}.vocab"


def download(name: str, folders: list[Path], network: bool) -> Path:
    """Download the vocabulary `name`, which is in none of `folders`, check and store it; returns its path.

    Raises UserError for an unknown name, without a network (`network` False, or $HF_HUB_OFFLINE set), and
    for a wrong checksum.
    """
    here = sorted({file.stem for folder in folders for file in folder.glob("*.vocab")})
    if name not in CHECKSUMS:
        close = difflib.get_close_matches(name, [*here, *CHECKSUMS], n=1)
        hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(sorted({*here, *CHECKSUMS}))}"
        raise UserError(f"{name}: no such file, model folder or vocabulary; {hint}")
    manual = f"put {name}.vocab into {folders[0]}, or name its folder in STENTOR_VOCABS"
    if not network or os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        raise UserError(f"{name} is not on this machine, and the network is switched off; {manual}")
    try:
        with urllib.request.urlopen(address(name), timeout=PATIENCE) as answer:
            content = answer.read(LARGEST + 1)
    except (OSError, ValueError) as error:
        raise UserError(f"{name} is not on this machine and cannot be downloaded from {address(name)} "
                        f"({error}); {manual}") from None
    digest = hashlib.sha256(content).hexdigest()
    if digest != CHECKSUMS[name]:
        found = f"{len(content)} bytes with sha256 {digest[:16]}..., expected {CHECKSUMS[name][:16]}..."
        raise UserError(f"{address(name)}: {found}; nothing was kept")
    folder = Path(os.environ.get("STENTOR_VOCABS") or folders[-1])
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(folder / f"{name}.vocab", content)
    return folder / f"{name}.vocab"
