# SPDX-License-Identifier: Apache-2.0
"""Opening a trained model, faster decoding, and all views of its answers.

Read `answers.py` (a loaded model and its answers), `terminal.py` (the command line of sample.py), `chat.py`
and `template.py`, `history.py`; then faster decoding: `fast_decoder.py`, `cuda_graph.py`, `weights.py`,
`speculate.py`, `many.py` (many prompts at once); then the views: `explore.py`, `arena.py`, `web.py`,
`web_views.py`. May import: everything before it in the order of tests/test_house.py, but not train.py.
"""
