# SPDX-License-Identifier: Apache-2.0
"""The cost of the data pipeline: `python -m bench.pipeline prepare|memory|loader|mask|all`.

    prepare   seconds per MB of text for each stage, tokens per second and core, and the hours for 8.5 billion
              tokens on a TPU host and on Kaggle
    memory    peak memory of a preparation and of one with ten times the input, and the speed of the writing
              process
    loader    batch(step) at the card recipe of 20m beside its training step
    mask      a training step with the block-diagonal document mask beside one without

Times are CPU seconds (time.process_time), because the machine may be shared; `--threads` is for torch.
"""
from __future__ import annotations

import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Callable

from common import ROOT, Parser, UserError, run

CARD_TOKENS = 8.5e9  # what the Stentor3-20M card trained on
HOSTS = {"96-core TPU host": 96, "4-core Kaggle machine": 4}
KINDS = ("web", "code", "math")


def cpu_seconds(work: Callable[[], object], at_least: float = 1.0) -> float:
    """CPU seconds of one call of `work`, the mean of as many as take `at_least` seconds."""
    work()
    calls, began = 0, time.process_time()
    while time.process_time() - began < at_least:
        work()
        calls += 1
    return (time.process_time() - began) / calls


def bench_prepare(args) -> None:
    """Stages of a preparation on one core, for documents of each kind."""
    import data
    from corpus.builtin import builtin_documents
    from corpus.documents import path_source
    from tokenizer import load as load_tokenizer
    tokenizer = load_tokenizer(args.vocab) if args.vocab else load_tokenizer()
    given = dict(entry.split("=", 1) for entry in args.source or [])
    print(f"{'source':8}{'MB':>8}{'tokens':>12}{'clean':>9}{'split':>9}{'encode':>9}   seconds per MB of text"
          f"{'tokens/s':>14}")
    seconds_per_token = 0.0
    for kind in KINDS:
        texts = path_source(kind, given[kind]).documents(0) if kind in given else builtin_documents(kind)
        texts = list(itertools.islice(texts, 300))
        megabytes = sum(len(text.encode()) for text in texts) / 1e6
        cleaned = [data.clean_text(text, kind == "code") for text in texts]
        tokens = sum(len(tokenizer.encode(text, document=True)) + 1 for text in cleaned)
        clean = cpu_seconds(
            lambda texts=texts, code=kind == "code": [data.clean_text(text, code) for text in texts]
        )
        split = cpu_seconds(lambda cleaned=cleaned: [data.split_key(text) for text in cleaned])
        encode = cpu_seconds(
            lambda cleaned=cleaned: [tokenizer.encode(text, document=True) for text in cleaned]
        )
        rate = tokens / (clean + split + encode)
        seconds_per_token += data.average_share(data.START[kind], data.END[kind]) / rate
        stages = "".join(f"{value / megabytes:9.3f}" for value in (clean, split, encode))
        print(f"{kind:8}{megabytes:8.2f}{tokens:12,}{stages}{'':25}{rate:14,.0f}")
    print(f"in the cards' shares: {1 / seconds_per_token:,.0f} tokens/s and core")
    for host, cores in HOSTS.items():
        hours = CARD_TOKENS * seconds_per_token / cores / 3600
        print(f"8.5 billion tokens on a {host}: {hours:.1f} hours, estimated from this rate alone "
              "(reading and writing: `memory`)")


def prepare_copies(copies: int, out: str) -> None:
    """Prepare `copies` copies of the built-in mathematics and print this process's peak memory."""
    from corpus.builtin import builtin_documents
    from corpus.documents import Source
    from corpus.prepare import prepare
    from data import read_manifest, tokens_of

    def documents(skip: int):
        for copy in range(copies):
            for text in itertools.islice(builtin_documents("math"), 6000):
                yield f"{copy}. {text}"
    began = time.process_time()
    folder = prepare([Source("math", documents, f"{copies} copies", False)], out, workers=2)
    seconds = time.process_time() - began
    peaks = [
        resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    ]
    tokens = tokens_of(read_manifest(folder)["sources"]["math"]["train"])
    print(f"{tokens:12,} tokens: peak memory {peaks[0]:.0f} MiB in the writer, {peaks[1]:.0f} MiB in the "
          f"largest worker; the writer, which generates the text too, does {tokens / seconds:,.0f} tokens a "
          "CPU second")


def bench_memory(args) -> None:
    """The same kind of text once and ten times."""
    for copies in (1, 10):
        with tempfile.TemporaryDirectory() as folder:
            code = f"from bench.pipeline import prepare_copies; prepare_copies({copies}, {folder!r})"
            subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def sparse_corpus(folder: Path, tokens: int) -> Path:
    """A corpus of `tokens` zeros, web/code/math 75/15/10, in sparse files that use no disk space."""
    import data
    sources = {}
    (folder / "tokenizer").mkdir()
    for name, share in data.START.items():
        sources[name] = {}
        for split, count in (("train", round(tokens * share)), ("validation", 10_000)):
            shards = []
            for number, first in enumerate(range(0, count, 50_000_000)):
                shard = {
                    "file": f"{name}.{split}.{number:05d}.bin", "tokens": min(50_000_000, count - first),
                    "sha256": "0" * 64,
                }
                with open(folder / shard["file"], "wb") as file:
                    file.truncate(2 * shard["tokens"])
                shards.append(shard)
            sources[name][split] = {"documents": 1, "characters": 1, "shards": shards}
    (folder / "tokenizer" / "none").write_bytes(b"")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"  # SHA-256 of nothing
    manifest = {
        "format": data.FORMAT,
        "sources": sources,
        "mixture": {"start": data.START, "end": data.END, "anneal": data.ANNEAL},
        "tokenizer": {"fingerprint": "", "vocab_size": 4096, "eos_id": 2, "files": {"none": empty}},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def bench_loader(args) -> None:
    """A batch of 64 x 4,096 tokens out of 8.5 billion, beside its forward and backward pass on this CPU.

    One row is measured and multiplied by 64.
    """
    import torch

    import data
    from model import SIZES, Llama
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        corpus = data.Corpus(sparse_corpus(Path(folder), int(CARD_TOKENS)), 4096, 64, 32_425, verify=False)
        steps = itertools.cycle(range(0, 32_425, 997))
        loader = cpu_seconds(lambda: corpus.batch(next(steps)))
        opening = cpu_seconds(lambda: data.Corpus(folder, 4096, 64, 32_425, verify=False))
    model = Llama(SIZES["20m"])
    row = torch.randint(0, 4096, (1, 4096))

    def train_row() -> None:
        logits = model(row)
        torch.nn.functional.cross_entropy(logits[0, :-1], row[0, 1:]).backward()
    began = time.process_time()
    train_row()  # once: it takes many seconds
    step = 64 * (time.process_time() - began)
    print(
        f"opening the folder {1000 * opening:.0f} ms; batch(step) of 64 x 4,096 tokens "
        f"{1000 * loader:.1f} ms; training step of 20m {step:.0f} s (64 x one row): the loader is "
        f"{100 * loader / step:.4f}% of it"
    )


def bench_mask(args) -> None:
    """Forward and backward of a row of 20m with and without the document mask (every 500 tokens)."""
    import torch

    from model import SIZES, Llama
    from train import document_mask
    torch.set_num_threads(args.threads)
    model = Llama(SIZES["20m"])
    for length in (512, 2048):
        row = torch.randint(3, 4096, (1, length))
        row[:, ::500] = 2

        def work(masked: bool, row=row) -> None:
            logits = model(row, mask=document_mask(row, 2) if masked else None)
            torch.nn.functional.cross_entropy(logits[0, :-1], row[0, 1:]).backward()
        plain, masked = cpu_seconds(lambda: work(False)), cpu_seconds(lambda: work(True))
        print(f"{length} positions: {plain:.2f} s without a mask, {masked:.2f} s with the document mask: "
              f"{masked / plain:.2f} times")


BENCHES = {"prepare": bench_prepare, "memory": bench_memory, "loader": bench_loader, "mask": bench_mask}


def main() -> None:
    parser = Parser(
        "Measure what the data pipeline costs.",
        "  python -m bench.pipeline prepare\n  python -m bench.pipeline loader",
    )
    parser.add_argument("what", choices=(*BENCHES, "all"))
    parser.add_argument("--vocab", help="a vocabulary's name or file (default: the built-in one)")
    parser.add_argument(
        "--source", action="append", metavar="KIND=PATH",
        help="documents to measure on (default: the built-in ones)",
    )
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count(), help="threads of torch (default: all cores)"
    )
    args = parser.parse_args()
    if sys.platform == "win32":
        raise UserError("these measurements need a POSIX system")
    for name in BENCHES if args.what == "all" else [args.what]:
        BENCHES[name](args)


if __name__ == "__main__":
    sys.exit(run(main))
