# SPDX-License-Identifier: Apache-2.0
"""A solution of step 12: read these parts in `one_file.py`."""
from one_file import generate  # noqa: F401
