# SPDX-License-Identifier: Apache-2.0
"""Where documents come from: datasets of the hub (streamed, never stored whole) and one's own files, as
sources of `prepare_corpus`.

    .txt and others   cut at blank lines into documents of about 8,000 characters
    program files     one document each (.py, .js, ...)
    .jsonl[.gz]       one JSON object a line, the document in its column "text" or "content"
    .parquet          the same as a table
    hub               the datasets that the cards name, in the mixtures of MIXES
"""
from __future__ import annotations

import functools
import gzip
import hashlib
import itertools
import json
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator

from common import UserError
from corpus.builtin import GENERATOR, KINDS, builtin_documents
from corpus.python_docs import python_documents

COLUMNS = ("text", "content")
CODE_ENDINGS = {".py", ".js", ".ts", ".c", ".h", ".cpp", ".java", ".go", ".rs", ".rb", ".sh"}
DOCUMENT_CHARACTERS = 8192


@dataclass(frozen=True)
class HubDataset:
    """Arguments of `datasets.load_dataset`: the repository, its subset (`name`) or folder (`data_dir`), the
    only columns to transfer.
    """

    path: str
    name: str | None = None
    data_dir: str | None = None
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """Documents of one kind: `documents(skip)` yields their texts in a fixed order, without the first `skip`.
    """

    name: str  # its name in the mixture: web, code, math
    documents: Callable[[int], Iterator[str]]
    identity: str  # what is read; a preparation that continues must find the same
    lines: bool  # code keeps its line breaks
    documents_by_default: int | None = None  # of a source without end, where no budget is given


def builtin_source(kind: str) -> Source:
    """The built-in documents of "web" (tales), "code" (programs) or "math" (exercises)."""
    name = KINDS[kind].name
    return Source(
        kind, functools.partial(builtin_documents, kind), f"built-in {name}, generator {GENERATOR}",
        kind == "code",
        documents_by_default=KINDS[kind].documents,
    )


def python_docs_source(kind: str) -> Source:
    """Python's documentation ("web") or the source of its library ("code")."""
    def documents(skip: int) -> Iterator[str]:
        for _, text in itertools.islice(python_documents(kind), skip, None):
            yield text
    what = "documentation" if kind == "web" else "library source"
    return Source(kind, documents, f"{what} of Python {sys.version.split()[0]}", kind == "code")


# ------------------------------------------------------------------------------------------------------ files

def files_of(path: str | Path) -> list[Path]:
    """A file, or the files of a folder in the order of their names. Raises UserError if there is none."""
    path = Path(path)
    files = (
        [path]
        if path.is_file()
        else sorted(file for file in path.rglob("*") if file.is_file() and not file.name.startswith("."))
    )
    if not files:
        raise UserError(
            f"{path}: no files in this folder" if path.is_dir() else f"{path}: no such file or folder"
        )
    return files


def kind_of(path: str | Path) -> str:
    """"code" if all the files there are programs, else "web"."""
    return "code" if all(file.suffix in CODE_ENDINGS for file in files_of(path)) else "web"


def path_source(kind: str, path: str | Path) -> Source:
    """A file or the files of a folder as a source; its identity is each file's name, size and first megabyte.
    """
    path, files, digest = Path(path), files_of(path), hashlib.sha256()

    def documents(skip: int) -> Iterator[str]:
        everything = itertools.chain.from_iterable(file_documents(file) for file in files)
        return itertools.islice(everything, skip, None)
    for file in files:
        digest.update(f"{file.relative_to(path)} {file.stat().st_size}\n".encode("utf-8", "surrogateescape"))
        with open(file, "rb") as content:
            digest.update(content.read(1 << 20))
    return Source(
        kind, documents, f"{path.name}: {len(files)} files, {digest.hexdigest()[:12]}", kind == "code"
    )


def file_documents(path: Path) -> Iterator[str]:
    """The documents of one file. Raises UserError that names the file and the place of what is wrong."""
    try:
        if path.name.endswith((".jsonl", ".jsonl.gz")):
            opener = gzip.open if path.suffix == ".gz" else open
            with opener(path, "rt", encoding="utf-8-sig") as file:
                yield from texts_of(json_rows(file, path), str(path))
        elif path.suffix == ".parquet":
            yield from texts_of(parquet_rows(path), str(path))
        else:
            with open(path, encoding="utf-8-sig") as file:
                if path.suffix in CODE_ENDINGS:
                    yield file.read()
                else:
                    yield from paragraphs(file)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason})") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}: damaged gzip file ({error})") from None


def paragraphs(file: Any) -> Iterator[str]:
    """Cut a text at a blank line once a piece is long enough, at any line end if it is twice, anywhere if
    four times as long.
    """
    parts, size = [], 0
    while line := file.readline(DOCUMENT_CHARACTERS):
        parts.append(line)
        size += len(line)
        blank, line_end = not line.strip(), line.endswith("\n")
        limit = DOCUMENT_CHARACTERS * (1 if blank else 2 if line_end else 4)
        if size > limit:
            yield "".join(parts)
            parts, size = [], 0
    if parts:
        yield "".join(parts)


def json_rows(file: Any, path: Path) -> Iterator[dict]:
    """The JSON objects of a file, one a line; empty lines are passed over."""
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise UserError(f"{path}: line {number} is not a JSON object")
        yield row


def parquet_rows(path: Path) -> Iterator[dict]:
    """The rows of a parquet file's document column, read a thousand at a time."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(f'{path}: reading parquet needs pyarrow; pip install ".[hub]"') from None
    try:
        table = pyarrow.parquet.ParquetFile(path)
        present = [column for column in COLUMNS if column in table.schema_arrow.names] or None
        for batch in table.iter_batches(batch_size=1000, columns=present):
            yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a readable parquet file ({str(error).splitlines()[0]})") from None


def texts_of(rows: Iterable[dict], where: str) -> Iterator[str]:
    """The document of each row: its column "text", else "content"; a row without text there is an empty
    document.
    """
    for row in rows:
        column = next((name for name in COLUMNS if name in row), None)
        if column is None:
            raise UserError(
                f"{where}: no column {' or '.join(COLUMNS)}; found {', '.join(map(str, row)) or 'none'}"
            )
        yield row[column] if isinstance(row[column], str) else ""


# -------------------------------------------------------------------------------------------------------- hub

def hub_source(kind: str, datasets: list[HubDataset]) -> Source:
    """Datasets of the hub as one source, their rows by turns. To continue, the rows that were read are
    streamed past once more.
    """
    def documents(skip: int) -> Iterator[str]:
        rows = by_turns([hub_texts(dataset) for dataset in datasets])
        return itertools.islice(rows, skip, None)

    identity = ", ".join(
        " ".join(filter(None, (dataset.path, dataset.name, dataset.data_dir))) for dataset in datasets
    )
    return Source(kind, documents, identity, kind == "code")


def by_turns(iterators: list[Iterator[str]]) -> Iterator[str]:
    """One item of each iterator in turn; one that ends is left out.

    >>> "".join(by_turns([iter("adf"), iter("be"), iter("c")]))
    'abcdef'
    """
    while iterators:
        alive = []
        for iterator in iterators:
            for item in itertools.islice(iterator, 1):
                yield item
                alive.append(iterator)
        iterators = alive


def hub_texts(dataset: HubDataset) -> Iterator[str]:
    """The documents of a dataset of the hub, streamed. Raises UserError if it cannot be reached or read."""
    try:
        import datasets
    except ImportError:
        raise UserError('--source hub needs the datasets library; pip install ".[hub]"') from None
    rows_read = 0
    try:
        options = {"columns": list(dataset.columns)} if dataset.columns else {}
        rows = datasets.load_dataset(
            dataset.path, dataset.name, data_dir=dataset.data_dir, split="train", streaming=True, **options
        )
        for text in texts_of(rows, dataset.path):
            yield text
            rows_read += 1
    except UserError:
        raise
    except Exception as error:  # the library passes on errors of many others: network, access, file formats
        raise UserError(
            f"{dataset.path}: broke off after {rows_read} rows ({hub_reason(error)}); what is written stays, "
            "the same command continues"
        ) from None


def hub_reason(error: Exception) -> str:
    """What went wrong on the hub, in one line, with what to do where it is known."""
    message = " ".join(str(error).split())[:200]
    words = message.lower()
    if "gated" in words or "401" in words or "403" in words:
        return "it is gated: accept its terms on its page, then log in with: hf auth login"
    if isinstance(error, ConnectionError) or any(
        word in words for word in ("connect", "reach", "resolve", "offline")
    ):
        return f"{message or type(error).__name__}: is the hub reachable from here?"
    return f"{type(error).__name__}: {message}"
