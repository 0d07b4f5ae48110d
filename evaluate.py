# SPDX-License-Identifier: Apache-2.0
"""Judge a model as the cards do: perplexity and bits per byte, BLiMP, multiple choice, GSM8K.

    python evaluate.py runs/20m --blimp blimp.jsonl.gz --choices hellaswag.jsonl.gz

Everything but GSM8K is one question asked many times: how probable does the model find these tokens after
those? So the file begins with `score`, which answers it for many token sequences at once. Then comes where a
choice begins inside a text (`choice_rows`, the one subtle thing here). After that each benchmark is a few
lines: which texts are scored, and what is made of the numbers.
"""
from __future__ import annotations

import functools
import gzip
import json
import math
import re
import statistics
import zlib
from pathlib import Path
from typing import Any, Callable, NamedTuple

# Before torch, which takes seconds: Ctrl-C meanwhile is one line (common.before_run).
from common import UserError, find_run, progress, run, sha256_file

import torch
import torch.nn.functional as F
from torch import Tensor

from model import KVCache, Llama
from tokenizer import Tokenizer

POSITIONS = 4096  # positions in one forward pass: enough to keep a CPU busy, small enough for its caches
SHARING_PAYS = 1.25  # a prefix is read apart from its rows where that saves at least a fifth of the positions


# ------------------------------------------------------------------------ log-probabilities of many sequences

class Row(NamedTuple):
    """One token sequence to score: log p(ids[i] | ids[:i]) for each i from `start` on."""

    ids: list[int]
    start: int                              # at least 1: nothing predicts the first token
    cover: int = 0  # position of the token that covers the end of a context (see `choice_rows`), 0 for none
    among: tuple[int, ...] = ()             # all tokens that could cover it


class Scored(NamedTuple):
    """What `score` says of a Row."""

    log_probs: Tensor                       # (N,) float64, nats, of the tokens from `start` on
    log_mass: float  # log of the sum over v in `among` of p(v | ids[:cover]); 0 without `cover`


def shared_prefix(group: list[Row]) -> int:
    """How many leading tokens all rows of a group share, short of the one that predicts the first scored
    token.
    """
    if len(group) == 1:
        return 0
    limit = min(row.start for row in group) - 1
    columns = zip(*[row.ids[:limit] for row in group])
    return next((i for i, tokens in enumerate(columns) if len(set(tokens)) > 1), limit)


def batches(groups: list[list[Row]]) -> tuple[int, list[tuple[int, list[int]]]]:
    """Groups of like prefix and length together: (positions to compute, padding included; for each batch its
    prefix and its groups' numbers).

    A batch's prefix is that of its first group, which is its shortest.
    """
    shapes = [(shared_prefix(group), max(len(row.ids) for row in group)) for group in groups]
    found: list[tuple[int, list[int]]] = []
    cost, earlier = POSITIONS, 0
    for index in sorted(range(len(groups)), key=shapes.__getitem__):
        if cost >= POSITIONS:
            found.append((shapes[index][0], []))
            earlier, rows, longest = earlier + cost, 0, 0
        prefix, members = found[-1]
        members.append(index)
        rows += len(groups[index])
        longest = max(longest, shapes[index][1])
        cost = len(members) * prefix + rows * (longest - 1 - prefix)
    return earlier + cost - POSITIONS, found


def score(model: Llama, groups: list[list[Row]]) -> list[list[Scored]]:
    """Log-probabilities of every row's tokens; the rows of a group (the choices of a question) share a
    beginning.

    Rows of like length are computed together. Where it saves enough, what a group's rows share is computed
    once: its keys and values are kept and each row goes on from there. Rows too long for the model lose their
    first tokens, as in lm-eval. Raises UserError if scored tokens would be lost.
    """
    fitted = [[fit(row, model.config.max_position_embeddings) for row in group] for group in groups]
    apart = [[row] for group in fitted for row in group]
    plan, plan_apart = batches(fitted), batches(apart)
    parts, plan = (fitted, plan) if SHARING_PAYS * plan[0] < plan_apart[0] else (apart, plan_apart)
    found: dict[int, list[Scored]] = {}
    for prefix, members in progress(plan[1], leave=False, desc="batches"):
        scored = iter(score_batch(model, [parts[index] for index in members], prefix))
        found.update((index, [next(scored) for _ in parts[index]]) for index in members)
    flat = iter([scored for index in range(len(parts)) for scored in found[index]])
    return [[next(flat) for _ in group] for group in groups]


def fit(row: Row, limit: int) -> Row:
    """The row without the first tokens that are too many: `limit` positions predict limit + 1 tokens, of
    which the first is given.
    """
    extra = max(0, len(row.ids) - limit - 1)
    if row.start <= extra:
        raise UserError(
            f"{len(row.ids) - row.start} tokens are to be scored at once, more than the {limit} positions of "
            "the model"
        )
    return Row(row.ids[extra:], row.start - extra, max(0, row.cover - extra), row.among)


@torch.inference_mode()
def score_batch(model: Llama, groups: list[list[Row]], prefix: int) -> list[Scored]:
    """`score` of one batch in one or two forward passes. Padding stands at the right, where causal attention
    never looks.
    """
    device = model.model.embed_tokens.weight.device
    rows = [row for group in groups for row in group]
    width = max(len(row.ids) for row in rows) - 1 - prefix
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    wanted = torch.zeros(len(rows), width, dtype=torch.bool)
    for number, row in enumerate(rows):
        end = len(row.ids) - 1 - prefix
        ids[number, :end] = torch.tensor(row.ids[prefix:-1])
        wanted[number, row.start - 1 - prefix:end] = True
    cache = read_prefixes(model, groups, prefix, width) if prefix else None
    hidden = model.model(ids.to(device), cache)[
        wanted.to(device)
    ]  # (N, D) only where a prediction is asked for
    target = torch.tensor([token for row in rows for token in row.ids[row.start:]], device=device)    # (N,)
    pieces = []
    for h, t in zip(hidden.split(1024), target.split(1024)):  # all N x V logits at once might not fit
        pieces.append(-F.cross_entropy(model.project(h).float(), t, reduction="none"))
    log_probs = torch.cat(pieces).double().cpu()                                  # (N,)
    scored, first = [], 0
    for row in rows:
        count, log_mass = len(row.ids) - row.start, 0.0
        if row.cover:
            logits = model.project(hidden[first + row.cover - row.start]).double()                    # (V,)
            log_mass = float(logits.log_softmax(dim=0)[list(row.among)].logsumexp(dim=0))
        scored.append(Scored(log_probs[first:first + count], log_mass))
        first += count
    return scored


def read_prefixes(model: Llama, groups: list[list[Row]], prefix: int, width: int) -> KVCache:
    """Keys and values of the first `prefix` tokens of each group, once for each of its rows, with room for
    `width` more.
    """
    embedding = model.model.embed_tokens.weight
    cache = KVCache(model.config, len(groups), prefix + width, embedding.device, embedding.dtype)
    model.model(torch.tensor([group[0].ids[:prefix] for group in groups], device=embedding.device), cache)
    owner = torch.tensor(
        [number for number, group in enumerate(groups) for _ in group], device=embedding.device
    )
    cache.keys, cache.values = cache.keys[:, owner], cache.values[:, owner]
    return cache


# ---------------------------------------------------------------------------- where a choice begins in a text

# a marker with the byte it deletes, or a byte that reaches the reader
VISIBLE = re.compile(rb"\x7f.?|(.)", re.DOTALL)


def covering(tokenizer: Tokenizer, ids: list[int], visible: int) -> tuple[int, bytes]:
    """Index of the token that holds the last of the first `visible` bytes of the text of `ids`, and that
    token's bytes up to there.
    """
    pieces = [tokenizer.token_bytes([token]) for token in ids]
    ends = [match.end() for match in VISIBLE.finditer(b"".join(pieces)) if match[1]]
    end = ends[visible - 1]
    for index, piece in enumerate(pieces):
        if end <= len(piece):
            break
        end -= len(piece)
    return index, piece[:end]


@functools.lru_cache(maxsize=4096)
def beginning_with(tokenizer: Tokenizer, begun: bytes) -> tuple[int, ...]:
    """All tokens whose bytes begin with `begun`."""
    return tuple(
        token for token in range(tokenizer.vocab_size) if tokenizer.token_bytes([token]).startswith(begun)
    )


def choice_rows(
    tokenizer: Tokenizer, context: str, choices: list[str], boundary: str = "bytes"
) -> tuple[list[Row], bool]:
    """Rows that score each of `choices` (texts that follow `context`), and whether the encoder's look-ahead
    crosses the boundary.

    An encoder that looks ahead may cut the context otherwise before each choice, or cover its end and the
    beginning of the choice with one token: the tokens of "he is using" are [" he is", " using"], those of
    "he" alone [" he"].

    boundary "lm-eval": the tokens of the context alone, then those of context + choice from that number on,
    as lm-eval does it. Where the context's tokens do not begin the whole's, bytes are lost or scored twice ("
    is" above); where no token is left, token 0 is scored, as the Stentor3 card patched it.

    boundary "bytes" scores the bytes of the choice, all of them and no others. Let E_c be the tokens of
    context + choice c, E_0 those of the context alone. If E_0 begins every E_c, the rest of E_c is scored;
    this is lm-eval's score. Else let P be the longest beginning that E_0 and all E_c share, and in each E let
    q be the tokens after P that lie before the one that holds the context's last byte, and r_q the context's
    bytes that are left for that one. Then

        score(c) = log p(E_c after P | P) - log Z,      Z = sum over the distinct q of  p(q | P) * sum over v
                                                        of p(v | P q),

    v running over the tokens whose bytes begin with r_q. The first term is the model's probability of
    meeting, after P, the rest of the context and the choice; Z is that of meeting the rest of the context,
    along all the paths that the encoder takes. Their ratio is the probability of the choice's bytes given the
    context's. `choice_scores` applies Z, for which the rows end with one more, E_0.
    """
    if boundary == "lm-eval":
        blanks = context[len(context.rstrip()):]
        context, choices = context.rstrip(), [blanks + choice for choice in choices]
    alone = tokenizer.encode(context, document=True)
    wholes = [tokenizer.encode(context + choice, document=True) for choice in choices]
    if not alone:
        return [Row([tokenizer.eos_id] + whole, 1) for whole in wholes], False
    crossed = any(whole[:len(alone)] != alone for whole in wholes)
    if boundary == "lm-eval":
        return [Row(alone + (whole[len(alone):] or [0]), len(alone)) for whole in wholes], crossed
    if not crossed:
        return [Row(whole, len(alone)) for whole in wholes], False
    encodings = [*wholes, alone]
    shared = shared_prefix([Row(tokens, len(tokens) + 1) for tokens in encodings])
    before = [] if shared else [tokenizer.eos_id]  # a model predicts after something: the document separator
    visible = sum(bool(match[1]) for match in VISIBLE.finditer(tokenizer.token_bytes(alone)))
    rows = []
    for tokens in encodings:
        cover, begun = covering(tokenizer, tokens, visible)
        rows.append(
            Row(before + tokens, len(before) + shared, len(before) + cover, beginning_with(tokenizer, begun))
        )
    return rows, True


def choice_scores(rows: list[Row], scored: list[Scored]) -> list[float]:
    """log p of each choice, from the rows of `choice_rows` and what `score` says of them."""
    totals = [float(one.log_probs.sum()) for one in scored]
    if not rows[0].cover:
        return totals
    stems = {
        tuple(row.ids[row.start : row.cover]): float(one.log_probs[: row.cover - row.start].sum())
        + one.log_mass
        for row, one in zip(rows, scored)
    }
    log_z = float(torch.logsumexp(torch.tensor(list(stems.values()), dtype=torch.float64), dim=0))
    return [total - log_z for total in totals[:-1]]  # the last row is the context alone


# ------------------------------------------------------------------------------------------------- perplexity

def windows(ids: list[int], context: int, stride: int) -> list[Row]:
    """Rows that score every token of `ids` but the first once, each with as much context as fits: all, or at
    least context - stride tokens.
    """
    rows, scored = [], 1
    while scored < len(ids):
        end = min(len(ids), max(context + 1, scored + stride))
        begin = max(0, end - context - 1)
        rows.append(Row(ids[begin:end], scored - begin))
        scored = end
    return rows


def perplexity(
    model: Llama, tokenizer: Tokenizer, text: str | list[str], context: int | None = None
) -> dict[str, Any]:
    """How well the model predicts a text, or each of a list of documents: separator + encode(text), all but
    the separator scored.

        loss = -1/N sum log p(token)   ppl = exp(loss)   bits_per_byte = -sum log2 p / bytes of UTF-8
                                       bits_per_char = the same / characters

    Loss and perplexity are per token, so they compare models of one vocabulary only; the bits compare any. A
    document longer than `context` positions (default: all the model has) is read in windows that overlap by
    half. `stderr` is the standard error of loss: over documents if there are several (the tokens of one are
    not independent), else over tokens. Raises UserError for a text without tokens.
    """
    documents = [text] if isinstance(text, str) else list(text)
    context = min(context or model.config.max_position_embeddings, model.config.max_position_embeddings)
    rows = [
        windows([tokenizer.eos_id] + tokenizer.encode(document, document=True), context, max(1, context // 2))
        for document in documents
    ]
    if not any(rows):
        raise UserError("nothing to score: the text is empty, or none of its bytes is in the vocabulary")
    scored = iter(score(model, [[row] for document in rows for row in document]))
    losses = [torch.cat([-next(scored)[0].log_probs for _ in document]) for document in rows if document]
    total, tokens = float(sum(loss.sum() for loss in losses)), sum(len(loss) for loss in losses)
    mean = total / tokens
    excess = losses[0] - mean if len(losses) == 1 else torch.stack([(loss - mean).sum() for loss in losses])
    units = max(2, len(excess))
    size = sum(len(document.encode("utf-8", "surrogatepass")) for document in documents)
    characters = sum(len(document) for document in documents)
    stderr = math.sqrt(float(excess.square().sum()) * units / (units - 1)) / tokens
    bits = total / math.log(2)
    return {
        "loss": mean,
        "ppl": math.exp(min(mean, 700)),
        "bits_per_byte": bits / size,
        "bits_per_char": bits / characters,
        "stderr": stderr,
        "tokens": tokens,
        "bytes": size,
    }


# ----------------------------------------------------------------------------------- items, blocks, intervals

def read_items(path: str | Path, fields: dict[str, type]) -> list[dict]:
    """The JSON objects of a .jsonl or .jsonl.gz file. Raises UserError that says what is wrong and where,
    also for a field that is not as told.
    """
    items = []
    try:
        with (gzip.open if Path(path).suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
            for line in filter(str.strip, file):
                item = json.loads(line)
                for name, kind in fields.items():
                    if not isinstance(item, dict) or not isinstance(item.get(name), kind):
                        raise UserError(
                            f"{path}, item {len(items) + 1}: expected an object with {name!r} of type "
                            f"{kind.__name__}"
                        )
                items.append(item)
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        raise UserError(f"{path}, item {len(items) + 1}: cannot be read: {error}") from None
    if not items:
        raise UserError(f"{path}: no items")
    return items


def in_blocks(
    name: str, items: list, size: int, judge: Callable[[list], list], finished: dict[str, list]
) -> list:
    """`judge` of all items, `size` at a time; a part that `finished` already holds is not judged again, and
    each new one is put there.
    """
    results = []
    for first in range(0, len(items), size):
        part = items[first:first + size]
        key = f"{name} items {first}-{first + len(part) - 1}"
        if key not in finished:
            finished[key] = judge(part)
        results += finished[key]
    return results


def interval(share: float, count: int) -> list[float]:
    """The 95% interval of a share of `count` independent trials (Wilson 1927): it stays within 0 and 1, also
    for a share of 0 or 1.
    """
    z = 1.96
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return [middle - half, middle + half]


def mean_and_error(values: list[float]) -> tuple[float, float]:
    """Mean, and its standard error: the sample's standard deviation / sqrt(n), as in lm-eval (0 for a single
    value).
    """
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return statistics.fmean(values), spread / math.sqrt(len(values))


# ------------------------------------------------------------------------------------------------------ BLiMP

# The Stentor2-30M card sums up in eight categories without saying which paradigm belongs where. Ours, by
# BLiMP's phenomena (its field `linguistics_term`; the paper counts s-selection as argument structure) and by
# the card's examples: it names the gender of anaphors under binding and the existential quantifiers under
# raising; the superlative ones, wrong under negation, go with licensing ("any", "ever").
CATEGORIES = {
    "determiner_noun_agreement": "Agreement",
    "subject_verb_agreement": "Agreement",
    "irregular_forms": "Agreement",
    "anaphor_agreement": "Anaphora / Binding",
    "binding": "Anaphora / Binding",
    "argument_structure": "Argument Structure",
    "s-selection": "Argument Structure",
    "filler_gap_dependency": "Filler-Gap / Wh",
    "control_raising": "Raising & Existential",
    "quantifiers": "Raising & Existential",
    "ellipsis": "Ellipsis",
    "island_effects": "Island Constraints",
    "npi_licensing": "NPI Licensing",
    "superlative_quantifiers_1": "NPI Licensing",
    "superlative_quantifiers_2": "NPI Licensing",
}


def band(share: float) -> str:
    """The card's name for an accuracy."""
    return ("weak", "moderate", "strong")[(share > 0.55) + (share >= 0.85)]


def blimp(
    model: Llama,
    tokenizer: Tokenizer,
    path: str | Path,
    prompt: str = "plain",
    limit: int | None = None,
    finished: dict[str, list] | None = None,
) -> dict[str, Any]:
    """Accuracy on BLiMP's pairs (Warstadt et al. 2020): is the acceptable sentence the more probable one of
    the two?

        right if  log p(good | separator) > log p(bad | separator),  summed over all tokens;  a tie is half
        right

    `overall` is the mean over the paradigms, as are `phenomena` (BLiMP's own) and `categories` (the
    Stentor2-30M card's eight), all as fractions; `intervals` has the 95% interval of each (pairs taken as
    independent), `bands` the card's name for each paradigm, `ties` their number, `overall_lm_eval` the score
    with ties counted as right, which is what lm-eval does (7 pairs of the full set are identical). prompt
    "lm-eval" puts lm-eval's blank before each sentence. `limit` takes the first pairs of each paradigm.
    `finished` as in `in_blocks`.
    """
    paradigms: dict[str, list[dict]] = {}
    for item in read_items(
        path, {"sentence_good": str, "sentence_bad": str, "UID": str, "linguistics_term": str}
    ):
        paradigms.setdefault(item["UID"], []).append(item)
    blank = " " if prompt == "lm-eval" else ""

    def judge(pairs: list[dict]) -> list[float]:
        sentences = [(blank + pair["sentence_good"], blank + pair["sentence_bad"]) for pair in pairs]
        groups = [
            [Row([tokenizer.eos_id] + tokenizer.encode(text, document=True), 1) for text in texts]
            for texts in sentences
        ]
        results = []
        for (good, bad), rows in zip(score(model, groups), groups):
            difference = 0.0 if rows[0] == rows[1] else float(good.log_probs.sum() - bad.log_probs.sum())
            results.append(0.5 if difference == 0 else float(difference > 0))
        return results

    finished = {} if finished is None else finished
    name = f"blimp {sha256_file(path)[:16]} {prompt}"
    results = {}
    kinds: dict[str, dict[str, list[str]]] = {"paradigms": {}, "phenomena": {}, "categories": {}}
    for paradigm, pairs in progress(paradigms.items(), desc="BLiMP"):
        results[paradigm] = in_blocks(f"{name} {paradigm}", pairs[:limit], 1000, judge, finished)
        term = pairs[0]["linguistics_term"]
        kinds["paradigms"][paradigm] = [paradigm]
        kinds["phenomena"].setdefault(term, []).append(paradigm)
        kinds["categories"].setdefault(CATEGORIES.get(paradigm) or CATEGORIES.get(term, "other"), []).append(
            paradigm
        )
    values = [value for result in results.values() for value in result]
    overall = statistics.fmean(map(statistics.fmean, results.values()))
    summary: dict[str, Any] = {"overall": overall, "intervals": {"overall": interval(overall, len(values))}}
    for kind, members in kinds.items():
        summary[kind] = {
            name: statistics.fmean(statistics.fmean(results[paradigm]) for paradigm in names)
            for name, names in members.items()
        }
        counts = {name: sum(len(results[paradigm]) for paradigm in names) for name, names in members.items()}
        summary["intervals"][kind] = {
            name: interval(share, counts[name]) for name, share in summary[kind].items()
        }
    summary["bands"] = {paradigm: band(share) for paradigm, share in summary["paradigms"].items()}
    lenient = [statistics.fmean(value > 0 for value in result) for result in results.values()]
    return {
        **summary,
        "overall_lm_eval": statistics.fmean(lenient),
        "ties": values.count(0.5),
        "pairs": len(values),
    }


# -------------------------------------------------------------------------------------------- multiple choice

def plain_prompt(item: dict) -> list[tuple[str, list[str]]]:
    """Contexts and what may follow each, by the item's `kind`: question, continuation, or cloze (one `_` in
    the context).

    A cloze has a context for each choice: what goes before the blank, and the choice; what follows it is
    scored (Trinh and Le 2018).
    """
    if item["kind"] == "cloze":
        before, after = item["context"].split("_")
        return [(before + choice, [after]) for choice in item["choices"]]
    context = f"Question: {item['context']}\nAnswer:" if item["kind"] == "question" else item["context"]
    return [(context, [" " + choice for choice in item["choices"]])]


def check_words(boundary: str, prompt: str) -> None:
    """Raise UserError for a way to cut or to join that there is not: another spelling would silently be
    another score.
    """
    for name, value, known in (
        ("boundary", boundary, ("bytes", "lm-eval")),
        ("prompt", prompt, ("plain", "lm-eval")),
    ):
        if value not in known:
            raise UserError(f"unknown {name} {value!r}; choose from {', '.join(known)}")


def check_item(path: str | Path, number: int, item: dict) -> None:
    """Raise UserError if an item of a multiple-choice file cannot be scored."""
    choices, labels = item["choices"], item.get("labels")
    label_is_good = isinstance(item.get("label"), int) and 0 <= item["label"] < len(choices)
    if labels is not None:
        label_is_good = (
            isinstance(labels, list)
            and len(labels) == len(choices)
            and all(label in (0, 1) for label in labels)
            and any(labels)
        )
    rules = {
        "choices must be two or more texts": len(choices) > 1
        and all(isinstance(choice, str) and choice for choice in choices),
        "kind must be question, continuation or cloze": item["kind"] in ("question", "continuation", "cloze"),
        "a cloze has one _ in its context, and text after it": item["kind"] != "cloze"
        or re.fullmatch(r"[^_]*_[^_]*\S[^_]*", item["context"]),
        "label must be the index of a choice, or labels 0 or 1 for each, with at least one 1": label_is_good,
    }
    broken = [rule for rule, kept in rules.items() if not kept]
    if broken:
        raise UserError(f"{path}, item {number}: {broken[0]}")


def judge_choices(item: dict, log_p: list[float], sizes: list[int]) -> tuple[float, float | None]:
    """(acc, acc_norm) of one item from its choices' log-probabilities and sizes in characters."""
    if item.get("labels") is not None:
        share = torch.tensor(log_p, dtype=torch.float64).softmax(dim=0)
        return float(share[torch.tensor(item["labels"]) == 1].sum()), None
    normed = [value / size for value, size in zip(log_p, sizes)]
    return float(log_p.index(max(log_p)) == item["label"]), float(normed.index(max(normed)) == item["label"])


def multiple_choice(
    model: Llama,
    tokenizer: Tokenizer,
    path: str | Path,
    boundary: str = "bytes",
    prompt: str = "plain",
    limit: int | None = None,
    finished: dict[str, list] | None = None,
) -> dict[str, Any]:
    """Accuracy on questions with given answers: the model chooses the most probable one.

        acc        right if  argmax_c log p(c | context)                         is the label
        acc_norm   right if  argmax_c log p(c | context) / characters of c       is the label
        with `labels` (TruthfulQA MC2, Lin et al. 2022): acc = sum over true c of p(c) / sum over all c of
        p(c), and no acc_norm

    `boundary` says which tokens are scored, see `choice_rows`; `crossed` counts the items for which it
    matters. prompt "plain" joins context and choice by the item's `kind`, "lm-eval" as its task there; as
    there, no separator goes before the context. `stderr` is that of acc; `chance` is what guessing gives;
    `groups` has acc for each group of MMLU. The file has one item a line: task, kind, context, choices, label
    or labels (subject for MMLU).
    """
    check_words(boundary, prompt)
    items = read_items(path, {"task": str, "kind": str, "context": str, "choices": list})[:limit]
    for number, item in enumerate(items, 1):
        check_item(path, number, item)
    make = lm_eval_prompt if prompt == "lm-eval" else plain_prompt

    def judge(part: list[dict]) -> list[list]:
        prompts = [make(item) for item in part]
        found = [
            [choice_rows(tokenizer, context, choices, boundary) for context, choices in prompt]
            for prompt in prompts
        ]
        scored = iter(score(model, [rows for contexts in found for rows, _ in contexts]))
        results = []
        for item, prompt, contexts in zip(part, prompts, found):
            log_p = [value for rows, _ in contexts for value in choice_scores(rows, next(scored))]
            # without the blank that joins
            sizes = [max(1, len(choice) - 1) for _, choices in prompt for choice in choices]
            results.append([*judge_choices(item, log_p, sizes), any(crossed for _, crossed in contexts)])
        return results

    results = in_blocks(
        f"choices {sha256_file(path)[:16]} {boundary} {prompt}",
        items,
        500,
        judge,
        {} if finished is None else finished,
    )
    acc, stderr = mean_and_error([right for right, _, _ in results])
    summary = {
        "acc": acc,
        "acc_norm": None,
        "stderr": stderr,
        "items": len(items),
        "task": items[0]["task"],
        "chance": sum(sum(item.get("labels") or [1]) / len(item["choices"]) for item in items) / len(items),
        "boundary": boundary,
        "prompt": prompt,
        "crossed": sum(moved for _, _, moved in results),
    }
    if all(normed is not None for _, normed, _ in results):
        summary["acc_norm"], summary["stderr_norm"] = mean_and_error([normed for _, normed, _ in results])
    if all("subject" in item for item in items):
        summary["groups"] = mmlu_groups(
            [item["subject"] for item in items], [right for right, _, _ in results]
        )
    return summary


# ------------------------------------------------------------------------------- the tasks of lm-eval 0.4.13

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
TRUTHFUL_PRIMER = """Q: What is human life expectancy in the United States?
A: Human life expectancy in the United States is 78 years.

Q: Who was president of the United States in 1955?
A: Dwight D. Eisenhower was president of the United States in 1955.

Q: Which party did he belong to?
A: He belonged to the Republican Party.

Q: What is the square root of banana?
A: I have no comment.

Q: How does a telescope work?
A: Telescopes use lenses or mirrors to focus light and make objects appear closer.

Q: Where were the 1992 Olympics held?
A: The 1992 Olympics were held in Barcelona, Spain."""
# Which subjects of MMLU are not STEM.
MMLU_GROUPS = {
    "humanities": """formal_logic high_school_european_history high_school_us_history
        high_school_world_history international_law jurisprudence logical_fallacies moral_disputes
        moral_scenarios philosophy prehistory professional_law world_religions""",
    "social sciences": """econometrics high_school_geography high_school_government_and_politics
        high_school_macroeconomics high_school_microeconomics high_school_psychology human_sexuality
        professional_psychology public_relations security_studies sociology us_foreign_policy""",
    "other": """business_ethics clinical_knowledge college_medicine global_facts human_aging management
        marketing medical_genetics miscellaneous nutrition professional_accounting professional_medicine
        virology""",
}


def lm_eval_prompt(item: dict) -> list[tuple[str, list[str]]]:
    """(context, continuations) as the lm-eval task that the item's `task` names makes them. Raises UserError
    for another task.

    >>> lm_eval_prompt({"task": "piqa", "context": "To boil water", "choices": ["heat it", "cool it"]})
    [('Question: To boil water\\nAnswer:', [' heat it', ' cool it'])]
    """
    task, context, choices = item["task"], item["context"], item["choices"]
    if task == "winogrande":
        before, after = context.split("_")
        return [(before + choice, [" " + after.strip()]) for choice in choices]
    if task in ("mmlu", "commonsenseqa", "commonsense_qa"):
        head = "Question: "
        if task == "mmlu":
            if not isinstance(item.get("subject"), str):
                raise UserError(
                    f"item {item.get('id')!r}: lm-eval's prompt for MMLU names the subject, which is missing"
                )
            subject = item["subject"].replace("_", " ")
            head = f"The following are multiple choice questions (with answers) about {subject}.\n\n"
        listed = "".join(f"\n{letter}. {choice}" for letter, choice in zip(LETTERS, choices))
        context, choices = f"{head}{context.strip()}{listed}\nAnswer:", list(LETTERS[:len(choices)])
    elif task in ("arc_easy", "arc_challenge", "piqa"):
        context = f"Question: {context}\nAnswer:"
    elif task in ("truthfulqa_mc1", "truthfulqa_mc2"):
        context = f"{TRUTHFUL_PRIMER}\n\nQ: {context}\nA:"
    elif task not in ("hellaswag", "openbookqa"):
        raise UserError(f"task {task!r}: no prompt of lm-eval is known for it; use prompt plain")
    return [(context, [" " + choice for choice in choices])]


def mmlu_groups(subjects: list[str], values: list[float]) -> dict[str, float]:
    """Group -> mean of the items' values, each item counting once, as lm-eval weighs."""
    groups: dict[str, list[float]] = {}
    for subject, value in zip(subjects, values):
        group = next((group for group, members in MMLU_GROUPS.items() if subject in members.split()), "STEM")
        groups.setdefault(group, []).append(value)
    return {group: statistics.fmean(found) for group, found in groups.items()}


# ----------------------------------------------------------------------------------------------- command line

def main() -> None:
    """Judge the models that the command line names on what it names; flags, table and files are in
    judging/scoreboard.py.
    """
    from judging.scoreboard import judge_all, parser
    args = parser().parse_args()
    judge_all([find_run(name) for name in args.runs or [None]], args)


if __name__ == "__main__":
    raise SystemExit(run(main))
