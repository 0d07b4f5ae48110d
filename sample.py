# SPDX-License-Identifier: Apache-2.0
"""Text from a trained model: choose a next token, append it, ask again.

    python sample.py "Once upon a time"

Reading order: Settings (how a token is chosen), `filtered` and `Row.choose` (one choice), `decode` (the loop,
with a KV cache), `generate`, then what a person meets: prompts, streaming, history, sweep and chat.
"""
from __future__ import annotations

import dataclasses
import importlib
import json
import math
import random
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterator

# Before torch, which takes seconds: Ctrl-C meanwhile is one line (common.before_run).
from common import Parser, UserError, add_flags, colour, find_run, flag, run

import torch
from torch import Tensor

import tokenizer
from model import SIZES, KVCache, Llama, ModelConfig
from tokenizer import Tokenizer

# --------------------------------------------------------------------------------------------------- settings

@dataclass(frozen=True)
class Settings:
    """How the next token is chosen, and how many there are at most."""

    temperature: float = flag(
        0.8, "divide the logits by this; below 1 is safer, above is wilder, 0 takes the best token always"
    )
    top_p: float = flag(0.9, "keep the fewest tokens whose probabilities sum to at least this; 1 keeps all")
    top_k: int = flag(0, "keep this many of the most probable tokens; 0 keeps all")
    min_p: float = flag(0.0, "keep tokens at least this fraction as probable as the best one; 0 keeps all")
    repetition_penalty: float = flag(1.15, "make tokens that are already in the text less likely; 1 does not")
    max_new_tokens: int = flag(150, "stop after this many tokens, if the model has not ended the text before")

    def check(self) -> Settings:
        """Return self. Raises UserError that lists every impossible value."""
        limits = {
            "temperature": (0, 1e9),
            "top_p": (1e-9, 1),
            "top_k": (0, 1e9),
            "min_p": (0, 1),
            "repetition_penalty": (1e-9, 1e9),
            "max_new_tokens": (0, 1e9),
        }
        found = [
            f"{name} must be between {low:g} and {high:g}, not {getattr(self, name)}"
            for name, (low, high) in limits.items()
            if not low <= getattr(self, name) <= high
        ]
        if found:
            raise UserError("; ".join(found))
        return self


# What the cards recommend: their example's value where it lies in the range that they state, else the nearest
# end of that range. The 20m card's example says repetition_penalty 1.1 and its range begins at 1.15. Ours:
# 50m as 20m, 12m and the v1 line as 30m, anything else as 20m.
STENTOR3 = Settings(temperature=0.8, top_p=0.9, repetition_penalty=1.15, max_new_tokens=150)
STENTOR2 = Settings(temperature=1.0, top_p=0.8, repetition_penalty=1.1, max_new_tokens=80)
RECOMMENDED = {
    "20m": STENTOR3, "50m": STENTOR3, "150m": dataclasses.replace(STENTOR3, repetition_penalty=1.1),
    "30m": STENTOR2, "12m": STENTOR2, "30m-v1": STENTOR2, "12m-v1": STENTOR2,
}

# The names are those of the cards' demo; the values are ours, `balanced` being the recommendation itself.
PRESETS = {
    "creative": {"temperature": 1.0, "top_p": 0.95, "max_new_tokens": 250},
    "balanced": {},
    "focused": {"temperature": 0.5, "top_p": 0.8, "max_new_tokens": 60},
}


def recommended(config: ModelConfig) -> Settings:
    """The settings for a model of this shape: RECOMMENDED for a size of the family, those of 20m for any
    other.
    """
    for name, settings in RECOMMENDED.items():
        size = SIZES[name]
        if (config.hidden_size, config.intermediate_size) == (size.hidden_size, size.intermediate_size):
            return settings
    return STENTOR3


# ------------------------------------------------------------------------------------ choosing the next token

def filtered(logits: Tensor, seen: Tensor, settings: Settings) -> Tensor:
    """The logits (V,) that are sampled from: penalty, temperature, top-k, top-p, min-p, in the order of
    transformers; -inf is never chosen.

    `seen` (V,), bool, marks the tokens of prompt and answer so far. Sources: repetition penalty, Keskar et
    al. 2019, section 4.1; top-k, Fan et al. 2018; top-p, Holtzman et al. 2020, section 3.1; min-p, Nguyen et
    al. 2024, section 3.
    """
    if settings.repetition_penalty != 1:
        penalty = settings.repetition_penalty
        penalized = torch.where(logits > 0, logits / penalty, logits * penalty)               # (V,)
        logits = torch.where(seen, penalized, logits)                                         # (V,)
    if settings.temperature == 0:
        return logits
    logits = (logits - logits.max()) / max(
        settings.temperature, 1e-9
    )  # (V,), at most 0: no temperature overflows
    if 0 < settings.top_k < len(logits):
        kth_best = torch.topk(logits, settings.top_k).values[-1]
        logits = logits.masked_fill(logits < kth_best, -math.inf)                             # (V,)
    if settings.top_p < 1:
        best_first, order = most_probable(torch.softmax(logits, dim=0), settings.top_p)       # (n,)
        better = best_first.cumsum(dim=0) - best_first  # (n,) mass of the more probable tokens
        kept = order[better < settings.top_p]                                                 # (m,)
        logits = torch.full_like(logits, -math.inf).scatter(0, kept, logits[kept])            # (V,)
    if settings.min_p > 0:
        probability = torch.softmax(logits, dim=0)                                            # (V,)
        logits = logits.masked_fill(probability < settings.min_p * probability.max(), -math.inf)
    return logits


def most_probable(probability: Tensor, mass: float) -> tuple[Tensor, Tensor]:
    """The most probable tokens, best first, as (probabilities, ids), at least as many as are needed for
    `mass`.

    A few hundred tokens nearly always hold it, and finding those is some twenty times faster than sorting the
    whole vocabulary (V,).
    """
    size = min(256, len(probability))
    best_first, order = torch.topk(probability, size)                                         # (n,)
    while size < len(probability) and float(best_first.sum()) < mass:
        size = min(8 * size, len(probability))
        best_first, order = torch.topk(probability, size)                                     # (n,)
    return best_first, order


class Row:
    """One answer in the making: its settings, its own random numbers, which tokens its text holds, and how
    many it may still get.

    Raises UserError for impossible settings, an empty prompt, one longer than the model's context, and ids
    that the model does not have.
    """

    def __init__(
        self, model: Llama, ids: list[int], settings: Settings, seed: int, stop_id: int | None = None
    ):
        config = model.config
        if not 0 < len(ids) <= config.max_position_embeddings:
            raise UserError(
                f"the prompt has {len(ids)} tokens; this model reads at least 1 and at most {config.max_position_embeddings}"
            )
        for token in ids:
            if not 0 <= token < config.vocab_size:
                raise UserError(
                    f"the prompt holds token {token} but the model has {config.vocab_size}; vocabulary and model do not belong together"
                )
        self.settings = settings.check()
        self.random = random.Random(seed)
        self.stop_id = stop_id
        self.left = settings.max_new_tokens
        self.seen = torch.zeros(
            config.vocab_size, dtype=torch.bool, device=model.model.embed_tokens.weight.device
        )
        self.seen[ids] = True

    def choose(self, logits: Tensor) -> int:
        """Draw a token from `filtered(logits)` (V,): the first whose cumulated probability exceeds a uniform
        number in [0, 1).
        """
        logits = filtered(logits.float(), self.seen, self.settings)                           # (V,)
        if not math.isfinite(logits.max()):
            raise UserError("the model's logits are not finite numbers; its weights are too large or damaged")
        if self.settings.temperature == 0:
            token = int(logits.argmax())
        else:
            cumulated = torch.softmax(logits.double(), dim=0).cumsum(dim=0)                   # (V,)
            point = self.random.random() * cumulated[-1:]                                     # (1,)
            token = int(torch.searchsorted(cumulated, point, right=True))
        self.seen[token] = True
        self.left = 0 if token == self.stop_id else self.left - 1
        return token


# --------------------------------------------------------------------------------------------------- decoding

Step = Callable[[Tensor, KVCache], Tensor]              # newest tokens (B, 1) and the cache -> logits (B, V)


@torch.inference_mode()
def decode(
    model: Llama, ids: list[int], rows: list[Row], step: Step | None = None
) -> Iterator[tuple[list[int | None], Tensor]]:
    """Continue one prompt in B rows. Yields, for each position, the rows' tokens (None for a row that is
    done) and the logits (B, V) they came from.

    The prompt is read in one pass; then `step` (None: the model itself) does one position at a time. The
    cache is allocated once, for the longest row. Ends when all rows have their tokens or their `stop_id`, or
    at `max_position_embeddings`.
    """
    config, device, dtype = (
        model.config,
        model.model.embed_tokens.weight.device,
        model.model.embed_tokens.weight.dtype,
    )
    length = min(config.max_position_embeddings, len(ids) + max(row.left for row in rows))
    prompt, cache = (KVCache(config, B, T, device, dtype) for B, T in ((1, len(ids)), (len(rows), length)))
    hidden = model.model(torch.tensor([ids], device=device), prompt)                          # (1, T, D)
    logits = model.project(hidden[:, -1]).expand(len(rows), -1)  # (B, V)
    cache.keys[..., : len(ids), :], cache.values[..., : len(ids), :], cache.length = (
        prompt.keys,
        prompt.values,
        len(ids),
    )
    for _ in range(length - len(ids)):
        tokens = [row.choose(logits[i]) if row.left else None for i, row in enumerate(rows)]
        yield tokens, logits
        if not any(row.left for row in rows):
            return
        newest = torch.tensor([[token or 0] for token in tokens], device=device)              # (B, 1)
        logits = step(newest, cache) if step else model(newest, cache)[:, -1]                 # (B, V)


def generate(
    model: Llama,
    ids: list[int],
    max_new_tokens: int,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    seed: int | None = None,
    stop_id: int | None = None,
    step: Step | None = None,
) -> list[int]:
    """The new ids that continue `ids`, at most `max_new_tokens`, without `stop_id`, which ends them.

    Temperature 0 is greedy. The same seed gives the same ids; None draws one. Ends at
    `max_position_embeddings`. Raises UserError as `Row`.
    """
    settings = Settings(temperature, top_p, top_k, min_p, repetition_penalty, max_new_tokens)
    row = Row(model, ids, settings, random.randrange(2**32) if seed is None else seed, stop_id)
    new = [tokens[0] for tokens, _ in decode(model, ids, [row], step)]
    return new[:-1] if new and new[-1] == stop_id else new


# ---------------------------------------------------------------------------------------- prompts and answers

@dataclass(frozen=True)
class Source:
    """A model that can be asked: its weights and the step that decodes with them, its tokenizer, and the
    settings recommended for it.
    """

    name: str
    folder: Path
    model: Llama
    step: Step
    tokenizer: Tokenizer
    settings: Settings


def open_source(
    run_or_folder: str | Path | None = None, weights: str = "fp32", device: str = "cpu"
) -> Source:
    """Load a run's best model or any folder of the Llama layout; without a name the newest run. Raises
    UserError for what cannot be used.
    """
    from sampling.weights import quantized
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no CUDA device here; leave the flag out to use the CPU")
    folder = find_run(run_or_folder)
    vocabulary = tokenizer.load(folder)
    model, step = quantized(Llama.from_pretrained(folder).to(device).eval(), weights)
    if vocabulary.vocab_size > model.config.vocab_size:
        raise UserError(
            f"{folder}: the vocabulary has {vocabulary.vocab_size} tokens, the model {model.config.vocab_size}: not of one training"
        )
    name = (
        folder.resolve().parent.name
        if folder.name.split(".")[0] in ("best", "last")
        else folder.resolve().name
    )
    return Source(name, folder, model, step, vocabulary, recommended(model.config))


@dataclass
class Answer:
    """What a model has said so far to one prompt; `ended` by the separator, not by the length."""

    settings: Settings
    seed: int
    text: str = ""
    ids: list[int] = dataclasses.field(default_factory=list)
    ended: bool = False


def respond(source: Source, prompt: str, rows: list[tuple[Settings, int]]) -> Iterator[list[Answer]]:
    """Continue `prompt` once for each (settings, seed). Yields the growing answers before the first and after
    each token.

    The prompt is encoded as the cards do, without a separator before it; an empty one stands for the start of
    a document, the separator alone. A text ends where its characters are whole: the bytes of one character
    may come from several tokens.
    """
    model, vocabulary = source.model, source.tokenizer
    ids = vocabulary.encode(prompt, document=True) or [vocabulary.eos_id]
    answers = [Answer(settings, seed) for settings, seed in rows]
    streams = [vocabulary.stream() for _ in rows]
    for stream in streams:
        stream.feed(ids)
    # refuses a prompt that the model cannot read
    unfinished = [Row(model, ids, *row, vocabulary.eos_id) for row in rows]
    yield answers
    for tokens, _ in decode(model, ids, unfinished, source.step):
        for answer, stream, token in zip(answers, streams, tokens):
            answer.ended |= token == vocabulary.eos_id
            if token is not None and not answer.ended:
                answer.ids.append(token)
                answer.text += stream.feed([token])
        yield answers


def say(
    source: Source,
    prompt: str,
    rows: list[tuple[Settings, int]],
    show: str | None = None,
    stop: str | None = None,
) -> dict:
    """Let a model answer. With `show` the first answer appears on the terminal as it is made, after `show`.
    Returns what history and --json keep.
    """
    from sampling import history
    began, shown = time.perf_counter(), 0
    for answers in respond(source, prompt, rows):
        text, found, _ = answers[0].text.partition(stop) if stop else (answers[0].text, "", "")
        if show is not None:
            print(show + text[shown:], end="", flush=True)
            show, shown = "", len(text)
        if found:
            answers[0].text = text
            break
    return history.remember(source, prompt, answers, time.perf_counter() - began)


def sweep(source: Source, prompt: str, settings: Settings, seed: int, temperatures: list[float]) -> None:
    """Answer one prompt at several temperatures, with the same random numbers, and show where the answers
    part.
    """
    rows = [(dataclasses.replace(settings, temperature=value).check(), seed) for value in temperatures]
    texts = [answer["text"] for answer in say(source, prompt, rows)["answers"]]
    from sampling.columns import side_by_side, where_they_part

    print(
        side_by_side(
            [f"temperature {value:g}\n{text}" for value, text in zip(temperatures, texts)],
            shutil.get_terminal_size().columns,
        )
    )
    print(f"\nthe same seed {seed}; {where_they_part(texts)}")


def chat_prompt(turns: list[tuple[str, str]]) -> str:
    """The cards' template: each message's role between <| and |>, then its content; at the end the
    assistant's tag.
    """
    return "".join(f"<|{role}|>{content}" for role, content in turns) + "<|assistant|>"


def recent(source: Source, turns: list[tuple[str, str]], settings: Settings) -> list[tuple[str, str]]:
    """`turns` without the oldest questions and answers, so that an answer of `max_new_tokens` fits in the
    context after them.
    """
    room = source.model.config.max_position_embeddings - settings.max_new_tokens
    while len(turns) > 1 and len(source.tokenizer.encode(chat_prompt(turns), document=True)) > room:
        turns = turns[2:]
    return turns


def chat(source: Source, settings: Settings, seed: int) -> None:
    """Talk in turns until an empty line; the oldest turns are forgotten when the context is full."""
    print(BASE_MODEL, "An empty line ends the chat.")
    turns = []
    print("you> ", end="", flush=True)
    while sys.stdin and (said := sys.stdin.readline().strip()):
        turns = recent(source, [*turns, ("user", said)], settings)
        record = say(source, chat_prompt(turns), [(settings, seed + len(turns))], show="", stop="<|")
        turns.append(("assistant", record["answers"][0]["text"]))
        print("\nyou> ", end="", flush=True)
    print()


# ----------------------------------------------------------------------------------------------- command line

def numbers(text: str) -> list[float]:
    """"0.3,0.7" -> [0.3, 0.7]."""
    return [float(part) for part in text.split(",")]


@dataclass(frozen=True)
class Options:
    """The flags that are not Settings."""

    preset: str = flag("balanced", "a bundle of temperature, top-p and length", choices=list(PRESETS))
    seed: int | None = flag(
        None, "the same seed gives the same text (default: a new one each time, shown at the end)"
    )
    n: int = flag(1, "how many answers; row i has seed + i, and is the same alone")
    prompt_file: str | None = flag(None, "read the prompt from this file; - reads it from standard input")
    json: bool = flag(False, "print one JSON object with texts, settings and times")
    history: bool = flag(False, "print the prompts and answers so far, and end")
    sweep: str | None = flag(
        None, "answer at several temperatures, for instance 0.3,0.7,1.1", type=numbers, metavar="T,T,T"
    )
    chat: bool = flag(False, "talk in turns (a base model is no assistant)")
    explore: str | None = flag(
        None, "write a page that shows each token's probability and alternatives", metavar="FILE.html"
    )
    arena: str | None = flag(
        None, "let a second model answer too: a run, a model folder, or random", metavar="OTHER"
    )
    blind: bool = flag(False, "with --arena: hide which model is which until you have voted")
    draft: str | None = flag(
        None, "speculative decoding with this smaller model of the same vocabulary", metavar="RUN"
    )
    web: bool = flag(False, "the same in a browser, on 127.0.0.1 only")
    weights: str = flag(
        "fp32", "how the weights are stored while decoding", choices=["fp32", "bf16", "int8", "int8-dynamic"]
    )
    device: str = flag("cpu", "where to compute", choices=["cpu", "cuda"])
    run: str | None = None                                        # RUN as it was given: no flag


EXAMPLES = """  python sample.py                                       continue a standard prompt with the newest run
  python sample.py "Once upon a time" --temperature 0    the same text each time
  python sample.py runs/20m "Water is" --preset focused --n 3
  python sample.py runs/20m --sweep 0.3,0.7,1.1
  echo "Water is" | python sample.py"""
BASE_MODEL = "A base model continues text; it is no assistant and was never taught to answer."
PROMPT = "Once upon a time"                 # one of the cards' own
VIEWS = {"explore": "sampling.explore", "arena": "sampling.arena", "draft": "sampling.speculate"}


def main() -> int | None:
    """The command line."""
    from sampling.prompt import check_together, run_and_prompt
    parser = Parser("Continue a text with a trained model.", EXAMPLES)
    parser.add_argument(
        "run", nargs="?", help="run folder or Llama-layout model folder (default: the newest under runs/)"
    )
    parser.add_argument(
        "prompt", nargs="?", help=f"the text to continue; - reads standard input (default: {PROMPT!r})"
    )
    add_flags(parser, Settings)
    add_flags(parser, Options)
    given = vars(parser.parse_args())
    first, second = given.pop("run"), given.pop("prompt")
    chosen = {
        field.name: given.pop(field.name) for field in dataclasses.fields(Settings) if field.name in given
    }
    check_together(given)
    options = Options(**given)
    place, prompt = run_and_prompt(first, second, options.prompt_file, None if options.chat else PROMPT)
    if options.web:
        from sampling import web
        return web.serve(place, prompt)
    if options.history:
        from sampling import history
        return history.show(find_run(place), options.json)
    source = open_source(place, options.weights, options.device)
    settings = dataclasses.replace(source.settings, **{**PRESETS[options.preset], **chosen}).check()
    seed = random.randrange(2**32) if options.seed is None else options.seed
    for flag_name, module in VIEWS.items():
        if getattr(options, flag_name):
            return importlib.import_module(module).show(
                source, prompt, settings, seed, dataclasses.replace(options, run=place)
            )
    if options.chat:
        return chat(source, settings, seed)
    if options.sweep:
        return sweep(source, prompt, settings, seed, options.sweep)
    alone = options.n == 1 and not options.json
    record = say(
        source,
        prompt,
        [(settings, seed + i) for i in range(options.n)],
        show=colour(prompt, "2") if alone else None,
    )
    if options.json:
        print(json.dumps(record, ensure_ascii=False))
    for answer in record["answers"] if not alone and not options.json else []:
        print(colour(f"--- seed {answer['seed']}", "2"), prompt + answer["text"], sep="\n")
    speed = (
        f"{record['tokens']} tokens in {record['seconds']:.2f} s, {record['tokens_per_second']:.0f} tokens/s"
    )
    print(f"\n{source.name}: {speed}, seed {seed}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
