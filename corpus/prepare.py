# SPDX-License-Identifier: Apache-2.0
"""Documents to a corpus folder: the writing half of data.py, run once before training.

    documents --pieces--> workers: clean, split, tokenize --in order--> one writer: shards --> manifest.json

Any number of workers gives the same files. The process may be killed at any moment: every few seconds it
writes the tokens to the disk, and then the number of their documents into `prepare.json`. The same command
continues from that record; no document is lost or read twice.
"""
from __future__ import annotations

import contextlib
import functools
import itertools
import json
import math
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Iterable, Iterator, NamedTuple

import numpy as np

from common import (
    FolderBusy, UserError, atomic_write, lock_folder, progress, read_json, sha256_file, tell, utf8_path,
)
from corpus.documents import COLUMNS, Source
from data import (
    ANNEAL, END, FORMAT, SPLITS, START, average_share, check_split, clean_text, lost_notes, read_manifest,
    split_key,
)
from tokenizer import load as load_tokenizer, lost_characters

SHARD_TOKENS = 50_000_000  # 100 MB a shard
PIECE = 1 << 17  # characters
FIRST = 100  # a source with fewer different documents than this gives at least one to validation
MOST_WITHOUT_TEXT = 0.1  # the largest share of rows without text
SAVE_SECONDS, REPORT_SECONDS = 5.0, 30.0


# -------------------------------------------------------------------------------------------------- workers

def pieces_of(documents: Iterable[str | None], characters: int = PIECE,
              most: int = 256) -> Iterator[list[str | None]]:
    """Group documents into lists of about so many characters, and at most `most` documents."""
    piece, size = [], 0
    for text in documents:
        piece.append(text)
        size += len(text or "")
        if size >= characters or len(piece) == most:
            yield piece
            piece, size = [], 0
    if piece:
        yield piece


tokenizer_of = functools.lru_cache(maxsize=1)(load_tokenizer)     # loaded once in each process


class Tokenized(NamedTuple):
    """A list of n documents after cleaning and tokenizing, in order. An empty document has length 0."""

    validation: np.ndarray  # bool (n,)
    characters: np.ndarray  # int64 (n,)
    lengths: np.ndarray  # int64 (n,): tokens of each, separator included
    tokens: np.ndarray  # uint16 (sum of lengths,)
    nats: np.ndarray  # float64 (n,): -log p of each, NaN where its source does not know it
    lost: np.ndarray  # int64 (n,): characters for which the vocabulary has no token
    without_text: np.ndarray  # bool (n,): rows that had no text

    def first(self, count: int) -> Tokenized:
        """The first `count` documents."""
        parts = {name: value[:count] for name, value in self._asdict().items()}
        return Tokenized(**{**parts, "tokens": self.tokens[:self.lengths[:count].sum()]})


def tokenize_piece(texts: list[str | None], folder: str, validation_below: int, clean: dict) -> Tokenized:
    """Clean, split and tokenize documents: the work of a worker process."""
    tokenizer = tokenizer_of(folder)
    cleaned = [clean_text(text or "", **clean) for text in texts]
    encoded = tokenizer.encode_many(cleaned, document=True)
    documents = [np.array(ids + [tokenizer.eos_id] if text else [], dtype="<u2")
                 for ids, text in zip(encoded, cleaned)]
    return Tokenized(
        validation=np.array([split_key(text) < validation_below for text in cleaned]),
        characters=np.array([len(text) for text in cleaned]),
        lengths=np.array([len(tokens) for tokens in documents]),
        tokens=np.concatenate(documents),
        nats=np.array([getattr(text, "nats", math.nan) if text == result else math.nan
                       for text, result in zip(texts, cleaned)]),
        lost=np.array([lost_characters(tokenizer, text) for text in cleaned]),
        without_text=np.array([text is None for text in texts]),
    )


def end_with_parent(parent: int) -> None:
    """Start of a worker: it ignores Ctrl-C, which the parent handles, and ends if the parent was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)
    threading.Thread(target=watch, daemon=True).start()


def tokenized(documents: Iterable[str | None], job: tuple, workers: int) -> Iterator[Tokenized]:
    """Yield the documents, a piece at a time, in order.

    At most four pieces for each worker are in memory, so memory does not grow with the input.
    """
    if workers == 1:
        for piece in pieces_of(documents):
            yield tokenize_piece(piece, *job)
        return
    # On Linux a fork starts fastest, and works in notebooks, whose main module cannot be imported.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    with ProcessPoolExecutor(workers, context, initializer=end_with_parent, initargs=(os.getpid(),)) as pool:
        waiting = deque()
        try:
            for piece in pieces_of(documents):
                waiting.append(pool.submit(tokenize_piece, piece, *job))
                if len(waiting) >= 4 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            raise UserError("a worker process was killed (out of memory?); run the command again with fewer "
                            "--workers") from None
        finally:
            pool.shutdown(cancel_futures=True)


# --------------------------------------------------------------------------------------------------- shards

class ShardWriter:
    """Appends tokens to `prefix.00000.bin`, `prefix.00001.bin`, ..., `shard_tokens` in each but the last.

    `record` has the number of tokens and the closed shards, for a continued preparation. A killed preparation
    may leave more bytes than its last record says; they are cut off on opening and written again.
    """

    def __init__(self, folder: Path, prefix: str, shard_tokens: int, record: dict):
        self.folder, self.prefix, self.shard_tokens, self.record = folder, prefix, shard_tokens, record
        self.open_shard()

    def open_shard(self) -> None:
        closed = self.record["shards"]
        self.path = self.folder / f"{self.prefix}.{len(closed):05d}.bin"
        self.filled = self.record["tokens"] - sum(shard["tokens"] for shard in closed)
        self.file = open(self.path, "ab")  # noqa: SIM115 (closed by close_shard)
        if os.path.getsize(self.path) < 2 * self.filled:
            raise UserError(f"{self.path}: shorter than when the preparation stopped; remove {self.folder} "
                            "and start again")
        self.file.truncate(2 * self.filled)

    def add(self, tokens: np.ndarray) -> None:
        """Append tokens, uint16 (n,), to one or more shards."""
        while len(tokens):
            part = tokens[:self.shard_tokens - self.filled]
            self.file.write(part.tobytes())
            self.filled += len(part)
            self.record["tokens"] += len(part)
            tokens = tokens[len(part):]
            if self.filled == self.shard_tokens:
                self.close_shard()
                self.open_shard()

    def save(self) -> None:
        """Write the added tokens to the disk, before a record counts them."""
        self.file.flush()
        os.fsync(self.file.fileno())

    def close_shard(self) -> None:
        self.save()
        self.file.close()
        if self.filled:
            shard = {"file": self.path.name, "tokens": self.filled, "sha256": sha256_file(self.path)}
            self.record["shards"].append(shard)
        else:
            self.path.unlink()


# ---------------------------------------------------------------------------------------- what a folder holds

class MadeOtherwise(UserError):
    """The folder holds a corpus, or part of one, with other text or settings."""

    def __init__(self, folder: Path, changed: list[str]):
        named = [name if name != "sources" else "sources (other files, or edited ones)" for name in changed]
        super().__init__(f"{folder} was made with another setting of {', '.join(named)}; choose another "
                         "folder with --out, or remove that one first")


def changed_settings(stored: Any, made_with: dict) -> list[str]:
    """The settings in which `stored`, those of a folder, differ from `made_with`."""
    stored = stored if isinstance(stored, dict) else {}
    return [name for name in made_with if stored.get(name) != made_with[name]]


def stored_progress(path: Path, made_with: dict) -> dict:
    """The record `prepare.json` of an unfinished preparation, every field validated.

    If a file of the sources was edited since, the preparation starts over, with a line on stderr. Raises
    MadeOtherwise for other settings and UserError for a damaged file.
    """
    state = read_json(path)
    changed = changed_settings(state.get("recipe"), made_with)
    if changed == ["sources"] and state["recipe"]["sources"].keys() == made_with["sources"].keys():
        tell(f"{path.parent}: the text changed since this preparation stopped; it starts over")
        for file in path.parent.glob("*.bin"):
            file.unlink()
        path.unlink()
        return {"recipe": made_with, "sources": {}}
    if changed:
        raise MadeOtherwise(path.parent, changed)
    try:
        for name, record in state["sources"].items():
            counts = [record["read"], record["empty"], record.get("without_text", 0)]
            good = name in made_with["sources"] and type(record["done"]) is bool
            good = good and all(type(count) is int and count >= 0 for count in counts)
            for split in SPLITS:
                check_split(name, split, record[split])
                closed = sum(shard["tokens"] for shard in record[split]["shards"])
                good = good and type(record[split]["tokens"]) is int and record[split]["tokens"] >= closed
            if not good or type(record.get("validation_below", 0)) is not int:
                raise ValueError(name)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{path}: damaged ({error!r}); remove {path.parent} and start again") from None
    return state


def finished(folder: Path, made_with: dict) -> bool:
    """Whether a finished corpus made with these settings is there. Raises MadeOtherwise for another one."""
    if not (folder / "manifest.json").is_file():
        return False
    if changed := changed_settings(read_manifest(folder).get("recipe"), made_with):
        raise MadeOtherwise(folder, changed)
    return True


@contextlib.contextmanager
def own_folder(out: Path) -> Iterator[None]:
    """Make the folder `out` and hold it. Waits while another process prepares it.

    A folder made here is removed if a UserError comes before any progress was recorded. Only the process
    that holds the lock removes it.
    """
    made, waiting = False, False
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: a file, not a folder; choose another folder with --out")
    while True:
        made = made or not out.exists()
        out.mkdir(parents=True, exist_ok=True)
        try:
            handle = lock_folder(out)
            if os.name != "posix" or os.path.exists(out / ".lock") and \
                    os.path.samestat(os.fstat(handle.fileno()), os.stat(out / ".lock")):
                break
            handle.close()  # the folder was removed and perhaps made again meanwhile
        except FileNotFoundError:
            continue
        except FolderBusy:
            made = False  # the other process made it
            if not waiting:
                tell(f"{out}: waiting for another process that prepares this folder")
            waiting = True
            time.sleep(0.2)
    with handle:
        try:
            yield
        except UserError:
            if made and not any((out / name).is_file() for name in ("prepare.json", "manifest.json")):
                shutil.rmtree(out, ignore_errors=True)
            raise


# ---------------------------------------------------------------------------------------------- preparation

def prepare(
    sources: list[Source], out: str | Path, vocab: str | Path | None = None, *,
    start: dict[str, float] | None = None, end: dict[str, float] | None = None,
    token_budget: int | None = None, source_token_budget: int | None = None, validation_share: float = 0.05,
    shard_tokens: int = SHARD_TOKENS, one_mode: bool = False, workers: int | None = None, command: str = "",
) -> Path:
    """Clean, tokenize and write `sources` into the folder `out`, and return it.

    A second call continues an unfinished preparation, and returns at once after a finished one.

    start, end           shares of the mixture by source; only their ratios count (default: the cards'
                         75/15/10, our anneal)
    token_budget         training tokens in all, divided so that a run of that length reads each source once
    source_token_budget  at most this many training tokens of each source; a source ends with the document
                         that reaches its budget
    validation_share     part of the documents that is kept for validation
    one_mode             Stentor1 and Stentor2: every text is cleaned to one line, without the newline step

    Raises UserError if the folder holds something else, the disk is too small, a source yields too little, or
    more than a tenth of its rows have no text.
    """
    out = utf8_path(out)
    tokenizer = load_tokenizer(vocab) if vocab else load_tokenizer()
    if tokenizer.vocab_size > 1 << 16:
        raise UserError(f"{vocab}: {tokenizer.vocab_size} tokens; shards hold 16-bit numbers, at most "
                        f"{1 << 16}")
    names = [source.name for source in sources]
    start, end = shares_of(start or START, names), shares_of(end or END, names)
    made_with = {
        "tokenizer": tokenizer.fingerprint,
        "sources": {source.name: source.identity for source in sources},
        "one_mode": one_mode,
        "start": start,
        "end": end,
        "anneal": ANNEAL,
        "token_budget": token_budget,
        "source_token_budget": source_token_budget,
        "validation_share": validation_share,
        "shard_tokens": shard_tokens,
    }
    if finished(out, made_with):                                  # before locking: it may be read-only
        return out
    with own_folder(out):
        done, unfinished = out / "manifest.json", out / "prepare.json"
        if finished(out, made_with):                              # another process may have finished it
            return out
        state = {"recipe": made_with, "sources": {}}
        if unfinished.is_file():
            state = stored_progress(unfinished, made_with)
        missing = (token_budget or 0) - sum(record["train"]["tokens"] for record in state["sources"].values())
        free = shutil.disk_usage(out).free
        if 2.2 * missing > free:  # two bytes each, and a tenth for validation
            raise UserError(f"{missing:,} tokens need {2.2e-9 * missing:.1f} GB, {out} has {free / 1e9:.1f} "
                            "GB free; lower --tokens")
        for file in list(out.rglob(".*.tmp")):  # a killed preparation left them
            file.unlink()
        tokenizer.save_pretrained(out / "tokenizer")
        for source in sources:
            share = average_share(start[source.name], end[source.name])
            limits = [source_token_budget, token_budget and max(1, round(token_budget * share))]
            budget = min((limit for limit in limits if limit), default=sys.maxsize)
            prepare_source(source, out, state, budget, workers or os.cpu_count() or 1)
        files = sorted(file for file in (out / "tokenizer").iterdir() if file.is_file())
        manifest = {
            "format": FORMAT,
            "command": command,
            "recipe": made_with,
            "tokenizer": {
                "fingerprint": tokenizer.fingerprint,
                "vocab_size": tokenizer.vocab_size,
                "eos_id": tokenizer.eos_id,
                "files": {file.name: sha256_file(file) for file in files},
            },
            "mixture": {"start": start, "end": end, "anneal": ANNEAL},
            "lines": {source.name: source.lines and not one_mode for source in sources},
            "sources": state["sources"],
        }
        atomic_write(done, json.dumps(manifest, indent=1))
        unfinished.unlink(missing_ok=True)
    for line in [source.note for source in sources if source.note] + lost_notes(manifest):
        tell(line)
    return out


def prepare_source(source: Source, out: Path, state: dict, budget: int, workers: int) -> None:
    """Write the documents of one source until they end or `budget` training tokens are there."""
    made_with = state["recipe"]
    stored = state["sources"].get(source.name, {})
    record = {"read": 0, "empty": 0, "without_text": 0, "done": False, **stored}
    state["sources"][source.name] = record
    for split in SPLITS:
        counts = {"documents": 0, "characters": 0, "tokens": 0, "nats": 0.0, "lost": 0, "shards": []}
        record[split] = {**counts, **record.get(split, {})}
    if record["done"]:
        return
    one_mode = made_with["one_mode"]
    clean = {"preserve_linebreaks": source.lines and not one_mode, "unify_newlines": not one_mode}
    if "validation_below" not in record:
        record["validation_below"] = validation_bound(source, clean, made_with["validation_share"])
    documents = source.documents(record["read"])
    if source.documents_by_default and budget == sys.maxsize:
        documents = itertools.islice(documents, max(0, source.documents_by_default - record["read"]))
    shard_tokens = made_with["shard_tokens"]
    writers = {split: ShardWriter(out, f"{source.name}.{split}", shard_tokens, record[split])
               for split in SPLITS}

    def save() -> None:
        for writer in writers.values():
            writer.save()
        atomic_write(out / "prepare.json", json.dumps(state))

    began = saved = told = time.monotonic()
    had, broken = record["train"]["tokens"], []
    total = budget if budget < sys.maxsize else None
    bar = progress(total=total, initial=had, desc=source.kind, unit="tok", unit_scale=True)
    job = (str(out / "tokenizer"), record["validation_below"], clean)
    for piece in tokenized(until_broken(documents, broken), job, workers):
        reached = record["train"]["tokens"] + np.cumsum(np.where(piece.validation, 0, piece.lengths))
        if reached[-1] >= budget:
            piece = piece.first(int(np.searchsorted(reached, budget)) + 1)
        add_piece(piece, record, writers)
        bar.update(record["train"]["tokens"] - bar.n)
        if record["train"]["tokens"] >= budget:
            break
        if record["read"] >= 10 * FIRST:
            check_rows(source.title, record["without_text"], record["read"])
        now = time.monotonic()
        if now - saved > SAVE_SECONDS:
            save()
            saved = now
        if now - told > REPORT_SECONDS and bar.disable:  # not a terminal: a line in the log instead of a bar
            line = progress_line(source.kind, record["train"]["tokens"], had, budget, now - began)
            tell(line)
            told = now
    if broken and record["train"]["tokens"] < budget:
        save()
        raise broken[0]
    bar.close()
    check_rows(source.title, record["without_text"], record["read"])
    for split, writer in writers.items():
        writer.close_shard()
        if not record[split]["tokens"]:
            raise UserError(f"{source.title}: no document for {split}; take more of it (--tokens), or raise "
                            "--validation-share")
    record["done"] = True
    atomic_write(out / "prepare.json", json.dumps(state))


def add_piece(piece: Tokenized, record: dict, writers: dict[str, ShardWriter]) -> None:
    """Append the documents of a piece to their splits and count them."""
    record["read"] += len(piece.lengths)
    record["empty"] += int((piece.lengths == 0).sum())
    record["without_text"] += int(piece.without_text.sum())
    for split, chosen in zip(SPLITS, (~piece.validation, piece.validation)):
        counts = record[split]
        writers[split].add(piece.tokens[np.repeat(chosen, piece.lengths)])
        counts["documents"] += int((piece.lengths[chosen] > 0).sum())
        counts["characters"] += int(piece.characters[chosen].sum())
        counts["lost"] += int(piece.lost[chosen].sum())
        nats = float(piece.nats[chosen].sum())
        known = counts["nats"] is not None and not math.isnan(nats)
        counts["nats"] = counts["nats"] + nats if known else None


def check_rows(name: str, without_text: int, rows: int) -> None:
    """Raise UserError if more than a tenth of the rows of a source have no text."""
    if without_text > MOST_WITHOUT_TEXT * rows:
        raise UserError(f"{name}: {without_text:,} of {rows:,} rows have no text in their column "
                        f"{' or '.join(COLUMNS)} (null, a list, a number ...); mend or remove them")


def until_broken(documents: Iterator[str | None], broken: list[UserError]) -> Iterator[str | None]:
    """Yield documents until they end or their source fails (network, damaged file).

    The error is put into `broken`. So all that was read before is written, and the same command continues
    from there.
    """
    try:
        yield from documents
    except UserError as error:
        broken.append(error)


def validation_bound(source: Source, clean: dict, share: float) -> int:
    """The split key below which a document is for validation: `share` of all keys.

    A source with fewer than FIRST different documents gives at least one. It is read until FIRST are found,
    or to its end.
    """
    keys: set[int] = set()
    without_text = rows = 0
    for text in source.documents(0):
        rows += 1
        without_text += text is None
        cleaned = clean_text(text or "", **clean)
        if cleaned:
            keys.add(split_key(cleaned))
        if len(keys) == FIRST:
            return int(share * 2**64)
    check_rows(source.title, without_text, rows)
    if len(keys) < 2:
        raise UserError(f"{source.title}: {len(keys)} different documents; at least two are needed, one of "
                        "them for validation: give more text (a text file is cut at blank lines into "
                        "documents of about 8,000 characters)")
    return max(int(share * 2**64), min(keys) + 1)


def progress_line(name: str, tokens: int, had: int, budget: int, seconds: float) -> str:
    """One line of progress: tokens, tokens per second, and the time left where there is a budget."""
    rate = (tokens - had) / seconds
    minutes = (budget - tokens) / max(rate, 1e-9) / 60
    left = f" of {budget:,}, {minutes:.0f} minutes left" if budget < sys.maxsize else ""
    return f"{name}: {tokens:,} tokens{left}, {rate:,.0f} tokens/s"


def shares_of(weights: dict[str, float], names: list[str]) -> dict[str, float]:
    """The shares of the named sources, scaled to the sum 1.

    The user's own text ("text") takes the share of "web". If the mixture names none of the sources, all
    shares are equal.
    """
    weights = {"text": weights.get("web", 0.0), **weights}
    raw = {name: float(weights.get(name, 0.0)) for name in names}
    if not any(raw.values()):
        raw = dict.fromkeys(names, 1.0)
    if min(raw.values()) <= 0:
        raise UserError(f"the mixture has no share for {min(raw, key=raw.get)}; it has {', '.join(weights)}")
    return {name: weight / sum(raw.values()) for name, weight in raw.items()}
