# SPDX-License-Identifier: Apache-2.0
"""The command line of data.py, and the two one-line ways to prepare a corpus from a program.

    python data.py prepare        SOURCES + a mixture (MIXES) -> corpus/prepare.py
    python data.py info | show    corpus/report.py
"""
from __future__ import annotations

import shlex
import sys
from argparse import Namespace
from dataclasses import dataclass, field
from pathlib import Path

import tokenizer
from common import Parser, UserError, count_of
from corpus.documents import HubDataset, Source, builtin_source, hub_source, kind_of, path_source
from corpus.prepare import prepare
from corpus.report import info_command, show_command
from data import BUILTIN_KINDS, END, START, read_manifest, tokens_of


@dataclass(frozen=True)
class Mix:
    """A mixture of the cards: shares at the start and at the end, how text is cleaned, and the datasets of
    each source.
    """

    start: dict[str, float]
    end: dict[str, float]
    datasets: dict[str, list[HubDataset]] = field(default_factory=dict)
    one_mode: bool = False
    note: str = ""


# without the embeddings that come with each text
FINEWEB_HQ = HubDataset("epfml/FineWeb-HQ", "CC-MAIN-2024-51", columns=("text",))
FINEMATH = HubDataset("HuggingFaceTB/finemath", "finemath-4plus")
STACK_PYTHON = HubDataset("Cyrile/dataset-the-stack-v2-dedup-sub", "Python")
STARCODER = [
    HubDataset("bigcode/starcoderdata", data_dir=language)
    for language in ("python", "javascript", "typescript")
]
HALVES = "the cards do not give the shares of this mixture: halves are this project's assumption"
MIXES = {
    "stentor3": Mix(START, END, {"web": [FINEWEB_HQ], "code": [STACK_PYTHON], "math": [FINEMATH]}),
    "portimbria": Mix(START, END, {"web": [FINEWEB_HQ], "code": STARCODER, "math": [FINEMATH]}),
    "stentor2": Mix(
        {"web": 0.5, "pdf": 0.5},
        {"web": 0.5, "pdf": 0.5},
        {"web": [FINEWEB_HQ], "pdf": [HubDataset("StentorLabs/StenCore")]},
        one_mode=True,
        note=HALVES,
    ),
    "stentor1": Mix(
        {"web": 0.5, "synthetic": 0.5},
        {"web": 0.5, "synthetic": 0.5},
        {
            "web": [HubDataset("HuggingFaceFW/fineweb-edu", "sample-10BT")],
            "synthetic": [HubDataset("HuggingFaceTB/cosmopedia", "web_samples_v2")],
        },
        one_mode=True,
        note=f"{HALVES}, and so are the subsets (no card names any)",
    ),
}


def prepare_builtin(out: str | Path = "corpora/builtin", vocab: str | Path | None = None,
                    kinds: tuple[str, ...] = BUILTIN_KINDS) -> Path:
    """Prepare the built-in corpus, or find it prepared already (by this Python version or another), and
    return its folder.
    """
    out = Path(out)
    if (out / "manifest.json").is_file():
        manifest = read_manifest(out)
        wanted = tokenizer.load(vocab) if vocab else tokenizer.load()
        if manifest["tokenizer"]["fingerprint"] == wanted.fingerprint and set(manifest["sources"]) == set(
            kinds
        ):
            return out
    return prepare(
        [builtin_source(kind) for kind in kinds],
        out,
        vocab,
        validation_share=0.05,
        command="python data.py prepare",
    )


def prepare_files(paths: list[str | Path], out: str | Path, vocab: str | Path | None = None) -> Path:
    """Prepare one's own file or folder as one source ("code" if all its files are programs, else "web");
    returns the corpus folder.
    """
    if len(paths) != 1:
        raise UserError(
            "give one file or one folder; more go through: python data.py prepare --source web=A --source code=B"
        )
    source = path_source(kind_of(paths[0]), paths[0])
    command = shlex.join(["python", "data.py", "prepare", "--source", f"{source.name}={paths[0]}"])
    return prepare([source], out, vocab, validation_share=0.05, command=command)


def prepare_command(options: Namespace) -> None:
    """`data.py prepare`: the sources, shares and cleaning that the command line names. Raises UserError
    before anything is written.
    """
    for name in ("tokens", "source_token_budget", "shard_tokens", "workers"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} {getattr(options, name)}: must be at least 1")
    if options.validation_share is not None and not 0 < options.validation_share < 1:
        raise UserError(
            f"--validation-share {options.validation_share}: a part of the documents, between 0 and 1"
        )
    wanted, mix = options.source or ["builtin"], MIXES[options.mix]
    name = options.mix if "hub" in wanted else "builtin" if wanted == ["builtin"] else "mine"
    if mix.note and "hub" in wanted:
        print(f"{options.mix}: {mix.note}")
    folder = prepare(
        sources_of(wanted, mix),
        options.out or Path("corpora", name),
        options.vocab,
        start=mix.start,
        end=mix.end,
        token_budget=options.tokens,
        source_token_budget=options.source_token_budget,
        shard_tokens=options.shard_tokens,
        validation_share=options.validation_share or (0.005 if "hub" in wanted else 0.05),
        one_mode=mix.one_mode,
        workers=options.workers,
        command=shlex.join(["python", *sys.argv]),
    )
    for name, source in read_manifest(folder)["sources"].items():
        print(
            f"{name}: {tokens_of(source['train']):,} training tokens, {tokens_of(source['validation']):,} for validation"
        )
    print(f"{folder}: ready; look at it with: python data.py info {folder}")


def sources_of(wanted: list[str], mix: Mix) -> list[Source]:
    """The sources that `--source` names: "builtin", "builtin-math" and its like, "hub", KIND=PATH. Raises
    UserError.
    """
    sources = []
    for name in wanted:
        kind, equals, path = name.partition("=")
        if equals and path:
            if kind not in mix.start:
                raise UserError(
                    f"--source {name}: no such kind in this mixture; it has {', '.join(mix.start)}"
                )
            sources.append(path_source(kind, path))
        elif name == "builtin":
            sources += [builtin_source(kind) for kind in BUILTIN_KINDS]
        elif name.removeprefix("builtin-") in BUILTIN_KINDS and name.startswith("builtin-"):
            sources.append(builtin_source(name.removeprefix("builtin-")))
        elif name == "hub":
            sources += [hub_source(kind, datasets) for kind, datasets in mix.datasets.items()]
        else:
            raise UserError(
                f"--source {name}: expected builtin, builtin-math, hub, or KIND=PATH such as web=texts/ or code=src/"
            )
    names = [source.name for source in sources]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UserError(f"--source {twice} is given twice; put its files into one folder")
    return sources


def parser() -> Parser:
    """The command line."""
    parser = Parser(
        "Prepare a corpus, describe it, or show what a training step saw.",
        """  python data.py prepare
  python data.py prepare --source web=texts/ --source code=src/ --out corpora/mine
  python data.py prepare --source hub --mix stentor3 --tokens 1e9 --out corpora/stentor3
  python data.py info corpora/builtin --mix-at 450
  python data.py show corpora/builtin --step 731 --row 3""",
    )
    actions = parser.add_subparsers(dest="action", required=True)
    prepare = actions.add_parser(
        "prepare", help="clean, tokenize and pack documents; the same command continues after a stop"
    )
    prepare.add_argument(
        "--source",
        action="append",
        metavar="SOURCE",
        help="builtin (default), builtin-math, hub, or KIND=PATH with KIND web, code or math; may be repeated",
    )
    prepare.add_argument(
        "--mix",
        default="stentor3",
        choices=tuple(MIXES),
        help="shares, cleaning and hub datasets of a model family (default: stentor3)",
    )
    prepare.add_argument("--vocab", help="a vocabulary's name or file (default: the built-in one)")
    prepare.add_argument(
        "--out", metavar="DIR", help="folder of the corpus (default: corpora/ and the source's name)"
    )
    prepare.add_argument(
        "--tokens", "--token-budget", type=count_of, metavar="N", help="training tokens (default: all)"
    )
    prepare.add_argument(
        "--source-token-budget", type=count_of, metavar="N", help="at most so many of each source"
    )
    prepare.add_argument(
        "--validation-share", type=float, metavar="P", help="of the documents (default: 0.05; hub 0.005)"
    )
    prepare.add_argument(
        "--shard-tokens", type=count_of, default=50_000_000, metavar="N", help="a file's size (default: 50M)"
    )
    prepare.add_argument("--workers", type=count_of, metavar="N", help="processes (default: one a core)")
    for name, purpose in (
        ("info", "documents, tokens, shares, mixture, an excerpt"),
        ("show", "what the model saw in a row"),
    ):
        action = actions.add_parser(name, help=purpose)
        action.add_argument("folder", metavar="DIR", help="a prepared folder, or a run that trained on one")
        action.add_argument("--seq-len", type=count_of, metavar="N", help="(default: the run's, or 256)")
        action.add_argument(
            "--batch-size", type=count_of, metavar="N", help="rows of a step (default: the run's, or 8)"
        )
        action.add_argument(
            "--steps",
            type=count_of,
            metavar="N",
            help="horizon of the run (default: the run's, or one epoch)",
        )
        action.add_argument("--seed", type=int, help="(default: the run's, or 42)")
    info, show = actions.choices["info"], actions.choices["show"]
    info.add_argument("--mix-at", type=count_of, metavar="STEP", help="the shares at one step")
    info.add_argument("--plot", metavar="FILE", help="draw the mixture into an .svg or .png")
    show.add_argument("--step", type=count_of, default=0, metavar="N", help="optimizer step (default: 0)")
    show.add_argument("--row", type=count_of, default=0, metavar="N", help="row of the step (default: 0)")
    return parser


def main() -> None:
    """The command line: prepare, info, show."""
    options = parser().parse_args()
    {"prepare": prepare_command, "info": info_command, "show": show_command}[options.action](options)
