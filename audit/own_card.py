# SPDX-License-Identifier: Apache-2.0
"""What a model card of ours states: numbers, tables and sentences, each from a file of the run.

publishing/card.py writes `numbers` and `tables`; own_folder.py computes them again and compares. PROSE has
the card's sentences, with a name in braces for each number. A number in the card that no sentence of PROSE
covers is itself a finding: either it was changed, or the words around it were.
"""
from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

from audit.shapes import lora_parameters
from data import title, tokens_of
from judging.scoreboard import headline
from model import ModelConfig, tensor_index
from params import count, embedding_share, kv_cache_bytes
from training.read_run import Run

FORM = 2                                                          # of the cards that PROSE describes
GALLERY_SETTINGS = ("temperature", "top_p", "repetition_penalty", "max_new_tokens")
NUMBER = r"(\d(?:[\d,]*\d)?(?:\.\d+)?(?:e[+-]?\d+)?)"
PROSE = (
    "Validation loss {best_eval_loss} nats per token (perplexity {best_eval_ppl}) after {tokens} tokens of "
    "training",
    "language model of {total} parameters (shape `{size}`)",
    "trained from the weights of `{init}` on",
    "a uniform guess among {vocab_size} tokens has perplexity {vocab_size}",
    "Validation loss {best_eval_loss} nats per token, perplexity {best_eval_ppl}.",
    "each of {samples} fixed prompts: temperature {temperature}, top_p {top_p}, repetition penalty "
    "{repetition_penalty}, at most {max_new_tokens} tokens, seed {seed}.",
    "Of these answers {ended}% ended by themselves, {looping}% repeat themselves",
    "and {replacement_character}% hold U+FFFD",
    "max_new_tokens={use_max_new_tokens}, do_sample=True, temperature={use_temperature}, top_p={use_top_p}, "
    "repetition_penalty={use_repetition_penalty})",
    "tokenizer.decode(output[0], skip_special_tokens=True)",
    "hf upload USER/{name} . .",
    "vllm serve USER/{name}",
    "--max-model-len {max_position_embeddings}",
    "It saw {tokens} tokens, {tokens_per_parameter} for each parameter; Hoffmann et al. (2022) advise about "
    "20.",
    "at its full context of {seq_len} tokens",
    "on rows of {seq_len} tokens. Its configuration allows {max_position_embeddings};",
    "those of step {best_step},",
    "Corpus fingerprint `{corpus}`, vocabulary fingerprint `{vocabulary}`.",
    "over the last {anneal}% of the run",
    "Prepared with `{command}`.",
    "Trained on {tokens} tokens in all, {tokens_per_parameter} for each parameter.",
    "AdamW (betas {beta1} and {beta2}, eps {eps}, decay",
    "Every step has {tokens_per_step} tokens. Precision `{precision}`: {precision_reason}.",
    "Device {device}, {replicas} in parallel; {seconds} seconds",
    ", {tokens_per_second} tokens a second (median)",
    "; {versions}; git commit {git_commit}.",
    "; {versions}; no git commit known.",
    "(embedding and head) is {embedding_share_percent}%. Weights in FP32: {weights_bytes} bytes.",
    "KV cache at {max_position_embeddings} positions in FP16: {kv_cache_bytes_fp16} bytes.",
    "A LoRA adapter of rank 16 on q, k, v and o: {lora_r16_parameters} parameters.",
    "Apache-2.0, as the code",
    "@misc{{identifier},",
    "title = {{name}: a {millions}M-parameter",
    "stentor-from-scratch on {tokens} tokens}",
)
# First word of a table's head -> what the findings on it are called, the file that has its values.
TABLES = {
    "setting": ("settings", "config.json"), "component": ("components", "count of config.json"),
    "hyper-parameter": ("hyper-parameter", "run.json"), "benchmark": ("evaluation", "evaluation.json"),
    "source": ("data", "manifest.json"), "step": ("curve", "log.jsonl"),
}
SECTIONS = ("Evaluation", "Samples", "How to load", "Limits", "Curve", "Data", "Training", "Architecture",
            "Licence", "Citation", "Numbers", "")


# ----------------------------------------------------------------------------------------- numbers and tables

def numbers(model: Path, config: ModelConfig, run: Run | None) -> dict[str, tuple[Any, str]]:
    """Name in the card's block `numbers` -> (value computed from the files, how).

    `model` is the model folder; `run` is None where it is not part of a run.
    """
    parts = count(config)
    values = {
        "parameters": (parts, "count of config.json"),
        "embedding_share_percent": (embedding_share(config), "embedding and head / total"),
        "weights_bytes": (
            sum(4 * math.prod(shape) for _, shape in tensor_index(model).values()),
            "4 bytes a value of the weights",
        ),
        "kv_cache_bytes_fp16": (
            kv_cache_bytes(config, config.max_position_embeddings), "2 * L * K * F * context * 2 bytes",
        ),
        "lora_r16_parameters": (lora_parameters(config, 16), "rank 16 on q, k, v, o"),
    }
    if run is None or not run.steps:
        return values
    losses = [row["loss"] for row in run.steps if row["loss"] is not None]
    values |= {
        "steps": (run.step, "last row of log.jsonl"),
        "tokens_per_step": (run.tokens_per_step, "run.json"),
        "tokens": (run.tokens, "steps * tokens a step"),
        "tokens_per_parameter": (run.tokens / parts["total"], "tokens / parameters"),
    }
    if run.best:
        values["best_step"] = (run.best["step"], "evaluation of log.jsonl that is marked best")
        for key, row in (("best", run.best), ("last", run.evals[-1])):
            values[f"{key}_eval_loss"] = (row["eval_loss"], f"{key} evaluation of log.jsonl")
            values[f"{key}_eval_ppl"] = (perplexity(row["eval_loss"]), f"exp of the {key} evaluation's loss")
    return values | {
        "last_train_loss": (losses[-1] if losses else None, "last training row of log.jsonl"),
        "tokens_per_second": (run.tokens_per_second, "median of log.jsonl"),
        "seconds": (run.seconds, "log.jsonl, all calls added"),
    }


def perplexity(loss: float) -> float:
    """exp(loss); of a loss above 700, e^700."""
    return math.exp(min(loss, 700))


def tables(config: ModelConfig, run: Run | None) -> dict[str, dict[str, dict[str, Any]]]:
    """Kind of table (a key of TABLES) -> row -> column -> value."""
    parts = count(config)
    found: dict[str, dict[str, dict[str, Any]]] = {
        "setting": {name: {"value": value} for name, value in dataclasses.asdict(config).items()},
        "component": {name: {"parameters": value, "percent": 100 * value / parts["total"]}
                      for name, value in parts.items()},
    }
    if run is None:
        return found
    losses = {row["step"]: row["loss"] for row in run.steps}
    found |= {
        "hyper-parameter": {name: {"value": value} for name, value in run.settings.items()},
        "benchmark": {name: benchmark_row(result) for name, result in results_of(run.results).items()},
        "step": {
            f"{row['step']:,}": {
                "tokens": row.get("tokens"), "training loss": losses.get(row["step"]),
                "validation loss": row["eval_loss"], "perplexity": row.get("eval_ppl"),
                "note": row.get("note", ""),
            }
            for row in run.evals
        },
        "source": source_rows(run.manifest) if run.manifest else {},
    }
    return found


def benchmark_row(result: dict[str, Any]) -> dict[str, Any]:
    """What the table of benchmarks states of a result of evaluate.py."""
    score, (low, high) = headline(result)
    return {"score": score, "95% interval": f"{low:.4f} to {high:.4f}", "chance": result.get("chance", "")}


def source_rows(manifest: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What the table of data states of each source of a corpus."""
    described, mixture = manifest["recipe"].get("sources", {}), manifest["mixture"]
    return {
        title(name, source): {
            "what it is": described.get(name, ""), "documents": source["train"]["documents"],
            "training tokens": tokens_of(source["train"]),
            "validation tokens": tokens_of(source["validation"]),
            "share at the start": mixture["start"][name], "at the end": mixture["end"][name],
        }
        for name, source in manifest["sources"].items()
    }


# -------------------------------------------------------------------------------------------------- sentences

def adamw(settings: dict[str, Any]) -> tuple[float, float, float]:
    """beta1, beta2 and eps of a run. Runs before these were settings: 0.999 for fine-tuning, else 0.95."""
    finetuned = str(settings.get("recipe", "")).startswith("finetune")
    beta2 = settings.get("beta2") or (0.999 if finetuned else 0.95)
    return settings.get("beta1", 0.9), beta2, settings.get("eps", 1e-8)


def results_of(evaluation: dict[str, Any]) -> dict[str, dict]:
    """Benchmark -> result, from the content of evaluation.json; of the first model if it has several."""
    models = evaluation.get("models")
    rows = list(models.values()) if isinstance(models, dict) else []
    results = rows[0] if rows and isinstance(rows[0], dict) else {}
    return {title: one for title, one in results.items() if isinstance(one, dict)}


def pattern(sentence: str, values: dict[str, Any]) -> tuple[re.Pattern, list[str]] | None:
    """The sentence as a pattern, and the names of its numbers; None if a value is not known.

    Values that are text are part of the pattern; each number becomes a group. Any white space matches any.
    """
    names: list[str] = []
    parts = []
    for part in re.split(r"(\{\w+\})", sentence):
        name = part[1:-1] if re.fullmatch(r"\{\w+\}", part) else ""
        if name and values.get(name) is None:
            return None
        if name and not isinstance(values[name], str):
            names.append(name)
            parts.append(NUMBER)
        else:
            words = re.split(r"\s+", str(values[name]) if name else part)
            parts.append(r"\s+".join(map(re.escape, words)))
    return re.compile("".join(parts)), names


def blank(found: re.Match) -> str:
    """The match with every character but line ends replaced, so that places stay the same."""
    return re.sub(r"[^\n]", " ", found[0])


def sentences_of(card: str) -> str:
    """The card without front matter, title, tables, samples and JSON blocks, blanked.

    Samples are in blocks that name no language.
    """
    card = re.sub(r"\A---\n.*?^---$", blank, card, flags=re.MULTILINE | re.DOTALL)
    card = re.sub(r"^(`{3,})(.*?)\n.*?^\1$",
                  lambda found: found[0] if found[2] and "json" not in found[2] else blank(found), card,
                  flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"^(?:\||# ).*$", blank, card, flags=re.MULTILINE)


def recounted(card: str) -> dict[str, float]:
    """How many samples the card shows, and the shares of those that ended, repeat or hold U+FFFD."""
    parts = re.split(r"^\*\*\w+\*\* \((.*)\): prompt, then answer$", card, flags=re.MULTILINE)
    marks, texts = parts[1::2], parts[2::2]
    if not marks:
        return {}
    texts[-1] = texts[-1].partition("\nOf these answers ")[0]
    count = len(marks)
    return {
        "samples": count,
        "ended": round(sum("ended by itself" in mark for mark in marks) / count, 3),
        "looping": round(sum("repeats itself" in mark for mark in marks) / count, 3),
        "replacement_character": round(sum("\ufffd" in text for text in texts) / count, 3),
    }


def prose(card: str, values: dict[str, Any], known_data: bool) -> list[tuple[str, Any, Any, str]]:
    """Every number in the sentences of a card: (name, stated, computed, how).

    `computed` is None where no sentence of PROSE covers the number. `known_data` is false where the corpus is
    gone: then the section on data is left out.
    """
    text = sentences_of(card)
    if not known_data:
        text = re.sub(r"^## Data\n.*?(?=^## |\Z)", blank, text, flags=re.MULTILINE | re.DOTALL)
    found = []
    for sentence in PROSE:
        known = pattern(sentence, values)
        if known is None:
            continue
        for match in known[0].finditer(text):
            pairs = zip(known[1], match.groups())
            found += [(name, stated, values[name], sentence) for name, stated in pairs]
        text = known[0].sub(blank, text)
    for note in values.get("notes", []):
        text = text.replace(f"- {note}", blank(re.match(r"(?s).*", f"- {note}")))
    section = ""
    for line in text.splitlines():
        if line.startswith("## "):
            section = line[3:].strip()
        for stated in re.findall(r"\d[\d.,]*", line) if section in SECTIONS else []:
            how = f"no file gives this number, or the words around it were changed: {line.strip()[:60]}"
            found.append((f"section {section or 'title'}", stated, None, how))
    return found
