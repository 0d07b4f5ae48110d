# SPDX-License-Identifier: Apache-2.0
"""A solution of step 9: read these parts in `one_file.py`."""
from one_file import Decoder, Llama, init_weights  # noqa: F401
