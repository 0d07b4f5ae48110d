# SPDX-License-Identifier: Apache-2.0
"""From documents to a prepared folder, and what is in one.

Read `documents.py` (where documents come from: files, folders, the hub), `builtin.py` (the built-in corpus),
`prepare.py` (clean, tokenize, write shards and the manifest), `report.py` (`data.py info` and `show`) and
`command.py` (the command line of data.py). May import: everything up to data.
"""
