# SPDX-License-Identifier: Apache-2.0
"""Judge a model as the cards do: perplexity and bits per byte, BLiMP, multiple choice, GSM8K.

    python evaluate.py runs/20m --blimp blimp.jsonl.gz --choices hellaswag.jsonl.gz

All benchmarks but GSM8K ask the same question: how probable are these tokens after those? `score` answers it
for many token sequences at once. `choice_queries` finds where a choice begins inside a text, which is the
difficult part. The rest is short: which texts each benchmark scores, and what it computes from the numbers.
Tables and the command line are in judging/scoreboard.py. The validation loss during training is not here but
in train.py:evaluate.
"""
from __future__ import annotations

import functools
import math
import os
import re
import statistics
from pathlib import Path
from typing import Any, Callable, NamedTuple, Sequence

# First, because torch takes seconds to import: Ctrl-C during that time gives one line (common.before_run).
from common import UserError, find_run, progress, run, sha256_file

import torch
import torch.nn.functional as F
from torch import Tensor

from corpus.documents import rows_of
from corpus.prepare import pieces_of
from model import KVCache, Llama, ModelConfig
from tokenizer import Tokenizer

POSITIONS = 1024        # positions in one forward pass: larger batches have more padding and exceed caches
PORTION = 1 << 22       # characters of the documents that `perplexity` scores together
SHARING_GAIN = 1.25     # share prefixes if that computes at least this many times fewer positions


# ------------------------------------------------------------------------ log-probabilities of many sequences

class Query(NamedTuple):
    """One token sequence to score: log p(ids[i] | ids[:i]) for each i from `start` on."""

    ids: list[int]
    start: int                              # at least 1: nothing predicts the first token
    cover: int = 0                          # index of the token that covers the context's end, or 0
    among: tuple[int, ...] = ()             # all tokens that could cover it


class Scored(NamedTuple):
    """The answer of `score` to a Query."""

    log_probs: Tensor                       # (N,) float64, nats, of the tokens from `start` on
    log_mass: float                         # log of the sum over v in `among` of p(v | ids[:cover]), or 0


def begin(tokenizer: Tokenizer) -> list[int]:
    """The ids before a scored text: a foreign tokenizer's prefix, else the document separator."""
    return tokenizer.prefix_ids or [tokenizer.eos_id]


def common_beginning(sequences: Sequence[list[int]]) -> int:
    """How many leading tokens all sequences share. os.path.commonprefix takes lists of any kind."""
    return len(os.path.commonprefix(sequences))


def shared_prefix(group: list[Query]) -> int:
    """How many leading tokens the queries of a group share, before the first scored position."""
    if len(group) == 1:
        return 0
    limit = min(query.start for query in group) - 1
    return common_beginning([query.ids[:limit] for query in group])


def batches(groups: list[list[Query]]) -> tuple[int, list[tuple[int, list[int]]]]:
    """Put groups of similar prefix and length together.

    Returns how many positions are computed, padding included, and for each batch its prefix length and the
    numbers of its groups. The prefix of a batch is the shortest of its groups' prefixes.
    """
    shapes = [(shared_prefix(group), max(len(query.ids) for query in group)) for group in groups]
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


def score(model: Llama, groups: list[list[Query]]) -> list[list[Scored]]:
    """Log-probabilities of the tokens of every query. A group (the choices of a question) shares a beginning.

    Queries of similar length are computed together. If it saves enough, the shared beginning of a group is
    computed once, and its keys and values are used for every query of the group. Queries that are too long
    for the model lose their first tokens, as in lm-eval. Raises UserError if scored tokens would be lost, and
    for ids that the model does not have.
    """
    fitted = [[fit(query, model.config) for query in group] for group in groups]
    apart = [[query] for group in fitted for query in group]
    plan, plan_apart = batches(fitted), batches(apart)
    parts, plan = (fitted, plan) if SHARING_GAIN * plan[0] < plan_apart[0] else (apart, plan_apart)
    # Results are kept as lists of floats until the end. A small tensor that outlives its batch lies between
    # the large ones in memory, and keeps the space of the freed ones from being used again.
    found: dict[int, list[tuple[list[float], float]]] = {}
    for prefix, members in progress(plan[1], leave=False, desc="batches"):
        scored = ((log_probs.tolist(), log_mass) for log_probs, log_mass
                  in score_batch(model, [parts[index] for index in members], prefix))
        found.update((index, [next(scored) for _ in parts[index]]) for index in members)
    flat = (Scored(torch.tensor(log_probs, dtype=torch.float64), log_mass)
            for index in range(len(parts)) for log_probs, log_mass in found[index])
    return [[next(flat) for _ in group] for group in groups]


def fit(query: Query, config: ModelConfig) -> Query:
    """The query, truncated at its beginning so that all but its last token fit in the model's positions."""
    limit, highest = config.max_position_embeddings, max(query.ids)
    if highest >= config.vocab_size:
        raise UserError(f"the text has token {highest}, the model only {config.vocab_size} tokens; "
                        "the vocabulary belongs to another model")
    extra = max(0, len(query.ids) - limit - 1)
    if query.start <= extra:
        raise UserError(
            f"a text of {len(query.ids) - query.start} tokens must be scored in one piece, but the model has "
            f"only {limit} positions"
        )
    return Query(query.ids[extra:], query.start - extra, max(0, query.cover - extra), query.among)


@torch.inference_mode()
def score_batch(model: Llama, groups: list[list[Query]], prefix: int) -> list[Scored]:
    """`score` of one batch in one or two forward passes. Padding is on the right, where no token reads it."""
    device = model.model.embed_tokens.weight.device
    queries = [query for group in groups for query in group]
    width = max(len(query.ids) for query in queries) - 1 - prefix
    ids = torch.zeros(len(queries), width, dtype=torch.long)                      # (B, T)
    wanted = torch.zeros(len(queries), width, dtype=torch.bool)                   # (B, T)
    for number, query in enumerate(queries):
        end = len(query.ids) - 1 - prefix
        ids[number, :end] = torch.tensor(query.ids[prefix:-1])
        wanted[number, query.start - 1 - prefix:end] = True
    cache = read_prefixes(model, groups, prefix, width) if prefix else None
    hidden = model.model(ids.to(device), cache)                                   # (B, T, D)
    hidden = hidden[wanted.to(device)]                                            # (N, D)
    target = [token for query in queries for token in query.ids[query.start:]]
    target = torch.tensor(target, dtype=torch.long, device=device)                # (N,)
    pieces = []
    for h, t in zip(hidden.split(1024), target.split(1024)):                      # N x V logits might not fit
        pieces.append(-F.cross_entropy(model.project(h).float(), t, reduction="none"))
    log_probs = torch.cat(pieces).double().cpu()                                  # (N,)
    check_finite(log_probs)
    scored, first = [], 0
    for query in queries:
        count, log_mass = len(query.ids) - query.start, 0.0
        if query.cover:
            logits = model.project(hidden[first + query.cover - query.start]).double()                # (V,)
            log_mass = float(logits.log_softmax(dim=0)[list(query.among)].logsumexp(dim=0))
        scored.append(Scored(log_probs[first:first + count], log_mass))
        first += count
    return scored


def check_finite(log_probs: Tensor) -> None:
    """Raise UserError unless all log-probabilities are finite; comparisons with NaN would give a score."""
    if not torch.isfinite(log_probs).all():
        raise UserError("the model's logits are not finite numbers; its weights are too large or damaged")


def read_prefixes(model: Llama, groups: list[list[Query]], prefix: int, width: int) -> KVCache:
    """A cache with the first `prefix` tokens of each group for each of its queries, and room for `width`."""
    embedding = model.model.embed_tokens.weight
    cache = KVCache(model.config, len(groups), prefix + width, embedding.device, embedding.dtype)
    model.model(torch.tensor([group[0].ids[:prefix] for group in groups], device=embedding.device), cache)
    owner = torch.tensor(
        [number for number, group in enumerate(groups) for _ in group], device=embedding.device
    )
    cache.keys, cache.values = cache.keys[:, owner], cache.values[:, owner]
    return cache


# ---------------------------------------------------------------------------- where a choice begins in a text

# Either a marker with the byte it deletes, or a byte of the decoded text.
VISIBLE = re.compile(rb"\x7f.?|(.)", re.DOTALL)


def covering(tokenizer: Tokenizer, ids: list[int], visible: int) -> tuple[int, bytes]:
    """The index of the token that holds byte number `visible` of the text, and its bytes up to there."""
    pieces = [tokenizer.token_bytes([token]) for token in ids]
    ends = [match.end() for match in VISIBLE.finditer(b"".join(pieces)) if match[1]]
    end = ends[visible - 1]
    for index, piece in enumerate(pieces):
        if end <= len(piece):
            break
        end -= len(piece)
    return index, piece[:end]


@functools.lru_cache(maxsize=4096)
def beginning_with(tokenizer: Tokenizer, bytes_: bytes) -> tuple[int, ...]:
    """All tokens whose bytes begin with `bytes_`."""
    return tuple(
        token for token in range(tokenizer.vocab_size) if tokenizer.token_bytes([token]).startswith(bytes_)
    )


def choice_queries(
    tokenizer: Tokenizer, context: str, choices: list[str], boundary: str = "bytes"
) -> tuple[list[Query], bool]:
    """Queries that score each choice (a text after `context`), and whether a token crosses the boundary.

    An encoder that looks ahead may split the context differently before each choice, or cover the end of the
    context and the beginning of the choice with one token: "he is using" is [" he is", " using"], "he" alone
    is [" he"].

    boundary "lm-eval" follows lm-eval: encode the context alone, drop as many tokens from context + choice,
    and score the rest. If the context's tokens are not the first ones of context + choice, bytes are lost or
    scored twice (" is" above). If no token is left, token 0 is scored, like the Stentor3 card's patch.

    boundary "bytes" scores exactly the bytes of the choice. Let E_c be the tokens of context + choice c, and
    E_0 those of the context. If every E_c begins with E_0, the rest of E_c is scored, which is lm-eval's
    score. Otherwise let P be the longest beginning that E_0 and all E_c share. In each E, one token holds the
    last byte of the context. Let q be the tokens between P and that token, and r_q the bytes of the context
    in it. Then

        score(c) = log p(E_c after P | P) - log Z
        Z = sum over the distinct q of  p(q | P) * (sum over v of p(v | P q)),

    where v runs over the tokens whose bytes begin with r_q. The first term is the probability that the rest
    of the context and the choice follow P; Z is the probability that the rest of the context follows P, over
    all the ways in which the encoder splits it. Their ratio is the probability of the choice's bytes given
    the context's. `choice_scores` subtracts log Z and needs E_0 for it, the last query.

    A foreign tokenizer's `prefix_ids` come before the context, as in lm-eval.
    """
    if boundary == "lm-eval":
        blanks = context[len(context.rstrip()):]
        context, choices = context.rstrip(), [blanks + choice for choice in choices]
    prefix = tokenizer.prefix_ids
    alone = tokenizer.encode(context, document=True)
    complete = [tokenizer.encode(context + choice, document=True) for choice in choices]
    if not alone:
        return [Query(begin(tokenizer) + tokens, len(begin(tokenizer))) for tokens in complete], False
    start = len(prefix) + len(alone)
    crossed = any(tokens[:len(alone)] != alone for tokens in complete)
    if boundary == "lm-eval":
        return [Query(prefix + alone + (tokens[len(alone):] or [0]), start) for tokens in complete], crossed
    if not crossed:
        return [Query(prefix + tokens, start) for tokens in complete], False
    encodings = [*complete, alone]
    shared = common_beginning(encodings)
    before = prefix if shared else begin(tokenizer)               # a model predicts only after some token
    visible = sum(bool(match[1]) for match in VISIBLE.finditer(tokenizer.token_bytes(alone)))
    queries = []
    for tokens in encodings:
        cover, covered = covering(tokenizer, tokens, visible)
        among = beginning_with(tokenizer, covered)
        queries.append(Query(before + tokens, len(before) + shared, len(before) + cover, among))
    return queries, True


def choice_scores(queries: list[Query], scored: list[Scored]) -> list[float]:
    """log p of each choice, from the queries of `choice_queries` and the answers of `score`."""
    totals = [float(one.log_probs.sum()) for one in scored]
    if not queries[0].cover:
        return totals
    stems = {}
    for query, one in zip(queries, scored):
        before_cover = float(one.log_probs[:query.cover - query.start].sum())
        stems[tuple(query.ids[query.start:query.cover])] = before_cover + one.log_mass
    log_z = float(torch.logsumexp(torch.tensor(list(stems.values()), dtype=torch.float64), dim=0))
    return [total - log_z for total in totals[:-1]]               # the last query is the context alone


# ------------------------------------------------------------------------------------------------- perplexity

def windows(ids: list[int], start: int, context: int, stride: int) -> list[Query]:
    """Queries that score every token from `start` on once.

    Each token is scored after all earlier ones, or after at least context - stride of them.
    """
    queries = []
    while start < len(ids):
        end = min(len(ids), max(context + 1, start + stride))
        first = max(0, end - context - 1)
        queries.append(Query(ids[first:end], start - first))
        start = end
    return queries


def perplexity(
    model: Llama, tokenizer: Tokenizer, text: str | list[str], context: int | None = None
) -> dict[str, Any]:
    """How well the model predicts a text, or each of a list of documents.

        loss = -1/N sum log p(token)    ppl = exp(loss)    bits_per_byte = -sum log2 p / bytes of UTF-8
                                        bits_per_char = the same / characters

    Each document is encoded with document=True, after the separator or a foreign tokenizer's prefix; all of
    its tokens are scored. Loss and perplexity are per token, so they compare only models with the same
    vocabulary; the bits compare any two models. A document longer than `context` positions (default: the
    model's maximum) is read in windows that overlap by half. `stderr` is the standard error of loss: over
    documents if there are several, because the tokens of a document depend on each other, else over tokens.
    Raises UserError for a text without tokens.
    """
    check_options(context=context)
    documents = [text] if isinstance(text, str) else list(text)
    context = min(context or model.config.max_position_embeddings, model.config.max_position_embeddings)
    first, losses = begin(tokenizer), []
    for portion in pieces_of(documents, PORTION, len(documents)):
        queries = [
            windows(first + tokenizer.encode(document, document=True), len(first), context,
                    max(1, context // 2))
            for document in portion
        ]
        scored = iter(score(model, [[query] for document in queries for query in document]))
        losses += [torch.cat([-next(scored)[0].log_probs for _ in document])
                   for document in queries if document]
    if not losses:
        raise UserError("nothing to score: the text is empty, or none of its bytes is in the vocabulary")
    total, tokens = float(sum(loss.sum() for loss in losses)), sum(len(loss) for loss in losses)
    mean = total / tokens
    excess = losses[0] - mean if len(losses) == 1 else torch.stack([(loss - mean).sum() for loss in losses])
    units = max(2, len(excess))
    size = sum(len(document.encode("utf-8", "surrogatepass")) for document in documents)
    characters = sum(len(document) for document in documents)
    stderr = math.sqrt(float(excess.square().sum()) * units / (units - 1)) / tokens
    bits = total / math.log(2)
    return {
        "loss": mean, "ppl": math.exp(min(mean, 700)), "bits_per_byte": bits / size,
        "bits_per_char": bits / characters, "stderr": stderr, "tokens": tokens, "bytes": size,
    }


# ----------------------------------------------------------------------------------- items, blocks, intervals

def read_items(path: str | Path, fields: dict[str, type]) -> list[dict]:
    """The rows of a .jsonl, .json, .csv, .tsv or .parquet file, each with these fields.

    Raises UserError that names the file, the place and what is wrong there.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: {'not a regular file' if path.exists() else 'no such file'}")
    items = []
    for item in rows_of(path, columns=()):
        for name, kind in fields.items():
            if not isinstance(item, dict) or not isinstance(item.get(name), kind):
                raise UserError(f"{path}, item {len(items) + 1}: expected an object with {name!r} of type "
                                f"{kind.__name__}")
        items.append(item)
    if not items:
        raise UserError(f"{path}: no items")
    return items


def in_blocks(
    name: str, items: list, size: int, judge: Callable[[list], list], finished: dict[str, list] | None
) -> list:
    """The results of `judge` on all items, `size` at a time.

    Results that are in `finished` are not computed again; new ones are added to it.
    """
    results, finished = [], {} if finished is None else finished
    for first in range(0, len(items), size):
        part = items[first:first + size]
        key = f"{name} items {first}-{first + len(part) - 1}"
        if key not in finished:
            finished[key] = judge(part)
        results += finished[key]
    return results


def wilson_interval(share: float, count: int) -> list[float]:
    """The 95% interval of a share of `count` independent trials (Wilson 1927). It never leaves 0 to 1.

    >>> [round(end, 2) for end in wilson_interval(0.0, 24)]
    [0.0, 0.14]
    """
    if not count:
        return [0.0, 1.0]
    z = 1.96
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return [max(0.0, middle - half), min(1.0, middle + half)]


def mean_and_error(values: list[float]) -> tuple[float, float]:
    """Mean and its standard error, as in lm-eval: standard deviation / sqrt(n), or 0 for one value."""
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return statistics.fmean(values), spread / math.sqrt(len(values))


# ------------------------------------------------------------------------------------------------------ BLiMP

# The Stentor2-30M card has eight categories and does not say which paradigm belongs to which. This is our
# assignment, by BLiMP's phenomena (the field `linguistics_term`; the paper counts s-selection as argument
# structure) and the card's examples: gender of anaphors under binding, existential quantifiers under raising.
# The superlative quantifiers, which are wrong under negation, belong to licensing ("any", "ever").
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
    model: Llama, tokenizer: Tokenizer, path: str | Path, prompt: str = "plain", limit: int | None = None,
    finished: dict[str, list] | None = None,
) -> dict[str, Any]:
    """Accuracy on BLiMP's pairs (Warstadt et al. 2020): is the acceptable sentence the more probable one?

        right if  log p(good | separator) > log p(bad | separator), summed over all tokens; a tie counts 1/2

    A foreign model reads its `prefix_ids` in place of the separator. `overall` is the mean over the
    paradigms, as are `phenomena` (BLiMP's own) and `categories` (the Stentor2-30M card's eight), all as
    fractions. `intervals` has the 95% interval of each (Wilson 1927, pairs taken as independent), `bands` the
    card's name for each paradigm, `ties` their number, `overall_lm_eval` the score with ties counted as
    right, as lm-eval does (7 pairs of the full set are identical). prompt "lm-eval" puts lm-eval's blank
    before each sentence. `limit` takes the first pairs of each paradigm. `finished`: see `in_blocks`.
    """
    check_options(prompt=prompt, limit=limit)
    paradigms: dict[str, list[dict]] = {}
    for item in read_items(
        path, {"sentence_good": str, "sentence_bad": str, "UID": str, "linguistics_term": str}
    ):
        paradigms.setdefault(item["UID"], []).append(item)
    blank = " " if prompt == "lm-eval" else ""
    first = begin(tokenizer)

    def query(pair: list[list[int]]) -> list[Query]:
        # The common beginning has the same probability in both sentences, so it is not scored.
        start = min(common_beginning(pair), *(len(ids) - 1 for ids in pair))
        return [Query(ids, max(start, len(first))) for ids in pair]

    def judge(pairs: list[dict]) -> list[float]:
        sentences = [blank + pair[key] for pair in pairs for key in ("sentence_good", "sentence_bad")]
        encoded = [first + ids for ids in tokenizer.encode_many(sentences, document=True)]
        groups = [query(list(pair)) for pair in zip(encoded[::2], encoded[1::2])]
        results = []
        for (good, bad), (right, wrong) in zip(score(model, groups), groups):
            difference = 0.0 if right == wrong else float(good.log_probs.sum() - bad.log_probs.sum())
            results.append(0.5 if difference == 0 else float(difference > 0))
        return results

    name = f"blimp {sha256_file(path)[:16]} {prompt}"
    # kind -> group -> the results of each of its paradigms
    kinds: dict[str, dict[str, list[list[float]]]] = {"paradigms": {}, "phenomena": {}, "categories": {}}
    for paradigm, pairs in progress(paradigms.items(), desc="BLiMP"):
        found = in_blocks(f"{name} {paradigm}", pairs[:limit], 1000, judge, finished)
        term = pairs[0]["linguistics_term"]
        category = CATEGORIES.get(paradigm) or CATEGORIES.get(term, "other")
        for kind, group in zip(kinds, (paradigm, term, category)):
            kinds[kind].setdefault(group, []).append(found)
    results = [found for (found,) in kinds["paradigms"].values()]
    values = [value for found in results for value in found]
    overall = statistics.fmean(map(statistics.fmean, results))
    intervals: dict[str, Any] = {"overall": wilson_interval(overall, len(values))}
    summary: dict[str, Any] = {"overall": overall, "intervals": intervals}
    for kind, groups in kinds.items():
        shares = {group: statistics.fmean(map(statistics.fmean, parts)) for group, parts in groups.items()}
        summary[kind] = shares
        intervals[kind] = {group: wilson_interval(shares[group], sum(map(len, parts)))
                           for group, parts in groups.items()}
    summary["bands"] = {paradigm: band(share) for paradigm, share in summary["paradigms"].items()}
    lenient = [statistics.fmean(value > 0 for value in found) for found in results]
    return {
        **summary, "overall_lm_eval": statistics.fmean(lenient), "ties": values.count(0.5),
        "pairs": len(values),
    }


# -------------------------------------------------------------------------------------------- multiple choice

def plain_prompt(item: dict) -> list[tuple[str, list[str]]]:
    """Contexts and the possible continuations of each, by the item's `kind`: question, continuation, cloze.

    The context of a cloze has one `_`. Each choice gives one context: the text before the blank, then the
    choice. The text after the blank is scored (Trinh and Le 2018).
    """
    if item["kind"] == "cloze":
        before, after = item["context"].split("_")
        return [(before + choice, [after]) for choice in item["choices"]]
    context = f"Question: {item['context']}\nAnswer:" if item["kind"] == "question" else item["context"]
    return [(context, [" " + choice for choice in item["choices"]])]


def check_options(
    boundary: str = "bytes", prompt: str = "plain", limit: int | None = None, context: int | None = None
) -> None:
    """Raise UserError for an unknown boundary or prompt, and for a limit or context below 1."""
    for name, number in (("limit", limit), ("context", context)):
        if number is not None and number < 1:
            raise UserError(f"{name} must be at least 1, not {number}")
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
    blank = item["kind"] == "cloze" or item["task"] == "winogrande"
    rules = {
        "choices must be two or more texts": len(choices) > 1
        and all(isinstance(choice, str) and choice for choice in choices),
        "kind must be question, continuation or cloze": item["kind"] in ("question", "continuation", "cloze"),
        "a cloze has one _ in its context, and text after it": not blank
        or re.fullmatch(r"[^_]*_[^_]*[^_\s][^_]*", item["context"]),
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
    model: Llama, tokenizer: Tokenizer, path: str | Path, boundary: str = "bytes", prompt: str = "plain",
    limit: int | None = None, finished: dict[str, list] | None = None,
) -> dict[str, Any]:
    """Accuracy on questions with given answers: the model chooses the most probable one.

        acc        right if  argmax_c log p(c | context)                         is the label
        acc_norm   right if  argmax_c log p(c | context) / characters of c       is the label
        with `labels` (TruthfulQA MC2, Lin et al. 2022): acc = sum over true c of p(c) / sum over all c of
        p(c), and no acc_norm

    `boundary` chooses the scored tokens (see `choice_queries`); `crossed` counts the items for which it
    matters. prompt "plain" joins context and choice by the item's `kind`, "lm-eval" like the task in lm-eval;
    neither puts a separator before the context. `stderr` is the standard error of acc, `interval` its 95%
    interval (Wilson 1927), `chance` the accuracy of guessing, `groups` and `group_intervals` the same for
    each group of MMLU. The file has one item a line: task, kind, context, choices, label or labels, and
    subject for MMLU.
    """
    check_options(boundary, prompt, limit)
    items = read_items(path, {"task": str, "kind": str, "context": str, "choices": list})[:limit]
    for number, item in enumerate(items, 1):
        check_item(path, number, item)
    make = lm_eval_prompt if prompt == "lm-eval" else plain_prompt

    def judge(part: list[dict]) -> list[list]:
        prompts = [make(item) for item in part]
        found = [
            [choice_queries(tokenizer, context, choices, boundary) for context, choices in prompt]
            for prompt in prompts
        ]
        scored = iter(score(model, [queries for contexts in found for queries, _ in contexts]))
        results = []
        for item, prompt, contexts in zip(part, prompts, found):
            log_p = [value for queries, _ in contexts for value in choice_scores(queries, next(scored))]
            # Sizes in characters, without the blank before the choice.
            sizes = [max(1, len(choice) - 1) for _, choices in prompt for choice in choices]
            results.append([*judge_choices(item, log_p, sizes), any(crossed for _, crossed in contexts)])
        return results

    name = f"choices {sha256_file(path)[:16]} {boundary} {prompt}"
    results = in_blocks(name, items, 500, judge, finished)
    acc, stderr = mean_and_error([right for right, _, _ in results])
    summary = {
        "acc": acc,
        "acc_norm": None,
        "stderr": stderr,
        "interval": wilson_interval(acc, len(items)),
        "items": len(items),
        "task": items[0]["task"],
        "chance": sum(sum(item.get("labels") or [1]) / len(item["choices"]) for item in items) / len(items),
        "boundary": boundary,
        "prompt": prompt,
        "crossed": sum(moved for _, _, moved in results),
    }
    if all(normed is not None for _, normed, _ in results):
        summary["acc_norm"], summary["stderr_norm"] = mean_and_error([normed for _, normed, _ in results])
        summary["interval_norm"] = wilson_interval(summary["acc_norm"], len(items))
    if all("subject" in item for item in items):
        groups = mmlu_groups([item["subject"] for item in items], [right for right, _, _ in results])
        summary["groups"] = {group: statistics.fmean(found) for group, found in groups.items()}
        summary["group_intervals"] = {
            group: wilson_interval(summary["groups"][group], len(found)) for group, found in groups.items()
        }
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
# The subjects of MMLU in each group; all others are STEM.
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
    """Contexts and continuations of the item's `task` in lm-eval. Raises UserError for an unknown task.

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
        if len(choices) > len(LETTERS):
            raise UserError(f"item {item.get('id')!r}: {len(choices)} choices, but only 26 letters")
        listed = "".join(f"\n{letter}. {choice}" for letter, choice in zip(LETTERS, choices))
        context, choices = f"{head}{context.strip()}{listed}\nAnswer:", list(LETTERS[:len(choices)])
    elif task in ("arc_easy", "arc_challenge", "piqa"):
        context = f"Question: {context}\nAnswer:"
    elif task in ("truthfulqa_mc1", "truthfulqa_mc2"):
        context = f"{TRUTHFUL_PRIMER}\n\nQ: {context}\nA:"
    elif task not in ("hellaswag", "openbookqa"):
        raise UserError(f"task {task!r}: no prompt of lm-eval is known for it; use prompt plain")
    return [(context, [" " + choice for choice in choices])]


def mmlu_groups(subjects: list[str], values: list[float]) -> dict[str, list[float]]:
    """Group of MMLU -> the values of its items; its score is their mean, as in lm-eval."""
    groups: dict[str, list[float]] = {}
    for subject, value in zip(subjects, values):
        group = next((group for group, members in MMLU_GROUPS.items() if subject in members.split()), "STEM")
        groups.setdefault(group, []).append(value)
    return groups


# ----------------------------------------------------------------------------------------------- command line

def main() -> None:
    """The command line; judging/scoreboard.py has its flags, its table and the files that it writes."""
    from judging.scoreboard import judge_all, parser
    args = parser().parse_args()
    judge_all([find_run(name) for name in args.runs or [None]], args)


if __name__ == "__main__":
    raise SystemExit(run(main))
