# SPDX-License-Identifier: Apache-2.0
"""A solution of step 6: read these parts in `one_file.py`."""
from one_file import Attention, rotary_table, rotate  # noqa: F401
