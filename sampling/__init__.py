# SPDX-License-Identifier: Apache-2.0
"""Loading a model to talk to it, faster decoding, and everything that a person sees of it.

Read `answers.py` (a loaded model and its answers), `terminal.py` (the command line of sample.py),
`fast_step.py`, `cuda_graph.py` and `weights.py` (faster decoding), `speculate.py`, `explore.py`, `arena.py`,
`history.py`, `web.py` and `web_views.py`. May import: everything up to sample and training.
"""
