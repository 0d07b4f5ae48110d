# SPDX-License-Identifier: Apache-2.0
"""Continue many prompts at once, one in each row, so that a step reads every weight once."""
from __future__ import annotations

from typing import Callable, Iterator

import torch
from torch import Tensor

from model import KVCache, Llama

Tokens = list[int | None]                                         # of each row; None: it is finished


@torch.inference_mode()
def decode_many(
    model: Llama, prompts: list[list[int]], most: int, choose: Callable[[Tensor], Tokens]
) -> Iterator[Tokens]:
    """Yield the next token of every prompt, up to `most` times; `choose` takes it from the logits (B, V).

    Shorter prompts are padded at the left and a mask hides the padding. Rotary embeddings depend on distances
    only, so a row may start at any position (Su et al. 2021, section 3.2.2). Ends at
    `max_position_embeddings` of the longest prompt.
    """
    width, weight = max(map(len, prompts)), model.model.embed_tokens.weight
    device = weight.device
    room = max(0, min(most, model.config.max_position_embeddings - width))
    cache = KVCache(model.config, len(prompts), width + room, device, weight.dtype)
    padded = [[0] * (width - len(ids)) + ids for ids in prompts]
    input_ids = torch.tensor(padded, device=device)                                           # (B, T)
    first = torch.tensor([width - len(ids) for ids in prompts], device=device)                # (B,)
    real = (torch.arange(width + room, device=device) >= first[:, None])[:, None, None]       # (B, 1, 1, S)
    causal = torch.ones(width, width, dtype=torch.bool, device=device).tril()                 # (T, T)
    itself = torch.eye(width, dtype=torch.bool, device=device)    # (T, T): padding attends to itself
    mask = causal & real[..., :width] | itself                                                # (B, 1, T, T)
    for length in range(width, width + room):
        hidden = model.model(input_ids, cache, mask)[:, -1]                                   # (B, D)
        tokens = choose(model.project(hidden))
        yield tokens
        input_ids = torch.tensor([[token or 0] for token in tokens], device=device)           # (B, 1)
        mask = real[..., :length + 1]                                                         # (B, 1, 1, S)
