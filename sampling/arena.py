# SPDX-License-Identifier: Apache-2.0
"""Two models answer one prompt: `sample.py RUN PROMPT --arena OTHER [--blind]`.

OTHER is a run, a folder of the Llama layout, any causal model folder that transformers loads (the cards
compare with GPT-2, Pythia, OPT ...), or `random`: the models found here are paired by parameter count, at
most twice as many for one as for the other, and a pair is drawn. With `--blind` the answers are A and B, in
an order drawn anew, until you have voted. Votes are lines of `runs/arena.jsonl`; the score counts them.
"""
from __future__ import annotations

import contextlib
import json
import math
import random
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Iterator

import torch
from safetensors import SafetensorError, safe_open

from common import UserError, colour, find_run, read_json
from sampling.columns import side_by_side
from sample import Options, Settings, Source, open_source, respond

SCORES = Path("runs") / "arena.jsonl"
VOTES = {"a": "A is better", "b": "B is better", "t": "tie", "n": "both bad"}
MATCH = 2.0  # a fair pair: the larger model has at most so many times the parameters of the smaller
FOREIGN = threading.Lock()  # transformers draws from torch's one generator; two people at once take turns


@dataclass(frozen=True)
class Contender:
    """A model that answers: `answer(prompt, settings, seed)` yields the growing text, and at last all of it.
    """

    name: str
    parameters: int
    answer: Callable[[str, Settings, int], Iterator[str]]


def contender(source: Source) -> Contender:
    """One of our own models."""
    def answer(prompt: str, settings: Settings, seed: int) -> Iterator[str]:
        for answers in respond(source, prompt, [(settings, seed)]):
            yield answers[0].text

    return Contender(source.name, parameters_of(source.folder), answer)


def open_contender(place: str | Path) -> Contender:
    """A run or model folder; what is no plain Llama with a tokenizer goes to transformers. Raises UserError
    for what neither loads.
    """
    folder = find_run(place)
    kind = read_json(folder / "config.json").get("model_type")
    ours = any(
        (folder / name).is_file() for name in ("tokenmonster.vocab", "tokenizer.json", "tokenizer.model")
    )
    if kind == "llama" and ours:
        return contender(open_source(folder))
    return foreign(folder)


def foreign(folder: Path) -> Contender:
    """A causal model of any architecture, by transformers: from the folder alone, safetensors only, none of
    its code is run.
    """
    try:
        import transformers
    except ImportError:
        raise UserError(
            f"{folder}: no Llama with a tokenizer of this project; for others install transformers: pip install transformers"
        ) from None
    transformers.utils.logging.disable_progress_bar()
    options = {"local_files_only": True, "trust_remote_code": False}
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, use_safetensors=True, dtype=torch.float32, **options
        ).eval()
        speaker = transformers.AutoTokenizer.from_pretrained(folder, **options)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"{folder}: transformers does not load this as a causal model: {str(error).strip().splitlines()[0]}"
        ) from None
    limit = getattr(model.config, "max_position_embeddings", None) or getattr(
        model.config, "n_positions", 1024
    )
    start = [token for token in (speaker.bos_token_id, speaker.eos_token_id, 0) if token is not None][0]

    def answer(prompt: str, settings: Settings, seed: int) -> Iterator[str]:
        settings.check()
        ids = speaker(prompt, add_special_tokens=False)["input_ids"] or [start]
        if len(ids) > limit:
            raise UserError(
                f"the prompt has {len(ids)} tokens for {folder.name}, which reads at most {limit}"
            )
        room = min(settings.max_new_tokens, limit - len(ids))
        if room <= 0:
            return
        drawn = {
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "top_k": settings.top_k,
            "min_p": settings.min_p,
        }
        choice = {"do_sample": True, **drawn} if settings.temperature else {"do_sample": False}
        with FOREIGN, torch.random.fork_rng(devices=[]), torch.inference_mode():
            torch.manual_seed(seed % 2**63)
            whole = model.generate(
                torch.tensor([ids]),
                attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                max_new_tokens=room,
                repetition_penalty=settings.repetition_penalty,
                pad_token_id=start,
                **choice,
            )[0]
        before = speaker.decode(ids, skip_special_tokens=True)
        yield speaker.decode(whole, skip_special_tokens=True)[len(before):]

    return Contender(
        folder.resolve().name, sum(parameter.numel() for parameter in model.parameters()), answer
    )


# ------------------------------------------------------------------------------------------ models found here

def models_here(root: str | Path = ".") -> list[Path]:
    """The runs under `root`/runs, then every other model folder down to two levels below `root`, each in
    alphabetical order.
    """
    root = Path(root)
    runs = []
    for run in sorted(root.glob("runs/*/")):
        with contextlib.suppress(UserError):
            find_run(run)
            runs.append(run)
    folders = {file.parent for pattern in ("*/config.json", "*/*/config.json") for file in root.glob(pattern)}
    return runs + sorted(folder for folder in folders - set(runs) if any(folder.glob("*.safetensors")))


def parameters_of(place: str | Path) -> int:
    """The parameters of a run or model folder, from the headers of its weight files; 0 where they cannot be
    read.
    """
    total = 0
    try:
        for file in find_run(place).glob("*.safetensors"):
            if file.name.startswith("model"):
                with safe_open(file, framework="pt") as tensors:
                    names = [
                        name
                        for name in tensors.keys()
                        if not name.endswith(("attn.bias", "masked_bias", "inv_freq"))
                    ]
                    total += sum(math.prod(tensors.get_slice(name).get_shape()) for name in names)
    except (UserError, SafetensorError, OSError, ValueError):
        return 0
    return total


def draw_pair(places: list[Path], rng: random.Random, one: str | Path | None = None) -> tuple[Path, Path]:
    """Two models of similar size; with `one`, it and another. Raises UserError where nothing matches."""
    sizes = {place: parameters_of(place) for place in places}
    pairs = [
        (a, b)
        for i, a in enumerate(places)
        for b in places[i + 1 :]
        if 0 < max(sizes[a], sizes[b]) <= MATCH * min(sizes[a], sizes[b])
    ]
    if one is not None:
        wanted = find_run(one).resolve()
        pairs = [pair for pair in pairs if wanted in [find_run(place).resolve() for place in pair]]
    if not pairs:
        found = ", ".join(f"{place} {size / 1e6:.1f}M" for place, size in sizes.items()) or "none"
        raise UserError(
            f"--arena random: no two models here are within a factor of {MATCH:g} in parameters (found: {found}); name one instead"
        )
    return rng.choice(pairs)


# -------------------------------------------------------------------------------------------- votes and score

def remember_vote(prompt: str, a: str, b: str, vote: str) -> None:
    """Append one vote (a key of VOTES) to the score file."""
    SCORES.parent.mkdir(exist_ok=True)
    with open(SCORES, "a", encoding="utf-8") as lines:
        record = {"time": time.strftime("%Y-%m-%d %H:%M:%S"), "a": a, "b": b, "vote": vote, "prompt": prompt}
        lines.write(json.dumps(record, ensure_ascii=False) + "\n")


def score() -> list[tuple[str, int, int, int, int]]:
    """(model, won, lost, ties, both bad) from all votes so far, the one that won most first. A broken line of
    the file is left out.
    """
    table: dict[str, list[int]] = {}
    for line in SCORES.read_text(encoding="utf-8", errors="replace").splitlines() if SCORES.is_file() else []:
        try:
            vote: dict[str, Any] = json.loads(line)
            a, b, place = (
                str(vote["a"]),
                str(vote["b"]),
                {"a": (0, 1), "b": (1, 0), "t": (2, 2), "n": (3, 3)}[vote["vote"]],
            )
        except (ValueError, KeyError, TypeError):
            continue
        for name, column in zip((a, b), place):
            table.setdefault(name, [0, 0, 0, 0])[column] += 1
    return sorted(
        ((name, *counts) for name, counts in table.items()), key=lambda row: (-row[1], row[2], row[0])
    )


def ask() -> str | None:
    """A vote from the terminal; None where no more input comes."""
    choices = ", ".join(f"{key}: {words}" for key, words in VOTES.items())
    while True:
        try:
            said = input(f"{choices} > ").strip().lower()[:1]
        except (EOFError, RuntimeError):  # RuntimeError: standard input is closed
            return None
        if said in VOTES:
            return said


def last_of(texts: Iterator[str]) -> str:
    """The whole answer."""
    text = ""
    for text in texts:
        pass
    return text


def show(source: Source, prompt: str, settings: Settings, seed: int, options: Options) -> None:
    """Both answers side by side, with the same settings and seed; with --blind a vote, then the names and the
    score.
    """
    if options.arena == "random":
        places = models_here()
        if options.run is not None and Path(options.run) not in places:
            places.append(Path(options.run))
        pair = [open_contender(place) for place in draw_pair(places, random.Random(seed), options.run)]
    else:
        pair = [contender(source), open_contender(options.arena)]
    if options.blind:
        random.shuffle(pair)
    headed = []
    for letter, player in zip("AB", pair):
        began = time.perf_counter()
        text = last_of(player.answer(prompt, settings, seed))
        seconds = time.perf_counter() - began
        title = (
            letter
            if options.blind
            else f"{letter}: {player.name}, {player.parameters / 1e6:.1f}M parameters, {seconds:.1f} s"
        )
        headed.append(f"{title}\n\n{text}")
    print(
        colour(prompt, "2"), side_by_side(headed, shutil.get_terminal_size().columns), sep="\n\n", end="\n\n"
    )
    if not options.blind:
        return
    vote = ask()
    a, b = pair
    print(f"\nA was {a.name} ({a.parameters / 1e6:.1f}M), B was {b.name} ({b.parameters / 1e6:.1f}M)")
    if vote is None:
        print("no vote")
        return
    remember_vote(prompt, a.name, b.name, vote)
    print(
        f"{VOTES[vote]}. The score ({SCORES}):\n\n{'model':24}{'won':>6}{'lost':>6}{'ties':>6}{'both bad':>10}"
    )
    for name, won, lost, ties, bad in score():
        print(f"{name[:23]:24}{won:6}{lost:6}{ties:6}{bad:10}")
