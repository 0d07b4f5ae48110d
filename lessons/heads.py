# SPDX-License-Identifier: Apache-2.0
"""Looking into the attention heads of a model that writes tales: where they look, and what they are worth.

Lesson 13 uses all of it. A head is (layer, head), both counted from 0. A mention is a name in a tale with the
places of its tokens; the first token of a later mention is predicted one place before it.
"""
from __future__ import annotations

import contextlib
import math
import re
from pathlib import Path
from typing import Any, Iterator, NamedTuple

import numpy
import torch
from torch import Tensor

from corpus import tales
from corpus.grammar import Choice, Copy, New, Node
from model import Llama
from training.learned import AT_ONCE, Document, mention_losses, token_losses

CPU = torch.device("cpu")


# ------------------------------------------------------------------------------- what the corpus says exactly

def expected_drawn(nodes: tuple[Node, ...]) -> dict[tuple[str, str], float]:
    """How often a tale draws or copies something on average: (sort, slot of the name or "") -> number.

    The sort of a copy is in lower case ("name", "thing"), that of a new value in upper case ("HERO", "NAME").
    A choice takes each of its options equally often, so the mean over the options is exact.
    """
    found: dict[tuple[str, str], float] = {}

    def add(key: tuple[str, str], number: float) -> None:
        found[key] = found.get(key, 0.0) + number

    for node in nodes:
        if isinstance(node, Choice):
            for option in node.options:
                for key, number in expected_drawn(option).items():
                    add(key, number / len(node.options))
        elif isinstance(node, Copy):
            slots = {f"{slot}.name": ("", slot) for slot in tales.PEOPLE}
            add((node.sort, node.value(slots) if node.sort == "name" else ""), 1.0)
        elif isinstance(node, New):
            add((node.sort, ""), 1.0)
    return found


# ---------------------------------------------------------------------------------------- names in a document

class Mention(NamedTuple):
    """A name in a document: places of its tokens in `Document.ids`."""

    name: str
    places: list[int]


def mentions_of(document: Document, coder: Any) -> list[Mention]:
    """All names of a tale in their order."""
    stream, starts = coder.stream(), [0]
    for token in document.ids[1:-1]:
        starts.append(starts[-1] + len(stream.feed([token])))
    found = []
    for match in re.finditer(tales.ANY_NAME, document.text):
        places = [i + 1 for i in range(len(starts) - 1)
                  if starts[i] < match.end() and starts[i + 1] > match.start()]
        found.append(Mention(match[0], places))
    return found


# ----------------------------------------------------------------------------------------- where heads look

def open_with_maps(folder: Path) -> tuple[Llama, list[Tensor]]:
    """A model and the list to which each of its forward passes of one row adds a map (H, T, T) per layer."""
    maps: list[Tensor] = []

    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        group = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)       # (B, H, T, F)
        later = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).triu(1)              # (T, T)
        score = q @ k.transpose(2, 3) / math.sqrt(q.shape[3])                             # (B, H, T, T)
        weight = torch.softmax(score.masked_fill(later, -math.inf), dim=-1)               # (B, H, T, T)
        maps.append(weight[0])
        return weight @ v                                                                 # (B, H, T, F)

    return Llama.from_pretrained(folder, attend=attend), maps


def prefix_matching(weights: Tensor, ids: Tensor) -> Tensor:
    """How much each head looks at what followed the current token earlier (Olsson et al. 2022).

    `weights` (H, T, T), row t is what position t reads; `ids` (T,). For each position whose token occurred
    before: the sum of the weights at the positions after its earlier occurrences, up to position t itself.
    Returns the mean over those positions, (H,); 0 where no token comes twice.
    """
    T = len(ids)
    after = torch.zeros(T, T, dtype=torch.bool)
    after[:, 1:] = ids[:, None] == ids[None, :-1]                                         # (T, T)
    after &= torch.ones(T, T, dtype=torch.bool).tril()                                    # (T, T)
    places = after.any(dim=1)                                                             # (T,)
    if not places.any():
        return torch.zeros(len(weights))                                                  # (H,)
    return (weights * after).sum(dim=2)[:, places].mean(dim=1)                            # (H,)


class Look(NamedTuple):
    """Where each head looks, (L, H) each: mean weights."""

    same: Tensor  # from the place before a later mention to the earlier mentions of that name
    other: Tensor  # from there to the mentions of other names
    followed: Tensor  # from every place to what followed the same token earlier: `prefix_matching`


@torch.no_grad()
def looks(folder: Path, documents: list[Document], coder: Any) -> Look:
    """Where the heads of the model in `folder` look in these tales."""
    model, maps = open_with_maps(folder)
    same, other, followed = [], [], []
    for document in documents:
        maps.clear()
        model(torch.tensor([document.ids]))
        weights = torch.stack(maps)                                                       # (L, H, T, T)
        ids = torch.tensor(document.ids)                                                  # (T,)
        followed.append(torch.stack([prefix_matching(layer, ids) for layer in weights]))  # (L, H)
        mentions = mentions_of(document, coder)
        for number, mention in enumerate(mentions):
            before = mentions[:number]
            if any(earlier.name == mention.name for earlier in before):
                row = weights[:, :, mention.places[0] - 1]                                # (L, H, T)
                for kept, wanted in ((same, True), (other, False)):
                    places = [place for earlier in before for place in earlier.places
                              if (earlier.name == mention.name) == wanted]
                    kept.append(row[:, :, places].sum(dim=2))                             # (L, H)
    return Look(*(torch.stack(kept).mean(dim=0) for kept in (same, other, followed)))


# ------------------------------------------------------------------------------------- what a head is worth

@torch.no_grad()
def mean_outputs(model: Llama, documents: list[Document]) -> list[Tensor]:
    """The mean output of the heads of each layer over these documents, (H*F,) each, before `o_proj`."""
    sums = [torch.zeros(layer.self_attn.o_proj.in_features) for layer in model.model.layers]
    hooks = []
    for number, layer in enumerate(model.model.layers):
        def add(_: Any, inputs: tuple[Tensor], number: int = number) -> None:
            sums[number] += inputs[0].sum(dim=(0, 1))
        hooks.append(layer.self_attn.o_proj.register_forward_pre_hook(add))
    for document in documents:
        model(torch.tensor([document.ids]))
    for hook in hooks:
        hook.remove()
    return [total / sum(len(document.ids) for document in documents) for total in sums]


@contextlib.contextmanager
def without(model: Llama, heads: list[tuple[int, int]], means: list[Tensor]) -> Iterator[None]:
    """Within it each of `heads` gives its mean output everywhere, whatever it reads ("mean ablation").

    The mean and not 0: later parts of the model expect something about as large, and a 0 would disturb them
    for a reason that has nothing to do with what the head has read.
    """
    F = model.model.layers[0].self_attn.head_dim
    hooks = []
    for number, head in heads:
        def replace(_: Any, inputs: tuple[Tensor], number: int = number, head: int = head) -> tuple[Tensor]:
            y = inputs[0].clone()                                                         # (B, T, H*F)
            y[..., head * F:(head + 1) * F] = means[number][head * F:(head + 1) * F]
            return (y,)
        hooks.append(model.model.layers[number].self_attn.o_proj.register_forward_pre_hook(replace))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class Losses(NamedTuple):
    """Mean losses in nats: per token, per first mention of a name, per later mention."""

    all: float
    first: float
    later: float


def losses_of(model: Llama, documents: list[Document], coder: Any) -> Losses:
    """The losses of complete tales."""
    rows = [row for start in range(0, len(documents), AT_ONCE)
            for row in token_losses(model, documents[start:start + AT_ONCE], CPU)]
    return Losses(float(numpy.concatenate(rows).mean()), *mention_losses(documents, rows, coder))
