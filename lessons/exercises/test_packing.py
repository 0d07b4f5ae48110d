# SPDX-License-Identifier: Apache-2.0
"""Grades pack against what data.py prepares and reads: a real corpus of a few documents, its shard cut by
Corpus.
"""
import numpy as np
import pytest
from lessons.exercises.grading import call

import data
from corpus.command import prepare_files


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packing")
    texts = [f"Number {i} of the texts. " + "It goes on and on. " * (i % 7) for i in range(60)]
    (folder / "my.txt").write_text("\n\n".join(texts) * 40)
    return prepare_files([folder / "my.txt"], folder / "corpus")


def without_separators(documents, separator, seq_len):
    stream = [token for document in documents for token in document]
    return [stream[start:start + seq_len] for start in range(0, len(stream) - seq_len + 1, seq_len)]


def one_document_a_row(documents, separator, seq_len):
    return [([*document, separator] + [separator] * seq_len)[:seq_len] for document in documents]


def separator_first(documents, separator, seq_len):
    stream = [token for document in documents for token in [separator, *document]]
    return [stream[start:start + seq_len] for start in range(0, len(stream) - seq_len + 1, seq_len)]


MISTAKES = {
    "the separator after each document is missing": without_separators,
    "each document is cut or padded to a row of its own; let it go on in the next row": one_document_a_row,
    "the separator stands before each document; it ends it": separator_first,
}


def test_pack(answer, corpus):
    seq_len, real = 16, data.Corpus(corpus, 16, 1, split="validation")
    tokens = np.fromfile(next(corpus.glob("*.validation.00000.bin")), dtype="<u2").tolist()
    documents, document = [], []
    for token in tokens:
        if token == real.eos_id:
            documents.append(document)
            document = []
        else:
            document.append(token)
    expected = [real.batch(i)[0].tolist() for i in range(len(real))]
    rows = call(answer("pack"), documents, real.eos_id, seq_len)
    if rows == expected:
        return
    for message, wrong in MISTAKES.items():
        if rows == wrong(documents, real.eos_id, seq_len):
            pytest.fail(f"pack: {message}", pytrace=False)
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        pytest.fail("pack must return a list of lists", pytrace=False)
    if any(len(row) != seq_len for row in rows):
        pytest.fail(
            f"pack: every row has {seq_len} tokens; one of yours has {next(len(row) for row in rows if len(row) != seq_len)}",
            pytrace=False,
        )
    if len(rows) != len(expected):
        pytest.fail(f"pack: {len(rows)} rows; {len(expected)} are filled by these documents", pytrace=False)
    number = next(i for i, (mine, theirs) in enumerate(zip(rows, expected)) if mine != theirs)
    pytest.fail(f"pack: row {number} is {rows[number]}; expected {expected[number]}", pytrace=False)
