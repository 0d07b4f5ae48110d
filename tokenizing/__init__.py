# SPDX-License-Identifier: Apache-2.0
"""Looking at a tokenizer, training a vocabulary, the reference engine, the class for transformers.

Read `view.py` (the commands of tokenizer.py), `trainer.py` (training a vocabulary), then its parts
`records.py`, `candidates.py` and `lanes.py`; `reference.py` (the published engine), `hf_class.py` (the
class that a model folder ships). May import: everything up to corpus.
"""
