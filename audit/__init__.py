# SPDX-License-Identifier: Apache-2.0
"""The numbers of the model cards, and of a model folder, against arithmetic; the cost of a run; the figure.

Read `cards.py` (the statements of the cards), its parts `shapes.py`, `runs.py`, `claims.py` and
`results.py`, `all.py` (the whole audit), `own_card.py` and `own_folder.py` (a folder of ours), `cost.py`,
`plot.py`. May import: everything up to judging.
"""
