# SPDX-License-Identifier: Apache-2.0
"""The model card: `README.md` of a run's `best/`, written from the run's own files and from nothing else.

    python -m publishing.card runs/tiny        (train.py writes it when a run ends; run it again after
                                               evaluate.py, to add its results)

It is made from run.json and log.jsonl of the run, config.json and the weights of `best/`, the manifest of the
corpus if it is still there, and evaluation.json if evaluate.py wrote one. The samples have fixed prompts and
seeds and are not edited. `python params.py --audit RUN` writes the card again from the files and compares
every number (publishing/card_audit.py).
"""
from __future__ import annotations

import dataclasses
import json
import math
import re
import sys
from pathlib import Path
from typing import Any

from audit.shapes import lora_parameters
from common import Parser, UserError, atomic_write, newest_run, read_json, run, sha256_file
from data import title, tokens_of
from judging.scoreboard import headline
from model import Llama, ModelConfig, tensor_index
from params import count, embedding_share, kv_cache_bytes
from publishing.gallery import GALLERY, SEED, STENTOR3, Sample, gallery, loops
from sample import generate, learned_to_copy, recommended
from tokenizer import load as load_tokenizer
from training.curves import number
from training.read_run import Run, read_run

FORM = 3                                                          # number of the card's form
GALLERY_SETTINGS = ("temperature", "top_p", "repetition_penalty", "max_new_tokens")
DECIMALS = {
    "embedding_share_percent": 1, "tokens_per_parameter": 2, "best_eval_loss": 4, "best_eval_ppl": 2,
    "last_eval_loss": 4, "last_eval_ppl": 2, "last_train_loss": 4, "tokens_per_second": 1, "seconds": 1,
    "whole_loss": 3, "unigram_entropy": 3, "entropy": 3, "share_of_the_way": 3,
}
# What the best evaluation of a run on the built-in corpus says of complete documents, in nats per token.
WAY = ("whole_loss", "unigram_entropy", "entropy", "share_of_the_way")
# The fields of run.json that every card prints.
NEEDED = ("data", "corpus", "vocabulary", "device", "replicas", "versions", "precision_reason", "git_commit")
Numbers = dict[str, Any]


# ---------------------------------------------------------------------------------------------------- numbers

def numbers(model: Path, config: ModelConfig, run: Run | None) -> dict[str, tuple[Any, str]]:
    """Name in the card's block `numbers` -> (value with the decimals that the card states, how it was found).

    `model` is the model folder; `of` is None where it is not part of a run.
    """
    parts = count(config)
    values: dict[str, tuple[Any, str]] = {
        "parameters": (parts, "count of config.json"),
        "embedding_share_percent": (embedding_share(config), "embedding and head / total"),
        "weights_bytes": (sum(4 * math.prod(shape) for _, shape in tensor_index(model).values()),
                          "4 bytes a value of the weights"),
        "kv_cache_bytes_fp16": (kv_cache_bytes(config, config.max_position_embeddings),
                                "2 * L * K * F * context * 2 bytes"),
        "lora_r16_parameters": (lora_parameters(config, 16), "rank 16 on q, k, v, o"),
    }
    if run and run.steps:
        losses = [row["loss"] for row in run.steps if row["loss"] is not None]
        values |= {
            "steps": (run.step, "last row of log.jsonl"),
            "tokens_per_step": (run.tokens_per_step, "run.json"),
            "tokens": (run.tokens, "steps * tokens a step"),
            "tokens_per_parameter": (run.tokens / parts["total"], "tokens / parameters"),
        }
        if run.best:
            values["best_step"] = (run.best["step"], "evaluation of log.jsonl that is marked best")
            if number(run.best, "whole_loss") is not None:         # the built-in corpus
                values |= {name: (number(run.best, name), "best evaluation of log.jsonl") for name in WAY}
            for key, row in (("best", run.best), ("last", run.evals[-1])):
                values[f"{key}_eval_loss"] = (row["eval_loss"], f"{key} evaluation of log.jsonl")
                values[f"{key}_eval_ppl"] = (math.exp(min(row["eval_loss"], 700)),
                                             f"exp of the {key} evaluation's loss")
        values |= {
            "last_train_loss": (losses[-1] if losses else None, "last training row of log.jsonl"),
            "tokens_per_second": (run.tokens_per_second, "median of log.jsonl"),
            "seconds": (run.seconds, "log.jsonl, all calls added"),
        }
    return {name: (round(value, DECIMALS.get(name)) if isinstance(value, (int, float)) else value, how)
            for name, (value, how) in values.items()}


def adamw(settings: dict[str, Any]) -> tuple[float, float, float]:
    """beta1, beta2 and eps of a run. Runs before these were settings: 0.999 for fine-tuning, else 0.95."""
    finetuned = str(settings.get("recipe", "")).startswith("finetune")
    beta2 = settings.get("beta2") or (0.999 if finetuned else 0.95)
    return settings.get("beta1", 0.9), beta2, settings.get("eps", 1e-8)


# --------------------------------------------------------------------------------------------------- the text

def table(*rows: tuple) -> str:
    """Rows as a Markdown table, the first one its head; None is an empty cell."""
    lines = [rows[0], ("---",) * len(rows[0]), *rows[1:]]
    return "\n".join(
        "| " + " | ".join("" if cell is None else str(cell).replace("|", r"\|") for cell in line) + " |"
        for line in lines
    )


def decimals(value: float | None, digits: int) -> str | None:
    """A number with this many decimals; None stays None."""
    return None if value is None else f"{value:.{digits}f}"


def fenced(text: str, kind: str = "") -> str:
    """A code block whose fence is longer than any in the text."""
    longest = max([len(found) for found in re.findall(r"`+", text)] + [2])
    fence = "`" * (longest + 1)
    return f"{fence}{kind}\n{text}\n{fence}"


def printable(text: str) -> str:
    """A text for a Markdown file: control characters but newline and tab become escapes such as \\x1b."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", lambda found: f"\\x{ord(found[0]):02x}", text)


def hub_datasets(manifest: dict | None) -> list[str]:
    """The hub's data sets in the corpus: words of the form owner/name in the manifest's list of sources."""
    described = (manifest or {}).get("recipe", {}).get("sources", {})
    words = [part.split()[0] for text in described.values() for part in str(text).split(", ") if part.strip()]
    return sorted({word for word in words if re.fullmatch(r"[\w.-]+/[\w.-]+", word)})


def front_matter(run: Run, found: Numbers, name: str) -> str:
    """The YAML head that the hub reads. JSON is YAML, so texts and lists are written as JSON."""
    corpus = Path(run.info["data"]).name
    dataset = {"name": f"validation split of {corpus}", "type": corpus}
    tags = ["llama", "tokenmonster", "small-language-model", "from-scratch", "base-model"]
    return f"""---
license: apache-2.0
language: [en]
library_name: transformers
pipeline_tag: text-generation
tags: {json.dumps(tags)}
datasets: {json.dumps(hub_datasets(run.manifest))}  # those of the hub; the section on data names all
model-index:
- name: {json.dumps(name)}
  results:
  - task: {{type: text-generation}}
    dataset: {json.dumps(dataset)}
    metrics:
    - type: loss
      value: {found["best_eval_loss"]}
      name: validation loss
    - type: perplexity
      value: {found["best_eval_ppl"]}
      name: validation perplexity
---"""


def result(run: Run, found: Numbers, name: str) -> str:
    """The card's first lines: the result, what the model is, what to expect of it, the curve."""
    total, vocabulary = found["parameters"]["total"], run.config.vocab_size
    init = run.settings.get("init")
    start = f"trained from the weights of `{Path(init).name}` on" if init else "trained from scratch"
    size = "own" if run.settings.get("model") else run.settings["size"]
    if found["best_eval_loss"] > math.log(vocabulary):
        expect = (f"This is worse than knowing nothing: a uniform guess among {vocabulary:,} tokens has "
                  f"perplexity {vocabulary:,}.")
    elif run.info.get("entropy") is not None:
        expect = ("It learned from generated texts (see the section on data), and can write only such texts: "
                  "it knows no facts and follows no instructions.")
    elif found["tokens_per_parameter"] < 1:
        expect = ("It has seen little text: it imitates the style of its training data, "
                  "and often makes no sense.")
    else:
        expect = ("It continues text in the style of its training data, follows no instructions, "
                  "and is often wrong.")
    picture = "\n\n![Loss over the steps of training](training_curves.svg)"
    return f"""# {name}

**Validation loss {found['best_eval_loss']} nats per token (perplexity {found['best_eval_ppl']}) after
{found['tokens']:,} tokens of training.**{way(found)}
A Llama-style language model of {total:,} parameters (shape `{size}`), {start} with stentor-from-scratch.
{expect}{picture if (run.folder / "training_curves.svg").is_file() else ""}"""


def way(found: Numbers) -> str:
    """How far the model is on the way to the entropy of the built-in corpus; "" for any other corpus."""
    if any(found.get(name) is None for name in WAY):
        return ""
    loss, unigram, entropy, share = (found[name] for name in WAY)
    far = f"{share:.1%} of the way from counting tokens ({unigram}) to the entropy of the corpus ({entropy})"
    if share <= 0:
        far = f"not yet better than counting tokens ({unigram}). The entropy of the corpus is {entropy}"
    return f"\nOn complete documents its loss is {loss}: {far}, which no model can go below."


def architecture(run: Run, found: Numbers) -> str:
    config = run.config
    head = "tied to the embedding" if config.tie_word_embeddings else "a matrix of its own"
    settings = [(f"`{name}`", value) for name, value in dataclasses.asdict(config).items()]
    parts = [(name, f"{value:,}", f"{100 * value / found['parameters']['total']:.1f}")
             for name, value in found["parameters"].items() if value]
    return f"""## Architecture

`LlamaForCausalLM`: RMSNorm before each part, rotary positions, grouped-query attention, SwiGLU, no biases.
The output head is {head}.

{table(("setting", "value"), *settings)}

{table(("component", "parameters", "percent"), *parts)}

The vocabulary's share (embedding and head) is {found['embedding_share_percent']}%.
Weights in FP32: {found['weights_bytes']:,} bytes.
KV cache at {config.max_position_embeddings:,} positions in FP16: {found['kv_cache_bytes_fp16']:,} bytes.
A LoRA adapter of rank 16 on q, k, v and o: {found['lora_r16_parameters']:,} parameters."""


def data_section(run: Run, found: Numbers) -> str:
    lines = [f"Corpus fingerprint `{run.info['corpus']}`, vocabulary fingerprint `{run.info['vocabulary']}`."]
    if run.manifest is None:
        lines.append(
            "The prepared corpus was not there when this card was written, so its sources are not listed."
        )
    else:
        described, mixture = run.manifest["recipe"].get("sources", {}), run.manifest["mixture"]
        sources = [
            (title(name, source), described.get(name), f"{source['train']['documents']:,}",
             f"{tokens_of(source['train']):,}", f"{tokens_of(source['validation']):,}",
             mixture["start"][name], mixture["end"][name])
            for name, source in run.manifest["sources"].items()
        ]
        lines += [
            table(("source", "what it is", "documents", "training tokens", "validation tokens",
                   "share at the start", "at the end"), *sources),
            f"Shares move from start to end over the last {100 * mixture['anneal']:.0f}% of the run. "
            f"Prepared with `{run.manifest['command']}`. "
            "Validation documents are chosen by a hash of their text.",
        ]
    lines.append(
        f"Trained on {found['tokens']:,} tokens in all, {found['tokens_per_parameter']} for each parameter."
    )
    return "## Data\n\n" + "\n\n".join(lines)


def recipe(run: Run, found: Numbers) -> str:
    hidden = ("model", "data", "out", "resume", "dry_run")
    settings = [(f"`{name}`", value) for name, value in run.settings.items()
                if value is not None and value is not False and name not in hidden]
    versions = ", ".join(f"{name} {version}" for name, version in run.info["versions"].items())
    speed = f", {found['tokens_per_second']:,} tokens a second (median)" if found["tokens_per_second"] else ""
    notes = "".join(f"\n- {note}" for note in run.info.get("notes", []))
    commit = f"git commit {run.info['git_commit']}" if run.info["git_commit"] else "no git commit known"
    beta1, beta2, eps = adamw(run.settings)
    return f"""## Training

AdamW (betas {beta1} and {beta2}, eps {eps}, decay on Linear weights only), linear warmup,
then `{run.settings['schedule']}`. Every step has {found['tokens_per_step']:,} tokens.
Precision `{run.settings['precision']}`: {run.info['precision_reason']}.
Device {run.info['device']}, {run.info['replicas']} in parallel; {found['seconds']:,} seconds{speed};
{versions}; {commit}.{notes}

{table(("hyper-parameter", "value"), *settings)}"""


def curve(run: Run, found: Numbers) -> str:
    every, last = max(1, math.ceil(len(run.evals) / 16)), len(run.evals) - 1
    losses = {row["step"]: row["loss"] for row in run.steps}
    chosen = [
        (f"{row['step']:,}", f"{row['tokens']:,}", decimals(losses.get(row["step"]), 4),
         decimals(row["eval_loss"], 4), decimals(row["eval_ppl"], 2), row.get("note"))
        for i, row in enumerate(run.evals) if i % every == 0 or i == last or row["step"] == found["best_step"]
    ]
    head = ("step", "tokens", "training loss", "validation loss", "perplexity", "note")
    return f"""## Curve

{table(head, *chosen)}

The weights here are those of step {found['best_step']:,}, which had the lowest validation loss."""


def evaluation(found: Numbers) -> str:
    """The validation loss, and what evaluate.py measured, as a table."""
    text = f"""## Evaluation

Validation loss {found['best_eval_loss']} nats per token, perplexity {found['best_eval_ppl']}.
Perplexities can be compared only between models of one vocabulary on one validation set.

"""
    if "evaluation" not in found:
        return text + ("No benchmark was run. `python evaluate.py RUN` runs some; "
                       "`python -m publishing.card RUN` adds them.")
    rows = []
    models = list(found["evaluation"].get("models", {}).values())
    for name, result in models[0].items() if models else ():      # of the first, if there are several
        score, (low, high) = headline(result)
        rows.append((name, f"{score:.4f}", f"{low:.4f} to {high:.4f}", result.get("chance")))
    return text + table(("benchmark", "score", "95% interval", "chance"), *rows)


TRUST = """The tokenizer is `tokenmonster_hf.py` beside this file: plain Python and numpy, no network,
no server.
`trust_remote_code=True` lets transformers run it; read it first, like any such code.

A warning for lm-eval: if one token covers the end of the context and the complete choice, the harness
finds no token to score. It then stops, or counts the choice as certain. No tokenizer class can prevent that;
`python -m judging.lm_eval_model` of the project does."""


def use(run: Run, name: str) -> str:
    settings = recommended(run.config, run.folder)
    own_class = (run.folder / "best" / "tokenmonster_hf.py").is_file()
    load = f"""from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("FOLDER"{", trust_remote_code=True" if own_class else ""})
model = AutoModelForCausalLM.from_pretrained("FOLDER")
inputs = tokenizer("Once upon a time", return_tensors="pt")
output = model.generate(**inputs, max_new_tokens={settings.max_new_tokens}, do_sample=True,
                        temperature={settings.temperature}, top_p={settings.top_p},
                        repetition_penalty={settings.repetition_penalty})
print(tokenizer.decode(output[0], skip_special_tokens=True))"""
    trust = " --trust-remote-code" if own_class else ""
    serve = f"""hf upload USER/{name} . .
vllm serve USER/{name}{trust} --max-model-len {run.config.max_position_embeddings}"""
    return f"""## How to load

{fenced(load, "python")}

{TRUST if own_class else "The tokenizer is the folder's `tokenizer.json`, read by transformers' own classes."}

To publish and to serve (commands given for convenience, **not run here**):

{fenced(serve, "sh")}"""


def shown(samples: list[Sample]) -> str:
    """The samples as the card shows them, each in a block that names no language."""
    parts = []
    for sample in samples:
        end = "ended by itself" if sample.ended else "cut off"
        repeats = ", repeats itself" if loops(sample.tokens) else ""
        parts.append(f"**{sample.kind}** ({end}{repeats}): prompt, then answer\n\n"
                     f"{fenced(printable(sample.prompt))}\n\n{fenced(printable(sample.text))}")
    return "\n\n".join(parts)


def measured(samples: str) -> dict[str, float]:
    """How many samples a card shows (`shown`), and the shares of those that ended, repeat or hold U+FFFD."""
    parts = re.split(r"^\*\*\w+\*\* \((.*)\): prompt, then answer$", samples, flags=re.MULTILINE)
    marks, texts = parts[1::2], parts[2::2]
    number = max(1, len(marks))
    return {
        "samples": len(marks),
        "ended": round(sum("ended by itself" in mark for mark in marks) / number, 3),
        "looping": round(sum("repeats itself" in mark for mark in marks) / number, 3),
        "replacement_character": round(sum("\ufffd" in text for text in texts) / number, 3),
    }


def gallery_section(samples: str, found: Numbers) -> str:
    """`samples` between what was asked and what was measured, which are in `found["gallery"]`."""
    kept = found["gallery"]
    percent = {name: f"{100 * kept[name]:.1f}%" for name in ("ended", "looping", "replacement_character")}
    return f"""## Samples

Not edited, one answer to each of {kept['samples']} fixed prompts: temperature {kept['temperature']},
top_p {kept['top_p']}, repetition penalty {kept['repetition_penalty']}, at most {kept['max_new_tokens']}
tokens, seed {kept['seed']}.

{samples}

Of these answers {percent['ended']} ended by themselves, {percent['looping']} repeat themselves (more than
half of their four-token sequences occurred before), and {percent['replacement_character']} hold U+FFFD,
a character whose bytes the model did not finish."""


def limits(run: Run, found: Numbers) -> str:
    trained, allowed = run.settings["seq_len"], run.config.max_position_embeddings
    context = f"It was trained at its full context of {trained:,} tokens."
    if trained < allowed:
        context = (f"It was trained on rows of {trained:,} tokens. Its configuration allows {allowed:,}; "
                   "longer texts than the rows were not measured.")
    rows = "Rows of the embedding beyond the vocabulary were not trained."
    if run.config.vocab_size <= 4096:
        rows = ("The document separator has the id of the carriage return, so a carriage return in a text "
                "is read as a line feed.")
    lines = [
        f"It saw {found['tokens']:,} tokens, {found['tokens_per_parameter']} for each parameter; "
        "Hoffmann et al. (2022) advise about 20.",
        context,
        "It is a base model: it continues text. It follows no instructions; "
        "its facts and sums are not reliable.",
        "The chat template is for tools that need one; the model was not trained on dialogue.",
        "There was no safety training and no filtering: it may repeat anything in its training text. "
        "English only.",
        rows,
    ]
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)


def check_complete(run: Run) -> None:
    """Raise UserError where run.json or log.jsonl lacks what a card says."""
    missing = [name for name in NEEDED if name not in run.info]
    missing += [name for name in ("size", "schedule", "precision") if type(run.settings.get(name)) is not str]
    if missing:
        raise UserError(f"{run.folder / 'run.json'}: a card needs {', '.join(missing)}, which it does not "
                        "have")
    if not run.steps or not run.evals:
        raise UserError(f"{run.folder / 'log.jsonl'}: no training step or no evaluation in it; "
                        "a card needs one of each")
    logged = [number(row, "tokens") for row in run.steps + run.evals]
    if None in logged + [number(row, "eval_ppl") for row in run.evals]:
        raise UserError(f"{run.folder / 'log.jsonl'}: a row has no number of tokens, or an evaluation has no "
                        "eval_ppl")


def card_text(run: Run, name: str, samples: str, measured: Numbers, results: Numbers) -> str:
    """The card of a complete run under the name `name`.

    `samples` and `measured` are those of `gallery_section`, `results` the content of evaluation.json.
    """
    found = {name: value for name, (value, _) in numbers(run.folder / "best", run.config, run).items()}
    found["gallery"] = measured
    if results:
        found["evaluation"] = results
    citation = f"""@misc{{{re.sub(r"[^0-9A-Za-z]+", "_", name)},
  title = {{{name}: a {found['parameters']['total'] / 1e6:.1f}M-parameter language model}},
  note = {{Trained with stentor-from-scratch on {found['tokens']:,} tokens}},
}}"""
    sections = [
        front_matter(run, found, name),
        result(run, found, name),
        evaluation(found),
        gallery_section(samples, found),
        use(run, name),
        limits(run, found),
        curve(run, found),
        data_section(run, found),
        recipe(run, found),
        architecture(run, found),
        "## Licence\n\nApache-2.0, as the code. "
        "For the training text, see the sources in the section on data.",
        "## Citation\n\n" + fenced(citation, "bibtex"),
        "## Numbers\n\nFor checking, by `python params.py --audit RUN`:\n\n"
        + fenced(json.dumps({"card": FORM, **found}, indent=1), "json numbers"),
    ]
    return "\n\n".join(sections) + "\n"


def write_card(run_folder: str | Path) -> Path:
    """Write `best/README.md` of a run, with its curve beside it, and return its path.

    Raises UserError where the run has no `best/`, and as `check_complete`.
    """
    folder = Path(run_folder)
    run = read_run(folder)
    check_complete(run)
    settings = STENTOR3 if run.settings.get("model") else GALLERY.get(run.settings["size"], STENTOR3)
    if learned_to_copy(folder / "best"):                          # a penalty works against copying
        settings = dataclasses.replace(settings, repetition_penalty=1.0)
    texts = shown(gallery(folder / "best", settings))
    asked = {name: getattr(settings, name) for name in GALLERY_SETTINGS}
    text = card_text(run, folder.resolve().name, texts, measured(texts) | asked | {"seed": SEED}, run.results)
    written = {"README.md": text.encode(errors="replace")}
    if (folder / "training_curves.svg").is_file():
        written["training_curves.svg"] = (folder / "training_curves.svg").read_bytes()
    for file, content in written.items():
        atomic_write(folder / "best" / file, content)
    sums = folder / "best" / "SHA256SUMS"
    if sums.is_file():
        lines = sums.read_text(encoding="utf-8", errors="replace").splitlines()
        lines = [line for line in lines if line.partition("  ")[2] not in written]
        lines += [f"{sha256_file(folder / 'best' / file)}  {file}" for file in written]
        atomic_write(sums, "\n".join(lines) + "\n")
    return folder / "best" / "README.md"


def show_sample(run: str | Path) -> str:
    """What the model in `best/` writes after a fixed prompt, at its card's settings and the run's seed.

    At most 250 tokens with the built-in corpus (a tale), 40 with another.
    """
    folder = Path(run) / "best"
    model, tokenizer = Llama.from_pretrained(folder), load_tokenizer(folder)
    prompt, most = ("Once upon a time", 250) if learned_to_copy(folder) else ("The", 40)
    ids = [tokenizer.eos_id] + tokenizer.encode(prompt, document=True)
    settings, seed = recommended(model.config, folder), read_json(Path(run) / "run.json")["settings"]["seed"]
    new = generate(model, ids, most, temperature=settings.temperature, top_p=settings.top_p, seed=seed,
                   repetition_penalty=settings.repetition_penalty, stop_id=tokenizer.eos_id)
    return tokenizer.decode(ids[1:] + new, skip_special=True)


def main() -> int:
    parser = Parser(
        "Write the model card of a run.", "  python -m publishing.card runs/tiny\n",
        prog="python -m publishing.card",
    )
    parser.add_argument(
        "run", nargs="?", type=Path, metavar="RUN", help="run folder (default: the newest under runs/)"
    )
    args = parser.parse_args()
    print(write_card(args.run or newest_run()))
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
