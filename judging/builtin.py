# SPDX-License-Identifier: Apache-2.0
"""What a model has learned of the built-in corpus: `evaluate.py RUN --builtin`.

    tales        continued from their first sentence: are names, pronouns, things and kinds kept?
    programs     written from the line with `def` and the docstring: do they parse, run, give right results?
    exercises    answered one by one
    bound        the loss on complete documents beside the entropy, which no model can go below

Shares have their 95% interval (Wilson 1927). The same seeds give the same texts on the same machine.
"""
from __future__ import annotations

import math
from typing import Any

import numpy
import torch

from corpus import builtin, checker, exercises, programs
from evaluate import check_finite, wilson_interval
from model import Llama
from tokenizer import Tokenizer
from training import learned
from training.learned import Document, continuations, openings

COUNT = 100  # texts of each kind
DOCUMENTS = 128  # complete documents of each kind, for the loss
UNSEEN = 2 * 10**8  # documents from this number on are in no preparation
AT_ONCE = 25  # rows that are sampled together
LABELS = {
    "name_and_pronoun": "keep names and pronouns", "name": "keep all names", "pronoun": "keep all pronouns",
    "thing": "keep the things", "look": "keep their looks", "kind": "keep kinds and homes",
    "faultless": "no mistake to the end",
}


def judge_builtin(model: Llama, tokenizer: Tokenizer, count: int = COUNT) -> dict[str, Any]:
    """Shares and losses of a model that was trained on the built-in corpus."""
    way = ways(model, tokenizer)
    tales = sampled(model, tokenizer, openings(count, UNSEEN), learned.TEMPERATURE)
    heads = [programs.GRAMMAR.write(UNSEEN + number).text for number in range(count)]
    heads = [text[:text.index('."""')] for text in heads]  # cut at the end of a word and a token
    written = [checker.check_program(text) for text in sampled(model, tokenizer, heads, 0)]
    asked = [exercises.GRAMMAR.write(UNSEEN + number).text for number in range(count)]
    asked = [text[:text.index(" Answer:") + len(" Answer:")] for text in asked]
    answered = [text.split(" Question:")[0] for text in sampled(model, tokenizer, asked, 0)]
    kept = learned.shares(tales)
    right = kept["faultless"] / max(1, kept["tales"])
    return {
        "task": "builtin", "acc": right, "acc_norm": None, "items": kept["tales"],
        "interval": wilson_interval(right, kept["tales"]), "tales": kept, "texts": tales,
        "programs": {
            "parse": (sum(program.parses for program in written), count),
            "run": (sum(program.runs for program in written), count),
            "right results": (sum(program.right for program in written),
                              sum(program.examples for program in written)),
        },
        "exercises": {"right answers": (sum(map(checker.right_answers, answered)), count)},
        "way": way,
    }


def sampled(model: Llama, tokenizer: Tokenizer, prompts: list[str], temperature: float) -> list[str]:
    """A continuation for each prompt, AT_ONCE at a time."""
    return [text for start in range(0, len(prompts), AT_ONCE)
            for text in continuations(model, tokenizer, prompts[start:start + AT_ONCE],
                                      temperature=temperature, seed=start)]


def ways(model: Llama, tokenizer: Tokenizer) -> dict[str, dict[str, float]]:
    """Kind -> unigram entropy, loss, bound in nats per token, share of the way, standard error.

    For the tales also the loss of a name in nats, at its first mention (`name_first`) and at later ones.
    """
    device, found = next(model.parameters()).device, {}
    for kind, about in builtin.KINDS.items():
        written = [about.grammar.write(UNSEEN + 10**6 + number) for number in range(DOCUMENTS)]
        end = [tokenizer.eos_id]
        documents = [Document(text, end + tokenizer.encode(text, document=True) + end, nats)
                     for text, nats in written]
        losses = learned.losses_by_source(model, {kind: documents}, device)
        check_finite(torch.from_numpy(numpy.concatenate(losses[kind])))
        way = learned.way_of(documents, losses[kind])
        tokens = sum(len(document.ids) - 1 for document in documents)
        above = [float(row.sum()) - document.nats for row, document in zip(losses[kind], documents)]
        found[kind] = {**way._asdict(), "share": way.share,
                       "stderr": math.sqrt(DOCUMENTS) * float(numpy.std(above, ddof=1)) / tokens}
        if kind == "web":
            first, later = learned.mention_losses(documents, losses[kind], tokenizer)
            found[kind] |= {"name_first": first, "name_later": later}
    return found


def table(result: dict[str, Any]) -> str:
    """The result as text."""
    kept = result["tales"]
    lines = [f"built-in corpus, temperature {learned.TEMPERATURE}, no repetition penalty;",
             f"{kept['tales']} tales of at least 60 words and two later mentions:"]
    lines += [share(label, kept[key], kept["tales"]) for key, label in LABELS.items()]
    lines.append(share("well-formed sentences", kept["good_sentences"], kept["sentences"]))
    for kind in ("programs", "exercises"):
        lines += [share(f"{kind}: {what}", right, of) for what, (right, of) in result[kind].items()]
    lines.append("  nats per token, complete documents")
    lines.append("              unigram     loss    bound  covered    loss - bound")
    for kind, way in result["way"].items():
        covered = f"{way['share']:.1%}" if way["share"] > 0 else "none yet"
        numbers = f"{way['unigram']:9.3f}{way['loss']:9.3f}{way['bound']:9.3f}{covered:>9}"
        above = f"{way['loss'] - way['bound']:.3f} ± {way['stderr']:.3f}"
        lines.append(f"  {builtin.KINDS[kind].name:<10}{numbers}    {above}")
    tales = result["way"]["web"]
    lines.append(f"  loss on a name: {tales['name_first']:.2f} nats at its first mention, "
                 f"{tales['name_later']:.2f} later")
    return "\n".join(lines)


def share(label: str, right: int, of: int) -> str:
    """One line: a share and its interval, in percent."""
    low, high = wilson_interval(right / max(1, of), of)
    percent = f"{100 * right / of:5.1f}%" if of else "    -"
    interval = f"[{100 * low:.1f}, {100 * high:.1f}]"
    return f"  {label:<36}{percent}   {interval:<15} {right} of {of}"
