# SPDX-License-Identifier: Apache-2.0
"""Where documents come from: files and folders, the built-in generator, datasets of the hub.

    .txt .md .rst, no ending    text, cut at blank lines into documents of about 8,000 characters
    .py .js .c and other code   one document a file
    .jsonl .json .csv .tsv      one document a row, in its column "text" or "content"
    .parquet                    the same
    hub                         the datasets that the cards name, streamed

Text, code and rows may be compressed (.gz). Endings are compared in lower case. A file of any other kind is
refused by its name; in a folder it is skipped, counted and named. One document has at most LARGEST_DOCUMENT
characters; a longer one is refused by name, so memory is bounded for any file. A row without text is None:
the preparation counts it.
"""
from __future__ import annotations

import contextlib
import csv
import functools
import gzip
import hashlib
import itertools
import json
import os
import shlex
import sys
import zlib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Callable, Iterable, Iterator

from common import UserError, utf8_path
from corpus.builtin import GENERATOR, KINDS, builtin_documents
from corpus.python_docs import python_documents

COLUMNS = ("text", "content")
TEXT_ENDINGS = {"", ".txt", ".text", ".md", ".markdown", ".rst", ".adoc", ".org", ".tex", ".srt", ".log"}
CODE_ENDINGS = set(
    ".py .pyi .pyx .js .mjs .jsx .ts .tsx .c .h .cc .hh .cpp .hpp .cxx .cs .java .go .rs .rb .php .swift .kt"
    " .scala .lua .pl .pm .r .jl .hs .ml .mli .clj .ex .exs .erl .dart .zig .nim .f90 .sql .sh .bash .ps1"
    .split()
)
ROW_ENDINGS = {".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet"}
CACHES = {"__pycache__", "node_modules"}
DOCUMENT_CHARACTERS = 8192
LARGEST_DOCUMENT = 8 << 20  # characters
LARGEST_LIST = 256 << 20  # characters of a file that is one JSON list
CHUNK = 1 << 16  # characters


class NoDocuments(UserError):
    """A file of a readable format that has no documents: configuration, a table of something else."""


@dataclass(frozen=True)
class Source:
    """Documents of one kind: `documents(skip)` yields them in a fixed order, without the first `skip`.

    A document is a text, or None for a row that has no text.
    """

    name: str  # its name in the mixture: web, code, math, text
    documents: Callable[[int], Iterator[str | None]]
    identity: str  # names the input; a preparation continues only with the same identity
    lines: bool  # cleaning keeps its line breaks
    note: str = ""  # shown to the user
    place: str = ""  # the file or folder
    documents_by_default: int | None = None  # how many an endless source gives if there is no budget

    @property
    def title(self) -> str:
        """Its name in messages: "text (my.txt)"."""
        return f"{self.name} ({self.place})" if self.place else self.name

    @property
    def kind(self) -> str:
        """Its name beside a progress bar: of the built-in corpus "tales", else its own."""
        return KINDS[self.name].name if self.documents_by_default else self.name


def builtin_source(kind: str) -> Source:
    """The built-in documents of "web" (tales), "code" (programs) or "math" (exercises)."""
    documents = functools.partial(builtin_documents, kind)
    identity = f"built-in {KINDS[kind].name}, generator {GENERATOR}"
    return Source(kind, documents, identity, kind == "code", documents_by_default=KINDS[kind].documents)


def python_docs_source(kind: str) -> Source:
    """Python's documentation ("web") or the source of its library ("code")."""
    def documents(skip: int) -> Iterator[str]:
        for _, text in itertools.islice(python_documents(kind), skip, None):
            yield text
    what = "documentation" if kind == "web" else "library source"
    return Source(kind, documents, f"{what} of Python {sys.version.split()[0]}", kind == "code")


# ---------------------------------------------------------------------------------------- files and folders

def ending_of(path: Path) -> str:
    """The ending that decides how a file is read, in lower case and without .gz.

    >>> ending_of(Path("a/Rows.JSONL.gz")), ending_of(Path("README"))
    ('.jsonl', '')
    """
    return PurePath(path.name.lower().removesuffix(".gz")).suffix


def problem_of(path: Path) -> str | None:
    """Why a file cannot be read as documents, or None."""
    if not path.is_file():
        return "not a regular file"
    if ending_of(path) not in TEXT_ENDINGS | CODE_ENDINGS | ROW_ENDINGS:
        return "not a known format"
    if path.suffix.lower() != ".gz" and ending_of(path) != ".parquet":
        with open(path, "rb") as file:
            if b"\0" in file.read(8192):
                return "binary"
    return None


def problem_of_rows(path: Path) -> str | None:
    """Why a table file has no documents, or None; a damaged one raises UserError."""
    try:
        if ending_of(path) in ROW_ENDINGS:
            next(texts_of(rows_of(path), str(path)), None)
    except NoDocuments:
        return "without documents in a column text or content"
    return None


def made_here(folder: Path) -> bool:
    """Whether a folder is a corpus or a run of this program."""
    # os.path.isfile is False in a folder that this user may not read; Path.is_file raises an error there
    run = os.path.isfile(folder / "run.json") and os.path.isfile(folder / "log.jsonl")
    return run or os.path.isfile(folder / "tokenizer" / "tokenizer_config.json")


def files_of(path: str | Path) -> tuple[list[Path], dict[str, list[str]]]:
    """The readable files at a path, in the order of their names, and what is skipped: reason -> names.

    In a folder, hidden folders and files, caches, virtual environments, binaries, unknown formats, and the
    corpora and runs of this program are skipped. A link is followed, and its target is read once. Raises
    UserError for a single file that cannot be read, and for a folder without a readable file.
    """
    path = utf8_path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    if not path.is_dir():
        problem = problem_of(path)
        if problem:
            known = " ".join(sorted(filter(None, TEXT_ENDINGS | ROW_ENDINGS)))
            raise UserError(f"{path}: {problem}; documents are read from {known} and program files. "
                            "Rename it to .txt if it is plain text")
        return [path], {}
    files: list[Path] = []
    skipped: dict[str, list[str]] = defaultdict(list)
    seen: set[Path] = set()

    def walk(folder: Path) -> None:
        for entry in sorted(folder.iterdir()):
            name = str(entry.relative_to(path))
            if entry.name.startswith("."):
                skipped["hidden"].append(name)
            elif entry.name in CACHES or os.path.isfile(entry / "pyvenv.cfg"):
                skipped["cache"].append(name)
            elif made_here(entry):
                skipped["corpus or run of this program"].append(name)
            elif not entry.exists():
                skipped["broken link"].append(name)
            elif entry.resolve() in seen or entry.is_dir() and entry.resolve() in folder.resolve().parents:
                skipped["already read through another name"].append(name)
            elif entry.is_dir():
                seen.add(entry.resolve())
                walk(entry)
            elif problem := problem_of(entry) or problem_of_rows(entry):
                skipped[problem].append(name)
            else:
                seen.add(entry.resolve())
                files.append(entry)

    seen.add(path.resolve())
    walk(path)
    if not files:
        raise UserError(f"{path}: no file with documents in this folder{skipped_line(skipped)}")
    return files, skipped


def skipped_line(skipped: dict[str, list[str]]) -> str:
    """What was skipped, for a message: "; skipped: 2 hidden (.git, .env), 1 binary (logo.txt)"."""
    parts = []
    for reason, names in skipped.items():
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        parts.append(f"{len(names)} {reason} ({shown})")
    return f"; skipped: {', '.join(parts)}" if parts else ""


def kind_of(path: str | Path) -> str:
    """"code" if all files there are programs, else "text"."""
    return "code" if all(ending_of(file) in CODE_ENDINGS for file in files_of(path)[0]) else "text"


def path_source(kind: str, path: str | Path) -> Source:
    """A file or a folder as a source. Its identity covers each file's name and all of its content.

    "code" and "text" keep their lines; documents of other kinds become one line each.
    """
    path = Path(path)
    files, skipped = files_of(path)
    digest = hashlib.sha256()
    for file in files:
        digest.update(os.fsencode(file.relative_to(path)) + b"\0")
        with open(file, "rb") as content:
            while piece := content.read(1 << 20):
                digest.update(piece)

    def documents(skip: int) -> Iterator[str | None]:
        everything = itertools.chain.from_iterable(documents_of(file) for file in files)
        return itertools.islice(everything, skip, None)

    identity = f"{path.name}: {len(files)} files, {digest.hexdigest()[:12]}"
    note = f"{path}: {len(files)} files read{skipped_line(skipped)}" if skipped else ""
    return Source(kind, documents, identity, kind in ("code", "text"), note, str(path))


# --------------------------------------------------------------------------------------------------- one file

@contextlib.contextmanager
def open_text(path: Path, **options: Any) -> Iterator[Any]:
    """A file as UTF-8 text, with or without a byte order mark, decompressed if it ends in .gz.

    Raises UserError that names the file for other encodings and for damaged gzip data.
    """
    opener = gzip.open if path.suffix.lower() == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig", **options) as file:
            yield file
    except UnicodeDecodeError as error:
        utf16 = error.object[:2] in (b"\xff\xfe", b"\xfe\xff")
        encoding = "UTF-16" if utf16 else "LATIN1"
        raise UserError(f"{path}: not UTF-8 text ({error.reason}); if it is {encoding}, convert it: "
                        f"iconv -f {encoding} -t UTF-8 {shlex.quote(str(path))} > new.txt") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}: damaged gzip file ({error})") from None


def too_long(path: Path, place: str) -> UserError:
    """The error for a document of more than LARGEST_DOCUMENT characters."""
    return UserError(f"{path}: {place} has more than {LARGEST_DOCUMENT:,} characters, the limit for one "
                     "document; split it into several")


def read_text(path: Path) -> str:
    """All of a text file as one document. Raises UserError if it is too long or not text."""
    with open_text(path, newline="") as file:
        text = file.read(LARGEST_DOCUMENT + 1)
    if len(text) > LARGEST_DOCUMENT:
        raise too_long(path, "it")
    return text


def documents_of(path: Path) -> Iterator[str | None]:
    """The documents of one file. Raises UserError that names the file and the place of an error."""
    ending = ending_of(path)
    if ending in ROW_ENDINGS:
        yield from texts_of(rows_of(path), str(path))
    elif ending in CODE_ENDINGS:
        yield read_text(path)
    else:
        with open_text(path) as file:
            yield from paragraphs(file)


def paragraphs(file: Any) -> Iterator[str]:
    """Cut a text into documents.

    A document ends at a blank line once it is long enough, at any line end if it is twice as long, anywhere
    if it is four times as long.
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


# -------------------------------------------------------------------------------------------- rows of files

def rows_of(path: Path, columns: tuple[str, ...] = COLUMNS) -> Iterator[Any]:
    """The rows of a table file: dicts, or the items of a JSON list. Raises UserError that names the place.

    Only `columns` of a parquet file are read, if it has any of them; otherwise all.
    """
    ending = ending_of(path)
    if ending == ".parquet":
        yield from parquet_rows(path, columns)
    elif ending in (".csv", ".tsv"):
        yield from separated_rows(path, "\t" if ending == ".tsv" else ",")
    elif ending == ".json":
        yield from json_items(path)
    else:
        yield from json_rows(path)


def lines_of(file: Any, path: Path) -> Iterator[str]:
    """The lines of an open file. Raises UserError for one of more than LARGEST_DOCUMENT characters."""
    for number in itertools.count(1):
        line = file.readline(LARGEST_DOCUMENT + 1)
        if not line:
            return
        if len(line) > LARGEST_DOCUMENT:
            raise too_long(path, f"line {number}")
        yield line


def json_rows(path: Path) -> Iterator[dict]:
    """The JSON objects of a file, one a line; empty lines are skipped."""
    with open_text(path) as file:
        for number, line in enumerate(lines_of(file, path), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if number == 1 and not isinstance(row, dict) and ending_of(path) == ".json":
                raise NoDocuments(f"{path}: neither a JSON list nor one JSON object a line")
            if not isinstance(row, dict):
                raise UserError(f"{path}: line {number} is not a JSON object")
            yield row


def json_items(path: Path) -> Iterator[Any]:
    """The items of a file that is one JSON list; for any other file, `json_rows`."""
    with open_text(path) as file:
        is_list = file.read(CHUNK).lstrip().startswith("[")
    if not is_list:
        yield from json_rows(path)
        return
    with open_text(path) as file:
        text = file.read(LARGEST_LIST + 1)
    if len(text) > LARGEST_LIST:
        raise UserError(f"{path}: a JSON list of more than {LARGEST_LIST:,} characters; write one object a "
                        "line (.jsonl) instead")
    try:
        yield from json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a valid JSON list ({error})") from None


def separated_rows(path: Path, delimiter: str) -> Iterator[dict]:
    """The rows of a .csv or .tsv file with a header line."""
    csv.field_size_limit(LARGEST_DOCUMENT)
    with open_text(path, newline="") as file:
        reader = csv.DictReader(lines_of(file, path), delimiter=delimiter, strict=True)
        try:
            for row in reader:
                if None in row:
                    raise UserError(f"{path}: line {reader.line_num} has more fields than the header; put a "
                                    f"text with {delimiter!r} in it into double quotes")
                yield row
        except csv.Error as error:
            raise UserError(f"{path}: line {reader.line_num}: {error}") from None


def parquet_rows(path: Path, columns: tuple[str, ...]) -> Iterator[dict]:
    """The rows of a parquet file, read in batches of about 64 MB; see `rows_of` for `columns`."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(f'{path}: reading parquet needs pyarrow; pip install ".[hub]"') from None
    try:
        table = pyarrow.parquet.ParquetFile(path)
        present = [column for column in columns if column in table.schema_arrow.names] or None
        groups = [table.metadata.row_group(number) for number in range(table.num_row_groups)]
        row_bytes = max([group.total_byte_size // max(1, group.num_rows) for group in groups], default=1)
        for batch in table.iter_batches(max(1, min(1000, (64 << 20) // max(1, row_bytes))), columns=present):
            yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a readable parquet file ({str(error).splitlines()[0]})") from None


def texts_of(rows: Iterable[Any], where: str) -> Iterator[str | None]:
    """The document of each row: its column "text", else "content", or the row itself if it is a text.

    None for a row without text there (null, a list, a number). Raises UserError if the first row has neither
    column, and for a document that is too long.
    """
    for number, row in enumerate(rows, 1):
        names = row if isinstance(row, dict) else ()
        column = next((name for name in COLUMNS if name in names), None)
        if number == 1 and column is None and not isinstance(row, str):
            found = ", ".join(map(str, names)) or "none"
            raise NoDocuments(f"{where}: no column {' or '.join(COLUMNS)}; found {found}")
        text = row[column] if column else row
        if isinstance(text, str) and len(text) > LARGEST_DOCUMENT:
            raise too_long(Path(where), f"row {number}")
        yield text if isinstance(text, str) else None


# ------------------------------------------------------------------------------------------------------ hub

@dataclass(frozen=True)
class HubDataset:
    """Arguments of `datasets.load_dataset`."""

    path: str
    name: str | None = None  # the subset
    data_dir: str | None = None
    columns: tuple[str, ...] = ()  # the only columns to transfer


def hub_source(kind: str, datasets: list[HubDataset]) -> Source:
    """Datasets of the hub as one source: one row of each in turn.

    A preparation that continues must stream again the rows that it has already read.
    """
    def documents(skip: int) -> Iterator[str | None]:
        rows = by_turns([hub_texts(dataset) for dataset in datasets])
        return itertools.islice(rows, skip, None)

    names = [(dataset.path, dataset.name, dataset.data_dir) for dataset in datasets]
    identity = ", ".join(" ".join(filter(None, parts)) for parts in names)
    return Source(kind, documents, identity, kind == "code")


def by_turns(iterators: list[Iterator]) -> Iterator:
    """One item of each iterator in turn, until all have ended.

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


def hub_texts(dataset: HubDataset) -> Iterator[str | None]:
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
    except Exception as error:  # of the library or what it uses: network, access, file formats
        raise UserError(f"{dataset.path}: interrupted after {rows_read} rows ({hub_reason(error)}); run the "
                        "same command again to continue") from None


def hub_reason(error: Exception) -> str:
    """The hub's error in one line, with the remedy if it is known."""
    message = " ".join(str(error).split())[:200]
    words = message.lower()
    if "gated" in words or "401" in words or "403" in words:
        return "it is gated: accept its terms on its page, then log in with: hf auth login"
    if isinstance(error, ConnectionError) or any(
        word in words for word in ("connect", "reach", "resolve", "offline")
    ):
        return f"{message or type(error).__name__}: is the hub reachable from here?"
    return f"{type(error).__name__}: {message}"
