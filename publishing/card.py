# SPDX-License-Identifier: Apache-2.0
"""The model card: `README.md` of a run's `best/`, written from the run's own files and from nothing else.

    python -m publishing.card runs/tiny        (train.py writes it when a run ends; run it again after
                                               evaluate.py, to add its results)

It is made from run.json and log.jsonl of the run, config.json and the weights of `best/`, the manifest of the
corpus if it is still there, and evaluation.json if evaluate.py wrote one. The samples have fixed prompts and
seeds and are not edited. `python params.py --audit RUN` compares every number in the card with the files: the
block `numbers` at its end, the tables, and the sentences. audit/own_card.py has what these state.
"""
from __future__ import annotations

import dataclasses
import json
import math
import re
import sys
from pathlib import Path
from typing import Any

from common import Parser, UserError, atomic_write, newest_run, read_json, run, sha256_file
from audit import own_card
from audit.own_card import FORM, GALLERY_SETTINGS, adamw
from model import Llama
from publishing.gallery import GALLERY, SEED, STENTOR3, Sample, gallery, loops, shares
from sample import SampleSettings, generate, learned_to_copy, recommended
from tokenizer import load as load_tokenizer
from training.curves import number
from training.read_run import Run, read_run

Tables = dict[str, dict[str, dict[str, Any]]]                     # kind -> row -> column -> value
DECIMALS = {
    "embedding_share_percent": 1, "tokens_per_parameter": 3, "best_eval_loss": 4, "best_eval_ppl": 2,
    "last_eval_loss": 4, "last_eval_ppl": 2, "last_train_loss": 4, "tokens_per_second": 1, "seconds": 1,
}
FORMATS = {
    "parameters": ",", "percent": ".1f", "documents": ",", "training tokens": ",", "validation tokens": ",",
    "score": ".4f", "tokens": ",", "training loss": ".4f", "validation loss": ".4f", "perplexity": ".2f",
}


def facts(kind: str, rows: dict[str, dict[str, Any]]) -> str:
    """Rows of one table of the card (see `own_card.tables`) as a Markdown table."""
    columns = next(iter(rows.values()), {})
    lines = [(kind, *columns), ("---",) * (1 + len(columns))]
    for name, row in rows.items():
        lines.append((name, *("" if value is None else format(value, FORMATS.get(column, ""))
                              for column, value in row.items())))
    return "\n".join(
        "| " + " | ".join(str(cell).replace("|", r"\|") for cell in line) + " |" for line in lines
    )


def quoted(rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The rows with their names as code."""
    return {f"`{name}`": row for name, row in rows.items()}


def rounded_numbers(of: Run) -> dict[str, Any]:
    """The card's numbers (see `own_card.numbers`), each with the decimals that the card states."""
    found = own_card.numbers(of.folder / "best", of.config, of)
    return {name: round(value, DECIMALS.get(name)) if isinstance(value, (int, float)) else value
            for name, (value, _) in found.items()}


# The fields of run.json that every card prints.
NEEDED = ("data", "corpus", "vocabulary", "device", "replicas", "versions", "precision_reason", "git_commit")


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


def front_matter(of: Run, found: dict[str, Any], name: str) -> str:
    """The YAML head that the hub reads. JSON is YAML, so texts and lists are written as JSON."""
    corpus = Path(of.info["data"]).name
    dataset = {"name": f"validation split of {corpus}", "type": corpus}
    tags = ["llama", "tokenmonster", "small-language-model", "from-scratch", "base-model"]
    return f"""---
license: apache-2.0
language: [en]
library_name: transformers
pipeline_tag: text-generation
tags: {json.dumps(tags)}
datasets: {json.dumps(hub_datasets(of.manifest))}  # those of the hub; the section on data names all
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


def result(of: Run, found: dict[str, Any], name: str) -> str:
    """The card's first lines: the result, what the model is, what to expect of it, the curve."""
    total, vocabulary = found["parameters"]["total"], of.config.vocab_size
    init = of.settings.get("init")
    start = f"trained from the weights of `{Path(init).name}` on" if init else "trained from scratch"
    size = "own" if of.settings.get("model") else of.settings["size"]
    if found["best_eval_loss"] > math.log(vocabulary):
        expect = (f"This is worse than knowing nothing: a uniform guess among {vocabulary:,} tokens has "
                  f"perplexity {vocabulary:,}.")
    elif of.info.get("entropy") is not None:
        expect = ("It learned from generated tales, programs and exercises, and can write only such texts: "
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
{found['tokens']:,} tokens of training.**
A Llama-style language model of {total:,} parameters (shape `{size}`), {start} with stentor-from-scratch.
{expect}{picture if (of.folder / "training_curves.svg").is_file() else ""}"""


def architecture(of: Run, found: dict[str, Any], tables: Tables) -> str:
    config = of.config
    head = "tied to the embedding" if config.tie_word_embeddings else "a matrix of its own"
    parts = {name: row for name, row in tables["component"].items() if row["parameters"]}
    return f"""## Architecture

`LlamaForCausalLM`: RMSNorm before each part, rotary positions, grouped-query attention, SwiGLU, no biases.
The output head is {head}.

{facts("setting", quoted(tables["setting"]))}

{facts("component", parts)}

The vocabulary's share (embedding and head) is {found['embedding_share_percent']}%.
Weights in FP32: {found['weights_bytes']:,} bytes.
KV cache at {config.max_position_embeddings:,} positions in FP16: {found['kv_cache_bytes_fp16']:,} bytes.
A LoRA adapter of rank 16 on q, k, v and o: {found['lora_r16_parameters']:,} parameters."""


def data_section(of: Run, found: dict[str, Any], tables: Tables) -> str:
    lines = [f"Corpus fingerprint `{of.info['corpus']}`, vocabulary fingerprint `{of.info['vocabulary']}`."]
    if of.manifest is None:
        lines.append(
            "The prepared corpus was not there when this card was written, so its sources are not listed."
        )
    else:
        anneal = 100 * of.manifest["mixture"]["anneal"]
        lines += [
            facts("source", tables["source"]),
            f"Shares move from start to end over the last {anneal:.0f}% of the run. "
            f"Prepared with `{of.manifest['command']}`. "
            "Validation documents are chosen by a hash of their text.",
        ]
    lines.append(
        f"Trained on {found['tokens']:,} tokens in all, {found['tokens_per_parameter']} for each parameter."
    )
    return "## Data\n\n" + "\n\n".join(lines)


def recipe(of: Run, found: dict[str, Any], tables: Tables) -> str:
    hidden = ("model", "data", "out", "resume", "dry_run")
    settings = {name: row for name, row in tables["hyper-parameter"].items()
                if row["value"] is not None and row["value"] is not False and name not in hidden}
    versions = ", ".join(f"{name} {version}" for name, version in of.info["versions"].items())
    speed = f", {found['tokens_per_second']:,} tokens a second (median)" if found["tokens_per_second"] else ""
    notes = "".join(f"\n- {note}" for note in of.info.get("notes", []))
    commit = f"git commit {of.info['git_commit']}" if of.info["git_commit"] else "no git commit known"
    beta1, beta2, eps = adamw(of.settings)
    return f"""## Training

AdamW (betas {beta1} and {beta2}, eps {eps}, decay on Linear weights only), linear warmup,
then `{of.settings['schedule']}`. Every step has {found['tokens_per_step']:,} tokens.
Precision `{of.settings['precision']}`: {of.info['precision_reason']}.
Device {of.info['device']}, {of.info['replicas']} in parallel; {found['seconds']:,} seconds{speed};
{versions}; {commit}.{notes}

{facts("hyper-parameter", quoted(settings))}"""


def curve(of: Run, found: dict[str, Any], tables: Tables) -> str:
    every, last = max(1, math.ceil(len(of.evals) / 16)), len(of.evals) - 1
    chosen = {step: row for i, (step, row) in enumerate(tables["step"].items())
              if i % every == 0 or i == last or step == f"{found['best_step']:,}"}
    return f"""## Curve

{facts("step", chosen)}

The weights here are those of step {found['best_step']:,}, which had the lowest validation loss."""


def evaluation(found: dict[str, Any], tables: Tables) -> str:
    """The validation loss, and what evaluate.py measured, as a table."""
    text = f"""## Evaluation

Validation loss {found['best_eval_loss']} nats per token, perplexity {found['best_eval_ppl']}.
Perplexities can be compared only between models of one vocabulary on one validation set.

"""
    if "evaluation" not in found:
        return text + ("No benchmark was run. `python evaluate.py RUN` runs some; "
                       "`python -m publishing.card RUN` adds them.")
    return text + facts("benchmark", tables["benchmark"])


TRUST = """The tokenizer is `tokenmonster_hf.py` beside this file: plain Python and numpy, no network,
no server.
`trust_remote_code=True` lets transformers run it; read it first, like any such code.

A warning for lm-eval: if one token covers the end of the context and the complete choice, the harness
finds no token to score. It then stops, or counts the choice as certain. No tokenizer class can prevent that;
`python -m judging.lm_eval_model` of the project does."""


def use(of: Run, name: str) -> str:
    settings = recommended(of.config, of.folder)
    own_class = (of.folder / "best" / "tokenmonster_hf.py").is_file()
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
vllm serve USER/{name}{trust} --max-model-len {of.config.max_position_embeddings}"""
    return f"""## How to load

{fenced(load, "python")}

{TRUST if own_class else "The tokenizer is the folder's `tokenizer.json`, read by transformers' own classes."}

To publish and to serve (commands given for convenience, **not run here**):

{fenced(serve, "sh")}"""


def gallery_section(samples: list[Sample], settings: SampleSettings, found: dict[str, Any]) -> str:
    shown = []
    for sample in samples:
        end = "ended by itself" if sample.ended else "cut off"
        repeats = ", repeats itself" if loops(sample.tokens) else ""
        shown.append(
            f"**{sample.kind}** ({end}{repeats}): prompt, then answer\n\n"
            f"{fenced(printable(sample.prompt))}\n\n{fenced(printable(sample.text))}"
        )
    measured = found["gallery"]
    percent = {name: f"{100 * share:.1f}%" for name, share in measured.items()}
    between = "\n\n".join(shown)
    return f"""## Samples

Not edited, one answer to each of {measured['samples']} fixed prompts: temperature {settings.temperature},
top_p {settings.top_p}, repetition penalty {settings.repetition_penalty}, at most {settings.max_new_tokens}
tokens, seed {SEED}.

{between}

Of these answers {percent['ended']} ended by themselves, {percent['looping']} repeat themselves (more than
half of their four-token sequences occurred before), and {percent['replacement_character']} hold U+FFFD,
a character whose bytes the model did not finish."""


def limits(of: Run, found: dict[str, Any]) -> str:
    trained, allowed = of.settings["seq_len"], of.config.max_position_embeddings
    context = f"It was trained at its full context of {trained:,} tokens."
    if trained < allowed:
        context = (f"It was trained on rows of {trained:,} tokens. Its configuration allows {allowed:,}; "
                   "longer texts than the rows were not measured.")
    rows = "Rows of the embedding beyond the vocabulary were not trained."
    if of.config.vocab_size <= 4096:
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


def write_card(run_folder: str | Path) -> Path:
    """Write `best/README.md` of a run, with its curve beside it, and return its path.

    Raises UserError where the run has no `best/` or no log, or where run.json lacks what the card says.
    """
    folder = Path(run_folder)
    of = read_run(folder)
    missing = [name for name in NEEDED if name not in of.info]
    missing += [name for name in ("size", "schedule", "precision") if type(of.settings.get(name)) is not str]
    if missing:
        raise UserError(f"{folder / 'run.json'}: a card needs {', '.join(missing)}, which it does not have")
    if not of.steps or not of.evals:
        raise UserError(f"{folder / 'log.jsonl'}: no training step or no evaluation in it; "
                        "a card needs one of each")
    numbers = [number(row, "tokens") for row in of.steps + of.evals]
    numbers += [number(row, "eval_ppl") for row in of.evals]
    if None in numbers:
        raise UserError(f"{folder / 'log.jsonl'}: a row has no number of tokens, or an evaluation has no "
                        "eval_ppl")
    settings = STENTOR3 if of.settings.get("model") else GALLERY.get(of.settings["size"], STENTOR3)
    if learned_to_copy(folder / "best"):                          # a penalty works against copying
        settings = dataclasses.replace(settings, repetition_penalty=1.0)
    samples = gallery(folder / "best", settings)
    found, tables = rounded_numbers(of), own_card.tables(of.config, of)
    asked = {name: getattr(settings, name) for name in GALLERY_SETTINGS}
    found["gallery"] = shares(samples) | asked | {"seed": SEED}
    if of.results:
        found["evaluation"] = of.results
    name, total = folder.resolve().name, found["parameters"]["total"]
    citation = f"""@misc{{{re.sub(r"[^0-9A-Za-z]+", "_", name)},
  title = {{{name}: a {total / 1e6:.1f}M-parameter language model}},
  note = {{Trained with stentor-from-scratch on {found['tokens']:,} tokens}},
}}"""
    sections = [
        front_matter(of, found, name),
        result(of, found, name),
        evaluation(found, tables),
        gallery_section(samples, settings, found),
        use(of, name),
        limits(of, found),
        curve(of, found, tables),
        data_section(of, found, tables),
        recipe(of, found, tables),
        architecture(of, found, tables),
        "## Licence\n\nApache-2.0, as the code. "
        "For the training text, see the sources in the section on data.",
        "## Citation\n\n" + fenced(citation, "bibtex"),
        "## Numbers\n\nFor checking, by `python params.py --audit RUN`:\n\n"
        + fenced(json.dumps({"card": FORM, **found}, indent=1), "json numbers"),
    ]
    written = {"README.md": ("\n\n".join(sections) + "\n").encode(errors="replace")}
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

    A tale with the built-in corpus, forty tokens with another.
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
