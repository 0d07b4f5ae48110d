# SPDX-License-Identifier: Apache-2.0
"""What leaves the project: the model card, GGUF, ONNX, notebooks.

Read `card.py` with `run_numbers.py` and `gallery.py`, then `to_gguf.py`, `to_onnx.py`, `kaggle_notebook.py`.
May import: everything up to audit.
"""
