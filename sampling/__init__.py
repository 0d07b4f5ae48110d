# SPDX-License-Identifier: Apache-2.0
"""Loading a model to talk to it, faster decoding, and everything that a person sees of it.

Read `answers.py` (a loaded model and its answers), `terminal.py` (the command line of sample.py), `chat.py`,
`history.py`; then faster decoding: `fast_decoder.py`, `cuda_graph.py`, `weights.py`, `speculate.py`; then the
views: `explore.py`, `arena.py`, `web.py`, `web_views.py`. May import: every room and file above it in the
order, and sample.py; not train.py.
"""
