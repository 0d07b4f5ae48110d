# SPDX-License-Identifier: Apache-2.0
"""Everything of a run that is not arithmetic: settings, opening, checkpoints, log, signals, optional losses.

Read `settings.py` (every setting and its value), `open_job.py` (opening a run), `run_folder.py` (folder and checkpoints),
`log.py`, `announce.py`, `signals.py`, and the optional losses `chunked_loss.py` and `compiled.py`. May import: everything up to
sample; never train.
"""
