# SPDX-License-Identifier: Apache-2.0
"""From documents to a prepared folder, and what is in one.

The built-in corpus is generated: `grammar.py` (texts with exact probabilities), `tales.py`, `programs.py` and
`exercises.py` (its three kinds), `builtin.py` (the kinds as documents), `checker.py` (what a model learned of
them). Real text: `python_docs.py` (in every Python installation), `documents.py` (files, folders, the hub).
Then `prepare.py` (clean, tokenize, write shards and the manifest), `report.py` (`data.py info` and `show`)
and `command.py` (the command line of data.py). May import: everything up to data.
"""
