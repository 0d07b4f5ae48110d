# SPDX-License-Identifier: Apache-2.0
"""What leaves the project: a run's report, the model card and its audit, GGUF, ONNX, notebooks.

Read `report.py` with `report_page.py`, `card.py` with `gallery.py`, `card_audit.py`, then `to_gguf.py`,
`to_onnx.py`, `kaggle_notebook.py`. May import: everything up to audit.
"""
