# SPDX-License-Identifier: Apache-2.0
"""Checks of the numbers in the model cards; the cost of a run.

Read `cards.py` (the statements of the cards), the four parts of their audit `shapes.py`, `runs.py`,
`claims.py` and `results.py`, `all.py` (runs them), `cost.py`, `plot.py`. May import: everything up to
judging.
"""
