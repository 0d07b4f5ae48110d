# SPDX-License-Identifier: Apache-2.0
"""The views of sample.py as a page in the browser: `python sample.py --web`.

It needs gradio: pip install ".[web]". The page is served on 127.0.0.1 only, and gradio's analytics are off.
Requests under another host name are refused: otherwise a foreign site whose name points to this machine could
read the page (DNS rebinding). Uploads are off, because nothing needs them. A Content-Security-Policy makes
the browser fetch nothing from elsewhere. This file has the layout; `sampling.web_views` has what happens at a
click.
"""
from __future__ import annotations

import os
import sys
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"                   # before gradio is imported
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

from common import UserError, find_run
from sample import PRESETS, PROMPT
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
HOSTS = {"127.0.0.1", "localhost"}
CLOSED = ("upload", "upload_progress", "component_server", "process_recording")    # parts of gradio's paths
CSS = """
.answer{border:1px solid var(--border-color-primary);border-radius:8px;padding:.6rem .9rem;margin:.4rem 0}
.answer h4{margin:0 0 .3rem;font-weight:600}
.answer div{white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.55}
.answer .prompt{opacity:.6}
.columns{display:grid;grid-template-columns:repeat(auto-fit,minmax(15rem,1fr));gap:.8rem}
.problem{border-left:4px solid #d0453e;padding:.5rem .8rem;font-weight:600}
.note{border-left:4px solid #c98a1b;padding:.3rem .8rem}
.speed{font-variant-numeric:tabular-nums}
.explorer{width:100%;height:56rem;border:1px solid var(--border-color-primary);border-radius:8px}
.score td,.score th{padding:.25rem .6rem!important;border:1px solid var(--border-color-primary)!important}
.score td:not(:first-child){text-align:right}
#ballot button{border:1px solid var(--border-color-primary)}
@media (max-width:30rem){.tab-container button{padding:.4rem .35rem!important;font-size:.85rem!important}}
"""
MODES = ["show names", "blind", "random pair, blind"]
# What the page shows -> the prompt. For a model of the built-in corpus: a tale, an exercise, a program. For
# any other: the kinds of the cards.
BUILTIN_EXAMPLES = {
    "Once upon a time there lived a quiet fox": "Once upon a time there lived a quiet fox named Lena.",
    "Question: Sam has 5 apples": "Question: Sam has 5 apples and gives 3 to Max. How many apples are left?",
    "def add(number, n):": 'def add(number, n):\n    """Return the sum of number and n."""\n',
}
OTHER_EXAMPLES = {text: text for text in (PROMPT, "The history of the city", "Question: What is 12 + 7?",
                                          "def read_lines(path):")}
# JavaScript for the explorer: the browser puts the page's theme into the last input, an empty field.
THEME = "(...inputs) => [...inputs.slice(0, -1), document.body.classList.contains('dark') ? 'dark' : 'light']"


class LocalOnly:
    """Refuses other host names and closed paths, and adds the policy to each answer of the server."""

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        async def send_with_policy(message: dict) -> None:
            if message["type"] == "http.response.start":
                policy = (b"content-security-policy", POLICY.encode())
                message["headers"] = [*message.get("headers", []), policy]
            await send(message)

        if scope["type"] == "http" and not allowed(scope):
            await send_with_policy({"type": "http.response.start", "status": 403})
            await send_with_policy({"type": "http.response.body", "body": b"not served here\n"})
        else:
            await self.app(scope, receive, send_with_policy)


def allowed(scope: dict) -> bool:
    """Whether a request names this machine as its host, and a path that the page needs."""
    hosts = [value.decode("latin-1").lower() for name, value in scope["headers"] if name == b"host"]
    names = {host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host for host in hosts}
    return len(hosts) == 1 and names <= HOSTS and not set(scope["path"].split("/")) & set(CLOSED)


def prompt_box(prompt: str, name: str) -> gr.Textbox:
    """A field for the prompt."""
    return gr.Textbox(prompt, label="Prompt", lines=3, elem_id=f"{name}-prompt")


def setting_fields(place: str | None) -> list:
    """The fields of the settings, filled with what is recommended for the first model."""
    values = views.fields_for(place, "balanced")
    with gr.Accordion("Settings", open=False):
        with gr.Row():
            temperature = gr.Slider(0, 2, values[0], step=0.05, label="temperature (0: greedy)")
            top_p = gr.Slider(0.05, 1, values[1], step=0.01, label="top-p")
            top_k = gr.Slider(0, 200, values[2], step=1, label="top-k (0: off)")
        with gr.Row():
            min_p = gr.Slider(0, 0.5, values[3], step=0.01, label="min-p (0: off)")
            penalty = gr.Slider(1, 2, values[4], step=0.01, label="repetition penalty")
            length = gr.Slider(1, 1000, values[5], step=1, label="tokens at most")
            # A Number field sends 0 when it is empty.
            seed = gr.Textbox("", label="seed (empty: a new one)", max_lines=1, elem_id="seed")
    return [temperature, top_p, top_k, min_p, penalty, length, seed]


def page(place: str | None, prompt: str | None) -> gr.Blocks:
    """The complete page.

    `place` is the run or folder that is chosen at first, else the first that is found. Raises UserError where
    there is none.
    """
    places = [str(found) for found in arena.models_here()]
    if place is not None:
        find_run(place)
        places = [place, *(other for other in places if other != place.rstrip("/"))]
    if not places:
        raise UserError("no model found here; make one with: python train.py --size tiny")
    first, prompt = places[0], PROMPT if prompt is None else prompt
    with gr.Blocks(title="Stentor from Scratch", analytics_enabled=False) as blocks:
        gr.Markdown(f"# Stentor from Scratch\n{BASE_MODEL}")
        with gr.Row():
            model = gr.Dropdown(places, value=first, label="Model", elem_id="model")
            preset = gr.Radio(list(PRESETS), value="balanced", label="Preset")
        fields = setting_fields(first)
        for choice in (model, preset):
            choice.change(views.fields_for, [model, preset], fields[:-1], show_progress="hidden")
        with gr.Tab("Generate"):
            generate_tab(prompt, model, fields)
        with gr.Tab("Explorer"):
            gr.Markdown("How sure the model was of each token, and what else it considered.")
            text, theme = prompt_box(prompt, "explore"), gr.Textbox(visible=False)
            go, output = gr.Button("Explore", variant="primary", elem_id="explore"), gr.HTML()
            go.click(views.on_explore, [model, text, *fields, theme], output, js=THEME)
        with gr.Tab("Sweep"):
            gr.Markdown("One prompt at several temperatures, with the same random numbers.")
            text = prompt_box(prompt, "sweep")
            temperatures = gr.Textbox("0.3, 0.7, 1.1", label="Temperatures")
            go = gr.Button("Sweep", variant="primary", elem_id="sweep")
            output = gr.HTML(elem_id="sweep-output")
            go.click(views.on_sweep, [model, text, temperatures, *fields], output, show_progress="hidden")
        with gr.Tab("Arena"):
            arena_tab(prompt, model, fields, places)
        with gr.Tab("Chat"):
            chat_tab(model, fields)
    return blocks


def examples(prompts: dict[str, str], text: gr.Textbox, label: str) -> None:
    """Buttons that put a prompt into the field `text`."""
    gr.Examples([[prompt] for prompt in prompts.values()], text, label=label, example_labels=list(prompts))


def generate_tab(prompt: str, model: gr.Dropdown, fields: list) -> None:
    """Prompt, examples, answers, and the history of the visit."""
    gr.Markdown("Write the start of a text. The model continues it.")
    text = prompt_box(prompt, "generate")
    generated = views.knows_builtin(model.value)
    with gr.Column(visible=generated) as builtin:
        examples(BUILTIN_EXAMPLES, text, "Starts as in the built-in corpus")
    with gr.Column(visible=not generated) as other:
        examples(OTHER_EXAMPLES, text, "Starts of several kinds")
    model.change(views.on_model, model, [builtin, other], show_progress="hidden")
    with gr.Row(equal_height=True):
        count = gr.Number(1, minimum=1, maximum=views.MOST_ANSWERS, step=1, precision=0, label="Responses",
                          elem_id="count", scale=0, min_width=120)
        go, stop = gr.Button("Generate", variant="primary", elem_id="generate"), gr.Button("Stop")
    status, output = gr.HTML(elem_id="generate-status"), gr.HTML(elem_id="generate-output")
    past = gr.State([])
    with gr.Accordion("History of this visit", open=False):
        shown = gr.HTML("<p>No text yet.</p>", elem_id="history")
    outputs = [output, status, past, shown]
    event = go.click(views.on_generate, [model, text, count, past, *fields], outputs, show_progress="hidden")
    stop.click(None, cancels=[event])


def arena_tab(prompt: str, model: gr.Dropdown, fields: list, places: list[str]) -> None:
    """Two models on one prompt, and the votes."""
    gr.Markdown("Two models continue one prompt. In a blind mode you vote before you see the names.")
    with gr.Row():
        second = next((one for one in places if one != model.value), model.value)
        other = gr.Dropdown(places, value=second, label="Other model", allow_custom_value=True)
        mode = gr.Radio(MODES, value=MODES[0], label="Mode")
    text = prompt_box(prompt, "arena")
    go, output = gr.Button("Ask both", variant="primary", elem_id="arena"), gr.HTML(elem_id="arena-output")
    vote = gr.State(None)
    with gr.Row(visible=False, elem_id="ballot") as ballot:
        buttons = [gr.Button(words, size="sm", min_width=100) for words in arena.VOTES.values()]
    result = gr.HTML(elem_id="arena-result")
    outputs = [output, vote, ballot, result]
    go.click(views.on_arena, [model, other, mode, text, *fields], outputs, show_progress="hidden")
    for button in buttons:
        button.click(views.on_vote, [vote, button], [vote, ballot, result])


def chat_tab(model: gr.Dropdown, fields: list) -> None:
    """Talk in turns."""
    gr.Markdown("You and the model take turns. It only continues the text of the talk so far.")
    talk, turns = gr.Chatbot(label="Chat", height=400, render_markdown=False, buttons=[]), gr.State([])
    said, status = gr.Textbox(label="You", elem_id="chat-prompt", submit_btn=True), gr.HTML()
    outputs = [talk, turns, said, status]
    said.submit(views.on_chat, [model, said, turns, *fields], outputs, show_progress="hidden")
    gr.Button("New chat").click(views.on_new_chat, None, outputs)
    talk.clear(views.on_new_chat, None, outputs)


def serve(place: str | None, prompt: str | None) -> None:
    """Serve the page until Ctrl-C; opens it in the browser where this runs in a terminal."""
    blocks = page(place, prompt).queue(default_concurrency_limit=4)
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    blocks.launch(
        server_name="127.0.0.1", share=False, inbrowser=bool(sys.stdout and sys.stdout.isatty()),
        theme=theme, css=CSS, footer_links=[], ssr_mode=False,
        app_kwargs={"middleware": [Middleware(LocalOnly)]},
    )
