# SPDX-License-Identifier: Apache-2.0
"""Speculative decoding: a small model proposes tokens, and the large one checks them in a single pass.

Leviathan et al. 2023, algorithm 1. Token x, proposed from the draft's distribution q, is kept with
probability min(1, p(x) / q(x)), where p is the target's distribution. In the place of the first rejected
token, one is drawn from max(0, p - q), scaled to sum 1; if all are kept, one more is drawn from p. The result
has exactly the target's distribution (appendix A.1 there) for any draft: a bad draft only costs time.

    python sample.py RUN "a prompt" --draft SMALLER_RUN
"""
from __future__ import annotations

import random
import time
from collections.abc import Collection
from dataclasses import dataclass, field

import torch
from torch import Tensor

from common import Flow, UserError, wrapped
from model import KVCache, Llama
from sample import Draw, NextLogits, SampleSettings, decode, filtered, pick
from sampling.answers import LoadedModel, prompt_ids

AHEAD = 4                           # tokens proposed at a time


@dataclass
class Speculation:
    """New ids, the passes of the target, and the numbers of proposed and of kept tokens."""

    ids: list[int] = field(default_factory=list)
    passes: int = 0
    proposed: int = 0
    kept: int = 0


class Reader:
    """A model and the cache of its text; a smaller `cache.length` makes it forget the newest tokens."""

    def __init__(self, model: Llama, length: int, next_logits: NextLogits | None):
        self.model, self.next_logits = model, next_logits
        self.limit = min(length, model.config.max_position_embeddings)
        self.cache = KVCache(model.config, 1, self.limit, model.model.embed_tokens.weight.device)

    def catch_up(self, ids: list[int], last: int) -> Tensor:
        """Read the ids that are not in the cache; returns logits (last, V) after the `last` newest ids."""
        unread = torch.tensor([ids[self.cache.length:]], device=self.cache.keys.device)       # (1, T)
        if self.next_logits and unread.shape[1] == 1:
            return self.next_logits(unread, self.cache)                                       # (1, V)
        hidden = self.model.model(unread, self.cache)                                         # (1, T, D)
        return self.model.project(hidden[0, -last:])                                          # (last, V)


def distribution(logits: Tensor, seen: Tensor, settings: SampleSettings) -> Tensor:
    """The probabilities (V,) of `settings` for logits (V,); at temperature 0 the best token has 1."""
    logits = filtered(logits.float(), seen, settings).double()                                # (V,)
    if settings.temperature == 0:
        return torch.zeros_like(logits).index_fill(0, logits.argmax(), 1.0)                   # (V,)
    return torch.softmax(logits, dim=0)                                                       # (V,)


def marked(seen: Tensor, ids: list[int]) -> Tensor:
    """`seen` (V,) with these tokens marked too."""
    return seen.index_fill(0, torch.tensor(ids, dtype=torch.long, device=seen.device), True)


@torch.inference_mode()
def speculate(
    target: Llama, draft: Llama, ids: list[int], settings: SampleSettings, seed: int,
    stop_ids: Collection[int] = (), ahead: int = AHEAD, target_logits: NextLogits | None = None,
    draft_logits: NextLogits | None = None,
) -> Speculation:
    """Continue `ids` with the target's distribution, until the same end as in `sample.generate`.

    Both models must have the same vocabulary.
    """
    length = min(target.config.max_position_embeddings, len(ids) + settings.max_new_tokens)
    result, numbers, start = Speculation(), random.Random(seed), len(ids)
    answer = Draw(target, ids, settings, seed)
    reader, helper = Reader(target, length, target_logits), Reader(draft, length, draft_logits)
    ids = list(ids)
    while len(ids) < length:
        room = min(length, helper.limit) - len(ids) - 1
        proposals, q = [], []
        for _ in range(min(ahead, room)):
            logits = helper.catch_up(ids + proposals, last=1)[0]                              # (V,)
            q.append(distribution(logits, marked(answer.seen, proposals), settings))          # (V,)
            proposals.append(pick(q[-1], numbers.random()))
        logits = reader.catch_up(ids + proposals, last=len(proposals) + 1)                    # (n+1, V)
        kept, token = 0, None
        while token is None:
            p = distribution(logits[kept], marked(answer.seen, proposals[:kept]), settings)   # (V,)
            if kept == len(proposals):
                token = pick(p, numbers.random())
            elif numbers.random() * q[kept][proposals[kept]] < p[proposals[kept]]:
                kept += 1
            else:
                token = pick((p - q[kept]).clamp(min=0), numbers.random())
        new = proposals[:kept] + [token]
        result.passes += 1
        result.proposed += len(proposals)
        result.kept += kept
        ids += new
        answer.seen = marked(answer.seen, new)
        reader.cache.length = len(ids) - 1
        helper.cache.length = min(helper.cache.length, len(ids) - 1)
        stops = [i for i, token in enumerate(new) if token in stop_ids]
        if stops:
            ids = ids[:len(ids) - len(new) + stops[0]]
            break
    result.ids = ids[start:]
    return result


def show(
    loaded: LoadedModel, prompt: str, settings: SampleSettings, seed: int, draft: LoadedModel
) -> None:
    """Print the text, the share of proposals kept, and the speed beside plain decoding by the target."""
    check_pair(loaded, draft)
    ids, stop_ids = prompt_ids(loaded.tokenizer, prompt), loaded.tokenizer.stop_ids

    def plain(settings: SampleSettings) -> int:
        draw = Draw(loaded.model, ids, settings, seed, stop_ids)
        return len(list(decode(loaded.model, ids, [draw], loaded.next_logits)))

    plain(SampleSettings(max_new_tokens=2))                                   # a warm-up before timing
    started = time.perf_counter()
    result = speculate(
        loaded.model, draft.model, ids, settings, seed, stop_ids, AHEAD, loaded.next_logits, draft.next_logits
    )
    seconds = (time.perf_counter() - started) / max(1, len(result.ids))
    started = time.perf_counter()
    tokens = plain(settings)
    plain_seconds = (time.perf_counter() - started) / max(1, tokens)
    before = loaded.tokenizer.decode(ids)
    print(Flow().add(prompt + loaded.tokenizer.decode(ids + result.ids)[len(before):], last=True))
    share = result.kept / max(1, result.proposed)
    print("\n" + wrapped(
        f"{loaded.name} with draft {draft.name}: {result.kept} of {result.proposed} proposed tokens kept "
        f"({share:.0%}), {len(result.ids) / max(1, result.passes):.2f} tokens for each pass of the target\n"
        f"{1 / seconds:.1f} tokens/s; {1 / plain_seconds:.1f} without the draft; "
        f"speed-up {plain_seconds / seconds:.2f}"
    ))


def check_pair(loaded: LoadedModel, draft: LoadedModel) -> None:
    """Raise UserError unless both models have the same vocabulary."""
    pair = [(one.tokenizer.fingerprint, one.model.config.vocab_size) for one in (draft, loaded)]
    if pair[0] != pair[1]:
        (theirs, their_rows), (ours, our_rows) = pair
        raise UserError(
            f"--draft {draft.name} has another vocabulary than {loaded.name} "
            f"({theirs[:12]}, {their_rows} rows; {ours[:12]}, {our_rows} rows); "
            "speculative decoding needs the same"
        )
