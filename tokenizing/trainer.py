# SPDX-License-Identifier: Apache-2.0
"""Train a TokenMonster vocabulary: `python tokenizer.py train FILES --vocab-size 4096 --out my.vocab`.

A vocabulary is found by removal. Pieces of the text that could be tokens are candidates, at most twelve for
each token wanted. They are divided at random into vocabularies of about the wanted size. Each of these
tokenizes the text with the rules of the real encoder, and a token's score is the number of bytes it
covered. The worst candidates are removed, and the rest is divided again, until one vocabulary is left. So a
token is judged together with others, not by its frequency: `" th"` is more frequent than `" the"`, and
useless where `" the"`, `" that"` and `" this"` are tokens.

    files -> normalized text -> candidates (candidates.py) -> rounds (here) -> the .vocab file (records.py)

`lanes.py` makes the many tokenizations fast.
"""
from __future__ import annotations

import io
import json
import os
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common import (
    Parser, UserError, atomic_write, command, count_of, lock_folder, progress, read_json, replace_folder,
    wrapped,
)
from corpus.builtin import vocabulary_documents
from corpus.documents import path_source
from corpus.prepare import end_with_parent
from corpus.python_docs import python_documents
from data import clean_text
from tokenizer import Vocab, normalize_pieces
from tokenizing.lanes import Field, write_tables
from tokenizing.records import derive

# Single bytes that every vocabulary keeps; the first number is for the header (32: no other single bytes).
ASCII = bytes([9, 10, 13, *range(0x20, 0x80)])  # with CR, the document separator, and DEL, the marker
RESERVED = {
    "english": (16 + 32, ASCII + bytes.fromhex("808182838486888a92939498999c9da2a3a5a6a7a9acaeb0c2c3c5cce2")),
    "utf8": (4 + 32, ASCII + bytes(range(0x80, 0xC0)) + bytes(range(0xC2, 0xF5))),
}
# (least, share, part): while at least `least` candidates are left for each wanted token, a round reads
# `share` of the text and removes `part` of the candidates.
STEPS = [(6, 0.15, 0.10), (2, 0.3, 0.05), (1.25, 1.0, 0.02), (1, 1.0, 0.006)]
BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining} {postfix}"


# --------------------------------------------------------------------------------------------------- the text

def documents_of(name: str) -> tuple[str, Iterator[str]]:
    """The identity of a file, a folder or "builtin", which changes with its content, and its documents."""
    if name == "builtin":
        return f"built-in corpus of Python {sys.version.split()[0]}", vocabulary_text()
    source = path_source("web", name)
    return source.identity, (text for text in source.documents(0) if text)


def vocabulary_text() -> Iterator[str]:
    """Text for the built-in vocabulary.

    Python's documentation, a part of its library source, and the words of the built-in corpus.
    """
    for kind, every in (("web", 1), ("code", 4)):
        for number, (_, text) in enumerate(python_documents(kind)):
            if number % every == 0:
                yield clean_text(text, preserve_linebreaks=kind == "code")
    for kind, count in (("web", 2000), ("code", 1000), ("math", 1000)):
        yield from vocabulary_documents(kind, count)


def normalized_text(names: list[str]) -> bytes:
    """All documents in normalized form, each followed by a CR, which no candidate contains."""
    pieces = []
    for name in names:
        for document in progress(documents_of(name)[1], desc=f"reading {name}", unit=" documents"):
            pieces += normalize_pieces(document, document=True)
            pieces.append(b"\r")
    return b"".join(pieces)


# ----------------------------------------------------------------------------------------------- distillation

@dataclass(frozen=True)
class Round:
    """One round: divide `candidates` into trial vocabularies (`hands`, as in a card game).

    Each hand tokenizes `share` of the text; then the `drop` worst candidates are removed.
    """

    candidates: int
    hands: int
    share: float
    drop: int


def plan(candidates: int, wanted: int) -> list[Round]:
    """All rounds from `candidates` down to `wanted`."""
    rounds = []
    while candidates > wanted:
        share, part = next((share, part) for least, share, part in STEPS if candidates >= least * wanted)
        drop = min(max(1, int(part * candidates)), candidates - wanted)
        rounds.append(Round(candidates, max(1, candidates // wanted), share, drop))
        candidates -= drop
    return rounds


_field: Field  # of a worker process


def open_field(folder: Path, parent: int) -> None:
    """Start of a worker process."""
    global _field
    end_with_parent(parent)
    _field = Field(folder)


def tokenize_job(job: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, int]:
    return _field.tokenize(*job)


def score_all(field: Field, hands: list[np.ndarray], lanes: np.ndarray, crew: ProcessPoolExecutor | None,
              workers: int) -> tuple[np.ndarray, list[int]]:
    """Bytes that each token covered in its hand, int64 (tokens,), and how many tokens each hand needed."""
    parts = 1 if len(hands) >= workers else workers  # with few hands each worker takes every n-th lane
    jobs = [(hand, lanes[part::parts]) for hand in hands for part in range(parts)]
    results = crew.map(tokenize_job, jobs) if crew else (field.tokenize(*job) for job in jobs)
    scores, totals = np.zeros(len(field.tokens), dtype=np.int64), [0] * len(hands)
    for number, (score, total) in enumerate(results):
        np.add.at(scores, jobs[number][0], score)
        totals[number // parts] += total
    return scores, totals


def distil(folder: Path, size: int, seed: int, workers: int) -> tuple[dict[bytes, float], int]:
    """Remove candidates round by round until `size` tokens are left. One-byte tokens always stay.

    A round depends on the seed, its number and the candidates left, and these are saved after each round.
    So a training that is stopped and resumed has the same result. Returns each token's share of the text,
    and the number of tokens of the text.
    """
    field = Field(folder)
    fixed = np.array([number for number, token in enumerate(field.tokens) if len(token) == 1])
    left = np.arange(len(fixed), len(field.tokens))
    rounds = plan(len(left), size - len(fixed))
    done = 0
    if (folder / "state.npz").exists():
        with np.load(folder / "state.npz", allow_pickle=False) as state:
            done, left = int(state["done"]), state["left"]
    crew = None
    if workers > 1:
        crew = ProcessPoolExecutor(workers, initializer=open_field, initargs=(folder, os.getpid()))
    work = sum(round.hands * round.share for round in rounds)
    bar = progress(total=work, desc="distilling", bar_format=BAR)
    bar.update(sum(round.hands * round.share for round in rounds[:done]))
    try:
        for number, round in enumerate(rounds[done:], done):
            rng = np.random.default_rng([seed, number])
            lanes = field.lanes(round.share, rng)
            parts = np.array_split(rng.permutation(left), round.hands)
            hands = [np.sort(np.append(fixed, part)) for part in parts]
            scores, totals = score_all(field, hands, lanes, crew, workers)
            worst_first = left[np.argsort(scores[left], kind="stable")]
            left = np.sort(worst_first[round.drop:])
            content = io.BytesIO()
            np.savez(content, done=number + 1, left=left)
            atomic_write(folder / "state.npz", content.getvalue())
            bytes_per_token = len(hands) * np.sum(lanes[:, 1] - lanes[:, 0]) / sum(totals)
            bar.set_postfix_str(f"{len(left):,} candidates left, {bytes_per_token:.3f} bytes per token")
            bar.update(round.hands * round.share)
        chosen = np.append(fixed, left)
        lanes = field.lanes(1.0, np.random.default_rng(seed))
        scores, totals = score_all(field, [chosen], lanes, crew, workers)
    finally:
        bar.close()
        if crew:
            crew.shutdown(cancel_futures=True)
    return {field.tokens[number]: scores[number] / field.size for number in chosen}, totals[0]


# ----------------------------------------------------------------------------------------------- command line

def train_vocab(names: list[str], out: Path, size: int = 4096, seed: int = 42, reserve: str = "english",
                workers: int = 1, resume: bool = False) -> Vocab:
    """Train a vocabulary of `size` tokens on files, folders or "builtin", write it to `out`, and return it.

    Unfinished work is kept in `out`.work, and `resume` continues it; the result is the same as without a
    stop. Raises UserError if `out` or unfinished work exists, if `resume` finds other settings or texts, or
    if the text is too small.
    """
    bits, fixed = RESERVED[reserve]
    if not len(fixed) < size <= 65536:
        raise UserError(f"--vocab-size {size} is not between {len(fixed) + 1} (the reserved bytes and one "
                        "more) and 65536")
    if seed < 0:
        raise UserError(f"--seed must be zero or more, not {seed}")
    folder = out.with_name(out.name + ".work")
    files = [documents_of(name)[0] for name in names]
    settings = {"vocab_size": size, "seed": seed, "reserve": reserve, "files": files}
    if out.exists():
        raise UserError(f"{out} exists; give another name with --out, or remove it")
    if folder.exists() and not resume:
        raise UserError(f"{folder} holds an unfinished training; continue it with --resume, or remove the "
                        "folder")
    if not folder.exists():
        text = normalized_text(names)

        def write(new: Path) -> None:
            write_tables(new, text, size, fixed)
            (new / "settings.json").write_text(json.dumps(settings, indent=1))
        replace_folder(folder, write)
    was = read_json(folder / "settings.json")
    different = [key for key, value in settings.items() if was.get(key) != value]
    if different:
        key = different[0]
        raise UserError(f"{folder} was made with {key} {was.get(key)}, now it is {settings[key]}; give the "
                        "same again, or remove the folder")
    lock = lock_folder(folder)
    scores, _ = distil(folder, size, seed, workers)
    vocab = derive(scores, mode=4, reserve=bits)
    atomic_write(out, vocab.to_bytes())
    lock.close()
    shutil.rmtree(folder)
    return vocab


EXAMPLES = """\
  python tokenizer.py train my.txt --vocab-size 4096 --out my.vocab
  python tokenizer.py train corpus/ more.jsonl.gz --out my.vocab --resume
  python tokenizer.py train builtin --out again.vocab  this project's own
  python tokenizer.py info my.vocab"""


def main(argv: list[str]) -> None:
    """The command line of `tokenizer.py train`."""
    parser = Parser("Train a TokenMonster vocabulary on text.", EXAMPLES, prog="tokenizer.py train")
    add = parser.add_argument
    add("files", nargs="+", metavar="FILES", help="files or folders of documents, or the word builtin")
    add("--vocab-size", type=count_of, default=4096, metavar="N", help="number of tokens (default: 4096)")
    add("--out", type=Path, required=True, help="the .vocab file to write; unfinished work is in OUT.work")
    add("--reserve", choices=sorted(RESERVED), default="english",
        help="bytes that always have a token (default: english)")
    add("--seed", type=int, default=42, help="same seed and text, same vocabulary (default: 42)")
    add("--workers", type=count_of, default=os.cpu_count() or 1, help="processes (default: one per core)")
    add("--resume", action="store_true", help="continue the unfinished work of the same command")
    args = parser.parse_args(argv)
    try:
        vocab = train_vocab(args.files, args.out, args.vocab_size, args.seed, args.reserve,
                            args.workers, args.resume)
    except KeyboardInterrupt:
        print("\nstopped; nothing is lost: the same command with --resume continues", file=sys.stderr)
        raise
    longest = max((record.token for record in vocab.records), key=len)
    print(wrapped(f"{args.out}: {vocab.size:,} tokens, the longest has {len(longest)} bytes; look at it "
                  f"with: {command('tokenizer.py', 'info', args.out)}", "", "  "))
