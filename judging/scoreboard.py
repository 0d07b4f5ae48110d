# SPDX-License-Identifier: Apache-2.0
"""Several models, several benchmarks, one table: the command line of `evaluate.py` and what it runs.

Finished parts are kept in `evaluation_blocks.json` of each run, so that an interrupted evaluation continues
and a finished one is not repeated. The results are written as a Markdown table like the cards': chance, one
column for each model, the mean over chance, best and second best marked. The terminal shows one line for each
benchmark and model.
"""
from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import re
import tempfile
import unicodedata
from pathlib import Path
from typing import Any, Iterator

import torch

import data
from common import (
    Parser, UserError, atomic_write, command, optional_json, positive, read_json, run_of, sha256_file, tell,
    wrapped,
)
from corpus.documents import ROW_ENDINGS, documents_of, ending_of, read_text
from devices.open import open_device
from evaluate import band, blimp, multiple_choice, perplexity, read_items
from judging import gsm8k
from judging.builtin import judge_builtin
from judging.builtin import table as builtin_table
from model import Llama, beside_uniform, shown_perplexity
from params import Table, read_cards
from tokenizer import Tokenizer, load as load_tokenizer, lost_text

# The cards' benchmarks: task of a file -> title of its line, and the score that the cards give.
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
LESS = " (less is better)"                                        # ends the title of a line of the table
Scores = dict[str, dict[str, float]]                              # model -> benchmark -> score
Intervals = dict[str, dict[str, list[float]]]                     # model -> benchmark -> 95% interval
EXAMPLES = """  python evaluate.py                         the newest run's validation text
  python evaluate.py runs/20m --text my.txt  perplexity and bits per byte
  python evaluate.py runs/20m runs/tiny --blimp blimp.jsonl.gz
  python evaluate.py runs/20m --choices piqa.jsonl.gz
  python evaluate.py runs/20m --curve        its curve beside the published one"""


def parser() -> Parser:
    """The flags of evaluate.py."""
    p = Parser("Judge models as the cards do, side by side.", EXAMPLES)
    p.add_argument("runs", nargs="*", metavar="RUN", help="run or model folders (default: the newest run)")
    p.add_argument("--builtin", action="store_true",
                   help="measure what a model learned of the built-in corpus")
    p.add_argument("--text", action="append", default=[], metavar="FILE",
                   help="perplexity on a text, on a .jsonl(.gz) with a field text, or on the validation part "
                   "of a folder made by data.py prepare")
    p.add_argument("--blimp", nargs="?", const="", metavar="FILE",
                   help="BLiMP as .jsonl(.gz); without FILE it is downloaded once")
    p.add_argument("--choices", action="append", default=[], metavar="FILE",
                   help="multiple-choice items as .jsonl(.gz); may be given again")
    p.add_argument("--gsm8k", action="append", default=[], metavar="FILE", help="GSM8K items as .jsonl(.gz)")
    p.add_argument("--shots", type=int, nargs="+", default=[0], metavar="N",
                   help="worked examples before each GSM8K problem (default: 0)")
    p.add_argument("--examples", metavar="FILE",
                   help="the file of worked examples (default: the other problems of the file)")
    p.add_argument("--prompt", choices=["plain", "lm-eval"], default="plain",
                   help="how context and choice are joined (default: plain)")
    p.add_argument("--boundary", choices=["bytes", "lm-eval"], default="bytes",
                   help="the scored part of a choice: its bytes, or lm-eval's tokens (default: bytes)")
    p.add_argument("--limit", type=positive, metavar="N",
                   help="only the first N items (of each paradigm, of each source of a folder)")
    p.add_argument("--context", type=positive, metavar="N",
                   help="positions for --text (default: the training length, else the model's maximum)")
    p.add_argument("--device", choices=["cpu", "cuda", "mps"],
                   help="where to compute (default: cuda if there is one, else cpu)")
    p.add_argument("--peers", action="store_true",
                   help="put the models of the Stentor3 card's comparison table beside them")
    p.add_argument("--out", metavar="STEM",
                   help="write STEM.json and STEM.md (default: RUN/evaluation; RUN/comparison for several)")
    p.add_argument("--curve", action="store_true",
                   help="plot the run's losses beside the published ones of its size, as RUN/curve.svg")
    return p


def mean_over_chance(scores: dict[str, dict[str, float]], chance: dict[str, float]) -> dict[str, float]:
    """Model -> mean of score - baseline over the benchmarks that all models have, as in the Stentor3 card.

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
    """(scores, chance) of the Stentor3 card's comparison table, made with lm-eval on complete test sets."""
    table = read_cards()["Stentor3-20M"]["benchmarks"]["peer_table"][0]
    titles = [re.sub(r"GSM8K_(\d)shot_flexible", r"GSM8K (\1-shot)", name) for name in table["columns"][1:-1]]
    rows = {
        row[0]: {title: value for title, value in zip(titles, row[1:]) if value is not None}
        for row in table["rows"]
    }
    chance = rows.pop("Random / Baseline")
    return rows, {title: chance.get(title, 0.0) for title in titles}


def ranks(name: str, row: dict[str, float]) -> dict[str, int]:
    """Model -> 1 for the best score, 2 for the second best; empty for a single model."""
    sign = -1 if name.endswith(LESS) else 1
    order = sorted({round(sign * value, 4) for value in row.values()}, reverse=True)
    return {model: order.index(round(sign * value, 4)) + 1 for model, value in row.items() if len(row) > 1}


def lines_of(scores: Scores, chance: dict[str, float]) -> Scores:
    """Benchmark -> model -> score, the mean over chance last."""
    titles = dict.fromkeys(title for row in scores.values() for title in row)
    found = {title: {model: row[title] for model, row in scores.items() if title in row} for title in titles}
    means = mean_over_chance(scores, chance)
    return found | ({"mean over chance": means} if means else {})


def markdown(scores: Scores, intervals: Intervals, chance: dict[str, float]) -> str:
    """The cards' table: one line for each benchmark, one column for each model.

    The best score is bold, the second best in italics; 95% intervals are in brackets.
    """
    models = list(scores)
    lines = ["| benchmark | chance | " + " | ".join(models) + " |", "| --- | --- |" + " ---: |" * len(models)]
    for title, row in lines_of(scores, chance).items():
        rank, cells = ranks(title, row), []
        for model in models:
            mark = {1: "**", 2: "_"}.get(rank.get(model, 0), "")
            cell = f"{mark}{row[model]:.4f}{mark}" if model in row else ""
            if title in intervals.get(model, {}):
                cell += " ({:.4f} to {:.4f})".format(*intervals[model][title])
            cells.append(cell)
        guess = format(chance[title], ".4f") if title in chance else ""
        lines.append(f"| {title} | {guess} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def aligned(scores: Scores, intervals: Intervals, chance: dict[str, float]) -> str:
    """The table of `markdown` for a terminal: one line for each benchmark and model."""
    columns = {"benchmark": "", "model": "", "score": ".4f", "95% interval": "", "chance": ".4f", "rank": ""}
    table = Table("", columns)
    for title, row in lines_of(scores, chance).items():
        rank = ranks(title, row)
        for model, score in row.items():
            ends = intervals.get(model, {}).get(title)
            interval = "{:.4f} to {:.4f}".format(*ends) if ends else ""
            place = {1: "best", 2: "second"}.get(rank.get(model, 0), "")
            table.rows.append((title.removesuffix(LESS), model, score, interval, chance.get(title), place))
    if any(title.endswith(LESS) for row in scores.values() for title in row):
        table.notes = ["Bits per byte: less is better."]
    return table.text()


def blimp_report(name: str, result: dict[str, Any]) -> str:
    """BLiMP as Markdown: categories, phenomena and paradigms, from strong to weak, with 95% intervals."""
    low, high = result["intervals"]["overall"]
    strong, moderate, weak = (
        list(result["bands"].values()).count(name) for name in ("strong", "moderate", "weak")
    )
    lines = [
        f"\n## {name}: BLiMP {result['overall']:.2%} (95% interval {low:.2%} to {high:.2%})\n",
        f"{strong} paradigms strong (>= 85%), {moderate} moderate, {weak} weak (<= 55%). "
        f"{result['ties']} ties of {result['pairs']} pairs score 0.5; lm-eval counts a tie as right, "
        f"which gives {result['overall_lm_eval']:.2%}.\n",
    ]
    for kind in ("categories", "phenomena", "paradigms"):
        lines += [f"| {kind} | accuracy | 95% interval | band |", "| --- | ---: | ---: | --- |"]
        for title, share in sorted(result[kind].items(), key=lambda entry: -entry[1]):
            low, high = result["intervals"][kind][title]
            lines.append(f"| {title} | {share:.1%} | {low:.1%} to {high:.1%} | {band(share)} |")
        lines.append("")
    return "\n".join(lines)


class Blocks(dict):
    """Finished parts of an evaluation, written to `path` after each one, so that it can be continued."""

    def __init__(self, path: Path, model: str):
        super().__init__()
        self.path, self.model = path, model
        self.writable = writing_problem(path.parent) is None      # a read-only run can be judged too
        if path.is_file():
            stored = read_json(path, limit=256 << 20)
            if stored.get("model") == model and isinstance(stored.get("blocks"), dict):
                self.update(stored["blocks"])

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        if self.writable:
            try:
                atomic_write(self.path, json.dumps({"model": self.model, "blocks": self}) + "\n")
            except OSError as error:                              # a full disk must not end hours of work
                self.writable = False
                tell(f"note: {self.path} was not written ({error.strerror})")


def writing_problem(folder: Path) -> str | None:
    """The reason why no file can be written into `folder`, or None; tested by writing one."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return error.strerror or str(error)


@contextlib.contextmanager
def about(path: str | Path, *others: str | Path) -> Iterator[None]:
    """Put `path` before the message of a UserError that names neither it nor one of `others`."""
    try:
        yield
    except UserError as error:
        named = any(str(place) in str(error) for place in (path, *others))
        raise UserError(str(error) if named else f"{path}: {error}") from None


def judge_run(name: str, folder: Path, args: argparse.Namespace) -> dict[str, dict]:
    """Title -> result of everything that the flags ask for; `name` is the model in printed lines."""
    device = open_device(args.device or ("cuda" if torch.cuda.is_available() else "cpu")).torch_device
    model = Llama.from_pretrained(folder).to(device).eval()
    tokenizer = load_tokenizer(folder)
    home = run_of(folder)
    stored = optional_json(home / "run.json")
    try:
        context = args.context or (stored["settings"]["seq_len"] if stored else None)
        good = context is None or type(context) is int and context > 0
        if not good or stored and type(stored["data"]) is not str:
            raise TypeError("seq_len must be a positive integer, data a folder")
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
            raise UserError(f"{folder}: not part of a run, so it has no validation text; "
                            "give --text, --blimp, --choices, --gsm8k or --builtin")
        texts = [stored["data"]]
    results = {}
    for path in map(Path, texts):
        alike = [other for other in texts if Path(other).name == path.name]
        title = path.name if len(alike) == 1 else str(path)
        with about(path):
            results[f"{title}: bits per byte{LESS}"] = judge_text(
                name, model, tokenizer, path, context, args.limit, finished, stored.get("data")
            )
        if not asked(args) and stored.get("entropy") is not None:
            more = command("evaluate.py", home, "--builtin")
            print(wrapped(f"its loss beside the entropy of the corpus, and what it learned: {more}", "  ",
                          "    "))
    if args.blimp:
        with about(args.blimp):
            found = blimp(model, tokenizer, args.blimp, args.prompt, args.limit, finished)
        results["BLiMP"] = {**found, "chance": 0.5}
        warn_of_lost_text(tokenizer, args.blimp, ("sentence_good", "sentence_bad"))
    for path in args.choices:
        with about(path):
            result = multiple_choice(model, tokenizer, path, args.boundary, args.prompt, args.limit, finished)
        crossed = f"{name}: {path}: in {result['crossed']} of {result['items']} items"
        print(wrapped(f"{crossed} a token crosses the boundary of context and choice", "", "  "))
        warn_of_lost_text(tokenizer, path, ("context", "choices"))
        title = BENCHMARKS.get(result["task"], (result["task"], ""))[0]
        results[f"{title} ({Path(path).name})" if title in results else title] = result
    if args.builtin:
        with about("--builtin"):
            results["tales without a mistake"] = judge_builtin(model, tokenizer)
        print(f"{name}\n{builtin_table(results['tales without a mistake'])}\n")
    for path in args.gsm8k:
        warn_of_lost_text(tokenizer, path, ("question",))
        for shots in args.shots:
            with about(path, *filter(None, [args.examples])):
                result = gsm8k.exact_match(
                    model, tokenizer, path, shots, args.examples, args.limit, finished
                )
            results[f"GSM8K ({shots}-shot)"] = {**result, "chance": 0.0}
    return results


def warn_of_lost_text(tokenizer: Tokenizer, path: str | Path, fields: tuple[str, ...]) -> None:
    """Warn on stderr if the vocabulary drops part of the texts in these fields of an item file."""
    values = [item[field] for item in read_items(path, {}) for field in fields]
    texts = ["\n".join(value) if isinstance(value, list) else value for value in values]
    lost = lost_text(tokenizer, ["\n".join(texts)])
    if lost:
        tell(f"warning: {path}: {lost}; the scores ignore them")


def asked(args: argparse.Namespace) -> bool:
    """Whether the flags name anything to judge a model on."""
    return bool(args.text or args.blimp or args.choices or args.gsm8k or args.builtin)


def judge_text(
    name: str, model: Llama, tokenizer: Tokenizer, path: Path, context: int | None, limit: int | None,
    finished: Blocks, corpus: str | None = None,
) -> dict[str, Any]:
    """`perplexity` on a file or prepared folder, printed; the table shows only the bits per byte.

    A file is cleaned like `corpus`, the prepared folder that the model was trained on.
    """
    if path.is_dir():
        data.read_manifest(path)                                  # raises UserError: not a prepared corpus
    digest = sha256_file(path / "manifest.json" if path.is_dir() else path)
    form = "folder" if path.is_dir() else "rows" if ending_of(path) in ROW_ENDINGS else "text"
    documents = cleaned_documents(path, limit, corpus)
    key = f"{form} {digest[:16]} context {context} limit {limit} characters {sum(map(len, documents))}"
    if key not in finished:
        finished[key] = {
            **perplexity(model, tokenizer, documents, context),
            "lost": lost_text(tokenizer, documents, 0.005),
        }
    found = finished[key]
    spread = f" ± {found['stderr']:.4f}" if found["tokens"] > 1 else ""
    print(
        f"{name}: {path}, {found['tokens']:,} tokens:\n"
        f"  loss {found['loss']:.4f}{spread} nats per token, "
        f"perplexity {shown_perplexity(found['loss'], 2)}\n"
        f"  {found['bits_per_byte']:.4f} bits per byte, {found['bits_per_char']:.4f} per character"
    )
    if warning := beside_uniform(found["loss"], model.config.vocab_size):
        print(wrapped(warning, "  ", "    "))
    if found.get("lost"):
        tell(f"warning: {path}: {found['lost']}; the bits per byte count these bytes as if read, so they are "
             "too low")
    return found


def headline(result: dict) -> tuple[float, list[float]]:
    """The score of a result that the table shows, and its 95% interval (Wilson's for accuracies)."""
    if "bits_per_byte" in result:
        bits = result["bits_per_byte"]
        half = 1.96 * result["stderr"] / result["loss"] * bits if result["loss"] else 0.0
        half = half if result["tokens"] > 1 else math.inf         # one token has no standard error
        return bits, [max(0.0, bits - half), bits + half]
    if "overall" in result:
        return result["overall"], result["intervals"]["overall"]
    if "exact_match" in result:
        return result["exact_match"], result["interval"]
    normed = BENCHMARKS.get(result["task"], ("", "acc_norm"))[1] == "acc_norm"
    if normed and result["acc_norm"] is not None:
        return result["acc_norm"], result["interval_norm"]
    return result["acc"], result["interval"]


def corpus_documents(folder: Path, limit: int | None) -> list[str]:
    """The validation documents of a prepared folder, at most `limit` of each source.

    They are decoded to text (NFC, as they were before), so that a model with any vocabulary can be judged.
    Every token counts once. The validation losses of training differ a little, because they are means over
    blocks in the shares of the mixture.
    """
    corpus = data.Corpus(folder, seq_len=2, batch_size=1, split="validation")
    tokenizer = load_tokenizer(corpus.vocab_path)
    texts = [tokenizer.decode(ids.tolist(), skip_special=True)
             for source in corpus.names for ids in corpus.documents(source, limit)]
    return [unicodedata.normalize("NFC", text) for text in texts if text]


def text_documents(path: str | Path, limit: int | None = None) -> list[str]:
    """The documents of a prepared folder, the rows of a file, or another file as one text."""
    path = Path(path)
    if path.is_dir():
        return corpus_documents(path, limit)
    if ending_of(path) in ROW_ENDINGS:
        return list(itertools.islice((text for text in documents_of(path) if text), limit))
    return [read_text(path)]


def cleaned_documents(path: Path, limit: int | None, corpus: str | None) -> list[str]:
    """`text_documents`, cleaned like the prepared folder `corpus`; prints what it changes."""
    documents = text_documents(path, limit)
    if path.is_dir() or corpus is None:
        return documents
    if not (Path(corpus) / "manifest.json").is_file():
        print(wrapped(f"{path}: judged as it is; the corpus of this run, {corpus}, is gone, and with it the "
                      "rules that clean a text", "", "  "))
        return documents
    cleaned = [data.clean_as(corpus, text) for text in documents]
    if [text for text, _ in cleaned] != documents:
        print(wrapped(f"{path}: {cleaned[0][1]}", "", "  "))
    return [text for text, _ in cleaned if text]


def check_files(args: argparse.Namespace) -> None:
    """Raise UserError for an input that is not a regular file: a device may be endless."""
    items = [*args.choices, *args.gsm8k, *filter(None, (args.blimp, args.examples))]
    for path in map(Path, [*args.text, *items]):
        if not (path.is_file() or path.is_dir() and str(path) in map(str, args.text)):
            raise UserError(f"{path}: {'not a regular file' if path.exists() else 'no such file'}")


def judge_all(folders: list[Path], args: argparse.Namespace) -> None:
    """Judge the models of these folders; print the table and write it as Markdown and JSON.

    With --curve, plot their curves first.
    """
    if args.examples and not args.gsm8k:
        raise UserError("--examples is for --gsm8k; add --gsm8k FILE")
    if args.blimp == "":
        from judging.fetch_blimp import fetch_blimp
        args.blimp = fetch_blimp()
    homes = [run_of(folder) for folder in folders]
    if args.curve:
        from judging.curve import overlay
        for home in homes:
            print(wrapped(overlay(home), "", "  "))
        if not asked(args):
            return
    check_files(args)
    out = Path(args.out) if args.out else homes[0] / ("evaluation" if len(homes) == 1 else "comparison")
    files = [out.parent / f"{out.name}{ending}" for ending in (".md", ".json")]
    if out.name in ("", "..") or any(file.is_dir() for file in files):
        raise UserError(f"--out {out}: name files that can be written, such as results for results.md")
    out.parent.mkdir(parents=True, exist_ok=True)
    if problem := writing_problem(out.parent):
        raise UserError(
            f"{out.parent}: the results cannot be written here ({problem}); give another --out STEM"
        )
    alike = [home.resolve().name for home in homes]
    names = [home if alike.count(home) == 1 else str(folder) for home, folder in zip(alike, folders)]
    results = {name: judge_run(name, folder, args) for name, folder in zip(names, folders)}
    scores, intervals, chance = {}, {}, {}
    for name, row in results.items():
        heads = {title: headline(result) for title, result in row.items()}
        for title, result in row.items():
            chance |= {title: result["chance"]} if "chance" in result else {}
            heads |= {f"{title}, {group}": (share, result["group_intervals"][group])
                      for group, share in result.get("groups", {}).items()}
        scores[name] = {title: score for title, (score, _) in heads.items()}
        intervals[name] = {title: ends for title, (_, ends) in heads.items()}
    if args.peers:
        peers, card_chance = card_peers()
        scores |= {f"{name} (card)": row for name, row in peers.items()}
        chance = {**card_chance, **chance}
    common = set.intersection(*(set(scores[name]) for name in names))
    shown = {name: {title: row[title] for title in row if title in common} for name, row in scores.items()}
    everything = {
        "models": results, "scores": scores, "chance": chance,
        "mean_over_chance": mean_over_chance(scores, chance),
    }
    report = "".join(blimp_report(name, row["BLiMP"]) for name, row in results.items() if "BLiMP" in row)
    atomic_write(files[0], markdown(shown, intervals, chance) + report)
    atomic_write(files[1], json.dumps(everything, indent=1) + "\n")
    nothing = "no table: the models have no text or benchmark in common"
    print(aligned(shown, intervals, chance) if common else nothing)
    print(wrapped(f"written: {out}.md and {out}.json", "", "  "))
