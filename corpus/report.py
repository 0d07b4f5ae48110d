# SPDX-License-Identifier: Apache-2.0
"""What a prepared corpus holds and what a training step saw: `python data.py info DIR`, `python data.py show
DIR --step N --row R`.
"""
from __future__ import annotations

import operator
from argparse import Namespace
from pathlib import Path

import numpy as np

import tokenizer
from common import UserError, read_json
from data import SPLITS, Corpus, mixture_table, steps_for_epochs


def plot_mixture(corpus: Corpus, path: str | Path) -> None:
    """Draw the mixture over the run as an area chart (.svg, .png)."""
    from matplotlib.figure import Figure
    steps = np.linspace(0, len(corpus), 201)
    # (steps, sources)
    shares = np.array([corpus.mixture.weights(step * corpus.batch_size) for step in steps])
    axes = Figure(figsize=(6, 3), layout="constrained").subplots()
    axes.stackplot(steps, 100 * shares.T, labels=corpus.names)
    axes.set(xlabel="step", ylabel="share of the blocks, %", xlim=(0, len(corpus)), ylim=(0, 100))
    axes.legend(loc="lower left")
    try:
        axes.figure.savefig(path)
    except ValueError as error:  # an ending that matplotlib does not know
        raise UserError(f"{path}: {error}") from None


def describe(corpus: Corpus) -> str:
    """What a prepared folder holds: documents, tokens, characters per token, shares, waste of the packing,
    and an excerpt.
    """
    lines = [
        f"{corpus.folder}: {corpus.vocab_size:,} token ids, separator {corpus.eos_id}, fingerprint {corpus.fingerprint[:12]}"
    ]
    lines.append(f"{'source':12}{'split':12}{'documents':>12}{'tokens':>16}{'chars/token':>13}{'share':>8}")
    for split in SPLITS:
        total = sum(tokens[split] for tokens in corpus.num_tokens.values())
        for name, tokens in corpus.num_tokens.items():
            record = corpus.manifest["sources"][name][split]
            ratio = record["characters"] / max(1, tokens[split])
            share = 100 * tokens[split] / max(1, total)
            lines.append(
                f"{name:12}{split:12}{record['documents']:12,}{tokens[split]:16,}{ratio:13.2f}{share:7.1f}%"
            )
    tails = [f"{name} {starts[-1] % corpus.seq_len}" for name, starts in zip(corpus.names, corpus.starts)]
    packed = f"packing at {corpus.seq_len}: 0 of {corpus.num_blocks * corpus.seq_len:,} positions wasted"
    lines.append(f"{packed}; left out at the end of a source: {', '.join(tails)}")
    text = tokenizer.load(corpus.vocab_path).decode(corpus.batch(0)[0].tolist())
    return "\n".join([*lines, f"step 0, row 0: {text[:300]!r}"])


def opened(options: Namespace) -> Corpus:
    """The training split that `info` and `show` look at, with the settings of a run where DIR is a run folder
    (looking verifies nothing).
    """
    for name in ("seq_len", "batch_size", "steps"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} {getattr(options, name)}: must be at least 1")
    folder, settings = Path(options.folder), {"seq_len": 256, "batch_size": 8, "seed": 42}
    if (folder / "run.json").is_file():
        record = read_json(folder / "run.json")
        try:
            settings, folder = (
                {name: operator.index(record["settings"][name]) for name in (*settings, "steps")},
                Path(record["data"]),
            )
        except (KeyError, TypeError) as error:
            raise UserError(f"{folder / 'run.json'}: not the record of a run ({error})") from None
    settings |= {
        name: value
        for name in ("seq_len", "batch_size", "steps", "seed")
        if (value := getattr(options, name)) is not None
    }
    steps = settings.get("steps") or steps_for_epochs(folder, settings["seq_len"], settings["batch_size"], 1)
    return Corpus(folder, settings["seq_len"], settings["batch_size"], steps, settings["seed"], verify=False)


def info_command(options: Namespace) -> None:
    """`data.py info`."""
    corpus = opened(options)
    if options.mix_at is not None:
        if not 0 <= options.mix_at <= len(corpus):
            raise UserError(f"--mix-at {options.mix_at}: this run has {len(corpus)} steps")
        shares = ", ".join(
            f"{name} {100 * share:.1f}%" for name, share in corpus.weights(options.mix_at).items()
        )
        print(f"step {options.mix_at} of {len(corpus)}: {shares}")
        return
    print(describe(corpus))
    print(
        f"mixture over {len(corpus):,} steps of {corpus.batch_size} x {corpus.seq_len} tokens:\n{mixture_table(corpus)}"
    )
    if options.plot:
        plot_mixture(corpus, options.plot)


def show_command(options: Namespace) -> None:
    """`data.py show`."""
    corpus = opened(options)
    if not (0 <= options.step < len(corpus) and 0 <= options.row < corpus.batch_size):
        raise UserError(
            f"step {options.step}, row {options.row}: this run has {len(corpus)} steps of {corpus.batch_size} rows"
        )
    source, block = corpus.locate(options.step * corpus.batch_size + options.row)
    print(
        f"step {options.step}, row {options.row}: block {block} of {corpus.blocks[source]} of {corpus.names[source]}\n"
    )
    coder = tokenizer.load(corpus.vocab_path)
    documents = np.split(
        row := corpus.batch(options.step)[options.row], np.flatnonzero(row == corpus.eos_id) + 1
    )
    print("\n----- separator -----\n".join(coder.decode(document.tolist(), skip_special=True) for document in documents))
