# SPDX-License-Identifier: Apache-2.0
"""The command line of data.py, and two functions that prepare a corpus in one line.

    python data.py prepare        SOURCES and a mixture (MIXES) go to corpus/prepare.py
    python data.py info | show    corpus/report.py
"""
from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
import sys
from argparse import Namespace
from dataclasses import dataclass, field
from pathlib import Path
from typing import Iterable

from common import Parser, UserError, command, count_of, numbered, positive, tell
from corpus.documents import (
    HubDataset, Source, builtin_source, hub_source, kind_of, path_source, python_docs_source,
)
from corpus.prepare import MadeOtherwise, prepare
from corpus.python_docs import KINDS as PYTHON_KINDS
from corpus.report import info_command, show_command
from data import BUILTIN_KINDS, END, START, read_manifest, title, tokens_of
from tokenizer import load as load_tokenizer


# ------------------------------------------------------------------------------------------------- mixtures

@dataclass(frozen=True)
class Mix:
    """A mixture of the cards: shares at the start and the end, how text is cleaned, datasets by source."""

    start: dict[str, float]
    end: dict[str, float]
    datasets: dict[str, list[HubDataset]] = field(default_factory=dict)
    one_mode: bool = False  # clean every text to one line
    note: str = ""


FINEWEB_HQ = HubDataset("epfml/FineWeb-HQ", "CC-MAIN-2024-51", columns=("text",))  # without its embeddings
FINEWEB_EDU = HubDataset("HuggingFaceFW/fineweb-edu", "sample-10BT")
COSMOPEDIA = HubDataset("HuggingFaceTB/cosmopedia", "web_samples_v2")
FINEMATH = HubDataset("HuggingFaceTB/finemath", "finemath-4plus")
STENCORE = HubDataset("StentorLabs/StenCore")
STACK_PYTHON = HubDataset("Cyrile/dataset-the-stack-v2-dedup-sub", "Python")
STARCODER = [HubDataset("bigcode/starcoderdata", data_dir=language)
             for language in ("python", "javascript", "typescript")]
PDF_HALVES, SYNTHETIC_HALVES = {"web": 0.5, "pdf": 0.5}, {"web": 0.5, "synthetic": 0.5}
HALVES = "the cards do not give the shares of this mixture: halves are this project's assumption"
MIXES = {
    "stentor3": Mix(START, END, {"web": [FINEWEB_HQ], "code": [STACK_PYTHON], "math": [FINEMATH]}),
    "portimbria": Mix(START, END, {"web": [FINEWEB_HQ], "code": STARCODER, "math": [FINEMATH]}),
    "stentor2": Mix(PDF_HALVES, PDF_HALVES, {"web": [FINEWEB_HQ], "pdf": [STENCORE]}, True, HALVES),
    "stentor1": Mix(SYNTHETIC_HALVES, SYNTHETIC_HALVES, {"web": [FINEWEB_EDU], "synthetic": [COSMOPEDIA]},
                    True, f"{HALVES}, and so are the subsets (no card names any)"),
}


# ------------------------------------------------------------------------------------ preparing in one line

GENERATED = """
Its text is generated: the entropy is known exactly, a small model can master it in minutes, and nothing is \
downloaded. For real text, stop with Ctrl-C and give train.py one of these:
  --data my.txt            your own file
  --data python-docs       Python's documentation and library source
  --data corpora/stentor3  the cards' data sets, after this command:
python data.py prepare --source hub --mix stentor3"""


def prepare_builtin(out: str | Path = "corpora/builtin", vocab: str | Path | None = None,
                    kinds: Iterable[str] = BUILTIN_KINDS) -> Path:
    """Prepare the built-in corpus, or find it prepared already, and return its folder.

    A folder of an older generator or another vocabulary stays for the runs that need it; the new corpus gets
    a folder beside it.
    """
    sources = [builtin_source(kind) for kind in kinds]
    what = "preparing the built-in corpus (once, about 20 seconds)"
    return prepare_beside(sources, Path(out), vocab, "python data.py prepare", what, GENERATED)


def prepare_python_docs(out: Path, vocab: str | Path | None) -> Path:
    """Prepare Python's documentation and library source, or find them prepared; return the folder."""
    sources = [python_docs_source(kind) for kind in PYTHON_KINDS]
    what = "preparing Python's documentation and library source (once)"
    return prepare_beside(sources, out, vocab, "python data.py prepare --source python-docs", what)


def prepare_beside(sources: list[Source], out: Path, vocab: str | Path | None, by: str, what: str,
                   about: str = "") -> Path:
    """Prepare into the first of out, out-2, out-3 ... that is free, or find the sources there.

    `by` is the command that does the same; `what` is the line to print before the work begins, and `about`
    are lines about the text.
    """
    fingerprint = (load_tokenizer(vocab) if vocab else load_tokenizer()).fingerprint
    wanted = {source.name: source.identity for source in sources}
    for folder in numbered(out):
        if (folder / "manifest.json").is_file():
            made_with = read_manifest(folder).get("recipe", {})
            if (made_with.get("tokenizer"), made_with.get("sources")) == (fingerprint, wanted):
                return folder
            continue
        with contextlib.suppress(MadeOtherwise):                    # an unfinished corpus of other text
            tell(f"{what}, into {folder}{about}")
            return prepare(sources, folder, vocab, command=by)


def own_corpus_folder(path: str | Path) -> Path:
    """The corpus folder of a user's file or folder: its name, and six digits from its path.

    So my.txt and x/my.txt have two folders, and builtin.txt is not the built-in corpus.
    """
    path = Path(path).resolve()
    digits = hashlib.sha256(os.fsencode(path)).hexdigest()[:6]
    return Path("corpora") / f"{path.stem or 'own'}-{digits}"


def prepare_files(paths: list[str | Path], out: str | Path, vocab: str | Path | None = None) -> Path:
    """Prepare one file or one folder as one source and return the corpus folder.

    The source is "code" if all its files are programs, else "text": both keep their lines.
    """
    if len(paths) != 1:
        raise UserError("give one file or one folder; for more, run: "
                        "python data.py prepare --source web=A --source code=B")
    source = path_source(kind_of(paths[0]), paths[0])
    command = shlex.join(["python", "data.py", "prepare", "--source", f"{source.name}={paths[0]}"])
    return prepare([source], out, vocab, command=command)


# ------------------------------------------------------------------------------------------------- commands

def prepare_command(args: Namespace) -> None:
    """`data.py prepare`. Raises UserError for wrong flags before anything is written."""
    if args.validation_share is not None and not 0 < args.validation_share < 1:
        raise UserError(f"--validation-share {args.validation_share}: must be between 0 and 1")
    wanted, mix = args.source or ["builtin"], MIXES[args.mix]
    name = wanted[0] if wanted in (["builtin"], ["python-docs"]) else "mine"
    name = args.mix if "hub" in wanted else name
    if mix.note and "hub" in wanted:
        print(f"{args.mix}: {mix.note}")
    folder = prepare(
        sources_of(wanted, mix), args.out or Path("corpora", name), args.vocab, start=mix.start,
        end=mix.end, token_budget=args.tokens, source_token_budget=args.source_token_budget,
        shard_tokens=args.shard_tokens,
        validation_share=args.validation_share or (0.005 if "hub" in wanted else 0.05),
        one_mode=mix.one_mode, workers=args.workers, command=shlex.join(["python", *sys.argv]),
    )
    for name, source in read_manifest(folder)["sources"].items():
        train, validation = tokens_of(source["train"]), tokens_of(source["validation"])
        print(f"{title(name, source)}: {train:,} training tokens, {validation:,} for validation")
    print(f"{folder}: ready; look at it with: {command('data.py', 'info', folder)}")


def sources_of(wanted: list[str], mix: Mix) -> list[Source]:
    """The sources that `--source` names. Raises UserError for anything else."""
    sources = []
    for name in wanted:
        kind, equals, path = name.partition("=")
        if equals and path:
            if kind not in (*mix.start, "text"):
                kinds = ", ".join([*mix.start, "text"])
                raise UserError(f"--source {name}: no such kind in this mixture ({kinds})")
            sources.append(path_source(kind, path))
        elif name == "builtin":
            sources += [builtin_source(kind) for kind in BUILTIN_KINDS]
        elif name.startswith("builtin-") and name.removeprefix("builtin-") in BUILTIN_KINDS:
            sources.append(builtin_source(name.removeprefix("builtin-")))
        elif name == "python-docs":
            sources += [python_docs_source(kind) for kind in PYTHON_KINDS]
        elif name == "hub":
            sources += [hub_source(kind, datasets) for kind, datasets in mix.datasets.items()]
        else:
            raise UserError(f"--source {name}: expected builtin, builtin-math, python-docs, hub, or "
                            "KIND=PATH such as text=texts/ or code=src/")
    names = [source.name for source in sources]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UserError(f"--source {twice} is given twice; put its files into one folder")
    return sources


EXAMPLES = {
    "prepare": """  python data.py prepare
  python data.py prepare --source web=texts/ --source code=src/ --out mine
  python data.py prepare --source hub --mix stentor3 --tokens 1e9""",
    "info": """  python data.py info corpora/builtin
  python data.py info corpora/builtin --mix-at 450""",
    "show": "  python data.py show corpora/builtin --step 731 --row 3",
}


def parser() -> Parser:
    """The command line."""
    parser = Parser("Prepare a corpus, describe it, or show what a training step saw.",
                    "\n".join(EXAMPLES.values()))
    actions = parser.add_subparsers(dest="action", required=True)
    add = actions.add_parser(
        "prepare", help="clean, tokenize and pack documents; the same command continues after a stop",
        purpose="Clean, tokenize and pack documents. After a stop, the same command continues.",
        examples=EXAMPLES["prepare"],
    ).add_argument
    add("--source", action="append", metavar="SOURCE",
        help="builtin (default), python-docs, hub, or KIND=PATH: kinds text and code keep their lines, "
             "web and math become one line a document; may be repeated")
    add("--mix", default="stentor3", choices=tuple(MIXES),
        help="shares, cleaning and hub datasets of a model family (default: stentor3)")
    add("--vocab", help="a vocabulary's name or file (default: the built-in one)")
    add("--out", metavar="DIR",
        help="folder of the corpus (default: corpora/builtin, corpora/python-docs, corpora/mine for files, "
             "or corpora/MIX for the hub)")
    add("--tokens", "--token-budget", type=positive, metavar="N", help="training tokens (default: all)")
    add("--source-token-budget", type=positive, metavar="N", help="at most N of each source")
    add("--validation-share", type=float, metavar="P",
        help="share of the documents for validation (default: 0.05; hub 0.005)")
    add("--shard-tokens", type=positive, default=50_000_000, metavar="N",
        help="tokens in one file of the corpus (default: 50M)")
    add("--workers", type=positive, metavar="N", help="processes (default: one for each core)")
    for name, purpose in (("info", "documents, tokens, shares, mixture, an excerpt"),
                          ("show", "the text of one row of a training step")):
        add = actions.add_parser(
            name, help=purpose, purpose=f"Print {purpose}.", examples=EXAMPLES[name]
        ).add_argument
        add("folder", metavar="DIR", help="a prepared folder, or a run that trained on one")
        add("--seq-len", type=positive, metavar="N", help="tokens of a row (default: the run's, or 256)")
        add("--batch-size", type=positive, metavar="N", help="rows of a step (default: the run's, or 8)")
        add("--steps", type=positive, metavar="N", help="length of the run (default: its own, or one epoch)")
        add("--seed", type=int, help="seed of the order (default: the run's, or 42)")
    info, show = actions.choices["info"], actions.choices["show"]
    info.add_argument("--mix-at", type=count_of, metavar="STEP", help="print only the shares at one step")
    info.add_argument("--plot", metavar="FILE", help="draw the mixture into an .svg or .png")
    show.add_argument("--step", type=count_of, default=0, metavar="N", help="optimizer step (default: 0)")
    show.add_argument("--row", type=count_of, default=0, metavar="N", help="row of the step (default: 0)")
    return parser


def main() -> None:
    """Prepare a corpus, describe it, or show what a training step saw."""
    args = parser().parse_args()
    {"prepare": prepare_command, "info": info_command, "show": show_command}[args.action](args)
