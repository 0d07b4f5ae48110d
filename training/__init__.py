# SPDX-License-Identifier: Apache-2.0
"""Everything of a run that is not arithmetic: settings, opening, checkpoints, log, signals, optional losses.

Read `settings.py` (every setting and its value), `resolve.py` (how a value is found), `job.py` (what a run
holds, and how it is opened), `run_folder.py` (folder and checkpoints), `curves.py` (charts and the table of
losses), `log.py`, `read_run.py` (a run read back from its files), `announce.py` (what is said before and
after), `learned.py` (what the model has learned of the built-in corpus), and the optional losses
`chunked_loss.py` and `compiled.py`. May import: every room and file before it in the order of the house (the
last ones are sample.py and sampling/many.py); never train.
"""
