# SPDX-License-Identifier: Apache-2.0
"""lm-eval for a tokenizer that looks ahead: a model type for the harness's own command line.

    python -m judging.lm_eval_model --model tokenmonster --tasks winogrande \\
        --model_args pretrained=runs/20m/best,trust_remote_code=True

lm-eval finds the tokens of a choice by counting: it encodes context + choice and drops as many tokens as the
context alone has. TokenMonster may join the end of a context and the beginning of a choice in one token:
"She is one of" has 4 tokens, "She is one of the" has 4 as well. Then no token is left for the choice.
lm-eval 0.4.13 either stops (`assert len(continuation_enc) > 0`) or, if another choice has just one token,
gives the empty one log-probability 0 from its cache: it counts as certain and wins. The authors of the
Stentor3 card patched the harness to score token 0 there.

A tokenizer class with the reference's ids cannot prevent this, because the ids decide it. The harness lets a
model type override `_encode_pair`: where lm-eval's own rule leaves nothing, the choice begins with the first
token that reaches beyond the context. Its part of the context is then scored with the choice; `evaluate.py`
(boundary "bytes") computes the exact probability instead.
"""
from __future__ import annotations

import sys
import unicodedata
from pathlib import Path
from typing import Any

# Some tasks import the package `evaluate`, which the project's evaluate.py would shadow.
sys.path = [
    place for place in sys.path if Path(place or ".").resolve() != Path(__file__).resolve().parent.parent
]
try:
    from lm_eval.__main__ import cli_evaluate
    from lm_eval.api.registry import register_model
    from lm_eval.models.huggingface import HFLM
except ImportError as error:
    print(
        f"lm_eval_model: error: {error.name} is not installed: pip install lm_eval transformers",
        file=sys.stderr,
    )
    raise SystemExit(2) from None


def first_beyond(tokenizer: Any, whole: list[int], context: str) -> int:
    """Number of leading tokens of `whole` that lie within `context`, compared in NFD as decoding gives."""
    room = len(unicodedata.normalize("NFD", context))
    count = 0
    while count < len(whole) and len(tokenizer.decode(whole[:count + 1])) <= room:
        count += 1
    return count


@register_model("tokenmonster")
class TokenMonsterLM(HFLM):
    """The harness's `hf` model, with a rule for contexts whose last token covers the complete choice."""

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        context_ids, continuation_ids = super()._encode_pair(context, continuation)
        if continuation_ids:
            return context_ids, continuation_ids
        whole = self.tok_encode(context + continuation)
        count = first_beyond(self.tokenizer, whole, context.rstrip())
        return whole[:count] or [self.prefix_token_id], whole[count:]


if __name__ == "__main__":
    cli_evaluate()
