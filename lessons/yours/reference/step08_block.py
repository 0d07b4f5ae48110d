# SPDX-License-Identifier: Apache-2.0
"""A solution of step 8: read these parts in `one_file.py`."""
from one_file import MLP, Block  # noqa: F401
