# SPDX-License-Identifier: Apache-2.0
"""The content of a prepared corpus, and of a training step: `data.py info DIR`, `data.py show DIR`."""
from __future__ import annotations

import operator
from argparse import Namespace
from pathlib import Path

import numpy as np

from common import Flow, UserError, for_terminal, read_json, save_figure, wrapped
from data import SPLITS, Corpus, lost_notes, mixture_table, steps_for_epochs
from tokenizer import load as load_tokenizer


def plot_mixture(corpus: Corpus, path: str | Path) -> None:
    """Draw the mixture over the run as an area chart (.svg, .png)."""
    from matplotlib.figure import Figure
    steps = np.linspace(0, len(corpus), 201)
    weights = [corpus.mixture.weights(step * corpus.batch_size) for step in steps]
    shares = np.array(weights)  # (steps, sources)
    axes = Figure(figsize=(6, 3), layout="constrained").subplots()
    axes.stackplot(steps, 100 * shares.T, labels=corpus.titles)
    axes.set(xlabel="step", ylabel="share of the blocks, %", xlim=(0, len(corpus)), ylim=(0, 100))
    axes.legend(loc="lower left")
    save_figure(axes.figure, path, "mixture.svg")


def describe(corpus: Corpus) -> str:
    """A prepared folder in words: documents, tokens, characters per token, shares, and an excerpt."""
    fingerprint, titles = corpus.fingerprint[:12], corpus.titles
    lines = [f"{corpus.folder}: {corpus.vocab_size:,} token ids, separator {corpus.eos_id}, "
             f"fingerprint {fingerprint}"]
    lines.append(f"{'source':18}{'split':12}{'documents':>12}{'tokens':>16}{'chars/token':>13}{'share':>8}")
    for split in SPLITS:
        total = sum(tokens[split] for tokens in corpus.num_tokens.values())
        for name, label, tokens in zip(corpus.names, titles, corpus.num_tokens.values()):
            record, count = corpus.manifest["sources"][name][split], tokens[split]
            ratio = record["characters"] / max(1, count)
            share = 100 * count / max(1, total)
            documents = record["documents"]
            lines.append(f"{label:18}{split:12}{documents:12,}{count:16,}{ratio:13.2f}{share:7.1f}%")
    for name, label in zip(corpus.names, titles):
        if corpus.entropy(name) is not None:
            about = corpus.manifest["recipe"]["sources"][name]
            bound = f"no model can go below {corpus.entropy(name):.3f} nats per token"
            lines.append(wrapped(f"{label}: {about}; {bound}", "", "  "))
    lines += lost_notes(corpus.manifest)
    tails = [f"{name} {starts[-1] % corpus.seq_len}" for name, starts in zip(titles, corpus.starts)]
    lines.append(wrapped(f"rows of {corpus.seq_len} tokens have no padding; tokens left over at the end of "
                         f"each source: {', '.join(tails)}", "", "  "))
    text = load_tokenizer(corpus.vocab_path).decode(corpus.batch(0)[0].tolist())
    return "\n".join([*lines, wrapped(f"step 0, row 0: {text[:300]!r}", "", "  ")])


def opened(args: Namespace) -> Corpus:
    """The training split for `info` and `show`, with a run's settings if DIR is a run folder.

    The checksums of the shards are not compared.
    """
    names = ("seq_len", "batch_size", "seed", "steps")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    folder, settings = Path(args.folder), {"seq_len": 256, "batch_size": 8, "seed": 42}
    if (folder / "run.json").is_file():
        record = read_json(folder / "run.json")
        try:
            settings = {name: operator.index(record["settings"][name]) for name in names}
            folder = Path(record["data"])
        except (KeyError, TypeError) as error:
            raise UserError(f"{folder / 'run.json'}: not the record of a run ({error!r})") from None
    settings |= given
    steps = settings.get("steps") or steps_for_epochs(folder, settings["seq_len"], settings["batch_size"], 1)
    return Corpus(folder, settings["seq_len"], settings["batch_size"], steps, settings["seed"], verify=False)


def info_command(args: Namespace) -> None:
    """`data.py info`."""
    corpus = opened(args)
    length = f"{len(corpus):,} steps of {corpus.batch_size} x {corpus.seq_len} tokens"
    if args.mix_at is not None:
        if not 0 <= args.mix_at <= len(corpus):
            raise UserError(f"--mix-at {args.mix_at}: {args.folder} has {length}")
        weights = corpus.weights(args.mix_at).values()
        shares = [f"{name} {share:.1%}" for name, share in zip(corpus.titles, weights)]
        print(wrapped(f"step {args.mix_at} of {args.folder}, {length}: {', '.join(shares)}", "", "  "))
        return
    print(for_terminal(describe(corpus)))
    print(f"mixture over {length}:\n{mixture_table(corpus)}")
    if args.plot:
        plot_mixture(corpus, args.plot)
        print(f"{args.plot}: the mixture as a chart")


def show_command(args: Namespace) -> None:
    """`data.py show`."""
    corpus = opened(args)
    step, number = args.step, args.row
    if not (0 <= step < len(corpus) and 0 <= number < corpus.batch_size):
        raise UserError(f"step {step}, row {number}: this run has {len(corpus)} steps of "
                        f"{corpus.batch_size} rows")
    source, block = corpus.locate(step * corpus.batch_size + number)
    print(f"step {step}, row {number}: block {block} of {corpus.blocks[source]} of {corpus.titles[source]}\n")
    tokenizer = load_tokenizer(corpus.vocab_path)
    row = corpus.batch(step)[number]  # (T,)
    documents = np.split(row, np.flatnonzero(row == corpus.eos_id) + 1)
    texts = [Flow().add(tokenizer.decode(document.tolist(), skip_special=True), last=True)
             for document in documents]
    print("\n----- separator -----\n".join(texts))
