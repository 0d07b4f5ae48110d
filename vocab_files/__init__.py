# SPDX-License-Identifier: Apache-2.0
"""Finding and reading vocabularies that are not our own `.vocab` bytes.

Read `by_name.py` (names and downloads), `tokenizer_files.py` (the tokenizer's files of a model folder),
`bpe.py` (a library's byte-pair encoding). May import: common. Needs no torch.
"""
