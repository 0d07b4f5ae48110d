# SPDX-License-Identifier: Apache-2.0
"""Speculative decoding: a small model proposes some tokens, the large one reads them all in one pass and
keeps what it would have said itself.

Leviathan et al. 2023, algorithm 1. Token x, proposed from the draft's distribution q, is kept with
probability min(1, p(x) / q(x)), p being the target's. At the first that is not kept, a token is drawn from
max(0, p - q), scaled to sum 1; where all are kept, one more comes from p. The result is distributed exactly
as if the target had drawn every token (appendix A.1 there), whatever the draft is: a bad draft only costs
time.

    python sample.py RUN "a prompt" --draft SMALLER_RUN
"""
from __future__ import annotations

import random
import time
from dataclasses import dataclass, field

import torch
from torch import Tensor

from common import UserError
from model import KVCache, Llama
from sample import Options, Row, Settings, Source, Step, decode, filtered, open_source

AHEAD = 4                           # tokens proposed at a time


@dataclass
class Speculation:
    """New ids, and how they came about: passes of the target, proposed tokens, and how many of these were
    kept.
    """

    ids: list[int] = field(default_factory=list)
    passes: int = 0
    proposed: int = 0
    kept: int = 0


class Reader:
    """A model with the cache of what it has read; `catch_up` reads the rest of a text, `cache.length` can be
    set back to forget.
    """

    def __init__(self, model: Llama, length: int, step: Step | None):
        self.model, self.step = model, step
        self.limit = min(length, model.config.max_position_embeddings)
        self.cache = KVCache(model.config, 1, self.limit, model.model.embed_tokens.weight.device)

    def catch_up(self, ids: list[int], last: int) -> Tensor:
        """Read the ids that the cache does not hold yet; the logits (last, V) after each of the `last` newest
        ids.
        """
        unread = torch.tensor([ids[self.cache.length:]], device=self.cache.keys.device)       # (1, T)
        if self.step and unread.shape[1] == 1:
            return self.step(unread, self.cache)                                              # (1, V)
        hidden = self.model.model(unread, self.cache)                                         # (1, T, D)
        return self.model.project(hidden[0, -last:])                                          # (last, V)


def distribution(logits: Tensor, seen: Tensor, settings: Settings) -> Tensor:
    """The probabilities (V,) that `settings` make of logits (V,); at temperature 0 all of it is on the best
    token.
    """
    logits = filtered(logits.float(), seen, settings).double()                                # (V,)
    if settings.temperature == 0:
        return torch.zeros_like(logits).index_fill(0, logits.argmax(), 1.0)                   # (V,)
    return torch.softmax(logits, dim=0)                                                       # (V,)


def draw(weight: Tensor, number: float) -> int:
    """A token with probability proportional to weight (V,), by a uniform number in [0, 1)."""
    cumulated = weight.cumsum(dim=0)                                                          # (V,)
    return int(torch.searchsorted(cumulated, number * cumulated[-1:], right=True))


def marked(seen: Tensor, ids: list[int]) -> Tensor:
    """`seen` (V,) with more tokens in it."""
    return seen.index_fill(0, torch.tensor(ids, dtype=torch.long, device=seen.device), True)


@torch.inference_mode()
def speculate(
    target: Llama,
    draft: Llama,
    ids: list[int],
    settings: Settings,
    seed: int,
    stop_id: int | None = None,
    ahead: int = AHEAD,
    target_step: Step | None = None,
    draft_step: Step | None = None,
) -> Speculation:
    """Continue `ids` with the target's distribution. Ends as `sample.generate` does. Both models have the
    same vocabulary.
    """
    length = min(target.config.max_position_embeddings, len(ids) + settings.max_new_tokens)
    result, numbers, start = Speculation(), random.Random(seed), len(ids)
    row = Row(target, ids, settings, seed, stop_id)
    reader, helper = Reader(target, length, target_step), Reader(draft, length, draft_step)
    ids = list(ids)
    while len(ids) < length:
        room = min(length, helper.limit) - len(ids) - 1
        proposals, q = [], []
        for _ in range(min(ahead, room)):
            logits = helper.catch_up(ids + proposals, last=1)[0]                              # (V,)
            q.append(distribution(logits, marked(row.seen, proposals), settings))             # (V,)
            proposals.append(draw(q[-1], numbers.random()))
        logits = reader.catch_up(ids + proposals, last=len(proposals) + 1)                    # (n+1, V)
        kept, token = 0, None
        while token is None:
            p = distribution(logits[kept], marked(row.seen, proposals[:kept]), settings)      # (V,)
            if kept == len(proposals):
                token = draw(p, numbers.random())
            elif numbers.random() * q[kept][proposals[kept]] < p[proposals[kept]]:
                kept += 1
            else:
                token = draw((p - q[kept]).clamp(min=0), numbers.random())
        new = proposals[:kept] + [token]
        result.passes, result.proposed, result.kept = (
            result.passes + 1,
            result.proposed + len(proposals),
            result.kept + kept,
        )
        ids += new
        row.seen = marked(row.seen, new)
        reader.cache.length = len(ids) - 1
        helper.cache.length = min(helper.cache.length, len(ids) - 1)
        if stop_id in new:
            ids = ids[:len(ids) - len(new) + new.index(stop_id)]
            break
    result.ids = ids[start:]
    return result


def show(source: Source, prompt: str, settings: Settings, seed: int, options: Options) -> None:
    """Print the text, then the acceptance rate and the speed beside plain decoding of the same prompt by the
    target alone.
    """
    draft = open_source(options.draft, device=options.device)
    check_pair(source, draft)
    ids = source.tokenizer.encode(prompt, document=True) or [source.tokenizer.eos_id]
    # both are timed warm
    list(decode(source.model, ids, [Row(source.model, ids, Settings(max_new_tokens=2), seed)], source.step))
    began = time.perf_counter()
    result = speculate(
        source.model,
        draft.model,
        ids,
        settings,
        seed,
        source.tokenizer.eos_id,
        AHEAD,
        source.step,
        draft.step,
    )
    seconds = (time.perf_counter() - began) / max(1, len(result.ids))
    began = time.perf_counter()
    plain = list(
        decode(
            source.model, ids, [Row(source.model, ids, settings, seed, source.tokenizer.eos_id)], source.step
        )
    )
    plain_seconds = (time.perf_counter() - began) / max(1, len(plain))
    print(prompt + source.tokenizer.decode(ids + result.ids)[len(source.tokenizer.decode(ids)):])
    share = result.kept / max(1, result.proposed)
    print(
        f"\n{source.name} with draft {draft.name}: {result.kept} of {result.proposed} proposed tokens kept ({share:.0%}), "
        f"{len(result.ids) / max(1, result.passes):.2f} tokens for each pass of the target\n"
        f"{1 / seconds:.1f} tokens/s; {1 / plain_seconds:.1f} without the draft; speed-up {plain_seconds / seconds:.2f}"
    )


def check_pair(source: Source, draft: Source) -> None:
    """Raise UserError unless the draft speaks in the target's tokens."""
    if (
        draft.tokenizer.fingerprint != source.tokenizer.fingerprint
        or draft.model.config.vocab_size != source.model.config.vocab_size
    ):
        raise UserError(
            f"--draft {draft.name} has another vocabulary than {source.name} ({draft.tokenizer.fingerprint[:12]}, "
            f"{draft.model.config.vocab_size} rows; {source.tokenizer.fingerprint[:12]}, {source.model.config.vocab_size} rows); "
            "speculative decoding needs the same"
        )
