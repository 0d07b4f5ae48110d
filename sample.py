# SPDX-License-Identifier: Apache-2.0
"""Text from a trained model: choose a next token, append it, repeat.

    python sample.py "Once upon a time"

Reading order: `SampleSettings` (how a token is chosen), `filtered` and `Draw.choose` (one choice), `decode`
(the loop, with a KV cache), `generate`. Opening a model and everything that a person sees is in sampling/.
"""
from __future__ import annotations

import argparse
import dataclasses
import json
import math
import operator
import random
import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

# common comes before torch, which takes seconds to import: Ctrl-C during that time prints one line.
from common import (
    Flow, Parser, UserError, add_flags, colour, find_run, flag, read_json, run
)

import torch
from torch import Tensor

from model import SIZES, KVCache, Llama, ModelConfig

# --------------------------------------------------------------------------------------------------- settings

MODELS = "recommended for the model"                          # in --help; see `recommended`


@dataclass(frozen=True)
class SampleSettings:
    """How the next token is chosen, and the largest number of new tokens."""

    temperature: float = flag(0.8, "divide the logits by this; below 1 is safer, above 1 wilder, 0 is greedy",
                              shown=MODELS)
    top_p: float = flag(0.9, "keep the fewest tokens whose probabilities sum to at least this; 1 keeps all",
                        shown=MODELS)
    top_k: int = flag(0, "keep this many of the most probable tokens; 0 keeps all")
    min_p: float = flag(0.0, "keep tokens at least this fraction as probable as the best one; 0 keeps all")
    repetition_penalty: float = flag(1.15, "make tokens that are in the text already less likely; 1 is off",
                                     shown=MODELS)
    max_new_tokens: int = flag(150, "stop after this many tokens, unless the model ends the text before",
                               shown=MODELS)

    def check(self) -> SampleSettings:
        """Return self. Raises UserError that lists every impossible value."""
        limits = {
            "temperature": (0, 1e9), "top_p": (1e-9, 1), "top_k": (0, 1e9), "min_p": (0, 1),
            "repetition_penalty": (1e-9, 1e9), "max_new_tokens": (0, 1e9),
        }
        problems = []
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if isinstance(value, (str, type(None))) or not low <= value <= high:      # false for NaN too
                problems.append(f"{name} must be between {low:g} and {high:g}, not {value!r}")
        if problems:
            raise UserError("; ".join(problems))
        return self


# What the cards recommend: the value of their example, moved into the range that they state. The 20m card's
# example says repetition_penalty 1.1, but its range starts at 1.15. Our choices: 50m as 20m; 12m and the v1
# sizes as 30m; any other model as 20m.
STENTOR3 = SampleSettings(temperature=0.8, top_p=0.9, repetition_penalty=1.15, max_new_tokens=150)
STENTOR2 = SampleSettings(temperature=1.0, top_p=0.8, repetition_penalty=1.1, max_new_tokens=80)
RECOMMENDED = {
    "20m": STENTOR3, "50m": STENTOR3, "150m": dataclasses.replace(STENTOR3, repetition_penalty=1.1),
    "30m": STENTOR2, "12m": STENTOR2, "30m-v1": STENTOR2, "12m-v1": STENTOR2,
}

# The names are those of the cards' demo. The values are ours; `balanced` is the recommendation itself.
PRESETS = {
    "creative": {"temperature": 1.0, "top_p": 0.95, "max_new_tokens": 250},
    "balanced": {},
    "focused": {"temperature": 0.5, "top_p": 0.8, "max_new_tokens": 60},
}


def recommended(config: ModelConfig, folder: Path | None = None) -> SampleSettings:
    """The recommended settings for a model: RECOMMENDED for a size of the family, those of 20m for others.

    A model in `folder` that was trained on the built-in corpus gets no repetition penalty: it has learned to
    copy names, and a penalty prevents that (measured: BENCHMARKS.md). It also gets room for a complete tale.
    """
    found = STENTOR3
    for name, settings in RECOMMENDED.items():
        size = SIZES[name]
        if (config.hidden_size, config.intermediate_size) == (size.hidden_size, size.intermediate_size):
            found = settings
    copies = folder is not None and learned_to_copy(folder)
    return dataclasses.replace(found, repetition_penalty=1.0, max_new_tokens=250) if copies else found


def learned_to_copy(folder: Path) -> bool:
    """Whether this model folder is of a run on the built-in corpus, as its run.json says."""
    places = (folder, *folder.absolute().parents[:2])
    run_folder = next((place for place in places if (place / "run.json").is_file()), None)
    try:
        return run_folder is not None and read_json(run_folder / "run.json").get("entropy") is not None
    except (UserError, OSError):                                  # damaged, or this user may not read it
        return False


# ------------------------------------------------------------------------------------ choosing the next token

def filtered(logits: Tensor, seen: Tensor, settings: SampleSettings) -> Tensor:
    """The logits (V,) from which a token is drawn; -inf is never drawn.

    Applies penalty, temperature, top-k, top-p and min-p, in the order of transformers. `seen` (V,), bool,
    marks the tokens of the prompt and of the answer so far. Sources: repetition penalty, Keskar et al. 2019,
    section 4.1; top-k, Fan et al. 2018; top-p, Holtzman et al. 2020, section 3.1; min-p, Nguyen et al. 2024,
    section 3.
    """
    if settings.repetition_penalty != 1:
        penalty = settings.repetition_penalty
        penalized = torch.where(logits > 0, logits / penalty, logits * penalty)               # (V,)
        logits = torch.where(seen, penalized, logits)                                         # (V,)
    if settings.temperature == 0:
        return logits
    logits = logits - logits.max()                            # (V,) at most 0: dividing cannot overflow
    logits = logits / max(settings.temperature, 1e-9)                                         # (V,)
    if 0 < settings.top_k < len(logits):
        kth_best = torch.topk(logits, settings.top_k).values[-1]
        logits = logits.masked_fill(logits < kth_best, -math.inf)                             # (V,)
    if settings.top_p < 1:
        best_first, order = most_probable(torch.softmax(logits, dim=0), settings.top_p)       # (n,)
        better = best_first.cumsum(dim=0) - best_first          # (n,) mass of the more probable tokens
        kept = order[better < settings.top_p]                                                 # (m,)
        logits = torch.full_like(logits, -math.inf).scatter(0, kept, logits[kept])            # (V,)
    if settings.min_p > 0:
        probability = torch.softmax(logits, dim=0)                                            # (V,)
        logits = logits.masked_fill(probability < settings.min_p * probability.max(), -math.inf)
    return logits


def most_probable(probability: Tensor, mass: float) -> tuple[Tensor, Tensor]:
    """(probabilities, ids) of the most probable tokens, best first, that hold at least `mass`.

    A few hundred tokens nearly always hold it. Finding those is about twenty times faster than sorting the
    complete vocabulary (V,).
    """
    size = min(256, len(probability))
    best_first, order = torch.topk(probability, size)                                         # (n,)
    while size < len(probability) and float(best_first.sum()) < mass:
        size = min(8 * size, len(probability))
        best_first, order = torch.topk(probability, size)                                     # (n,)
    return best_first, order


def pick(weight: Tensor, number: float) -> int:
    """The first token at which the cumulated `weight` (V,), float64, exceeds `number` of its total.

    With `number` uniform in [0, 1), each token comes with a probability proportional to its weight.
    """
    cumulated = weight.cumsum(dim=0)                                                          # (V,)
    return int(torch.searchsorted(cumulated, number * cumulated[-1:], right=True))


class Draw:
    """The state of one answer: settings, random numbers, the tokens in its text, the number of tokens left.

    Raises UserError for impossible settings, an empty prompt, a prompt longer than the model's context, and
    ids that the model does not have.
    """

    def __init__(
        self, model: Llama, ids: list[int], settings: SampleSettings, seed: int,
        stop_ids: Collection[int] = (),
    ):
        config = model.config
        if not 0 < len(ids) <= config.max_position_embeddings:
            raise UserError(f"the prompt has {len(ids)} tokens; this model reads at least 1 and at most "
                            f"{config.max_position_embeddings}")
        for token in ids:
            if not 0 <= token < config.vocab_size:
                raise UserError(f"the prompt has token {token}, the model only {config.vocab_size} tokens; "
                                "the vocabulary belongs to another model")
        self.settings = settings.check()
        self.random = random.Random(operator.index(seed))
        self.stop_ids = frozenset(map(operator.index, stop_ids))
        self.left = settings.max_new_tokens
        device = model.model.embed_tokens.weight.device
        self.seen = torch.zeros(config.vocab_size, dtype=torch.bool, device=device)           # (V,)
        self.seen[ids] = True

    def choose(self, logits: Tensor) -> int:
        """Draw a token from `filtered(logits)`, logits (V,)."""
        logits = filtered(logits.float(), self.seen, self.settings)                           # (V,)
        if not math.isfinite(logits.max()):
            raise UserError("the model's logits are not finite numbers; its weights are too large or damaged")
        if self.settings.temperature == 0:
            token = int(logits.argmax())
        else:
            token = pick(torch.softmax(logits.double(), dim=0), self.random.random())
        self.seen[token] = True
        self.left = 0 if token in self.stop_ids else self.left - 1
        return token


# --------------------------------------------------------------------------------------------------- decoding

# The newest tokens (B, 1) and the cache -> the logits (B, V) of the tokens after them.
NextLogits = Callable[[Tensor, KVCache], Tensor]


@torch.inference_mode()
def decode(
    model: Llama, ids: list[int], draws: list[Draw], next_logits: NextLogits | None = None
) -> Iterator[tuple[list[int | None], Tensor]]:
    """Continue one prompt in B rows. Yields at each position the rows' tokens and their logits (B, V).

    The token of a finished row is None. One forward pass reads the prompt; then `next_logits` (default: the
    model itself) computes one position at a time. The cache is allocated once, for the longest row. Ends when
    every row has all its tokens or a stop token, or at `max_position_embeddings`.
    """
    config, embedding = model.config, model.model.embed_tokens.weight
    device, dtype = embedding.device, embedding.dtype
    T, B = len(ids), len(draws)
    length = min(config.max_position_embeddings, T + max(draw.left for draw in draws))
    prompt, cache = KVCache(config, 1, T, device, dtype), KVCache(config, B, length, device, dtype)
    hidden = model.model(torch.tensor([ids], device=device), prompt)                          # (1, T, D)
    logits = model.project(hidden[:, -1]).expand(B, -1)                                       # (B, V)
    cache.keys[..., :T, :] = prompt.keys                             # the same prompt for every row
    cache.values[..., :T, :] = prompt.values
    cache.length = T
    for _ in range(length - T):
        tokens = [draw.choose(logits[i]) if draw.left else None for i, draw in enumerate(draws)]
        yield tokens, logits
        if not any(draw.left for draw in draws):
            return
        newest = torch.tensor([[token or 0] for token in tokens], device=device)              # (B, 1)
        logits = next_logits(newest, cache) if next_logits else model(newest, cache)[:, -1]   # (B, V)


def generate(
    model: Llama, ids: list[int], max_new_tokens: int, *, temperature: float = 1.0, top_k: int = 0,
    top_p: float = 1.0, min_p: float = 0.0, repetition_penalty: float = 1.0, seed: int | None = None,
    stop_id: int | Collection[int] | None = None, next_logits: NextLogits | None = None,
) -> list[int]:
    """The new ids that continue `ids`, at most `max_new_tokens`.

    Temperature 0 is greedy. The same seed gives the same ids; None draws a seed. `stop_id`, one id or a set,
    ends the text and is not returned. Ends at `max_position_embeddings`. Raises UserError as `Draw` does.
    """
    settings = SampleSettings(temperature, top_p, top_k, min_p, repetition_penalty, max_new_tokens)
    stop_ids = () if stop_id is None else stop_id if isinstance(stop_id, Collection) else [stop_id]
    ids = list(map(operator.index, ids))                          # a list; an array or tensor (T,) works too
    draw = Draw(model, ids, settings, random.randrange(2**32) if seed is None else seed, stop_ids)
    new = [tokens[0] for tokens, _ in decode(model, ids, [draw], next_logits)]
    return new[:-1] if new and new[-1] in draw.stop_ids else new


# ----------------------------------------------------------------------------------------------- command line

def temperatures(text: str) -> list[float]:
    """"0.3,0.7" -> [0.3, 0.7]."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not temperatures such as 0.3,0.7,1.1") from None


@dataclass(frozen=True)
class SampleFlags:
    """The flags that are not SampleSettings."""

    preset: str = flag("balanced", "a bundle of temperature, top-p and length", choices=list(PRESETS))
    seed: int | None = flag(
        None, "the same seed gives the same text (default: a new one each time, printed at the end)"
    )
    n: int = flag(1, "number of answers; answer i has seed + i, and is the same as with that seed alone")
    prompt_file: str | None = flag(None, "read the prompt from this file; - reads standard input")
    json: bool = flag(False, "print one JSON object with texts, settings and times")
    history: bool = flag(False, "print the prompts and answers so far, and stop")
    sweep: str | None = flag(
        None, "answer at several temperatures, for instance 0.3,0.7,1.1", type=temperatures, metavar="T,T,T"
    )
    chat: bool = flag(False, "talk in turns (a base model is not an assistant)")
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
    web: bool = flag(False, "open a page in the browser, on 127.0.0.1 only")
    weights: str = flag(
        "fp32", "format of the weights while decoding", choices=["fp32", "bf16", "int8", "int8-dynamic"]
    )
    device: str = flag("cpu", "where to compute", choices=["cpu", "cuda"])


EXAMPLES = """\
  python sample.py                                     a text by the newest run
  python sample.py "Once upon a time" --temperature 0  the same text each time
  python sample.py runs/20m "Water is" --preset focused --n 3
  python sample.py runs/20m --sweep 0.3,0.7,1.1
  echo "Water is" | python sample.py"""
PROMPT = "Once upon a time"                 # a prompt of the cards


def main() -> int | None:
    """Parse the flags, open the model, and answer in the chosen view."""
    from sampling.answers import load_model_of                                # only main may import upward
    from sampling.terminal import check_together, place_and_prompt, say, sweep, tell_lost_text

    parser = Parser("Continue a text with a trained model.", EXAMPLES)
    parser.add_argument(
        "run", nargs="?", help="run folder or Llama-layout model folder (default: the newest under runs/)"
    )
    parser.add_argument(
        "prompt", nargs="?", help=f"the text to continue; - reads standard input (default: {PROMPT!r})"
    )
    add_flags(parser, SampleSettings)
    add_flags(parser, SampleFlags)
    given = vars(parser.parse_args())
    first, second = given.pop("run"), given.pop("prompt")
    names = {field.name for field in dataclasses.fields(SampleSettings)}
    chosen = {name: given.pop(name) for name in names & set(given)}
    check_together(given)
    flags = SampleFlags(**given)
    read_pipe = not (flags.chat or flags.web or flags.history)
    place, prompt = place_and_prompt(first, second, flags.prompt_file, read_pipe)
    if flags.web:
        from sampling import web
        return web.serve(place, prompt)
    if flags.history:
        from sampling import history
        return history.show(find_run(place), flags.json)
    loaded = load_model_of(place, flags.weights, flags.device)
    prompt = PROMPT if prompt is None else prompt
    tell_lost_text(loaded, prompt)
    settings = dataclasses.replace(loaded.settings, **{**PRESETS[flags.preset], **chosen}).check()
    seed = random.randrange(2**32) if flags.seed is None else flags.seed
    if flags.explore:
        from sampling import explore
        return explore.show(loaded, prompt, settings, seed, flags.explore)
    if flags.arena:
        from sampling import arena
        return arena.show(loaded, prompt, settings, seed, flags.arena, flags.blind, place)
    if flags.draft:
        from sampling import speculate
        return speculate.show(loaded, prompt, settings, seed, load_model_of(flags.draft, device=flags.device))
    if flags.chat:
        from sampling import chat
        return chat.chat(loaded, settings, seed)
    if flags.sweep:
        return sweep(loaded, prompt, settings, seed, flags.sweep)
    alone = flags.n == 1 and not flags.json
    draws = [(settings, seed + i) for i in range(flags.n)]
    record = say(loaded, prompt, draws, show=prompt if alone else None)
    if flags.json:
        print(json.dumps(record, ensure_ascii=False))
    for answer in record["answers"] if not alone and not flags.json else []:
        text = Flow().add(prompt + answer["text"], last=True)
        print(colour(f"--- seed {answer['seed']}", "2"), text, sep="\n")
    speed = f"{record['seconds']:.2f} s, {record['tokens_per_second']:.0f} tokens/s"
    print(f"\n{loaded.name}: {record['tokens']} tokens in {speed}, seed {seed}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
