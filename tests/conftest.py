# SPDX-License-Identifier: Apache-2.0
"""Fixtures that all tests share. The real vocabularies and samples are not part of the repository: STENTOR_SHARED names their folder."""
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the real vocabularies, corpora and evaluation sets; skips where the environment does not name it."""
    folder = os.environ.get("STENTOR_SHARED")
    if not folder:
        pytest.skip("STENTOR_SHARED is not set: the real vocabularies and corpus samples are needed here")
    assert Path(folder).is_dir(), f"STENTOR_SHARED={folder} is not a folder"
    return Path(folder).resolve()
