# SPDX-License-Identifier: Apache-2.0
"""From documents to a prepared folder, and what is in one.

Read `documents.py` (reading documents of every kind), `builtin.py` (the built-in corpus), `prepare.py`
(tokenize, shard, manifest), `command.py` (the command line of data.py), `report.py` (info and show). May
import: everything up to data.
"""
