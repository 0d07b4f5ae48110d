# SPDX-License-Identifier: Apache-2.0
"""What the page of `sample.py --web` (`sampling.web`) does when somebody clicks: one function for each
button.

Most are generators: what they yield, the page shows. A mistake (UserError) becomes a line on the page.
Nothing that a visitor does is kept here: gradio hands each session's state in and takes it back. What all
visitors share are the loaded models, which nothing changes.
"""
from __future__ import annotations

import dataclasses
import html
import random
import threading
import time
from pathlib import Path
from typing import Any, Iterator

import gradio as gr

from common import UserError, find_run
from sampling import arena
from sampling import explore
from sampling import history
from sampling.columns import where_they_part
from model import ModelConfig
from sample import PRESETS, Settings, Source, chat_prompt, open_source, recent, recommended, respond

MOST_ANSWERS, MOST_MODELS = 5, 4
REFRESH = 0.1                                # seconds between two pictures of a growing answer
# (folder, time of its weights) -> Source or Contender; both are only read
LOADED: dict[tuple[Path, int], Any] = {}
LOADING = threading.Lock()


def opened(place: str | None, load: Any) -> Any:
    """The model of a run or folder by `load`, from memory if its weights are still the same file. Raises
    UserError if it is gone.
    """
    if not place:
        raise UserError("Choose a model first.")
    folder = find_run(place).resolve()
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(f"{place}: its weights are gone; choose another model")
    key = (load, folder, files[0].stat().st_mtime_ns)
    with LOADING:
        if key not in LOADED:
            while len(LOADED) >= MOST_MODELS:
                del LOADED[next(iter(LOADED))]
            LOADED[key] = load(folder)
        return LOADED[key]


def asked(place: str | None, prompt: str) -> Source:
    """The model to ask, for a prompt that is not empty."""
    if not prompt.strip():
        raise UserError("The prompt is empty. Write something for the model to continue.")
    return opened(place, open_source)


def chosen(
    temperature: float,
    top_p: float,
    top_k: float,
    min_p: float,
    penalty: float,
    length: float,
    seed: float | None,
) -> tuple[Settings, int]:
    """The settings and the seed that stand in the fields of the page; an empty seed draws one."""
    if None in (temperature, top_p, top_k, min_p, penalty, length):
        raise UserError("A setting is empty.")
    settings = Settings(temperature, top_p, int(top_k), min_p, penalty, int(length)).check()
    return settings, random.randrange(2**32) if seed is None else int(seed)


def problem(error: UserError) -> str:
    """A mistake as a line on the page."""
    return f'<p role="alert" class="problem">{html.escape(str(error))}</p>'


def block(title: str, prompt: str, text: str) -> str:
    """One answer: a small title, the prompt in grey, the text with its line breaks."""
    return (
        f'<section class="answer"><h4>{html.escape(title)}</h4><div><span class="prompt">{html.escape(prompt)}</span>'
        f'{html.escape(text)}</div></section>'
    )


def now_and_then(items: Iterator[Any]) -> Iterator[Any]:
    """The first, the last, and between them one every REFRESH seconds."""
    shown, item, pending = 0.0, None, False
    for item in items:
        pending = time.perf_counter() - shown < REFRESH
        if not pending:
            yield item
            shown = time.perf_counter()
    if pending:
        yield item


def speed(answers: list, began: float) -> str:
    """Tokens, seconds and tokens/s since `began`."""
    tokens, seconds = sum(len(answer.ids) for answer in answers), time.perf_counter() - began
    return f"<p class='speed'>{tokens} tokens, {seconds:.1f} s, {tokens / seconds:.1f} tokens/s</p>"


# --------------------------------------------------------------------------------------------------- handlers

def on_generate(place: str, prompt: str, count: int, past: list[dict], *fields: Any) -> Iterator[tuple]:
    """Up to five answers as they grow; the session's history, newest first."""
    try:
        source, (settings, seed) = asked(place, prompt), chosen(*fields)
        began = time.perf_counter()
        for answers in now_and_then(
            respond(source, prompt, [(settings, seed + i) for i in range(int(count))])
        ):
            shown = "".join(block(f"seed {answer.seed}", prompt, answer.text) for answer in answers)
            yield shown, speed(answers, began), past, gr.skip()
        past = [history.remember(source, prompt, answers, time.perf_counter() - began), *past]
        yield shown, speed(answers, began), past, table_of(past)
    except UserError as error:
        yield "", problem(error), past, gr.skip()


def table_of(past: list[dict]) -> list[list]:
    """The history as rows: when, model, prompt, settings, seed and text."""
    names = {
        "temperature": "T",
        "top_p": "top-p",
        "top_k": "top-k",
        "min_p": "min-p",
        "repetition_penalty": "penalty",
    }
    return [
        [
            record["time"],
            record["model"],
            record["prompt"],
            ", ".join(f"{short} {answer[name]:g}" for name, short in names.items()),
            str(answer["seed"]),
            answer["text"],
        ]
        for record in past
        for answer in record["answers"]
    ]


def on_explore(place: str, prompt: str, *fields: Any) -> Iterator[str]:
    """The page of `--explore`, in a frame of its own."""
    try:
        source, (settings, seed) = asked(place, prompt), chosen(*fields)
        thoughts, answer = explore.think(source, prompt, settings, seed)
        page = html.escape(explore.page(source, prompt, thoughts, answer))
        yield f'<iframe title="token explorer" sandbox="allow-scripts" srcdoc="{page}" class="explorer"></iframe>'
    except UserError as error:
        yield problem(error)


def on_sweep(place: str, prompt: str, temperatures: str, *fields: Any) -> Iterator[str]:
    """The answers at several temperatures beside each other."""
    try:
        source, (settings, seed) = asked(place, prompt), chosen(*fields)
        try:
            values = [float(part) for part in temperatures.split(",")]
        except ValueError:
            raise UserError(
                f"Temperatures are numbers with commas between, such as 0.3, 0.7, 1.1; not {temperatures!r}"
            ) from None
        if len(values) > MOST_ANSWERS:
            raise UserError(f"At most {MOST_ANSWERS} temperatures")
        rows = [(dataclasses.replace(settings, temperature=value).check(), seed) for value in values]
        for answers in now_and_then(respond(source, prompt, rows)):
            blocks = "".join(
                block(f"temperature {answer.settings.temperature:g}", prompt, answer.text)
                for answer in answers
            )
            yield f'<div class="columns">{blocks}</div><p>Seed {seed}: {html.escape(where_they_part([answer.text for answer in answers]))}</p>'
    except UserError as error:
        yield problem(error)


def on_arena(place: str, other: str, mode: str, prompt: str, *fields: Any) -> Iterator[tuple]:
    """Two answers; in the mode "blind" or "random pair" the names stay hidden until a vote. The pair is kept
    in the session until then.
    """
    try:
        if not prompt.strip():
            raise UserError("The prompt is empty. Write something for the models to continue.")
        settings, seed = chosen(*fields)
        places = (
            list(arena.draw_pair(arena.models_here(), random.Random()))
            if mode == "random pair, blind"
            else [place, other]
        )
        if mode != "show names":
            random.shuffle(places)
        pair = [opened(one, arena.open_contender) for one in places]
        titles = ["A", "B"]
        if mode == "show names":
            titles = [
                f"{letter}: {player.name}, {player.parameters / 1e6:.1f}M"
                for letter, player in zip("AB", pair)
            ]
        texts = ["", ""]
        vote = (
            None
            if mode == "show names"
            else {"prompt": prompt, "pair": [(player.name, player.parameters) for player in pair]}
        )
        for i, player in enumerate(pair):
            for texts[i] in now_and_then(player.answer(prompt, settings, seed)):
                yield arena_blocks(titles, prompt, texts), None, gr.update(visible=False), ""
        yield arena_blocks(titles, prompt, texts), vote, gr.update(visible=vote is not None), ""
    except UserError as error:
        yield problem(error), None, gr.update(visible=False), ""


def arena_blocks(titles: list[str], prompt: str, texts: list[str]) -> str:
    """Both answers beside each other."""
    return f'<div class="columns">{"".join(block(title, prompt, text) for title, text in zip(titles, texts))}</div>'


def on_vote(vote: dict | None, word: str) -> tuple:
    """Keep the vote, say who was who, show the score."""
    if vote is None:
        return None, gr.update(visible=False), ""
    (a, size_a), (b, size_b) = vote["pair"]
    arena.remember_vote(
        vote["prompt"], a, b, next(key for key, words in arena.VOTES.items() if words == word)
    )
    rows = "".join(
        "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>"
        for row in arena.score()
    )
    return (
        None,
        gr.update(visible=False),
        (
            f"<p>{word}. A was {html.escape(a)} ({size_a / 1e6:.1f}M), B was {html.escape(b)} ({size_b / 1e6:.1f}M).</p>"
            f'<table class="score"><tr><th>model<th>won<th>lost<th>ties<th>both bad</tr>{rows}</table>'
        ),
    )


def on_chat(place: str, said: str, turns: list[tuple[str, str]], *fields: Any) -> Iterator[tuple]:
    """One turn: the message, then the answer as it grows, up to the next tag."""
    before = turns
    try:
        source, (settings, seed) = asked(place, said), chosen(*fields)
        turns = recent(source, [*turns, ("user", said)], settings)
        for answers in now_and_then(respond(source, chat_prompt(turns), [(settings, seed + len(turns))])):
            text, tag, _ = answers[0].text.partition("<|")
            yield spoken([*turns, ("assistant", text)]), gr.skip(), "", ""
            if tag:
                break
        yield spoken([*turns, ("assistant", text)]), [*turns, ("assistant", text)], "", ""
    except UserError as error:
        yield spoken(before), before, said, problem(error)


def on_new_chat() -> tuple:
    """Forget the turns."""
    return [], [], "", ""


def spoken(turns: list[tuple[str, str]]) -> list[dict]:
    """Turns as gradio's Chatbot takes them."""
    return [{"role": role, "content": content} for role, content in turns]


def fields_for(place: str | None, preset: str) -> list[Any]:
    """The values of the settings for a model and a preset; the recommended ones are those of its size."""
    try:
        settings = recommended(ModelConfig.from_json(find_run(place) / "config.json"))
    except UserError:
        settings = Settings()  # no Llama of ours: it can still play in the arena
    settings = dataclasses.replace(settings, **PRESETS[preset])
    return list(vars(settings).values())
