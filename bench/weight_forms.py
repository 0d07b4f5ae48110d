# SPDX-License-Identifier: Apache-2.0
"""Cost and gain of BF16 and INT8 weights: bytes read, loss on a text, tokens/s of each format.

    python -m bench.weight_forms RUN TEXT_FILE
"""
from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

import evaluate
from common import Parser, UserError, run
from model import KVCache, Llama
from sampling.answers import LoadedModel, load_model_of
from sampling.weights import FORMS

BYTES = {"fp32": 4, "bf16": 2, "int8": 1, "int8-dynamic": 1}


def bytes_read(model: Llama, form: str) -> int:
    """Bytes of weights that one decoding step reads, for the FP32 `model` stored in `form`.

    A step reads every matrix once (of an untied embedding only one row) and the norms in FP32.
    """
    matrices = sum(parameter.numel() for parameter in model.parameters() if parameter.dim() == 2)
    norms = sum(parameter.numel() for parameter in model.parameters() if parameter.dim() == 1)
    if not model.config.tie_word_embeddings:
        matrices -= model.model.embed_tokens.weight.numel()
    return matrices * BYTES[form] + norms * 4


def seconds_per_token(loaded: LoadedModel, tokens: int) -> float:
    """The mean time of `tokens` greedy decoding steps after a short prompt."""
    cache = KVCache(loaded.model.config, 1, tokens + 2)
    newest = torch.tensor([[loaded.tokenizer.eos_id]])                        # (1, 1)
    for i in range(tokens + 1):
        logits = loaded.next_logits(newest, cache)                            # (1, V)
        newest = logits.argmax(dim=1, keepdim=True)                           # (1, 1)
        if i == 0:
            started = time.perf_counter()  # after the first step, which fills caches
    return (time.perf_counter() - started) / tokens


def main() -> int:
    """The command line."""
    parser = Parser(
        "Measure cost and gain of BF16 and INT8 weights.",
        "  python -m bench.weight_forms runs/20m validation.txt",
    )
    parser.add_argument("run", help="run folder or model folder")
    parser.add_argument("text", help="a text that the model has not seen")
    parser.add_argument("--tokens", type=int, default=64, help="how many tokens to time (default: 64)")
    args = parser.parse_args()
    text = Path(args.text).read_text(encoding="utf-8", errors="replace")
    model, base = load_model_of(args.run).model, None
    longest = model.config.max_position_embeddings - 2
    if not 0 < args.tokens <= longest:
        raise UserError(f"--tokens {args.tokens} must be 1 to {longest}, the limit of this model's context")
    print(f"{'weights':14}{'MB read':>9}{'loss':>9}{'cost':>9}{'tokens/s':>10}")
    for form in FORMS:
        loaded = load_model_of(args.run, form)
        loss = evaluate.perplexity(loaded.model, loaded.tokenizer, text)["loss"]
        base = loss if base is None else base
        speed = 1 / seconds_per_token(loaded, args.tokens)
        print(f"{form:14}{bytes_read(model, form) / 1e6:9.1f}{loss:9.4f}{loss - base:+9.4f}{speed:10.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
