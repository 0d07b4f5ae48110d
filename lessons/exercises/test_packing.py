# SPDX-License-Identifier: Apache-2.0
"""Grades pack against what data.py prepares and reads: a real corpus of a few documents, its shard cut by
Corpus.
"""
import numpy as np
import pytest
from lessons.exercises.grading import call, fail

import data
from corpus.command import prepare_files


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packing")
    (folder / "texts").mkdir()
    for i in range(80):
        text = f"Number {i} of the texts. " + "It goes on and on. " * (9 + i % 7)
        (folder / "texts" / f"{i}.txt").write_text(text)
    return prepare_files([folder / "texts"], folder / "corpus")


def cut(stream, seq_len, last=0):
    """Rows of a stream; `last` more tokens than a row may be missing at the end."""
    return [stream[start:start + seq_len] for start in range(0, len(stream) - seq_len + 1 + last, seq_len)]


def joined(documents, before=(), after=()):
    """The documents one after the other, with tokens before and after each."""
    return [token for document in documents for token in [*before, *document, *after]]


def padded(documents, sep, seq_len):
    rows = cut(joined(documents, after=[sep]), seq_len, seq_len - 1)
    return [row + [sep] * (seq_len - len(row)) for row in rows]


MISTAKES = {
    "a separator too many comes at the end, and fills a row: one after each document is enough": (
        lambda d, sep, n: cut([*joined(d, after=[sep]), sep], n)),
    "the separator after each document is missing": lambda d, sep, n: cut(joined(d), n),
    "the separator comes before each document; it ends it": lambda d, sep, n: cut(joined(d, before=[sep]), n),
    "each document is cut or padded to a row of its own; let it go on in the next row": lambda d, sep, n: [
        ([*document, sep] + [sep] * n)[:n] for document in d],
    "each document begins a new row; it follows the one before in the same row": lambda d, sep, n: [
        row for document in d for row in cut([*document, sep], n)],
    "the last row is missing; it is full if the separator after the last document is counted: is that "
    "separator there, and does the loop reach the last full row?": lambda d, sep, n: cut(
        joined(d, after=[sep])[:-1], n),
    "a last row that is not full is left out; yours was padded": padded,
    "a last row that is not full is left out; yours was kept": lambda d, sep, n: cut(
        joined(d, after=[sep]), n, n - 1),
    "each document begins a new row, and its last row is shorter; the next document continues that row": (
        lambda d, sep, n: [row for document in d for row in cut([*document, sep], n, n - 1)]),
    "a separator comes before and after each document; it only ends it": lambda d, sep, n: cut(
        joined(d, before=[sep], after=[sep]), n),
    "each row begins one token after the one before; it begins seq_len tokens after it": lambda d, sep, n: [
        joined(d, after=[sep])[start:start + n] for start in range(len(joined(d, after=[sep])) // n)],
    "each row ends with a separator; only a document does": lambda d, sep, n: [
        [*row[:-1], sep] for row in cut(joined(d, after=[sep]), n)],
    "the first document is missing": lambda d, sep, n: cut(joined(d[1:], after=[sep]), n),
    "the last document is missing": lambda d, sep, n: cut(joined(d[:-1], after=[sep]), n),
    "a document that is longer than a row is cut; it continues in the next row": lambda d, sep, n: cut(
        joined([document[:n - 1] for document in d], after=[sep]), n),
    "the last row repeats tokens of the row before; leave out what does not fill a row": lambda d, sep, n: [
        *cut(joined(d, after=[sep]), n), joined(d, after=[sep])[-n:]],
    "the rows overlap; the next one begins where the one before ended": lambda d, sep, n: [
        joined(d, after=[sep])[start:start + n]
        for start in range(0, len(joined(d, after=[sep])) - n + 1, n - 1)],
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
    check(answer, documents, real.eos_id, seq_len, expected)


@pytest.mark.parametrize("seq_len", [3, 4, 5])
def test_pack_to_the_last_token(answer, seq_len):
    """Nine tokens with their separators: three full rows of three, two of four and a rest, one of five."""
    stream = [8, 9, 5, 6, 0, 5, 6, 7, 0]
    expected = [stream[start:start + seq_len] for start in range(0, 9 // seq_len * seq_len, seq_len)]
    check(answer, [[8, 9, 5, 6], [5, 6, 7]], 0, seq_len, expected)


def as_list(values):
    """A tuple, an array or a tensor as a list; everything else as it is."""
    return list(values) if isinstance(values, tuple) else getattr(values, "tolist", lambda: values)()


def check(answer, documents, separator, seq_len, expected):
    """Compare the rows; name the usual mistakes. Tuples, arrays and tensors are as good as lists."""
    rows = as_list(call(answer("pack"), documents, separator, seq_len))
    if not isinstance(rows, list):
        fail(f"pack must return a list of lists; it returned {type(rows).__name__}")
    if len(rows) > 1 and rows[0] is rows[1]:
        fail("pack: all rows are one and the same list: begin each row with a new list, row = []")
    if not rows:
        fail(f"pack: no row came back; these documents fill {len(expected)}")
    rows = [as_list(row) for row in rows]
    other = next((row for row in rows if not isinstance(row, list)), None)
    if other is not None:
        fail(f"pack must return a list of lists; the list that it returned holds {type(other).__name__}")
    if rows == expected:
        return
    for message, wrong in MISTAKES.items():
        if rows == wrong(documents, separator, seq_len):
            fail(f"pack: {message}")
    lengths = [len(row) for row in rows if len(row) != seq_len]
    if lengths:
        fail(f"pack: every row has {seq_len} tokens; one of yours has {lengths[0]}")
    if len(rows) != len(expected):
        fail(f"pack: the number of rows is {len(rows)}; these documents fill {len(expected)}")
    number = next(i for i, (mine, theirs) in enumerate(zip(rows, expected)) if mine != theirs)
    fail(f"pack: row {number} is {rows[number]}; expected {expected[number]}")
