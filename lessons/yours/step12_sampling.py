# SPDX-License-Identifier: Apache-2.0
"""Step 12: sampling. A trained model writes."""
from __future__ import annotations

from torch import Tensor, nn


def generate(model: nn.Module, ids: list[int], max_new_tokens: int, temperature: float = 1.0,
             top_p: float = 1.0, seed: int = 0, stop_id: int | None = None) -> list[int]:
    """Continue the prompt `ids`; returns the new ids only, at most `max_new_tokens`.

    Draw each token from softmax(logits / temperature). Keep only the most probable tokens: the fewest that
    sum to at least `top_p` (Holtzman et al. 2020, section 3.1). Temperature 0 takes the most probable token.
    The same `seed` gives the same text. `stop_id` ends the text and is not returned.
    """
    raise NotImplementedError("generate in lessons/yours/step12_sampling.py")
