# SPDX-License-Identifier: Apache-2.0
"""A run as one page: `runs/NAME/report.html`, self-contained, for a screen, a phone or paper.

    python -m publishing.report                          the newest run
    python -m publishing.report runs/tiny runs/20m --out class.html

train.py writes it when a run ends. This command makes it at any time, also of a run that is still training or
that an older version made: a part whose data are missing is left out. Several runs on one page are compared
first.
"""
from __future__ import annotations

import html
import math
import sys
from pathlib import Path

from audit.cost import HARDWARE, KG_CO2_PER_KWH, THIS_MACHINE_WATTS, energy
from common import Parser, UserError, atomic_write, command, newest_run, output_file, run
from judging.curve import published
from model import Llama, shown_perplexity
from params import count, flops
from publishing.report_page import bar, commands, explorer, page, paragraph, table, terms
from sampling.answers import valid_text
from sampling.explore import Choice, reading
from tokenizer import Tokenizer, load as load_tokenizer
from training.curves import COLOURS, Line, chart, levels_of, loss_chart, number, share_chart
from training.log import read_samples
from training.read_run import Run, read_run
from training.settings import TrainSettings

STATES = 7                                                        # snapshots under the slider, at most
TOKENS = (60, 180)                                                # length of the document that they read
SAMPLE_LETTERS = 420                                              # of a sample; tales are shorter


# ------------------------------------------------------------------------------------------------ the parts

def name_of(run: Run) -> str:
    return run.folder.resolve().name


def clock(seconds: float) -> str:
    """A time in words, without false precision.

    >>> clock(54.2), clock(179.6), clock(9000)
    ('54 s', '3 min 0 s', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def result(run: Run) -> str:
    """What was trained, how good it is, and whether it is complete."""
    size = "own shape" if run.settings.get("model") else run.settings.get("size", "")
    text = (f"A language model of {count(run.config)['total']:,} parameters ({size}), trained from "
            f"{'the weights of ' + str(run.settings['init']) if run.settings.get('init') else 'scratch'} on "
            f"{run.tokens:,} tokens{' of ' + run.info['data'] if run.info.get('data') else ''}"
            f"{f' in {clock(run.seconds)}' if run.seconds else ''}"
            f"{' on ' + run.info['device'] if run.info.get('device') else ''}.")
    best = run.best
    if best:
        loss = best["eval_loss"]
        text += (f" Validation loss {loss:.3f} nats per token, perplexity {shown_perplexity(loss, 2)}."
                 f"{distance(run, best)}")
    parts = paragraph(text, "lead")
    if run.step < run.end:
        parts += paragraph(f"Step {run.step:,} of {run.end:,}: this run is still training, or was stopped.")
    return parts


def distance(run: Run, row: dict) -> str:
    """How far the model has come, in words: to the entropy where it is known, else from token frequencies."""
    names = ("share_of_the_way", "entropy", "unigram_entropy", "whole_loss", "name_first", "name_later")
    way, entropy, unigram, loss, first, later = (number(row, name) for name in names)
    if None not in (way, entropy, unigram, loss) and way > 0:
        copied = "" if None in (first, later) else (
            f" A name costs {first:.2f} nats at its first mention and {later:.2f} later.")
        return (f" On complete documents its loss is {loss:.3f}: {way:.1%} of the way from token frequencies "
                f"alone ({unigram:.3f}) to the entropy of the corpus ({entropy:.3f}), which no model can go "
                f"below.{copied}")
    if row["eval_loss"] > math.log(run.config.vocab_size):
        return " That is worse than a uniform guess."
    if way is not None and unigram is not None:
        return f" On complete documents it is not yet better than counting tokens ({unigram:.2f})."
    return ""


def levels(run: Run) -> dict[str, float]:
    """What the losses are compared with. For real text, token frequencies are counted in the corpus."""
    found = levels_of(run.rows, run.config.vocab_size)
    if run.corpus and len(found) == 1:
        rows = min(len(run.corpus), run.settings.get("max_eval_samples") or 200)
        found["token frequencies alone:"] = run.corpus.unigram_entropy(rows)
    return found


def charts(run: Run) -> str:
    """The losses, and beside them what was learned."""
    if not run.rows:
        return paragraph("The log holds no step yet.")
    shares = share_chart(run.rows)
    words = "The pale points are single steps."
    if shares:
        words += (" Validation rows begin in the middle of a document, so the model lacks the text before. "
                  "Only the loss on complete documents can be compared with the entropy.")
    losses = loss_chart(run.rows, levels(run))
    return (f'<h3>Loss over the steps</h3><div class="two">{losses}{shares}</div>\n'
            + paragraph(words, "soft"))


def samples(run: Run) -> str:
    """The continuation of one prompt after each evaluation."""
    rows = [(f"step {row['step']:,}", short(row["text"])) for row in read_samples(run.folder)]
    if not rows:
        return ""
    return f"<h3>What it writes: the same beginning, step by step</h3>{terms(rows)}"


def short(text: str) -> str:
    """The beginning of a text, cut between words."""
    return text if len(text) <= SAMPLE_LETTERS else text[:SAMPLE_LETTERS].rsplit(" ", 1)[0] + " ..."


def states(run: Run) -> list[tuple[str, Path]]:
    """(label, model folder) of at most STATES snapshots, first and last included; best/ if there are none."""
    found = [folder for folder in (run.folder / "snapshots").glob("*")
             if folder.name.isdigit() and (folder / "config.json").is_file()]
    found.sort(key=lambda folder: int(folder.name))
    if len(found) > STATES:
        found = [found[round(i * (len(found) - 1) / (STATES - 1))] for i in range(STATES)]
    if not found and (run.folder / "best" / "config.json").is_file():
        return [("best", run.folder / "best")]
    return [(f"step {int(folder.name):,}", folder) for folder in found]


def document(run: Run, tokenizer: Tokenizer) -> list[int]:
    """A validation document of the first source, with a separator before and after, cut to TOKENS; or []."""
    if run.corpus is None:
        return []
    chosen = run.corpus.documents(run.corpus.names[0], 50)
    fitting = [ids for ids in chosen if TOKENS[0] <= len(ids) <= TOKENS[1]] or chosen
    ids = [tokenizer.eos_id, *fitting[0].tolist()] if fitting else []
    return ids[:min(TOKENS[1], run.config.max_position_embeddings)]


def seen(run: Run) -> str:
    """The token explorer: a validation document as the model saw it at each snapshot."""
    folders = states(run)
    if not folders:
        return ""
    tokenizer = load_tokenizer(folders[-1][1])
    ids = document(run, tokenizer)
    if len(ids) < 2:
        return paragraph("The token explorer needs the corpus, which is no longer in "
                         f"{run.info.get('data')}.", "soft")
    read: list[tuple[str, list[Choice]]] = [
        (label, reading(Llama.from_pretrained(folder).eval(), tokenizer, ids)) for label, folder in folders]
    what = "Move the slider: the tokens turn from red to green as the model learns. " if len(read) > 1 else ""
    return ("<h3>A validation document, token by token</h3>"
            + paragraph(f"{what}The model never trained on this text. Point at a token, tap it, or use the "
                        "arrow keys, to see what else the model considered.")
            + explorer(read))


def differing(run: Run) -> str:
    """The settings that are not the default, with where each comes from."""
    origin, default = run.info.get("origin", {}), vars(TrainSettings())
    hidden = ("resume", "dry_run", "model", "out")
    rows = [(name, "none" if value is None else value, origin.get(name, "not recorded"))
            for name, value in run.settings.items() if name not in hidden and value != default.get(name)]
    if not rows:
        return ""
    return ("<h3>Settings that differ from the default</h3>" + table(["setting", "value", "from"], rows)
            + paragraph(f"The command: {run.info.get('command', 'not recorded')}", "soft"))


def parameters(run: Run) -> str:
    """Where the parameters are, as a bar."""
    parts = {name: value for name, value in count(run.config).items() if value and name != "total"}
    total = sum(parts.values())
    rows = [(name, value / total, COLOURS[place % len(COLOURS)])
            for place, (name, value) in enumerate(parts.items())]
    return f"<h3>Where its {total:,} parameters are</h3>{bar(rows)}"


def hardware(run: Run) -> tuple[float, str]:
    """Watts of the machine while it trained, and the assumption behind them in words."""
    device, replicas = run.info.get("device"), run.info.get("replicas") or 1
    if device in ("tpu", "xla") and replicas == 8:
        return HARDWARE["TPU v5e-8"].watts, "200 W for each of 8 v5e chips, an assumption"
    if device == "cuda" and run.settings.get("precision") == "t4-fp16":
        return replicas * HARDWARE["T4"].watts, "the rated power of a T4"
    if device == "cuda":
        return replicas * HARDWARE["H200"].watts, "the rated power of an H200; most other cards draw less"
    return THIS_MACHINE_WATTS, f"{THIS_MACHINE_WATTS:.0f} W for the machine, an assumption"


def cost(run: Run) -> str:
    """The FLOPs of a run; its time and energy too, if it recorded its time; "" before the first step."""
    if not run.tokens:
        return ""
    per_token = flops(run.config, run.settings["seq_len"])["training"]
    watts, assumption = hardware(run)
    _, _, kwh, carbon = energy(run.seconds, watts)
    speed = run.tokens_per_second
    rows = [("compute", f"{per_token * run.tokens:.2e} FLOPs", f"{per_token / 1e6:,.1f} MFLOP a token")]
    if speed:
        rows.append(("speed", f"{speed:,.0f} tokens/s", f"median; {speed * per_token / 1e9:,.0f} GFLOP/s"))
    if run.seconds:
        rows += [("time", clock(run.seconds), "of all calls, evaluations included"),
                 ("energy", f"{1000 * kwh:,.2g} Wh" if kwh < 1 else f"{kwh:,.1f} kWh", assumption),
                 ("CO2", f"{1000 * carbon:,.2g} g" if carbon < 1 else f"{carbon:,.1f} kg",
                  f"{KG_CO2_PER_KWH} kg a kWh, an assumption")]
    return f"<h3>Cost</h3>{table(['', 'this run', 'how'], rows)}"


def beside_card(run: Run) -> str:
    """The published model of this size beside the run; "" where there is none."""
    card = {} if run.settings.get("model") else published(run.settings.get("size", ""))
    if not card or not run.best:
        return ""
    loss = run.best["eval_loss"]
    rows = [("training tokens", f"{run.tokens:,}", str(card["tokens"])),
            ("validation loss", f"{loss:.3f}", f"{card['best']:.3f}"),
            ("perplexity", shown_perplexity(loss, 2), shown_perplexity(card["best"], 2)),
            ("data", Path(str(run.info.get("data"))).name, card["data"]),
            ("vocabulary", f"{run.config.vocab_size:,} rows", str(card["vocabulary"]))]
    curve = ""
    if card["history"]:
        curve = chart(f"{card['name']}: published validation loss", [
            Line(f"{card['name']}, published", card["history"], COLOURS[3], "marked")
        ], "training tokens", "nats per token")
    return (f"<h3>Beside the card of {html.escape(card['name'])}</h3>"
            + table(["", "this run", "the card"], rows) + curve
            + paragraph("Text, vocabulary and length of training differ, so the losses cannot be compared; "
                        "the shapes of the curves can.", "soft"))


def next_steps(run: Run) -> str:
    """Commands for what to do next."""
    prompt = "Once upon a time" if run.info.get("entropy") is not None else "The"
    rows = []
    if run.step < run.end:
        rows += [("Continue the run:", command("train.py", "--resume", run.folder))]
    if any(run.folder.glob("*/config.json")):                      # best/ or last/
        rows += [("Let it write:", command("sample.py", run.folder, prompt)),
                 ("See every token of an answer, and what else the model considered:",
                  command("sample.py", run.folder, prompt, "--explore", "page.html"))]
        if run.info.get("entropy") is not None:
            rows += [("Count what it has learned:", command("evaluate.py", run.folder, "--builtin"))]
    rows += [("Learn how the curve comes about, step by step:", command("lessons/08_training_step.py"))]
    return f"<h3>What to do next</h3>{commands(rows)}"


# ------------------------------------------------------------------------------------------------- the page

def compared(runs: list[Run]) -> str:
    """Several runs in one table and one chart."""
    lines, rows = [], []
    for place, one in enumerate(runs):
        points = [(row["step"] * one.tokens_per_step, row["eval_loss"]) for row in one.evals]
        lines.append(Line(name_of(one), points, COLOURS[place % len(COLOURS)], "marked"))
        way = number(one.best or {}, "share_of_the_way")
        rows.append((name_of(one), f"{count(one.config)['total']:,}", f"{one.tokens:,}",
                     clock(one.seconds) if one.seconds else "",
                     f"{one.best['eval_loss']:.3f}" if one.best else "none yet",
                     "" if way is None else f"{way:.1%}" if way > 0 else "none yet",
                     f"{one.step:,} of {one.end:,}"))
    head = ["run", "parameters", "tokens", "time", "validation loss", "way to the entropy", "step"]
    corpora = {run.info.get("corpus") for run in runs}
    warning = "" if len(corpora) == 1 else paragraph(
        "These runs have different corpora: their losses cannot be compared.")
    return (table(head, rows, stacked=True) + warning
            + chart("validation loss of the runs", lines, "training tokens",
                    "validation loss, nats per token, logarithmic", log=True))


def of_run(run: Run) -> str:
    """All parts of one run."""
    parts = (result, charts, samples, seen, parameters, cost, beside_card, differing, next_steps)
    return "".join(part(run) for part in parts)


def report(folders: list[Path]) -> str:
    """The page of these runs. Raises UserError for a folder that holds no run."""
    runs = [read_run(folder) for folder in folders]
    if len(runs) == 1:
        return valid_text(page(name_of(runs[0]), [of_run(runs[0])]))
    parts = [compared(runs)]
    parts += [f"<h2>{html.escape(name_of(run))}</h2>\n{of_run(run)}" for run in runs]
    return valid_text(page("Runs: " + ", ".join(map(name_of, runs)), parts))


def write_report(folder: Path) -> Path:
    """Write report.html of a run and return its path. Raises UserError for a folder that holds no run."""
    file = Path(folder) / "report.html"
    atomic_write(file, report([Path(folder)]))
    return file


def main() -> int:
    parser = Parser("Write the report of a run, or of several runs on one page.",
                    "  python -m publishing.report runs/tiny\n"
                    "  python -m publishing.report runs/tiny runs/20m --out class.html",
                    prog="python -m publishing.report")
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN",
                        help="run folder (default: the newest under runs/)")
    parser.add_argument("--out", type=Path, metavar="FILE",
                        help="where to write (default: report.html of the run)")
    args = parser.parse_args()
    folders = args.runs or [newest_run()]
    if len(folders) > 1 and args.out is None:
        raise UserError("several runs: name the file of their report with --out FILE.html")
    file = folders[0] / "report.html" if args.out is None else output_file("--out", args.out, "report.html")
    atomic_write(file, report(folders))
    print(f"written: {file}, a page for the browser")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
