# SPDX-License-Identifier: Apache-2.0
"""Several models, several benchmarks, one table: the command line of `evaluate.py` and what it runs.

Finished parts are kept in `evaluation_blocks.json` of each run, so an interrupted evaluation goes on where it
stopped, and a model that was judged before is not judged again. The table is the cards': chance, one column
for each model, the mean over chance, best and second best marked.
"""
from __future__ import annotations

import argparse
import contextlib
import json
import re
import sys
import unicodedata
from pathlib import Path
from typing import Any

import numpy
import torch

import data
from common import Parser, UserError, atomic_write, positive, read_json, sha256_file
from evaluate import band, blimp, multiple_choice, perplexity, read_items
from judging import gsm8k
from model import Llama
from params import read_cards
from devices.open import open_device
from tokenizer import Tokenizer, load, lost_text

# The cards' benchmarks: the task of a file, its column's title, and which score stands there (the cards take
# acc_norm where lm-eval has it).
BENCHMARKS = {
    "openbookqa": ("OpenBookQA", "acc_norm"),
    "truthfulqa_mc2": ("TruthfulQA", "acc"),
    "winogrande": ("Winogrande", "acc"),
    "commonsenseqa": ("CommonsenseQA", "acc"),
    "hellaswag": ("HellaSwag", "acc_norm"),
    "piqa": ("PIQA", "acc_norm"),
    "arc_easy": ("ARC-Easy", "acc_norm"),
    "arc_challenge": ("ARC-Challenge", "acc_norm"),
    "mmlu": ("MMLU", "acc"),
    # not in the cards
    "truthfulqa_mc1": ("TruthfulQA MC1", "acc"),
    "truthfulqa_binary": ("TruthfulQA binary", "acc"),
}
EXAMPLES = """  python evaluate.py                                          the newest run on the validation part of its own data
  python evaluate.py runs/20m --text my.txt                   perplexity, bits per byte and per character of a text
  python evaluate.py runs/20m runs/tiny --blimp blimp.jsonl.gz --choices piqa.jsonl.gz --choices hellaswag.jsonl.gz
  python evaluate.py runs/20m --curve                         its training curve over the published one of its size"""


def parser() -> Parser:
    """The flags of evaluate.py."""
    parser = Parser("Judge models as the cards do, side by side.", EXAMPLES)
    parser.add_argument(
        "runs", nargs="*", metavar="RUN", help="run folders or model folders (default: the newest run)"
    )
    parser.add_argument(
        "--text",
        action="append",
        default=[],
        metavar="FILE",
        help="perplexity on a text, a .jsonl(.gz) with a field text, or the validation part of a folder made by data.py prepare",
    )
    parser.add_argument(
        "--blimp",
        nargs="?",
        const="",
        metavar="FILE",
        help="BLiMP as .jsonl(.gz); without FILE it is downloaded once",
    )
    parser.add_argument(
        "--choices",
        action="append",
        default=[],
        metavar="FILE",
        help="multiple-choice items as .jsonl(.gz); may be given again",
    )
    parser.add_argument(
        "--gsm8k", action="append", default=[], metavar="FILE", help="GSM8K items as .jsonl(.gz)"
    )
    parser.add_argument(
        "--shots",
        type=int,
        nargs="+",
        default=[0],
        metavar="N",
        help="worked examples before each GSM8K problem (default: 0)",
    )
    parser.add_argument(
        "--examples", metavar="FILE", help="where those come from (default: the other problems of the file)"
    )
    parser.add_argument(
        "--prompt",
        choices=["plain", "lm-eval"],
        default="plain",
        help="how context and choice are joined (default: plain)",
    )
    parser.add_argument(
        "--boundary",
        choices=["bytes", "lm-eval"],
        default="bytes",
        help="which tokens of a choice are scored: exactly its bytes, or lm-eval's slice (default: bytes)",
    )
    parser.add_argument(
        "--limit",
        type=positive,
        metavar="N",
        help="only the first N items (of each paradigm, of each source of a folder)",
    )
    parser.add_argument(
        "--context",
        type=positive,
        metavar="N",
        help="positions for --text (default: as trained, else all the model has)",
    )
    parser.add_argument(
        "--device",
        choices=["cpu", "cuda", "mps"],
        help="where to compute (default: cuda where there is one, else cpu)",
    )
    parser.add_argument(
        "--peers",
        action="store_true",
        help="put the models of the Stentor3 card's comparison table beside them",
    )
    parser.add_argument(
        "--out",
        metavar="STEM",
        help="write STEM.json and STEM.md (default: RUN/evaluation; RUN/comparison for several)",
    )
    parser.add_argument(
        "--curve",
        action="store_true",
        help="plot the run's losses over the published ones of its size, as RUN/curve.svg",
    )
    return parser


def mean_over_chance(scores: dict[str, dict[str, float]], chance: dict[str, float]) -> dict[str, float]:
    """Model -> mean of score - baseline over the benchmarks that all models have, as the Stentor3 card
    defines it.

    `scores` is model -> benchmark -> fraction, `chance` benchmark -> fraction. The baseline of TruthfulQA is
    the lowest score in the table, that of GSM8K is 0, any other is chance. BLiMP is not part of the mean.
    """
    common = [name for name in chance if name != "BLiMP" and all(name in row for row in scores.values())]
    baseline = dict(chance)
    for name in common:
        if name == "TruthfulQA":
            baseline[name] = min(row[name] for row in scores.values())
        if name.startswith("GSM8K"):
            baseline[name] = 0.0
    return {
        model: sum(row[name] - baseline[name] for name in common) / len(common)
        for model, row in scores.items()
        if common
    }


def card_peers() -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """(scores, chance) of the Stentor3 card's comparison table. Its authors ran lm-eval on whole test sets:
    compare like with like.
    """
    table = read_cards()["Stentor3-20M"]["benchmarks"]["peer_table"][0]
    titles = [re.sub(r"GSM8K_(\d)shot_flexible", r"GSM8K (\1-shot)", name) for name in table["columns"][1:-1]]
    rows = {
        row[0]: {title: value for title, value in zip(titles, row[1:]) if value is not None}
        for row in table["rows"]
    }
    chance = rows.pop("Random / Baseline")
    return rows, {title: chance.get(title, 0.0) for title in titles}


def markdown(
    scores: dict[str, dict[str, float]], errors: dict[str, dict[str, float]], chance: dict[str, float]
) -> str:
    """The table: a line for each benchmark, a column for each model; the best score bold, the second best in
    italics.

    A line whose name ends in "(less is better)" is ranked the other way.
    """
    models = list(scores)
    lines = ["| benchmark | chance | " + " | ".join(models) + " |", "| --- | --- |" + " ---: |" * len(models)]
    means = mean_over_chance(scores, chance)
    table = {
        name: {model: scores[model].get(name) for model in models}
        for name in dict.fromkeys(name for row in scores.values() for name in row)
    }
    if means:
        table["mean over chance"] = means
    for name, row in table.items():
        sign = -1 if name.endswith("(less is better)") else 1
        ranks = sorted({round(sign * value, 4) for value in row.values() if value is not None}, reverse=True)
        compared = sum(value is not None for value in row.values())
        cells = []
        for model, value in row.items():
            cell = "" if value is None else f"{value:.4f}"
            if cell and compared > 1 and round(sign * value, 4) in ranks[:2]:
                mark = "**" if round(sign * value, 4) == ranks[0] else "_"
                cell = mark + cell + mark
            if name in errors.get(model, {}):
                cell += f" ± {errors[model][name]:.4f}"
            cells.append(cell)
        lines.append(
            f"| {name} | {format(chance[name], '.4f') if name in chance else ''} | "
            + " | ".join(cells)
            + " |"
        )
    return "\n".join(lines) + "\n"


def blimp_report(name: str, result: dict[str, Any]) -> str:
    """BLiMP in full, as Markdown: categories and phenomena, then every paradigm from strong to weak, each
    with its 95% interval.
    """
    low, high = result["intervals"]["overall"]
    strong, moderate, weak = (
        list(result["bands"].values()).count(name) for name in ("strong", "moderate", "weak")
    )
    lines = [
        f"\n## {name}: BLiMP {result['overall']:.2%} (95% interval {low:.2%} to {high:.2%})\n",
        f"{strong} paradigms strong (>= 85%), {moderate} moderate, {weak} weak (<= 55%). {result['ties']} ties of {result['pairs']} pairs "
        f"score 0.5; lm-eval counts a tie as right, which gives {result['overall_lm_eval']:.2%}.\n",
    ]
    for kind in ("categories", "phenomena", "paradigms"):
        lines += [f"| {kind} | accuracy | 95% interval | band |", "| --- | ---: | ---: | --- |"]
        for title, share in sorted(result[kind].items(), key=lambda entry: -entry[1]):
            low, high = result["intervals"][kind][title]
            lines.append(f"| {title} | {share:.1%} | {low:.1%} to {high:.1%} | {band(share)} |")
        lines.append("")
    return "\n".join(lines)


class Blocks(dict):
    """Finished parts of an evaluation, written to `path` after each, so that an interrupted evaluation goes
    on where it stopped.
    """

    def __init__(self, path: Path, model: str):
        super().__init__()
        self.path, self.model = path, model
        if path.is_file():
            stored = read_json(path, limit=256 << 20)
            if stored.get("model") == model and isinstance(stored.get("blocks"), dict):
                self.update(stored["blocks"])

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        with contextlib.suppress(PermissionError):  # a read-only folder can be judged, only not continued
            atomic_write(self.path, json.dumps({"model": self.model, "blocks": self}) + "\n")


def run_home(folder: Path) -> Path:
    """The run folder of a model folder: the one above best/ or last/, else itself."""
    return folder.parent if folder.name.split(".")[0] in ("best", "last") else folder


def judge_run(folder: Path, args: argparse.Namespace) -> dict[str, dict]:
    """Everything that the flags ask for on one model: title -> result."""
    device = open_device(args.device or ("cuda" if torch.cuda.is_available() else "cpu")).torch_device
    model = Llama.from_pretrained(folder).to(device).eval()
    tokenizer = load(folder)
    home = run_home(folder)
    stored = read_json(home / "run.json") if (home / "run.json").is_file() else {}
    try:
        context = args.context or (stored["settings"]["seq_len"] if stored else None)
        if context is not None and type(context) is not int or stored and type(stored["data"]) is not str:
            raise TypeError("seq_len must be a whole number, data a folder")
    except (KeyError, TypeError) as error:
        raise UserError(f"{home / 'run.json'}: not the record of a run ({error})") from None
    weights = [sha256_file(file) for file in sorted(folder.glob("model*.safetensors"))]
    finished = Blocks(
        home / "evaluation_blocks.json",
        " ".join([sha256_file(folder / "config.json"), *weights, tokenizer.fingerprint]),
    )
    texts = args.text
    if not asked(args):
        if not stored:
            raise UserError(f"{folder}: nothing to judge it on; give --text, --blimp, --choices or --gsm8k")
        texts = [stored["data"]]
    results = {}
    for path in map(Path, texts):
        alike = [other for other in texts if Path(other).name == path.name]
        name = path.name if len(alike) == 1 else str(path)
        results[f"{name}: bits per byte (less is better)"] = judge_text(
            model, tokenizer, path, context, args.limit, finished
        )
    if args.blimp:
        results["BLiMP"] = {
            **blimp(model, tokenizer, args.blimp, args.prompt, args.limit, finished),
            "chance": 0.5,
        }
    for path in args.choices:
        result = multiple_choice(model, tokenizer, path, args.boundary, args.prompt, args.limit, finished)
        print(
            f"{path}: the encoder crosses the boundary of context and choice in {result['crossed']} of {result['items']} items"
        )
        title = BENCHMARKS.get(result["task"], (result["task"], ""))[0]
        results[f"{title} ({Path(path).name})" if title in results else title] = result
    for path in args.gsm8k:
        for shots in args.shots:
            result = gsm8k.exact_match(model, tokenizer, path, shots, args.examples, args.limit, finished)
            results[f"GSM8K ({shots}-shot)"] = {**result, "chance": 0.0}
    return results


def asked(args: argparse.Namespace) -> bool:
    """Whether the flags name anything to judge a model on."""
    return bool(args.text or args.blimp or args.choices or args.gsm8k)


def judge_text(
    model: Llama, tokenizer: Tokenizer, path: Path, context: int | None, limit: int | None, finished: Blocks
) -> dict[str, Any]:
    """`perplexity` on a file or prepared folder, and a line that says all of it: the table has room for the
    bits only.
    """
    digest = sha256_file(path / "manifest.json" if path.is_dir() else path)
    form = "folder" if path.is_dir() else "rows" if path.name.endswith((".jsonl", ".jsonl.gz")) else "text"
    key = f"{form} {digest[:16]} context {context} limit {limit}"
    if key not in finished:
        documents = text_documents(path, limit)
        finished[key] = {
            **perplexity(model, tokenizer, documents, context),
            "lost": lost_text(tokenizer, documents, 0.005),
        }
    found = finished[key]
    print(
        f"{path}: loss {found['loss']:.4f} ± {found['stderr']:.4f} nats per token, perplexity {found['ppl']:.2f}, {found['bits_per_byte']:.4f} bits"
        f" per byte, {found['bits_per_char']:.4f} per character, {found['tokens']:,} tokens"
    )
    if found.get("lost"):
        print(
            f"warning: {path}: {found['lost']}; the bits per byte count them as read, so they are too low",
            file=sys.stderr,
        )
    return found


def headline(result: dict) -> tuple[float, float]:
    """The score of a result that stands in the table, and its standard error."""
    if "bits_per_byte" in result:
        return result["bits_per_byte"], result["stderr"] / result["loss"] * result["bits_per_byte"]
    if "overall" in result:
        low, high = result["intervals"]["overall"]
        return result["overall"], (high - low) / (2 * 1.96)
    if "exact_match" in result:
        return result["exact_match"], result["stderr"]
    normed = (
        BENCHMARKS.get(result["task"], ("", "acc_norm"))[1] == "acc_norm" and result["acc_norm"] is not None
    )
    return (result["acc_norm"], result["stderr_norm"]) if normed else (result["acc"], result["stderr"])


def corpus_documents(folder: str | Path, limit: int | None = None) -> list[str]:
    """The validation documents of a folder made by data.py prepare, at most `limit` of each source, all if
    None.

    They come as text (NFC, as they went in), so that a model of any vocabulary can be judged on them. Every
    token counts once; the losses of training are means over blocks in the mixture's shares, so they differ a
    little.
    """
    corpus = data.Corpus(folder, seq_len=2, batch_size=1, split="validation")
    coder = load(corpus.vocab_path)
    documents = []
    for source, starts in enumerate(corpus.starts):
        ids = numpy.empty(starts[-1], dtype=numpy.int64)
        corpus.read(source, 0, ids)
        for document in numpy.split(ids, numpy.flatnonzero(ids == corpus.eos_id) + 1)[:limit]:
            documents.append(unicodedata.normalize("NFC", coder.decode(document.tolist(), skip_special=True)))
    return [document for document in documents if document]


def text_documents(path: str | Path, limit: int | None = None) -> list[str]:
    """The documents of a prepared folder, of a .jsonl(.gz) file (the field `text` of each line), or one: the
    whole text of any other file.
    """
    path = Path(path)
    if path.is_dir():
        return corpus_documents(path, limit)
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        return [item["text"] for item in read_items(path, {"text": str})[:limit]]
    try:
        return [path.read_bytes().decode("utf-8")]
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None


def judge_all(folders: list[Path], args: argparse.Namespace) -> None:
    """Judge the models of these folders, print the table and write it as Markdown and JSON; plot their curves
    first if asked for.
    """
    if args.examples and not args.gsm8k:
        raise UserError("--examples goes with --gsm8k, whose problems they are examples for")
    if args.blimp == "":
        from judging.fetch_blimp import fetch_blimp
        args.blimp = fetch_blimp()
    homes = [run_home(folder) for folder in folders]
    if args.curve:
        from judging.curve import overlay
        for home in homes:
            print(overlay(home))
        if not asked(args):
            return
    out = Path(args.out) if args.out else homes[0] / ("evaluation" if len(homes) == 1 else "comparison")
    out.parent.mkdir(parents=True, exist_ok=True)
    alike = [home.resolve().name for home in homes]
    names = [home if alike.count(home) == 1 else str(folder) for home, folder in zip(alike, folders)]
    results = {name: judge_run(folder, args) for name, folder in zip(names, folders)}
    heads = {
        name: {title: headline(result) for title, result in row.items()} for name, row in results.items()
    }
    scores = {name: {title: score for title, (score, _) in row.items()} for name, row in heads.items()}
    for name, row in results.items():
        scores[name] |= {
            f"{title}, {group}": share
            for title, result in row.items()
            for group, share in result.get("groups", {}).items()
        }
    errors = {name: {title: error for title, (_, error) in row.items()} for name, row in heads.items()}
    chance = {
        title: result["chance"]
        for row in results.values()
        for title, result in row.items()
        if "chance" in result
    }
    if args.peers:
        peers, card_chance = card_peers()
        scores |= {f"{name} (card)": row for name, row in peers.items()}
        chance = {**card_chance, **chance}
    table = markdown(scores, errors, chance)
    print(table, end="")
    report = "".join(blimp_report(name, row["BLiMP"]) for name, row in results.items() if "BLiMP" in row)
    means = mean_over_chance(scores, chance)
    atomic_write(out.with_name(out.name + ".md"), table + report)
    everything = {"models": results, "scores": scores, "chance": chance, "mean_over_chance": means}
    atomic_write(out.with_name(out.name + ".json"), json.dumps(everything, indent=1) + "\n")
    print(f"written: {out}.md and {out}.json")
