# SPDX-License-Identifier: Apache-2.0
"""One CUDA graph per token: the step of `FastDecoder`, recorded once and replayed on a CUDA GPU.

A GPU computes one position of a small model in less time than Python needs to start its operations, about
250. A graph records these starts, and one call replays them all. But it can only repeat the same work on the
same memory. So everything that changes from token to token is in tensors: the newest tokens, and the
position, from which the graph itself computes the angles, the place in the cache and the mask. A graph reads
a fixed number of positions, a power of two; when the text is longer, a new graph is recorded.

`python -m bench.decoding --device cuda` measures it.
"""
from __future__ import annotations

import math

import torch
from torch import Tensor

from model import KVCache
from sampling.fast_decoder import FastDecoder

FEWEST = 256                        # positions that the smallest graph reads


class GraphDecoder(FastDecoder):
    """`decoder(newest, cache)` as FastDecoder.

    Graphs belong to one cache. A new cache needs new graphs, which takes some milliseconds each.
    """

    cache: KVCache | None = None

    @torch.inference_mode()
    def __call__(self, newest: Tensor, cache: KVCache) -> Tensor:
        """Newest tokens (B, 1) -> logits (B, V) of the token after them. The cache grows by one position."""
        if cache is not self.cache:
            self.cache, self.graphs = cache, {}
            self.newest = newest.clone()                                      # (B, 1)
            self.position = torch.zeros(1, dtype=torch.long, device=newest.device)            # (1,)
        self.newest.copy_(newest)
        self.position.fill_(cache.length)
        window = positions_to_read(cache)
        if window not in self.graphs:
            self.graphs[window] = self.record(window)
        graph, logits = self.graphs[window]
        graph.replay()
        cache.length += 1
        return logits.clone()  # (B, V): the graph's own are overwritten by the next token

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        """Attention of q (B, K, H/K, F) to k and v (B, K, S, F), written out.

        torch's FP32 kernel uses one of the chip's 132 processors for each row and key/value head, so 2 for
        20m. At 4,096 positions it takes most of the step's time. These products use all processors.
        """
        score = q @ k.transpose(2, 3) / math.sqrt(self.head_dim)              # (B, K, H/K, S)
        weight = torch.softmax(score.masked_fill(~mask, -math.inf), dim=-1)   # (B, K, H/K, S)
        return weight @ v                                                     # (B, K, H/K, F)

    def record(self, window: int) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        """The graph that reads `window` positions, and the logits (B, V) that each replay fills.

        Before recording, the step runs once without a graph, so that libraries are set up.
        """
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            self.at_position(window)
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            logits = self.at_position(window)                                 # (B, V)
        return graph, logits

    def at_position(self, window: int) -> Tensor:
        """What is recorded: `through_layers` for `self.newest` (B, 1) at `self.position` (1,)."""
        keys = self.cache.keys[..., :window, :].unbind()                      # for each layer (B, K, S, F)
        values = self.cache.values[..., :window, :].unbind()
        mask = torch.arange(window, device=self.position.device)[None] <= self.position       # (1, S)

        def store(i: int, k: Tensor, v: Tensor) -> None:
            keys[i].index_copy_(2, self.position, k[:, :, None].to(keys[i].dtype))
            values[i].index_copy_(2, self.position, v[:, :, None].to(values[i].dtype))

        cos, sin = self.cos[self.position], self.sin[self.position]           # (1, F)
        return self.through_layers(self.newest, cos, sin, store, keys, values, mask)


def positions_to_read(cache: KVCache) -> int:
    """How many positions the graph for the next token reads.

    The smallest power of two that is enough, at least FEWEST and at most the cache's capacity.
    """
    window = FEWEST
    while window <= cache.length:
        window *= 2
    return min(window, cache.capacity)
