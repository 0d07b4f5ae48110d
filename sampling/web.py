# SPDX-License-Identifier: Apache-2.0
"""The views of sample.py on a page in the browser: `python sample.py --web` (needs gradio: pip install
".[web]").

The page is served on 127.0.0.1 alone, and gradio's analytics are off. A Content-Security-Policy forbids the
browser to fetch anything from elsewhere. Here is how the page looks and what is connected with what;
`sampling.web_views` is what happens then.
"""
from __future__ import annotations

import os
import sys
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"                   # before gradio is imported
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

from common import UserError, find_run
from sample import PRESETS
from sampling import arena
from sampling.answers import BASE_MODEL

try:
    import gradio as gr
    from starlette.middleware import Middleware
except ImportError:
    raise UserError('the page needs gradio, which is not installed: pip install ".[web]"') from None

from sampling import web_views as views

POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; media-src 'self' data: blob:"
)
CSS = """
.answer{border:1px solid var(--border-color-primary);border-radius:8px;padding:.6rem .9rem;margin:.4rem 0}
.answer h4{margin:0 0 .3rem;font-weight:600}
.answer div{white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.55}
.answer .prompt{opacity:.6}
.columns{display:grid;grid-template-columns:repeat(auto-fit,minmax(15rem,1fr));gap:.8rem}
.problem{border-left:4px solid #d0453e;padding:.5rem .8rem;font-weight:600}
.speed{font-variant-numeric:tabular-nums}
.explorer{width:100%;height:48rem;border:1px solid var(--border-color-primary);border-radius:8px}
.score td,.score th{padding:.15rem .8rem .15rem 0;text-align:left}
"""
MODES = ["show names", "blind", "random pair, blind"]


class LocalOnly:
    """Adds the policy to each answer of the server."""

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        async def send_with_policy(message: dict) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message.get("headers", []),
                    (b"content-security-policy", POLICY.encode()),
                ]
            await send(message)

        await self.app(scope, receive, send_with_policy)


def prompt_box(prompt: str, name: str) -> gr.Textbox:
    """A field for the prompt."""
    return gr.Textbox(prompt, label="Prompt", lines=3, elem_id=f"{name}-prompt")


def setting_fields(place: str | None) -> list:
    """The fields of the settings, filled with what is recommended for the first model."""
    values = views.fields_for(place, "balanced")
    with gr.Accordion("Settings", open=False):
        with gr.Row():
            temperature = gr.Slider(
                0, 2, values[0], step=0.05, label="temperature (0: the best token always)"
            )
            top_p = gr.Slider(0.05, 1, values[1], step=0.01, label="top-p")
            top_k = gr.Slider(0, 200, values[2], step=1, label="top-k (0: off)")
        with gr.Row():
            min_p = gr.Slider(0, 0.5, values[3], step=0.01, label="min-p (0: off)")
            penalty = gr.Slider(1, 2, values[4], step=0.01, label="repetition penalty")
            length = gr.Slider(1, 1000, values[5], step=1, label="tokens at most")
            seed = gr.Number(None, label="seed (empty: a new one)", precision=0)
    return [temperature, top_p, top_k, min_p, penalty, length, seed]


def page(place: str | None, prompt: str) -> gr.Blocks:
    """The whole page. `place`: the run or folder that is chosen at first, else the first that is found.
    Raises UserError where there is none.
    """
    places = [str(found) for found in arena.models_here()]
    if place is not None:
        find_run(place)
        places = [place, *(other for other in places if other != place.rstrip("/"))]
    if not places:
        raise UserError("no model found here; make one with: python train.py --size tiny")
    first = places[0]
    with gr.Blocks(title="Stentor from Scratch", analytics_enabled=False) as blocks:
        gr.Markdown("# Stentor from Scratch")
        with gr.Row():
            model = gr.Dropdown(places, value=first, label="Model", elem_id="model")
            preset = gr.Radio(list(PRESETS), value="balanced", label="Preset")
        fields = setting_fields(first)
        for choice in (model, preset):
            choice.change(views.fields_for, [model, preset], fields[:-1], show_progress="hidden")
        with gr.Tab("Generate"):
            text = prompt_box(prompt, "generate")
            count = gr.Slider(1, views.MOST_ANSWERS, 1, step=1, label="Responses")
            with gr.Row():
                go, stop = gr.Button("Generate", variant="primary", elem_id="generate"), gr.Button("Stop")
            status, output, past = (
                gr.HTML(elem_id="generate-status"),
                gr.HTML(elem_id="generate-output"),
                gr.State([]),
            )
            with gr.Accordion("History of this visit", open=False):
                table = gr.Dataframe(
                    headers=["time", "model", "prompt", "settings", "seed", "answer"],
                    wrap=True,
                    interactive=False,
                )
            event = go.click(
                views.on_generate,
                [model, text, count, past, *fields],
                [output, status, past, table],
                show_progress="hidden",
            )
            stop.click(None, cancels=[event])
        with gr.Tab("Token Explorer"):
            text = prompt_box(prompt, "explore")
            go, output = (
                gr.Button("Explore", variant="primary", elem_id="explore"),
                gr.HTML(elem_id="explore-output"),
            )
            theme = gr.State(None)
            go.click(views.on_explore, [model, text, theme, *fields], output)
        with gr.Tab("Temperature Sweep"):
            text = prompt_box(prompt, "sweep")
            temperatures = gr.Textbox("0.3, 0.7, 1.1", label="Temperatures")
            go, output = (
                gr.Button("Sweep", variant="primary", elem_id="sweep"),
                gr.HTML(elem_id="sweep-output"),
            )
            go.click(views.on_sweep, [model, text, temperatures, *fields], output, show_progress="hidden")
        with gr.Tab("Arena"):
            with gr.Row():
                other = gr.Dropdown(
                    places,
                    value=next((one for one in places if one != first), first),
                    label="Other model",
                    allow_custom_value=True,
                )
                mode = gr.Radio(MODES, value=MODES[0], label="Mode")
            text = prompt_box(prompt, "arena")
            go, output, vote = (
                gr.Button("Ask both", variant="primary", elem_id="arena"),
                gr.HTML(elem_id="arena-output"),
                gr.State(None),
            )
            with gr.Row(visible=False) as ballot:
                buttons = [gr.Button(words) for words in arena.VOTES.values()]
            result = gr.HTML(elem_id="arena-result")
            go.click(
                views.on_arena,
                [model, other, mode, text, *fields],
                [output, vote, ballot, result],
                show_progress="hidden",
            )
            for button in buttons:
                button.click(views.on_vote, [vote, button], [vote, ballot, result])
        with gr.Tab("Chat"):
            gr.Markdown(BASE_MODEL)
            talk, turns = (
                gr.Chatbot(label="Chat", height=400, render_markdown=False, buttons=[]),
                gr.State([]),
            )
            said, status = (
                gr.Textbox(label="You", elem_id="chat-prompt", submit_btn=True),
                gr.HTML(elem_id="chat-status"),
            )
            said.submit(
                views.on_chat,
                [model, said, turns, *fields],
                [talk, turns, said, status],
                show_progress="hidden",
            )
            gr.Button("New chat").click(views.on_new_chat, None, [talk, turns, said, status])
            talk.clear(views.on_new_chat, None, [talk, turns, said, status])
    return blocks


def serve(place: str | None, prompt: str) -> None:
    """Serve the page until Ctrl-C; opens it in the browser where this runs in a terminal."""
    blocks = page(place, prompt).queue(default_concurrency_limit=4)
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    blocks.launch(
        server_name="127.0.0.1",
        share=False,
        inbrowser=sys.stdout.isatty(),
        theme=theme,
        css=CSS,
        footer_links=[],
        ssr_mode=False,
        app_kwargs={"middleware": [Middleware(LocalOnly)]},
    )
