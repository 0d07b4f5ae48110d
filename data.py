# SPDX-License-Identifier: Apache-2.0
"""Text to batches: cleaning and splitting documents, and the tokens of each training step.

    documents -> clean_text -> tokens + separator -> shards of uint16    once: corpus/prepare.py
    step -> block of the run -> source -> keyed permutation -> tokens    every step: `Corpus.batch`

A batch is a pure function of the prepared folder and a few numbers. There is no loader state, so a resumed
run reads the same batches as an uninterrupted one, a lesson can show any step, and every replica takes its
rows from the same global batch.

Axes: B rows of a batch, T positions (seq_len).
"""
from __future__ import annotations

import bisect
import hashlib
import itertools
import json
import math
import operator
import re
import sys
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common import UserError, command, read_json, run, sha256_file
from tokenizer import lost_sentence

START = {"web": 0.75, "code": 0.15, "math": 0.10}  # the cards' mixture
# The shares at the end of the anneal are our assumption: the cards say only which shares rise.
END = {"web": 0.50, "code": 0.30, "math": 0.20}
ANNEAL = 0.15  # the last part of the token budget, over which START moves to END
SPLITS = ("train", "validation")
BUILTIN_KINDS = {"web": "tales", "code": "programs", "math": "exercises"}  # source of the cards -> ours
FORMAT = "stentor-corpus-1"


# --------------------------------------------------------------------------------------------------- cleaning

def clean_text(text: str, preserve_linebreaks: bool = False, unify_newlines: bool = True) -> str:
    r"""The cards' cleaning function: NFKC, one kind of line end, then one of two ways to treat lines.

    Code keeps its lines, without white space at their ends and around the text; web and mathematics become
    one line with single spaces. The Stentor2 card has only the second way, without the newline step
    (`unify_newlines=False`), which changes nothing: `splitlines()` also splits at CR and CRLF, form feed,
    vertical tab, U+001C-1E, U+0085, U+2028 and U+2029.

    >>> clean_text("One\r\n  two\u00a0 three.\n\n")
    'One two three.'
    >>> clean_text("def f():  \n\treturn 1\x0cprint(f())\n", preserve_linebreaks=True)
    'def f():\n\treturn 1\nprint(f())'
    """
    text = unicodedata.normalize("NFKC", text)
    if unify_newlines:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if preserve_linebreaks:
        return "\n".join(line.rstrip() for line in text.splitlines()).strip()
    lines = [line.strip() for line in text.splitlines()]
    return re.sub(r"\s+", " ", " ".join(line for line in lines if line)).strip()


def split_key(text: str) -> int:
    """A number in [0, 2**64) that decides whether a cleaned document is for training or validation.

    It is the SHA-256 of the lower-case letters and digits. Documents that differ only in spaces, punctuation
    or case have the same key, so such a copy of a validation document is a validation document too. No table
    of seen documents is needed, and order, shard size and workers do not matter. A copy that was shortened,
    or had words changed, has another key: the split does not find it.

    >>> split_key("The end.") == split_key("THE  END")
    True
    """
    letters = "".join(re.findall(r"\w+", text.casefold()))
    return int.from_bytes(
        hashlib.sha256((letters or text).encode("utf-8", "surrogatepass")).digest()[:8], "big"
    )


# ------------------------------------------------------------------------------------------------ permutation

def permute(index: int, size: int, key: str) -> int:
    r"""The new place of `index` in a permutation of 0..size-1 that `key` chooses; computed, never stored.

    A Feistel network (Luby and Rackoff 1988) shuffles the numbers of 2h bits, where h is half the bits of
    size - 1, rounded up. A number is two halves (L, R), and a round is

        (L, R)  ->  (R, L xor f(round, R))        f: h bits of a hash keyed by `key`

    which can be undone for any f, so the network is one-to-one. Four rounds are enough for long numbers;
    eight also mix the few bits of a small source evenly (a test measures it). A result of `size` or more
    goes through the network again (cycle walking, Black and Rogaway 2002). The walk comes back below `size`,
    at the latest at its starting point, and two walks never end at the same place. Because 2**2h < 4 size,
    fewer than four passes are needed on average.

    >>> sorted(permute(i, 10, "demo") for i in range(10)) == list(range(10))
    True
    """
    half = ((size - 1).bit_length() + 1) // 2
    mask = (1 << half) - 1
    while True:
        left, right = index >> half, index & mask
        for turn in range(8):
            digest = hashlib.blake2b(f"{key} {turn} {right}".encode(), digest_size=8).digest()
            left, right = right, left ^ (int.from_bytes(digest, "little") & mask)
        index = left << half | right
        if index < size:
            return index


# ---------------------------------------------------------------------------------------------------- mixture

@dataclass(frozen=True)
class Mixture:
    """The source of each block of a run. Shares are constant, then change linearly (the anneal).

    There are N blocks in all; the anneal begins at block A = (1 - anneal) N. At block t, source j has the
    share w and should have filled C blocks:

        w_j(t) = start_j + slope_j max(0, t - A)                     slope_j = (end_j - start_j) / (N - A)
        C_j(t) = start_j t + slope_j max(0, t - A)^2 / 2

    Two sources: block n goes to the first if round(C(n + 1)) > round(C(n)), so its count is never more than
    half a block off. More sources: the blocks that source 0 leaves are numbered 0, 1, 2, ... and divided in
    the same way between source 1 and the rest; number m is due at the time t with T(t) = m, where T is the
    sum of C over the remaining sources. Each level inherits part of the error of the level before: with
    75/15/10 counts are off by at most 0.5, 0.8 and 0.7 blocks, so any window of the run has the requested
    number of blocks to within 1.6.
    """

    start: tuple[float, ...]
    end: tuple[float, ...]
    total: int
    anneal: float = ANNEAL

    @property
    def turn(self) -> float:
        """The block at which the anneal begins, A."""
        return (1 - self.anneal) * self.total

    def slope(self, start: float, end: float) -> float:
        """Change of a share per block during the anneal."""
        length = self.total - self.turn
        return (end - start) / length if length > 0 else 0.0

    def weights(self, block: float) -> list[float]:
        """The share of each source at a block, w(block)."""
        late = max(0.0, block - self.turn)
        return [start + self.slope(start, end) * late for start, end in zip(self.start, self.end)]

    def target(self, start: float, end: float, time: float) -> float:
        """C(time) of a share that goes from `start` to `end`."""
        late = max(0.0, time - self.turn)
        return start * time + self.slope(start, end) * late * late / 2

    def when(self, start: float, end: float, count: float) -> float:
        """The time at which C(time) = count.

        Up to A this is a linear equation; after it, x = time - A solves
        start x + slope x^2 / 2 = count - C(A).
        """
        if count <= start * self.turn:
            return count / start if start else 0.0
        rest = count - start * self.turn
        return self.turn + 2 * rest / (
            start + math.sqrt(max(0.0, start * start + 2 * self.slope(start, end) * rest))
        )

    def taken(self, source: int, clock: int) -> int:
        """How many blocks `source` takes of the first `clock` blocks that the sources before it leave."""
        time = self.when(sum(self.start[source:]), sum(self.end[source:]), clock)
        return math.floor(self.target(self.start[source], self.end[source], time) + 0.5)

    def block(self, number: int) -> tuple[int, int]:
        """(source, how many blocks that source has given before) of a block of the run."""
        clock = number
        for source in range(len(self.start) - 1):
            before = self.taken(source, clock)
            if self.taken(source, clock + 1) > before:
                return source, before
            clock -= before
        return len(self.start) - 1, clock

    def counts(self, number: int) -> list[int]:
        """How many blocks each source has given before block `number`."""
        counts, clock = [], number
        for source in range(len(self.start) - 1):
            counts.append(self.taken(source, clock))
            clock -= counts[-1]
        return counts + [clock]


def average_share(start: float, end: float, anneal: float = ANNEAL) -> float:
    """A source's share of a complete run: (1 - anneal) start + anneal (start + end) / 2."""
    return (1 - anneal) * start + anneal * (start + end) / 2


# ----------------------------------------------------------------------------------------------------- corpus

class Corpus:
    """A prepared folder as batches: `batch(step)` -> int64 (batch_size, seq_len), for step 0 to len() - 1.

    split "train"       blocks in the mixture's shares, in an order that `seed` chooses; total_steps is the
                        horizon of the anneal
    split "validation"  each validation block once, always in the same order, the sources in proportion to
                        their sizes. There are only full batches, because shapes must not change (XLA); len()
                        is their number. It is 0 if there are fewer blocks (`num_blocks`) than batch_size;
                        use smaller batches then.

    The vocabulary's checksum and the sizes of the split's shards are compared with the manifest each time,
    with `verify` the shards' checksums too, on all cores (about a second per gigabyte and core). Raises
    UserError for the first file that differs, and for a split without a block. A block is read from its file
    when it is needed; shards are not memory-mapped and not kept open. So memory does not grow with the
    corpus, and a file that is truncated during training gives an error; with a memory map it would end the
    process.
    """

    def __init__(
        self, dir: str | Path, seq_len: int, batch_size: int, total_steps: int | None = None, seed: int = 42,
        split: str = "train", verify: bool = True,
    ):
        given = (seq_len, batch_size, total_steps or 0, seed)
        seq_len, batch_size, total_steps, seed = map(operator.index, given)  # a numpy integer may overflow
        self.folder, self.seq_len, self.batch_size, self.seed, self.split = (
            Path(dir), seq_len, batch_size, seed, split,
        )
        if split not in SPLITS or seq_len < 2 or batch_size < 1 or (split == "train" and total_steps < 1):
            raise UserError(
                f"no batches of {batch_size} x {seq_len} for {total_steps} steps of split {split!r}"
            )
        self.manifest = read_manifest(self.folder)
        self.names = list(self.manifest["sources"])
        self.vocab_path = self.folder / "tokenizer"
        self.vocab_size, self.eos_id = (
            self.manifest["tokenizer"]["vocab_size"], self.manifest["tokenizer"]["eos_id"],
        )
        self.shards = [self.manifest["sources"][name][split]["shards"] for name in self.names]
        self.starts = [
            list(itertools.accumulate((shard["tokens"] for shard in shards), initial=0))
            for shards in self.shards
        ]
        self.blocks = [starts[-1] // seq_len for starts in self.starts]
        self.check_files(verify)
        if split == "train":
            shares = self.manifest["mixture"]
            self.steps = total_steps
            start, end = tuple(shares["start"].values()), tuple(shares["end"].values())
            self.mixture = Mixture(start, end, total_steps * batch_size, shares["anneal"])
            for name, blocks, starts in zip(self.names, self.blocks, self.starts):
                if not blocks:
                    raise UserError(
                        f"{dir}: {name} has {starts[-1]} training tokens, less than a block of {seq_len}; "
                        "use shorter blocks"
                    )
        else:
            shares = tuple(blocks / max(1, self.num_blocks) for blocks in self.blocks)
            self.steps = self.num_blocks // batch_size
            self.mixture = Mixture(shares, shares, self.num_blocks, 0.0)
            if not self.num_blocks:
                raise UserError(
                    f"{dir}: no validation block of {seq_len} tokens; use shorter blocks or prepare more text"
                )

    def __len__(self) -> int:
        return self.steps

    @property
    def num_blocks(self) -> int:
        """Blocks of seq_len tokens in this split."""
        return sum(self.blocks)

    @property
    def num_tokens(self) -> dict[str, dict[str, int]]:
        """Tokens of each source in each split."""
        return {
            name: {split: tokens_of(source[split]) for split in SPLITS}
            for name, source in self.manifest["sources"].items()
        }

    @property
    def titles(self) -> list[str]:
        """The sources as tables call them: of the built-in corpus "tales (web)", else their own names."""
        return [title(name, source) for name, source in self.manifest["sources"].items()]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of tokenizer, mixture and shards, which decide the batches.

        The same data prepared twice have the same fingerprint.
        """
        sources = {name: deciding(source) for name, source in self.manifest["sources"].items()}
        parts = [self.manifest["tokenizer"]["fingerprint"], self.manifest["mixture"], sources]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def check_files(self, verify: bool) -> None:
        """Compare shards and vocabulary with the manifest; raises UserError for the first difference."""
        sums = {
            self.vocab_path / name: digest for name, digest in self.manifest["tokenizer"]["files"].items()
        }
        for path in sums:
            if not path.is_file():
                raise UserError(f"{path}: missing; prepare the corpus again")
        for shard in itertools.chain.from_iterable(self.shards):
            path, size = self.folder / shard["file"], 2 * shard["tokens"]
            found = path.stat().st_size if path.is_file() else None
            if found != size:
                state = "missing" if found is None else f"{found:,} bytes, where the manifest says {size:,}"
                raise UserError(f"{path}: {state}; prepare the corpus again")
            if verify:
                sums[path] = shard["sha256"]
        with ThreadPoolExecutor() as pool:
            for path, found in zip(sums, pool.map(sha256_file, sums)):
                if found != sums[path]:
                    raise UserError(
                        f"{path}: changed since it was prepared (its checksum differs); prepare it again"
                    )

    def batch(self, step: int, rank: int = 0, world: int = 1) -> np.ndarray:
        """The rows of `rank` in the batch of an optimizer step, int64 (batch_size / world, seq_len).

        Row r of step s is block n = s * batch_size + r of the run. The mixture gives its source, and the
        number i of blocks that this source filled before; i = epoch * blocks + position. Each epoch has its
        own permutation of the source's blocks:

            block = permute(position, blocks, key = (seed, source, epoch))

        So no block comes twice within an epoch, and a source that runs out starts its next epoch in another
        order, independently of the others. The row has the source's tokens block * seq_len to
        (block + 1) * seq_len - 1: documents follow each other, may continue in another block, and only the
        tokens after the last full block are left out. Raises IndexError past the end, and UserError if
        batch_size cannot be divided by `world`.
        """
        step, rank, world = map(operator.index, (step, rank, world))
        if not 0 <= step < self.steps:
            raise IndexError(f"step {step} of {self.steps}")
        if not 0 <= rank < world or self.batch_size % world:
            raise UserError(f"{self.batch_size} rows cannot be divided evenly for rank {rank} of {world}")
        rows = self.batch_size // world
        batch = np.empty((rows, self.seq_len), dtype=np.int64)  # (B, T)
        first = step * self.batch_size + rank * rows
        for row in range(rows):
            source, block = self.locate(first + row)
            self.read(source, block * self.seq_len, batch[row])
        if batch.max() >= self.vocab_size:
            raise UserError(
                f"{self.folder}: token {batch.max()} in step {step}, but only {self.vocab_size} exist; "
                "prepare it again"
            )
        return batch

    def sources(self, step: int, rank: int = 0, world: int = 1) -> list[int]:
        """The source of each row of `batch(step, rank, world)`, as an index into `names`."""
        rows = self.batch_size // world
        first = step * self.batch_size + rank * rows
        return [self.mixture.block(number)[0] for number in range(first, first + rows)]

    def locate(self, number: int) -> tuple[int, int]:
        """(source, block within the source) of block `number` of the run."""
        source, index = self.mixture.block(number)
        if self.split == "validation":
            return source, index
        epoch, position = divmod(index, self.blocks[source])
        return source, permute(position, self.blocks[source], f"{self.seed} {self.names[source]} {epoch}")

    def read(self, source: int, start: int, row: np.ndarray) -> None:
        """Fill `row` (T,) with the tokens from `start` on; a block may continue in the next shard."""
        done = 0
        while done < len(row):
            shard = bisect.bisect_right(self.starts[source], start + done) - 1
            within = start + done - self.starts[source][shard]
            count = min(len(row) - done, self.starts[source][shard + 1] - start - done)
            path = self.folder / self.shards[source][shard]["file"]
            tokens = np.fromfile(path, dtype="<u2", count=count, offset=2 * within)
            if len(tokens) != count:
                raise UserError(f"{path}: ends too early; it was changed while in use")
            row[done:done + count] = tokens
            done += count

    def epochs(self, steps: int) -> dict[str, float]:
        """How many epochs of each source the first `steps` steps read."""
        counts = self.mixture.counts(steps * self.batch_size)
        return {name: count / max(1, blocks) for name, count, blocks in zip(self.names, counts, self.blocks)}

    def weights(self, step: int) -> dict[str, float]:
        """The mixture's shares at a step."""
        return dict(zip(self.names, self.mixture.weights(step * self.batch_size)))

    def entropy(self, source: str | None = None) -> float | None:
        """The entropy of this split in nats per token, a bound for every model's mean loss; None if unknown.

        It is the -log p of all documents of `source` (default: of all sources) divided by their tokens, one
        separator each. It bounds the mean loss over complete documents, each read from its beginning; a row
        that begins inside a document lacks the text before it, and its loss is higher.
        """
        names = [source] if source else self.names
        splits = [self.manifest["sources"][name][self.split] for name in names]
        nats = [split.get("nats") for split in splits]
        return None if None in nats else sum(nats) / sum(tokens_of(split) for split in splits)

    def documents(self, source: str, count: int | None = None) -> list[np.ndarray]:
        """The first `count` complete documents of a source, else all; int64 (n,), with their separator."""
        index = self.names.index(source)
        tokens = np.empty(self.starts[index][-1], dtype=np.int64)
        self.read(index, 0, tokens)
        ends = np.flatnonzero(tokens == self.eos_id)[:count] + 1
        return np.split(tokens[:ends[-1]], ends[:-1]) if len(ends) else []

    def unigram_entropy(self, steps: int | None = None) -> float:
        """H = -sum p ln p over the token frequencies p in batches 0..steps-1 (default: all), in nats.

        It is the loss of a model that knows the frequency of each token and ignores the context, on the same
        tokens as the loss: all but the first of each row.
        """
        counts = np.zeros(self.vocab_size, dtype=np.int64)
        for step in range(self.steps if steps is None else min(steps, self.steps)):
            counts += np.bincount(self.batch(step)[:, 1:].ravel(), minlength=self.vocab_size)
        return entropy_of(counts)


def entropy_of(counts: np.ndarray) -> float:
    """H = -sum p ln p over the shares p of the counts, in nats."""
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def steps_for_epochs(dir: str | Path, seq_len: int, batch_size: int, epochs: float) -> int:
    """The most steps (at least 1) that read no source of the corpus more than `epochs` times."""
    manifest, limits = read_manifest(Path(dir)), []
    mixture = manifest["mixture"]
    for name, source in manifest["sources"].items():
        blocks = tokens_of(source["train"]) // seq_len
        limits.append(
            epochs * blocks / average_share(mixture["start"][name], mixture["end"][name], mixture["anneal"])
        )
    return max(1, int(min(limits) / batch_size))


# --------------------------------------------------------------------------------------------------- manifest

def read_manifest(folder: Path) -> dict:
    """The manifest of a prepared folder, every field validated. Raises UserError."""
    if not (folder / "manifest.json").is_file():
        if (folder / "prepare.json").is_file():
            raise UserError(
                f"{folder}: its preparation is not finished; run the same `data.py prepare` command again to "
                "continue"
            )
        raise UserError(
            f"{folder}: no prepared corpus here (no manifest.json); "
            f"make one with: {command('data.py', 'prepare', '--out', folder)}"
        )
    manifest = read_json(folder / "manifest.json")
    try:
        check_manifest(manifest)
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(
            f"{folder / 'manifest.json'}: not a manifest of data.py ({reason[:200]}); prepare it again"
        ) from None
    return manifest


def tokens_of(split: dict) -> int:
    """Tokens in the shards of one source and split of a manifest."""
    return sum(shard["tokens"] for shard in split["shards"])


def source_name(source: str, generated: bool) -> str:
    """A source as sentences and charts call it: of the built-in corpus its kind, else its own name.

    >>> source_name("web", True), source_name("web", False)
    ('tales', 'web')
    """
    return BUILTIN_KINDS.get(source, source) if generated else source


def title(name: str, source: dict) -> str:
    """A source of a manifest as tables call it; only generated text has nats: "tales (web)"."""
    kind = source_name(name, source["train"].get("nats") is not None)
    return name if kind == name else f"{kind} ({name})"


def deciding(record: dict) -> dict:
    """A source's record in a manifest without the counts that do not affect batches."""
    kept = {key: value for key, value in record.items() if key not in ("nats", "lost", "without_text")}
    return {key: deciding(value) if isinstance(value, dict) else value for key, value in kept.items()}


def lost_notes(manifest: dict) -> list[str]:
    """Sentences about text that a preparation dropped: rows without text, characters without a token."""
    notes = []
    for name, source in manifest["sources"].items():
        if source.get("without_text"):
            notes.append(f"{name}: {source['without_text']:,} of {source['read']:,} rows have no text and "
                         "were left out (null, a list, a number ...)")
        lost = sum(source[split].get("lost", 0) for split in SPLITS)
        characters = sum(source[split]["characters"] for split in SPLITS)
        if lost > 0.005 * characters:
            notes.append(f"{name}: {lost_sentence(lost, max(lost, characters))}; python tokenizer.py train "
                         "makes a vocabulary of your own text")
    return notes


def clean_as(folder: str | Path, text: str) -> tuple[str, str]:
    """`text` cleaned as a prepared folder cleaned its prose, and a sentence that says how.

    The prose is the source with the largest share that is not code, or the only source.
    """
    manifest = read_manifest(Path(folder))
    shares = manifest["mixture"]["start"]
    name = max(shares, key=lambda name: (name != "code", shares[name]))
    lines = manifest.get("lines", {}).get(name, name == "code")
    how = "line breaks are kept" if lines else "line breaks and runs of white space become single spaces"
    return clean_text(text, preserve_linebreaks=lines), f"cleaned like {name} in {folder}: {how}"


def require(good: bool, what: str) -> None:
    """Raise ValueError(what) unless `good`."""
    if not good:
        raise ValueError(what)


def is_count(value: Any, below: int) -> bool:
    """Whether a value of a JSON file is an integer in [0, below)."""
    return type(value) is int and 0 <= value < below


def check_split(name: str, split: str, record: dict) -> None:
    """Validate a manifest's record of one split of source `name`; raises as `check_manifest`."""
    require(all(is_count(record[key], 2**63) for key in ("documents", "characters")), "counts")
    require(is_count(record.get("lost", 0), 2**63), "lost")
    nats = record.get("nats")
    require(nats is None or type(nats) in (int, float) and 0 <= nats < 2**63, "nats")
    for number, shard in enumerate(record["shards"]):
        require(shard["file"] == f"{name}.{split}.{number:05d}.bin", "shard file name")
        require(is_count(shard["tokens"], 2**48) and shard["tokens"] > 0, "shard tokens")
        require(re.fullmatch(r"[0-9a-f]{64}", shard["sha256"]) is not None, "shard sha256")


def check_manifest(manifest: dict) -> None:
    """Validate every field; raises ValueError, KeyError, TypeError or AttributeError."""
    require(manifest["format"] == FORMAT, "unknown format")
    about, sources, mixture = manifest["tokenizer"], manifest["sources"], manifest["mixture"]
    require(is_count(about["vocab_size"], 2**16 + 1), "vocab_size")
    require(is_count(about["eos_id"], about["vocab_size"]), "eos_id")
    require(isinstance(about["fingerprint"], str), "tokenizer fingerprint")
    require(len(about["files"]) > 0, "tokenizer files")
    require(all(re.fullmatch(r"[\w-][\w.-]*", name) for name in about["files"].keys()), "tokenizer file name")
    require(0 < len(sources) <= 64, "sources")
    require(all(type(kept) is bool for kept in manifest.get("lines", {}).values()), "lines")
    for side in ("start", "end"):
        shares = mixture[side]
        require(list(shares) == list(sources), f"mixture {side} names other sources")
        good = all(type(share) in (int, float) and 0 <= share <= 1 for share in shares.values())
        require(good, f"mixture {side}")
        require(abs(sum(shares.values()) - 1) < 1e-6, f"mixture {side} does not sum to 1")
    require(type(mixture["anneal"]) in (int, float) and 0 <= mixture["anneal"] <= 1, "anneal")
    for name, source in sources.items():
        require(re.fullmatch(r"[a-z][a-z0-9_-]*", name) is not None, "source name")
        share = average_share(mixture["start"][name], mixture["end"][name], mixture["anneal"])
        require(share > 1e-6, "a source without a share")
        require(all(is_count(source.get(key, 0), 2**63) for key in ("read", "without_text")), "rows")
        for split in SPLITS:
            check_split(name, split, source[split])


def mixture_table(corpus: Corpus) -> str:
    """The mixture over a run as text: the shares at some steps, and the epochs of each source."""
    end = len(corpus)
    turn = round((1 - corpus.mixture.anneal) * end)
    titles = corpus.titles
    wide = max(10, *(len(name) + 2 for name in titles))
    lines = ["step".rjust(10) + "".join(name.rjust(wide) for name in titles)]
    for step in sorted({0, turn, (2 * turn + end) // 3, (turn + 2 * end) // 3, end}):
        shares = "".join(f"{share:.1%}".rjust(wide) for share in corpus.weights(step).values())
        lines.append(f"{step:10,}{shares}")
    epochs = corpus.epochs(end)
    lines.append("epochs".rjust(10) + "".join(f"{number:{wide}.2f}" for number in epochs.values()))
    if max(epochs.values()) > 1:
        lines.append("a source that ends starts another epoch, in another order; the shares do not change")
    return "\n".join(lines)


def main() -> None:
    """Prepare a corpus, describe it, or show what a training step saw (corpus/command.py)."""
    from corpus.command import main
    main()


if __name__ == "__main__":
    sys.exit(run(main))
