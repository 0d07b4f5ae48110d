# SPDX-License-Identifier: Apache-2.0
"""Documents to a corpus folder: the writing half of data.py, run once before training.

    documents --pieces--> workers: clean_text, split, tokens + separator --in order--> one writer: shards -->
    manifest.json

Any number of workers gives the same files. The process may be killed at any moment: every few seconds the
bytes are made durable, and then `prepare.json` says how many documents they hold, so the same command goes on
there, with no document lost and none twice.
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
from typing import Iterable, Iterator, NamedTuple

import numpy as np

import tokenizer
from common import UserError, atomic_write, lock_folder, progress, read_json, sha256_file
from corpus.documents import Source
from data import ANNEAL, END, FORMAT, SPLITS, START, average_share, clean_text, split_key

SHARD_TOKENS = 50_000_000  # 100 MB a shard
FIRST = 100  # a source with fewer documents than this gives at least one to validation
SAVE_SECONDS, REPORT_SECONDS = 5.0, 30.0


# ---------------------------------------------------------------------------------------------------- workers

def pieces_of(documents: Iterable[str], characters: int = 1 << 17) -> Iterator[list[str]]:
    """Group documents into lists of about `characters`: large enough to be worth sending, small enough to
    share out evenly.
    """
    piece, size = [], 0
    for text in documents:
        piece.append(text)
        size += len(text)
        if size >= characters or len(piece) == 256:
            yield piece
            piece, size = [], 0
    if piece:
        yield piece


@functools.lru_cache(maxsize=1)
def tokenizer_of(folder: str) -> tokenizer.Tokenizer:
    """The tokenizer of a folder, loaded once in each process."""
    return tokenizer.load(folder)


class Tokenized(NamedTuple):
    """A list of n documents after cleaning and tokenizing, in order. A document of which nothing is left has
    length 0.
    """

    validation: np.ndarray  # bool (n,)
    characters: np.ndarray  # int64 (n,)
    lengths: np.ndarray  # int64 (n,): tokens of each, separator included
    tokens: np.ndarray  # uint16 (sum of lengths,)
    nats: np.ndarray  # float64 (n,): -log p of each, NaN where its source does not know it

    def first(self, count: int) -> Tokenized:
        """The first `count` documents."""
        tokens = self.tokens[:self.lengths[:count].sum()]
        return Tokenized(
            self.validation[:count], self.characters[:count], self.lengths[:count], tokens, self.nats[:count]
        )


def tokenize_piece(texts: list[str], folder: str, validation_below: int, clean: dict) -> Tokenized:
    """Clean, split and tokenize documents: the work of a worker."""
    coder = tokenizer_of(folder)
    cleaned = [clean_text(text, **clean) for text in texts]
    encoded = coder.encode_many(cleaned, document=True)
    documents = [ids + [coder.eos_id] if text else [] for ids, text in zip(encoded, cleaned)]
    validation = np.array([split_key(text) < validation_below for text in cleaned])
    characters, lengths = (
        np.array([len(text) for text in cleaned]),
        np.array([len(tokens) for tokens in documents]),
    )
    tokens = np.array(list(itertools.chain.from_iterable(documents)), dtype="<u2")
    nats = np.array([getattr(text, "nats", math.nan) if text == clean else math.nan
                     for text, clean in zip(texts, cleaned)])
    return Tokenized(validation, characters, lengths, tokens, nats)


def end_with_parent(parent: int) -> None:
    """Start of a worker: Ctrl-C is the parent's to handle, and when the parent is gone (killed) the worker
    ends too.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)
    threading.Thread(target=watch, daemon=True).start()


def tokenized(documents: Iterable[str], job: tuple, workers: int) -> Iterator[Tokenized]:
    """Yield the documents, a piece at a time, in order. At most four pieces a worker are under way, so memory
    does not grow with input.
    """
    if workers == 1:
        for piece in pieces_of(documents):
            yield tokenize_piece(piece, *job)
        return
    # Linux: a fork starts fastest and, unlike a fresh start, needs no main module that can be imported
    # (notebooks)
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
            raise UserError(
                "a worker process was killed (out of memory?); run the command again with fewer --workers"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


# ----------------------------------------------------------------------------------------------------- shards

class ShardWriter:
    """Appends tokens to `prefix.00000.bin`, `prefix.00001.bin`, ..., `shard_tokens` in each but the last.

    `record` is what a continued preparation needs: the number of tokens and the closed shards. A run that was
    killed may leave more bytes than its last record says; they are cut off on opening and written again.
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
            raise UserError(
                f"{self.path}: shorter than when the preparation stopped; remove {self.folder} and "
                f"begin again"
            )
        self.file.truncate(2 * self.filled)

    def add(self, tokens: np.ndarray) -> None:
        """Append tokens, uint16 (n,), over as many shards as it takes."""
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
        """Make durable what was added, before a record says that it is there."""
        self.file.flush()
        os.fsync(self.file.fileno())

    def close_shard(self) -> None:
        self.save()
        self.file.close()
        if self.filled:
            self.record["shards"].append(
                {"file": self.path.name, "tokens": self.filled, "sha256": sha256_file(self.path)}
            )
        else:
            self.path.unlink()


# ------------------------------------------------------------------------------------- what a folder holds

class OtherRecipe(UserError):
    """The folder holds a corpus, or the beginning of one, of other text or settings."""


def check_recipe(path: Path, recipe: dict) -> dict:
    """The JSON object in a manifest or a record of progress. Raises OtherRecipe if it was made with other
    settings than `recipe`.
    """
    state = read_json(path)
    stored = state.get("recipe")
    if not isinstance(stored, dict) or not isinstance(state.get("sources"), dict):
        raise UserError(f"{path}: damaged; remove {path.parent} and begin again")
    changed = [key for key in recipe if stored.get(key) != recipe[key]]
    if changed:
        names = ", ".join(changed)
        raise OtherRecipe(
            f"{path.parent} was made with another setting of {names}; choose another folder, or remove "
            f"that one first"
        )
    return state


@contextlib.contextmanager
def nothing_left_of_a_failure(out: Path) -> Iterator[None]:
    """Make the folder `out`; remove it again if it was new and a UserError comes before any progress was
    recorded in it.
    """
    new = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except UserError:
        if new and not (out / "prepare.json").is_file():
            shutil.rmtree(out, ignore_errors=True)
        raise


# ------------------------------------------------------------------------------------------------ preparation

def prepare(
    sources: list[Source],
    out: str | Path,
    vocab: str | Path | None = None,
    *,
    start: dict[str, float] | None = None,
    end: dict[str, float] | None = None,
    token_budget: int | None = None,
    source_token_budget: int | None = None,
    validation_share: float = 0.05,
    shard_tokens: int = SHARD_TOKENS,
    one_mode: bool = False,
    workers: int | None = None,
    command: str = "",
) -> Path:
    """Clean, tokenize and write `sources` into the folder `out`, and return it. Called again it continues, or
    finds all done.

    start, end           shares of the mixture by source, of which the ratios count (default: the cards'
                         75/15/10, our anneal)
    token_budget         training tokens in all, divided so that a run of that length goes through each source
                         once
    source_token_budget  at most so many training tokens of each source; a source ends with the document that
    reaches its budget
    validation_share     part of the documents that is kept for validation
    one_mode             Stentor1 and Stentor2: every text is cleaned to one line, without the newline step

    Raises UserError if the folder was begun with other settings, the disk is too small or a source yields too
    little.
    """
    out = Path(out)
    coder = tokenizer.load(vocab) if vocab else tokenizer.load()
    if coder.vocab_size > 1 << 16:
        raise UserError(
            f"{vocab}: {coder.vocab_size} tokens, but shards hold 16-bit numbers: at most {1 << 16}"
        )
    names = [source.name for source in sources]
    start, end = shares_of(start or START, names), shares_of(end or END, names)
    recipe = {
        "tokenizer": coder.fingerprint,
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
    with nothing_left_of_a_failure(out), lock_folder(out):
        done, begun = out / "manifest.json", out / "prepare.json"
        if done.is_file():
            check_recipe(done, recipe)
            return out
        state = check_recipe(begun, recipe) if begun.is_file() else {"recipe": recipe, "sources": {}}
        missing = (token_budget or 0) - sum(record["train"]["tokens"] for record in state["sources"].values())
        free = shutil.disk_usage(out).free
        if 2.2 * missing > free:  # two bytes each, and a tenth for validation
            raise UserError(
                f"{missing:,} tokens need {2.2e-9 * missing:.1f} GB, {out} has {free / 1e9:.1f} GB "
                f"free; lower --tokens"
            )
        for file in list(out.rglob(".*.tmp")):  # of a killed run
            file.unlink()
        coder.save_pretrained(out / "tokenizer")
        for source in sources:
            share = average_share(start[source.name], end[source.name])
            limits = [source_token_budget, token_budget and max(1, round(token_budget * share))]
            budget = min((limit for limit in limits if limit), default=sys.maxsize)
            prepare_source(source, out, state, budget, workers or os.cpu_count() or 1)
        files = {
            file.name: sha256_file(file) for file in sorted((out / "tokenizer").iterdir()) if file.is_file()
        }
        about = {
            "fingerprint": coder.fingerprint,
            "vocab_size": coder.vocab_size,
            "eos_id": coder.eos_id,
            "files": files,
        }
        mixture = {"start": start, "end": end, "anneal": ANNEAL}
        manifest = {
            "format": FORMAT,
            "command": command,
            "recipe": recipe,
            "tokenizer": about,
            "mixture": mixture,
            "sources": state["sources"],
        }
        atomic_write(done, json.dumps(manifest, indent=1))
        begun.unlink(missing_ok=True)
    return out


def prepare_source(source: Source, out: Path, state: dict, budget: int, workers: int) -> None:
    """Write the documents of one source until they end or `budget` training tokens are there."""
    recipe = state["recipe"]
    record = state["sources"].setdefault(source.name, {"read": 0, "empty": 0, "done": False})
    for split in SPLITS:
        record.setdefault(split, {"documents": 0, "characters": 0, "tokens": 0, "nats": 0.0, "shards": []})
    if record["done"]:
        return
    clean = {
        "preserve_linebreaks": source.lines and not recipe["one_mode"],
        "unify_newlines": not recipe["one_mode"],
    }
    documents = source.documents(record["read"])
    if source.documents_by_default and budget == sys.maxsize:
        documents = itertools.islice(documents, max(0, source.documents_by_default - record["read"]))
    if "validation_below" not in record:
        first = list(itertools.islice(documents, FIRST))
        cleaned = [clean_text(text, **clean) for text in first]
        record["validation_below"] = validation_bound(source.name, cleaned, recipe["validation_share"])
        documents = itertools.chain(first, documents)
    writers = {
        split: ShardWriter(out, f"{source.name}.{split}", recipe["shard_tokens"], record[split])
        for split in SPLITS
    }

    def save() -> None:
        for writer in writers.values():
            writer.save()
        atomic_write(out / "prepare.json", json.dumps(state))

    began = saved = told = time.monotonic()
    had, broken = record["train"]["tokens"], []
    bar = progress(
        total=budget if budget < sys.maxsize else None,
        initial=had,
        desc=source.name,
        unit="tok",
        unit_scale=True,
    )
    job = (str(out / "tokenizer"), record["validation_below"], clean)
    for piece in tokenized(until_broken(documents, broken), job, workers):
        reached = record["train"]["tokens"] + np.cumsum(np.where(piece.validation, 0, piece.lengths))
        if reached[-1] >= budget:
            piece = piece.first(int(np.searchsorted(reached, budget)) + 1)
        add_piece(piece, record, writers)
        bar.update(record["train"]["tokens"] - bar.n)
        if record["train"]["tokens"] >= budget:
            break
        now = time.monotonic()
        if now - saved > SAVE_SECONDS:
            save()
            saved = now
        if now - told > REPORT_SECONDS and bar.disable:  # no terminal: a line in the log instead of a bar
            print(report(source.name, record["train"]["tokens"], had, budget, now - began), file=sys.stderr)
            told = now
    if broken and record["train"]["tokens"] < budget:
        save()
        raise broken[0]
    bar.close()
    for split, writer in writers.items():
        writer.close_shard()
        if not record[split]["tokens"]:
            raise UserError(
                f"{source.name}: no document for {split}; take more of it (--tokens), or raise "
                f"--validation-share"
            )
    record["done"] = True
    atomic_write(out / "prepare.json", json.dumps(state))


def add_piece(piece: Tokenized, record: dict, writers: dict[str, ShardWriter]) -> None:
    """Append the documents of a piece to their splits and count them."""
    record["read"] += len(piece.lengths)
    record["empty"] += int((piece.lengths == 0).sum())
    for split, chosen in zip(SPLITS, (~piece.validation, piece.validation)):
        writers[split].add(piece.tokens[np.repeat(chosen, piece.lengths)])
        record[split]["documents"] += int((piece.lengths[chosen] > 0).sum())
        record[split]["characters"] += int(piece.characters[chosen].sum())
        nats = float(piece.nats[chosen].sum())
        known = record[split]["nats"] is not None and not math.isnan(nats)
        record[split]["nats"] = record[split]["nats"] + nats if known else None


def until_broken(documents: Iterator[str], broken: list[UserError]) -> Iterator[str]:
    """Pass documents on until they end or their source breaks off (network, damaged file); what broke is put
    into `broken`.

    So all that was read before is written, and the same command goes on from there.
    """
    try:
        yield from documents
    except UserError as error:
        broken.append(error)


def validation_bound(name: str, first: list[str], share: float) -> int:
    """The split key below which a document is for validation: `share` of all keys, but at least one document
    of a small source.
    """
    keys = sorted({split_key(text) for text in first if text})
    if len(keys) < 2:
        raise UserError(
            f"{name}: {len(keys)} different documents; at least two are needed, one of them for "
            f"validation: give more text "
            "(a text file is cut at blank lines into documents of about 8,000 characters)"
        )
    bound = int(share * 2**64)
    return max(bound, keys[0] + 1) if len(first) < FIRST else bound


def report(name: str, tokens: int, had: int, budget: int, seconds: float) -> str:
    """One line of progress: tokens, tokens per second, and the time left where there is a budget."""
    rate = (tokens - had) / seconds
    left = (
        f" of {budget:,}, {(budget - tokens) / max(rate, 1e-9) / 60:.0f} minutes left"
        if budget < sys.maxsize
        else ""
    )
    return f"{name}: {tokens:,} tokens{left}, {rate:,.0f} tokens/s"


def shares_of(weights: dict[str, float], names: list[str]) -> dict[str, float]:
    """The shares of the named sources, scaled to the sum 1; where the mixture knows none of them, all alike.
    """
    raw = {name: float(weights.get(name, 0.0)) for name in names}
    if not any(raw.values()):
        raw = dict.fromkeys(names, 1.0)
    if min(raw.values()) <= 0:
        raise UserError(
            f"no share of the mixture is given for {min(raw, key=raw.get)}; it has {', '.join(weights)}"
        )
    return {name: weight / sum(raw.values()) for name, weight in raw.items()}
