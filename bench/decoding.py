# SPDX-License-Identifier: Apache-2.0
"""Tokens per second of decoding one row, beside transformers' `generate` and llama.cpp in the same run.

The table also gives the bandwidth that each one achieves, as a share of the memory's. llama.cpp is measured
on a CPU if its package is installed (pip install llama-cpp-python).

    python -m bench.decoding                              a 20m with random weights, at a short context and
                                                          near 4,096
    python -m bench.decoding --run runs/20m --text validation.txt
                                                          and what BF16 and INT8 weights cost on a text

A decoding step reads every weight once and the keys and values of all positions, so

    bytes per token = weights + context * layers * 2 * K * F * 4
    achieved bandwidth = bytes per token * tokens per second

On a GPU "ours" replays one CUDA graph per token; its recording, once for each text, is part of the time.
"fast step" is the same work without a graph. The memory's bandwidth is measured too (a sum over a tensor far
larger than the caches). A step that reaches it is bound by memory; the rest is the overhead of starting
operations. The clock starts after the first new token, so reading the prompt is not part of the time. All
choose greedily, from the same folder, with the same number of threads. They take turns, and the best turn of
each counts.

llama.cpp reads the same weights, exported by `publishing.to_gguf`, in as many bytes each: f32, f16 and q8_0
beside our FP32, BF16 and INT8. Its keys and values are FP16, its default; ours are FP32.
"""
from __future__ import annotations

import importlib.util
import sys
import tempfile
import time
from pathlib import Path
from typing import Callable

import numpy
import torch
from torch import Tensor

import evaluate
from bench.weight_forms import bytes_read
from common import Parser, UserError, run
from model import SIZES, Llama, ModelConfig
from publishing.to_gguf import export
from sample import Draw, NextLogits, SampleSettings, decode
from sampling.answers import load_model_of
from sampling.fast_decoder import FastDecoder
from sampling.weights import FORMS, quantized
from tokenizer import load as load_tokenizer

# Our form of the weights -> llama.cpp's type with as many bytes a weight (q8_0: 34 bytes for 32 weights).
LLAMA_CPP = {"fp32": "f32", "bf16": "f16", "int8": "q8_0"}


def memory_bandwidth(device: str, megabytes: int = 512) -> float:
    """Bytes per second that this machine reads: the best of three sums over a tensor that fits no cache."""
    block = torch.ones(megabytes * 2**20 // 4, device=device)
    block.sum().item()
    best = 0.0
    for _ in range(3):
        began = time.perf_counter()
        block.sum().item()                                        # waits for the device
        best = max(best, block.numel() * 4 / (time.perf_counter() - began))
    return best


def cache_bytes(config: ModelConfig, context: int) -> int:
    """Bytes of keys and values (FP32) that a step at this context reads."""
    return context * config.num_hidden_layers * 2 * config.num_key_value_heads * config.head_dim * 4


def our_seconds(model: Llama, step: NextLogits | None, ids: list[int], tokens: int) -> float:
    """Seconds per token of `sample.decode`, greedy, between the ends of the first and the last new token."""
    greedy = SampleSettings(temperature=0, top_p=1, repetition_penalty=1, max_new_tokens=tokens)
    ends = [time.perf_counter() for _ in decode(model, ids, [Draw(model, ids, greedy, seed=0)], step)]
    assert len(ends) == tokens
    return (ends[-1] - ends[0]) / (tokens - 1)


@torch.inference_mode()
def their_seconds(theirs: object, ids: list[int], tokens: int) -> float:
    """Seconds per token of transformers' `generate`, over the same span as in `our_seconds`."""
    ends: list[float] = []

    def note_the_time(input_ids: Tensor, scores: object, **unused: object) -> Tensor:
        ends.append(time.perf_counter())
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)  # (B,), nobody is done

    prompt = torch.tensor([ids], device=theirs.device)  # (1, T)
    theirs.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=tokens,
        do_sample=False,
        repetition_penalty=1.0,
        eos_token_id=None,
        pad_token_id=0,
        stopping_criteria=[note_the_time],
    )
    assert len(ends) == tokens
    return (ends[-1] - ends[0]) / (tokens - 1)


class LlamaCpp:
    """The model in `folder` as llama.cpp computes it, with its matrices in the GGUF type `kind`.

    The GGUF file is written to the folder `scratch`, once for all contexts.
    """

    def __init__(self, folder: Path, kind: str, context: int, scratch: Path):
        import llama_cpp
        file = scratch / f"{kind}.gguf"
        if not file.exists():
            export(folder, file, kind)
        threads = torch.get_num_threads()
        self.model = llama_cpp.Llama(
            str(file), n_ctx=context, n_threads=threads, n_threads_batch=threads, verbose=False
        )
        self.logits_of = llama_cpp.llama_get_logits_ith

    def seconds(self, ids: list[int], tokens: int) -> float:
        """Seconds per token, from the end of the first new token to the end of the last."""
        self.model.reset()
        newest, ends = ids, []
        for _ in range(tokens):
            self.model.eval(newest)
            logits = numpy.ctypeslib.as_array(self.logits_of(self.model.ctx, -1), (self.model.n_vocab(),))
            newest = [int(logits.argmax())]
            ends.append(time.perf_counter())
        return (ends[-1] - ends[0]) / (tokens - 1)


def compare(
    folder: Path, context: int, tokens: int, rounds: int, machine: float, device: str, scratch: Path
) -> None:
    """Print one table: transformers, our plain step, our step in each form of the weights, llama.cpp.

    `machine` is the memory's speed in bytes per second; `scratch` is an empty folder for llama.cpp's files.
    """
    try:
        from transformers import LlamaForCausalLM
        from transformers.utils import logging
    except ImportError:
        raise UserError("bench.decoding compares with transformers: pip install transformers") from None
    logging.disable_progress_bar()
    model = Llama.from_pretrained(folder).to(device).eval()
    theirs = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).to(device).eval()
    ids = torch.randint(
        model.config.vocab_size, (context - tokens,), generator=torch.Generator().manual_seed(0)
    ).tolist()
    forms = [form for form in FORMS if device == "cpu" or not form.startswith("int8")]
    cache = cache_bytes(model.config, context)
    read = {form: bytes_read(model, form) + cache for form in forms}
    ways: dict[str, tuple[Callable[[], float], int]] = {
        "transformers fp32": (lambda: their_seconds(theirs, ids, tokens), read["fp32"]),
        "plain step fp32": (lambda: our_seconds(model, None, ids, tokens), read["fp32"]),
    }
    if device == "cuda":
        eager = FastDecoder(model)
        ways["fast step fp32"] = (lambda: our_seconds(model, eager, ids, tokens), read["fp32"])
    for form in forms:
        stored, step = quantized(Llama.from_pretrained(folder).to(device).eval(), form)
        ways[f"ours {form}"] = (
            lambda stored=stored, step=step: our_seconds(stored, step, ids, tokens),
            read[form],
        )
    if device == "cpu" and importlib.util.find_spec("llama_cpp"):
        for form, kind in LLAMA_CPP.items():
            other = LlamaCpp(folder, kind, context, scratch)
            ways[f"llama.cpp {kind}"] = (
                lambda other=other: other.seconds(ids, tokens), read[form] - cache // 2
            )
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for name, (measure, _) in ways.items():
            best[name] = min(best[name], measure())
    print(
        f"\ncontext {context}, {tokens} tokens, best of {rounds}\n"
        f"{'':20}{'tokens/s':>10}{'ratio':>8}{'GB/s':>8}{'of memory':>11}"
    )
    for name, (_, size) in ways.items():
        speed = 1 / best[name]
        ratio = best["transformers fp32"] / best[name]
        print(
            f"{name:20}{speed:10.1f}{ratio:8.2f}{size * speed / 1e9:8.2f}{size * speed / machine:11.0%}",
            flush=True,
        )
    for form, kind in LLAMA_CPP.items():
        if f"llama.cpp {kind}" in ways:
            ratio = best[f"llama.cpp {kind}"] / best[f"ours {form}"]
            print(f"ours {form} beside llama.cpp {kind}: {ratio:.2f}")


def losses(run_folder: str, text: str) -> None:
    """Print the loss of each form of the weights on a text, and what it costs against FP32."""
    base = None
    print(f"\n{'weights':14}{'loss':>9}{'cost':>9}")
    for form in FORMS:
        loaded = load_model_of(run_folder, form)
        loss = evaluate.perplexity(loaded.model, loaded.tokenizer, text)["loss"]
        base = loss if base is None else base
        print(f"{form:14}{loss:9.4f}{loss - base:+9.4f}", flush=True)


def main() -> int:
    """The command line."""
    parser = Parser(
        "Measure decoding beside transformers and beside the memory's speed.",
        "  python -m bench.decoding --contexts 64 4096",
    )
    parser.add_argument("--run", help="run or model folder (default: a 20m with random weights)")
    parser.add_argument(
        "--size", choices=list(SIZES), default="20m", help="without --run: this size (default: 20m)"
    )
    parser.add_argument(
        "--contexts",
        type=int,
        nargs="+",
        default=[64, 4096],
        help="positions at the end of the measurement (default: 64 4096)",
    )
    parser.add_argument("--tokens", type=int, default=48, help="how many tokens to time (default: 48)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each way (default: 3)")
    parser.add_argument(
        "--device", choices=["cpu", "cuda"], default="cpu", help="where to compute (default: cpu)"
    )
    parser.add_argument("--text", help="with --run: a text file to measure the loss on")
    args = parser.parse_args()
    if args.text and not args.run:
        raise UserError("--text needs --run: random weights have no loss worth measuring")
    if args.tokens < 2 or min(args.contexts) <= args.tokens:
        raise UserError("--tokens must be at least 2 and less than each of --contexts")
    machine = memory_bandwidth(args.device)
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, memory reads {machine / 1e9:.1f} GB/s"
    )
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        if args.run:
            folder = load_model_of(args.run).folder
        else:
            folder = scratch / "model"
            Llama(SIZES[args.size]).save_pretrained(folder, eos_token_id=load_tokenizer().eos_id)
        for context in args.contexts:
            compare(folder, context, args.tokens, args.rounds, machine, args.device, scratch)
    if args.text:
        losses(args.run, Path(args.text).read_text(encoding="utf-8", errors="replace"))
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
