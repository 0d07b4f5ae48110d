# SPDX-License-Identifier: Apache-2.0
"""What the page of `sample.py --web` does for each button: one function each; `sampling.web` is the layout.

Most are generators: the page shows what they yield. A mistake (UserError) becomes a line on the page. Gradio
keeps each visitor's state and hands it to these functions. All visitors share the loaded models, which
nothing changes.
"""
from __future__ import annotations

import dataclasses
import functools
import html
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from common import UserError, find_run
from model import ModelConfig
from sample import PRESETS, SampleSettings, learned_to_copy, recommended
from sampling import arena, explore, history
from sampling.answers import Answer, LoadedModel, load_model_of, respond, valid_text
from sampling.chat import format_of, recent
from sampling.terminal import first_difference
from tokenizer import lost_text

MOST_ANSWERS, MOST_COLUMNS, MOST_MODELS = 5, 12, 4
REFRESH = 0.1                                # seconds between two updates of a growing answer
LOADING = threading.Lock()
SHORT = {"temperature": "T", "top_p": "top-p", "top_k": "top-k", "min_p": "min-p",
         "repetition_penalty": "penalty"}


def opened(place: str | None, load: Callable[[Path], Any]) -> Any:
    """`load(folder)` of a run or folder, kept in memory while its weights are the same file.

    Raises UserError if it is gone.
    """
    if not place:
        raise UserError("Choose a model first.")
    folder = find_run(place).resolve()
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(f"{place}: its weights are gone; choose another model")
    with LOADING:
        return remembered(load, folder, files[0].stat().st_mtime_ns)


@functools.lru_cache(MOST_MODELS)
def remembered(load: Callable[[Path], Any], folder: Path, changed: int) -> Any:
    """`load(folder)`, a LoadedModel or Contender, which is only read; `changed`: the time of its weights."""
    return load(folder)


def prompt_in(field: str | None) -> str:
    """The prompt in a field of the page. Raises UserError for an empty one."""
    if not (field or "").strip():
        raise UserError("The prompt is empty. Write something for the model to continue.")
    return valid_text(field)


def chosen(*fields: Any) -> tuple[SampleSettings, int]:
    """The settings and the seed in the fields of the page; an empty seed draws one."""
    temperature, top_p, top_k, min_p, penalty, length, seed = fields
    if None in fields[:-1]:
        raise UserError("A setting is empty.")
    settings = SampleSettings(temperature, top_p, int(top_k), min_p, penalty, int(length)).check()
    seed = (seed or "").strip()
    if seed and not (seed.isascii() and seed.isdigit() and len(seed) < 20):
        raise UserError(f"The seed is {seed!r}. Write a whole number from 0 on, or leave it empty.")
    return settings, int(seed) if seed else random.randrange(2**32)


def problem(error: UserError | OSError) -> str:
    """A mistake as a line on the page."""
    return f'<p role="alert" class="problem">{html.escape(str(error))}</p>'


def lost_note(loaded: LoadedModel, prompt: str) -> str:
    """A line on the page where characters of the prompt are lost: the model does not see them."""
    lost = lost_text(loaded.tokenizer, [prompt])
    return f'<p class="note">Of the prompt, {html.escape(lost)}.</p>' if lost else ""


def block(title: str, prompt: str, text: str) -> str:
    """One answer: a small title, the prompt in grey, the text with its line breaks."""
    grey = f'<span class="prompt">{html.escape(prompt)}</span>'
    title, text = html.escape(title), html.escape(text)
    return f'<section class="answer"><h4>{title}</h4><div>{grey}{text}</div></section>'


def columns(titles: list[str], prompt: str, texts: list[str]) -> str:
    """Answers side by side."""
    blocks = "".join(block(title, prompt, text) for title, text in zip(titles, texts))
    return f'<div class="columns">{blocks}</div>'


def now_and_then(items: Iterator[Any]) -> Iterator[Any]:
    """The first and the last item, and one every REFRESH seconds between them."""
    shown, item, pending = 0.0, None, False
    for item in items:
        pending = time.perf_counter() - shown < REFRESH
        if not pending:
            yield item
            shown = time.perf_counter()
    if pending:
        yield item


def speed(answers: list[Answer], started: float) -> str:
    """Tokens, seconds and tokens/s since `started`."""
    tokens, seconds = sum(len(answer.ids) for answer in answers), time.perf_counter() - started
    return f"<p class='speed'>{tokens} tokens, {seconds:.1f} s, {tokens / seconds:.1f} tokens/s</p>"


# --------------------------------------------------------------------------------------------------- handlers

def on_generate(
    place: str, prompt: str, count: float | None, past: list[dict], *fields: Any
) -> Iterator[tuple]:
    """Up to MOST_ANSWERS answers as they grow; the session's history, newest first."""
    try:
        prompt, (settings, seed) = prompt_in(prompt), chosen(*fields)
        if count is None or not 1 <= count <= MOST_ANSWERS:
            raise UserError(f"Ask for 1 to {MOST_ANSWERS} responses.")
        loaded = opened(place, load_model_of)
        note, started = lost_note(loaded, prompt), time.perf_counter()
        draws = [(settings, seed + i) for i in range(int(count))]
        for answers in now_and_then(respond(loaded, prompt, draws)):
            shown = "".join(block(f"seed {answer.seed}", prompt, answer.text) for answer in answers)
            yield shown, note + speed(answers, started), past, gr.skip()
        past = [history.remember(loaded, prompt, answers, time.perf_counter() - started), *past]
        yield shown, note + speed(answers, started), past, earlier(past)
    except (UserError, OSError) as error:
        yield "", problem(error), past, gr.skip()


def earlier(past: list[dict]) -> str:
    """The history as answers, each under its time, model, settings and seed."""
    blocks = ""
    for record in past:
        for answer in record["answers"]:
            settings = ", ".join(f"{short} {answer[name]:g}" for name, short in SHORT.items())
            title = f"{record['time'][11:]}, {record['model']}, {settings}, seed {answer['seed']}"
            blocks += block(title, record["prompt"], answer["text"])
    return blocks


def on_explore(place: str, prompt: str, *fields: Any) -> Iterator[str]:
    """The page of `--explore` in a frame; the last field is the page's theme, "light" or "dark"."""
    try:
        *fields, theme = fields
        prompt, (settings, seed) = prompt_in(prompt), chosen(*fields)
        loaded = opened(place, load_model_of)
        choices, answer = explore.explore(loaded, prompt, settings, seed)
        theme = theme if theme in ("light", "dark") else None
        page = html.escape(explore.page(loaded, prompt, choices, answer, theme))
        frame = 'title="token explorer" sandbox="allow-scripts" class="explorer"'
        yield f'<iframe {frame} srcdoc="{page}"></iframe>'
    except (UserError, OSError) as error:
        yield problem(error)


def on_sweep(place: str, prompt: str, temperatures: str, *fields: Any) -> Iterator[str]:
    """One answer for each temperature, all with the same random numbers."""
    try:
        prompt, (settings, seed) = prompt_in(prompt), chosen(*fields)
        loaded = opened(place, load_model_of)
        try:
            values = [float(value) for value in (temperatures or "").split(",")]
        except ValueError:
            raise UserError(f"{temperatures!r}: write temperatures as 0.3, 0.7, 1.1") from None
        if len(values) > MOST_COLUMNS:
            raise UserError(f"{len(values)} temperatures; write at most {MOST_COLUMNS}.")
        draws = [(dataclasses.replace(settings, temperature=value).check(), seed) for value in values]
        for answers in now_and_then(respond(loaded, prompt, draws)):
            texts = [answer.text for answer in answers]
            shown = columns([f"temperature {value:g}" for value in values], prompt, texts)
            yield shown
        notes = [f"The same seed {seed}"]
        if os.path.commonprefix(texts).strip() or len(set(texts)) == 1:       # they begin alike
            notes.append(html.escape(first_difference(texts)))
        yield f"{shown}<p>{'; '.join(notes)}.</p>"
    except (UserError, OSError) as error:
        yield problem(error)


def on_arena(place: str, other: str, mode: str, prompt: str, *fields: Any) -> Iterator[tuple]:
    """Two answers; in a blind mode the session keeps the pair, and the names are hidden until a vote."""
    try:
        prompt, (settings, seed) = prompt_in(prompt), chosen(*fields)
        blind = mode != "show names"
        places = [place, other]
        if mode == "random pair, blind":
            places = list(arena.draw_pair(arena.models_here(), random.Random()))
        if blind:
            random.shuffle(places)
        pair = [opened(one, arena.open_contender) for one in places]
        titles = ["A", "B"]
        if not blind:
            titles = [f"{letter}: {one.name}, {one.parameters / 1e6:.1f}M" for letter, one in zip("AB", pair)]
        texts = ["", ""]
        for i, player in enumerate(pair):
            for texts[i] in now_and_then(player.answer(prompt, settings, seed)):
                yield columns(titles, prompt, texts), None, gr.update(visible=False), ""
        vote = {"prompt": prompt, "pair": [(one.name, one.parameters) for one in pair]} if blind else None
        yield columns(titles, prompt, texts), vote, gr.update(visible=blind), ""
    except (UserError, OSError) as error:
        yield problem(error), None, gr.update(visible=False), ""


def on_vote(vote: dict | None, word: str) -> tuple:
    """Keep the vote, say which model was which, show the score."""
    if vote is None:
        return None, gr.update(visible=False), ""
    (a, size_a), (b, size_b) = vote["pair"]
    key = next(key for key, words in arena.VOTES.items() if words == word)
    kept = ""
    try:
        arena.remember_vote(vote["prompt"], a, b, key)
    except UserError as error:
        kept = problem(error)
    rows = ""
    for row in arena.score():
        rows += "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>"
    names = f"A was {html.escape(a)} ({size_a / 1e6:.1f}M), B was {html.escape(b)} ({size_b / 1e6:.1f}M)"
    head = "<tr><th>model<th>won<th>lost<th>ties<th>both bad</tr>"
    result = f'{kept}<p>{word}. {names}.</p><table class="score">{head}{rows}</table>'
    return None, gr.update(visible=False), result


def on_chat(place: str, said: str, turns: list[tuple[str, str]], *fields: Any) -> Iterator[tuple]:
    """One turn: the message, then the answer as it grows, up to the next tag."""
    before = turns
    try:
        said, (settings, seed) = prompt_in(said), chosen(*fields)
        loaded = opened(place, load_model_of)
        form, note = format_of(loaded), lost_note(loaded, said)
        if form.note:
            note += f'<p class="note">{html.escape(form.note)}</p>'
        turns = recent(loaded, form, [*turns, ("user", said)], settings)
        ids = form.ids(loaded, form.prompt(turns))
        for answers in now_and_then(respond(loaded, ids, [(settings, seed + len(turns))])):
            text, tag = answers[0].text, ""
            if form.stop:
                text, tag, _ = text.partition(form.stop)
            yield messages([*turns, ("assistant", text)]), gr.skip(), "", note
            if tag:
                break
        turns = [*turns, ("assistant", text)]
        yield messages(turns), turns, "", note
    except (UserError, OSError) as error:
        yield messages(before), before, said, problem(error)


def on_new_chat() -> tuple:
    """Forget the turns."""
    return [], [], "", ""


def messages(turns: list[tuple[str, str]]) -> list[dict]:
    """Turns as gradio's Chatbot takes them."""
    return [{"role": role, "content": content} for role, content in turns]


def knows_builtin(place: str | None) -> bool:
    """Whether a run or folder holds a model of the built-in corpus."""
    try:
        return learned_to_copy(find_run(place))
    except UserError:
        return False


def on_model(place: str | None) -> tuple:
    """Show the examples that suit the model's corpus."""
    generated = knows_builtin(place)
    return gr.update(visible=generated), gr.update(visible=not generated)


def fields_for(place: str | None, preset: str) -> list[Any]:
    """The values of the settings for a model and a preset; the recommended ones are those of its size."""
    try:
        folder = find_run(place)
        settings = recommended(ModelConfig.from_json(folder / "config.json"), folder)
    except UserError:
        settings = SampleSettings()                      # not a Llama of ours: it can still play in the arena
    return list(vars(dataclasses.replace(settings, **PRESETS[preset])).values())
