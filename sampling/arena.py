# SPDX-License-Identifier: Apache-2.0
"""Two models answer one prompt: `sample.py RUN PROMPT --arena OTHER [--blind]`.

OTHER is a run, a folder of the Llama layout, any causal model folder that transformers loads (the cards
compare with GPT-2, Pythia, OPT and others), or `random`, which draws a pair from the models found here: the
larger has at most twice the parameters of the smaller. With `--blind` the answers are called A and B, in
random order, until you have voted. Votes are lines of `runs/arena.jsonl`; the score counts them.
"""
from __future__ import annotations

import contextlib
import json
import math
import random
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from common import UserError, colour, find_run, for_terminal, json_lines, read_json
from sample import SampleSettings
from sampling.answers import LoadedModel, load_model_of, name_of, respond
from sampling.terminal import side_by_side

SCORES = Path("runs") / "arena.jsonl"
VOTES = {"a": "A is better", "b": "B is better", "t": "tie", "n": "both bad"}
MATCH = 2.0  # a fair pair: the larger model has at most this many times the parameters of the smaller
FOREIGN = threading.Lock()  # transformers draws from torch's global generator: one answer at a time
# Buffers that some published weight files hold; they are not parameters.
BUFFERS = ("attn.bias", "masked_bias", "inv_freq")


@dataclass(frozen=True)
class Contender:
    """A model that answers: `answer(prompt, settings, seed)` yields the growing text."""

    name: str
    parameters: int
    answer: Callable[[str, SampleSettings, int], Iterator[str]]


def contender(loaded: LoadedModel) -> Contender:
    """One of our own models."""
    def answer(prompt: str, settings: SampleSettings, seed: int) -> Iterator[str]:
        for answers in respond(loaded, prompt, [(settings, seed)]):
            yield answers[0].text

    return Contender(loaded.name, parameters_of(loaded.folder), answer)


def open_contender(place: str | Path) -> Contender:
    """A run or model folder; transformers opens what is not a plain Llama with a tokenizer.

    Raises UserError for a folder that cannot be loaded.
    """
    folder = find_run(place)
    kind = read_json(folder / "config.json").get("model_type")
    tokenizers = ("tokenmonster.vocab", "tokenizer.json", "tokenizer.model")
    if kind == "llama" and any((folder / name).is_file() for name in tokenizers):
        return contender(load_model_of(folder))
    return foreign(folder)


def foreign(folder: Path) -> Contender:
    """A causal model of any architecture, loaded by transformers from safetensors.

    No code in the folder is run, and nothing is downloaded.
    """
    try:
        import transformers
    except ImportError:
        raise UserError(f"{folder}: not a Llama with a tokenizer of this project; "
                        "for other models install transformers: pip install transformers") from None
    transformers.utils.logging.disable_progress_bar()
    options = {"local_files_only": True, "trust_remote_code": False}
    load_model = transformers.AutoModelForCausalLM.from_pretrained
    try:
        model = load_model(folder, use_safetensors=True, dtype=torch.float32, **options).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **options)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{folder}: transformers does not load this as a causal model: {reason}") from None
    config = model.config
    limit = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", 1024)
    starts = (tokenizer.bos_token_id, tokenizer.eos_token_id, 0)
    start = next(token for token in starts if token is not None)      # for an empty prompt

    def answer(prompt: str, settings: SampleSettings, seed: int) -> Iterator[str]:
        settings.check()
        ids = tokenizer(prompt)["input_ids"] or [start]           # with BOS if the tokenizer adds one
        if len(ids) > limit:
            raise UserError(f"the prompt has {len(ids)} tokens for {folder.name}, "
                            f"which reads at most {limit}")
        room = min(settings.max_new_tokens, limit - len(ids))
        if room <= 0:
            return
        choice = {"do_sample": False}
        if settings.temperature:
            names = ("temperature", "top_p", "top_k", "min_p")
            choice = {"do_sample": True, **{name: getattr(settings, name) for name in names}}
        with FOREIGN, torch.random.fork_rng(devices=[]), torch.inference_mode():
            torch.manual_seed(seed % 2**63)
            new = model.generate(
                torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                max_new_tokens=room, repetition_penalty=settings.repetition_penalty, pad_token_id=start,
                **choice,
            )[0]
        before = tokenizer.decode(ids, skip_special_tokens=True)
        yield tokenizer.decode(new, skip_special_tokens=True)[len(before):]

    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Contender(name_of(folder), parameters, answer)


# ------------------------------------------------------------------------------------------ models found here

def models_here() -> list[Path]:
    """The runs under runs/, then other model folders down to two levels below the current folder.

    Each in alphabetical order.
    """
    root, runs = Path("."), []
    for run in sorted(root.glob("runs/*/")):
        with contextlib.suppress(UserError, OSError):             # OSError: this user may not read it
            find_run(run)
            runs.append(run)
    folders = {file.parent for pattern in ("*/config.json", "*/*/config.json") for file in root.glob(pattern)}
    return runs + sorted(folder for folder in folders - set(runs) if any(folder.glob("*.safetensors")))


def parameters_of(place: str | Path) -> int:
    """The parameters of a run or model folder, from the headers of its weight files; 0 on an error."""
    total = 0
    try:
        for file in find_run(place).glob("model*.safetensors"):
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():
                    if not name.endswith(BUFFERS):
                        total += math.prod(tensors.get_slice(name).get_shape())
    except (UserError, SafetensorError, OSError, ValueError):
        return 0
    return total


def draw_pair(places: list[Path], rng: random.Random, one: str | Path | None = None) -> tuple[Path, Path]:
    """Two models of similar size; with `one`, it and another. Raises UserError if nothing matches."""
    sizes = {place: parameters_of(place) for place in places}
    pairs = [
        (a, b)
        for i, a in enumerate(places)
        for b in places[i + 1:]
        if 0 < max(sizes[a], sizes[b]) <= MATCH * min(sizes[a], sizes[b])
    ]
    if one is not None:
        wanted = find_run(one).resolve()
        pairs = [pair for pair in pairs if wanted in [find_run(place).resolve() for place in pair]]
    if not pairs:
        found = ", ".join(f"{place} {size / 1e6:.1f}M" for place, size in sizes.items()) or "none"
        raise UserError(f"--arena random: no two models here are within a factor of {MATCH:g} in parameters "
                        f"(found: {found}); name one instead")
    return rng.choice(pairs)


# -------------------------------------------------------------------------------------------- votes and score

def remember_vote(prompt: str, a: str, b: str, vote: str) -> None:
    """Append one vote (a key of VOTES) to the score file. Raises UserError if that fails."""
    record = {"time": time.strftime("%Y-%m-%d %H:%M:%S"), "a": a, "b": b, "vote": vote, "prompt": prompt}
    try:
        SCORES.parent.mkdir(exist_ok=True)
        with open(SCORES, "a", encoding="utf-8") as lines:
            lines.write(json.dumps(record, ensure_ascii=False) + "\n")
    except OSError as error:
        raise UserError(f"{SCORES}: the vote was not kept ({error.strerror})") from None


def score() -> list[tuple[str, int, int, int, int]]:
    """(model, won, lost, ties, both bad) from all votes so far, the model with most wins first.

    Objects in the file that are not votes are ignored.
    """
    columns = {"a": (0, 1), "b": (1, 0), "t": (2, 2), "n": (3, 3)}      # of A and of B
    table: dict[str, list[int]] = {}
    for vote in json_lines(SCORES):
        try:
            names, places = (str(vote["a"]), str(vote["b"])), columns[vote["vote"]]
        except (KeyError, TypeError):
            continue
        for name, column in zip(names, places):
            table.setdefault(name, [0, 0, 0, 0])[column] += 1
    rows = [(name, *counts) for name, counts in table.items()]
    return sorted(rows, key=lambda row: (-row[1], row[2], row[0]))


def ask() -> str | None:
    """A vote from the terminal; None at the end of input, or for a line of 1,000 characters or more."""
    choices = ", ".join(f"{key}: {words}" for key, words in VOTES.items())
    while True:
        print(f"{choices} > ", end="", flush=True)
        line = sys.stdin.readline(1000) if sys.stdin else ""
        if not line or len(line) == 1000:
            return None
        said = line.strip().lower()[:1]
        if said in VOTES:
            return said


def show(
    loaded: LoadedModel, prompt: str, settings: SampleSettings, seed: int, other: str, blind: bool,
    place: str | None,
) -> None:
    """Print both answers side by side, with the same settings and seed.

    `other` is the second model, or "random": then a model of similar size is drawn for the one at `place`, or
    a pair if there is no `place`. With `blind` ask for a vote, then print the names and the score.
    """
    if other == "random":
        places = models_here()
        if place is not None and Path(place) not in places:
            places.append(Path(place))
        pair = [open_contender(one) for one in draw_pair(places, random.Random(seed), place)]
    else:
        pair = [contender(loaded), open_contender(other)]
    if blind:
        random.shuffle(pair)
    headed = []
    for letter, player in zip("AB", pair):
        started = time.perf_counter()
        text = ["", *player.answer(prompt, settings, seed)][-1]   # the complete answer
        seconds = time.perf_counter() - started
        title = f"{letter}: {player.name}, {player.parameters / 1e6:.1f}M parameters, {seconds:.1f} s"
        headed.append(f"{letter if blind else title}\n\n{text}")
    answers = side_by_side([for_terminal(text) for text in headed], shutil.get_terminal_size().columns)
    print(colour(for_terminal(prompt), "2"), answers, sep="\n\n", end="\n\n")
    if not blind:
        return
    vote = ask()
    a, b = pair
    print(f"\nA was {a.name} ({a.parameters / 1e6:.1f}M), B was {b.name} ({b.parameters / 1e6:.1f}M)")
    if vote is None:
        print("no vote")
        return
    remember_vote(prompt, a.name, b.name, vote)
    print(f"{VOTES[vote]}. The score ({SCORES}):\n")
    print(f"{'model':24}{'won':>6}{'lost':>6}{'ties':>6}{'both bad':>10}")
    for name, won, lost, ties, bad in score():
        print(f"{name[:23]:24}{won:6}{lost:6}{ties:6}{bad:10}")
