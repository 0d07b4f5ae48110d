# SPDX-License-Identifier: Apache-2.0
"""The token explorer, `sample.py --explore FILE.html`: the probability of each token of an answer.

For a token of probability p, in a vocabulary of V tokens (Shannon 1948, section 6):

    surprise = -log2 p bits                0: certain; log2 V: as surprising as a uniform guess
    entropy  = -sum_v p_v log2 p_v bits    the mean surprise before the token is drawn

p is the model's own: softmax of the logits, before temperature, penalties and filters. A token is coloured by
its surprise as a share of log2 V, so that a small model shows its good guesses too; the bands of the cards'
demo, which are probabilities, are the other choice.

The page is one file. It needs no script, font or picture from elsewhere, and its Content-Security-Policy
makes the browser refuse them.
"""
from __future__ import annotations

import html
import json
import math
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from common import Flow, atomic_write, colour, for_terminal, output_file, wrapped
from model import Llama
from sample import Draw, SampleSettings, decode
from sampling import history
from sampling.answers import Answer, LoadedModel, prompt_ids
from tokenizer import Tokenizer
from tokenizing.view import names_of

ALTERNATIVES = 8
# Name on the page -> colour on the terminal.
COLOURS = {"green": "30;48;5;114", "yellow": "30;48;5;186", "orange": "30;48;5;215", "red": "30;48;5;210"}
# Below this share of log2 V -> colour: a quarter of a uniform guess each.
SURPRISE_BANDS = [(0.25, "green"), (0.50, "yellow"), (0.75, "orange"), (math.inf, "red")]
# From this probability on -> colour: the cards' demo is green from 80% and red below 35%.
PROBABILITY_BANDS = [(0.80, "green"), (0.55, "yellow"), (0.35, "orange"), (0.0, "red")]


@dataclass(frozen=True)
class Choice:
    """One token of the answer: its text and name, its probability, and the most probable tokens instead.

    `share` is surprise / log2 V, `surprise` and `entropy` are in bits, `rank` 1 is the most probable token.
    """

    text: str
    name: str
    probability: float
    surprise: float
    share: float
    rank: int
    entropy: float
    best: list[tuple[str, float]]


def choice_of(logits: Tensor, token: int, text: str, tokenizer: Tokenizer) -> Choice:
    """What logits (V,) say about `token`, which adds `text`."""
    log_p = torch.log_softmax(logits.double(), dim=0)                                   # (V,)
    p = log_p.exp()                                                                     # (V,)
    best = torch.topk(p, min(ALTERNATIVES, len(p)))                                     # (8,)
    name, *names = names_of(tokenizer, [token, *best.indices.tolist()])
    surprise = float(-log_p[token]) / math.log(2)
    entropy = max(0.0, float(-(p * log_p).nansum()) / math.log(2))                      # nansum: 0 log 0 is 0
    rank = 1 + int((p > p[token]).sum())
    share = surprise / math.log2(len(p))
    alternatives = list(zip(names, best.values.tolist()))
    return Choice(text, name, float(p[token]), surprise, share, rank, entropy, alternatives)


def explore(
    loaded: LoadedModel, prompt: str, settings: SampleSettings, seed: int
) -> tuple[list[Choice], Answer]:
    """Answer `prompt` as `answers.respond` does; return a Choice for each token, and the answer.

    The stop token has a Choice too.
    """
    ids, stop_ids = prompt_ids(loaded.tokenizer, prompt), loaded.tokenizer.stop_ids
    draw, stream = Draw(loaded.model, ids, settings, seed, stop_ids), loaded.tokenizer.stream()
    stream.feed(ids)
    answer, choices = Answer(settings, seed), []
    for (token,), logits in decode(loaded.model, ids, [draw], loaded.next_logits):
        answer.ended = token in stop_ids
        text = "" if answer.ended else stream.feed([token])
        choices.append(choice_of(logits[0], token, text, loaded.tokenizer))
        if not answer.ended:
            answer.ids.append(token)
            answer.text += text
    return choices, answer


@torch.inference_mode()
def reading(model: Llama, tokenizer: Tokenizer, ids: list[int]) -> list[Choice]:
    """A Choice for each token of a given text but the first, which nothing predicts."""
    logits = model(torch.tensor([ids], device=model.model.embed_tokens.weight.device))[0].cpu()     # (T, V)
    stream, choices = tokenizer.stream(), []
    stream.feed(ids[:1])
    for position, token in enumerate(ids[1:]):
        text = "" if token in tokenizer.stop_ids else stream.feed([token])
        choices.append(choice_of(logits[position], token, text, tokenizer))
    return choices


def colour_by_surprise(share: float) -> str:
    """The colour of a share of log2 V.

    >>> colour_by_surprise(0.1), colour_by_surprise(1.2)
    ('green', 'red')
    """
    return next(name for below, name in SURPRISE_BANDS if share < below)


def colour_by_probability(probability: float) -> str:
    """The colour of a probability, by the cards' bands.

    >>> colour_by_probability(0.8), colour_by_probability(0.349)
    ('green', 'red')
    """
    return next(name for least, name in PROBABILITY_BANDS if probability >= least)


def word_starts(tokens: list[str]) -> list[int]:
    """The places at which a word begins in these texts: only there may a line be broken.

    >>> word_starts(["Fin", "ley", " had", " a ", "hat", "."])
    [0, 2, 3, 4]
    """
    return [i for i, token in enumerate(tokens)
            if i == 0 or token[:1].isspace() or tokens[i - 1][-1:].isspace()]


def face(choice: Choice) -> str:
    """What the button of a token shows: its text, with a sign for a line feed, or its name if it has none."""
    return html.escape(choice.text.replace("\n", "⏎") or choice.name)


def in_words(choices: list[Choice], buttons: list[str]) -> str:
    """The HTML of all tokens. Those of one word are in one element, which keeps them on one line.

    A line feed is a line break before the button if the token begins with it, else after the button.
    """
    made = []
    for choice, button in zip(choices, buttons):
        first = choice.text.startswith("\n")
        made.append("\n" * first + button + "\n" * ("\n" in choice.text and not first))
    starts = word_starts([choice.text for choice in choices])
    return "".join(f'<span class="word">{"".join(made[first:after])}</span>'
                   for first, after in zip(starts, [*starts[1:], None]))


def surprise_legend() -> list[tuple[str, str]]:
    """(colour, words) of each band of surprise."""
    return [(name, f"below {below:.0%}" if below < 1 else "more") for below, name in SURPRISE_BANDS]


def probability_legend() -> list[tuple[str, str]]:
    """(colour, words) of each band of probability."""
    return [(name, f"from {least:.0%}" if least else "less") for least, name in PROBABILITY_BANDS]


def percent(probability: float) -> str:
    """A probability as text: 43%, 0.3%, <0.1%."""
    if probability < 0.001:
        return "<0.1%"
    return f"{probability:.1%}" if probability < 0.1 else f"{probability:.0%}"


# --------------------------------------------------------------------------------------------------- terminal

def in_terminal(prompt: str, choices: list[Choice], width: int) -> str:
    """The coloured text, then a line for each token, with as many alternatives as fit into `width`."""
    codes = [COLOURS[colour_by_surprise(choice.share)] for choice in choices]
    shown = [for_terminal(choice.text or choice.name) for choice in choices]
    flow, starts = Flow(), word_starts([choice.text for choice in choices])
    text = colour(flow.add(prompt, last=True), "2")
    column = flow.column
    for first, after in zip(starts, [*starts[1:], len(choices)]):
        word = "".join(shown[first:after])
        if column and column + len(word) > flow.width:
            text, column = text + "\n", 0
        column = len(word.rpartition("\n")[2]) + (0 if "\n" in word else column)
        text += "".join(colour(token, code) for token, code in zip(shown[first:after], codes[first:after]))
    legend = "".join(colour(f" {words} ", COLOURS[name]) for name, words in surprise_legend())
    lines = [
        text,
        "",
        f"surprise, as a share of a uniform guess: {legend}",
        "",
        f"{'token':16}{'prob.':>6}{'bits':>6}{'rank':>6}  most probable",
    ]
    for choice, code in zip(choices, codes):
        start = f"{choice.name[:15]:16}{percent(choice.probability):>6}"
        line = f"{start}{choice.surprise:6.1f}{choice.rank:6} "
        others = ""
        for name, probability in choice.best:
            more = f" {name} {percent(probability)}"
            if len(line) + len(others) + len(more) > width:
                break
            others += more
        lines.append(colour(start, code) + line[len(start):] + others)
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------------------- page

SIGNS = "In the names of tokens, · is a space, ⏎ a line feed; ⌫ removes the space of the token after it."
STYLE = """
:root{
  color-scheme:light dark;
  --paper:light-dark(#fdfdfc,#16181a); --ink:light-dark(#1b1b1b,#ececec); --soft:light-dark(#5c5c5c,#a9a9a9);
  --line:light-dark(#cfcfcf,#43474b); --panel:light-dark(#f3f3f1,#212427); --bar:light-dark(#4a6fa5,#8db4ea);
  --green:light-dark(#a6e3ae,#1f5f33); --yellow:light-dark(#ece59b,#5d5712);
  --orange:light-dark(#fbc98d,#7a4811); --red:light-dark(#f7aaa2,#7d2a26)
}
:root[data-theme=light]{color-scheme:light}
:root[data-theme=dark]{color-scheme:dark}
*{box-sizing:border-box}
html{scroll-padding-bottom:17rem}
body{
  margin:0 auto; max-width:60rem; padding:1rem 1rem 1.5rem;
  background:var(--paper); color:var(--ink); font:1rem/1.6 system-ui,sans-serif
}
h1{font-size:1.25rem; margin:.2rem 0}
p{margin:.4rem 0}
.soft{color:var(--soft); font-size:.9rem}
fieldset{border:0; margin:.6rem 0; padding:0; display:grid; gap:.4rem}
fieldset div{display:flex; flex-wrap:wrap; gap:.3rem .4rem; align-items:baseline}
fieldset label{margin-right:.3rem}
fieldset span{padding:.1rem .5rem; border-radius:.25rem; font-size:.9rem}
#text{margin:1rem 0; font:1.1rem/2 ui-monospace,monospace; white-space:pre-wrap; overflow-wrap:anywhere}
#text .prompt{color:var(--soft)}
#text .word{white-space:pre}
#text button{
  font:inherit; color:inherit; border:0; border-radius:.2rem; margin:0 1px; padding:.1rem 0;
  cursor:pointer; white-space:pre-wrap; text-align:left
}
#text button.name{font-size:.75rem; opacity:.85; padding:.1rem .2rem}
#text button:focus-visible,#text button.chosen{outline:2px solid var(--ink); outline-offset:1px}
.green,[data-by=surprise] [data-surprise=green],[data-by=probability] [data-probability=green]{
  background:var(--green)
}
.yellow,[data-by=surprise] [data-surprise=yellow],[data-by=probability] [data-probability=yellow]{
  background:var(--yellow)
}
.orange,[data-by=surprise] [data-surprise=orange],[data-by=probability] [data-probability=orange]{
  background:var(--orange)
}
.red,[data-by=surprise] [data-surprise=red],[data-by=probability] [data-probability=red]{
  background:var(--red)
}
#bits{display:flex; align-items:flex-end; height:5rem; border-bottom:1px solid var(--line)}
#bits i{flex:1 1 0; min-width:0; background:var(--bar); opacity:.55; border-right:1px solid var(--paper)}
#bits i.chosen{opacity:1}
#panel{
  position:sticky; bottom:0; margin-top:1rem; padding:.6rem 1rem; min-height:15.5rem;
  background:var(--panel); border:1px solid var(--line); border-radius:.5rem
}
#panel h2{font:600 1rem/1.4 ui-monospace,monospace; margin:0 0 .3rem; overflow-wrap:anywhere}
table{border-collapse:collapse; width:100%; font-size:.9rem}
td{padding:0 .5rem 0 0; line-height:1.45}
td:first-child{
  font-family:ui-monospace,monospace; width:12rem; max-width:12rem;
  overflow:hidden; text-overflow:ellipsis; white-space:nowrap
}
td:nth-child(2){width:4rem; text-align:right; font-variant-numeric:tabular-nums}
td b{display:block; height:.7rem; min-width:1px; background:var(--bar); border-radius:.15rem}
tr.taken td:first-child{font-weight:700}
@media (max-width:40rem){
  html{scroll-padding-bottom:0}
  #panel{position:static; min-height:0; margin:.3rem 0}
  #text #panel{white-space:normal; font:1rem/1.6 system-ui,sans-serif}
  td:first-child{width:8rem; max-width:8rem}
}
"""

# On a narrow screen the panel is not sticky: it moves to below the chosen token.
SCRIPT = """
const data = JSON.parse(document.getElementById("data").textContent);
const text = document.getElementById("text"), panel = document.getElementById("panel");
const tokens = [...text.querySelectorAll("button")], bars = [...document.querySelectorAll("#bits i")];
const narrow = matchMedia("(max-width:40rem)"), bits = document.getElementById("bits");
let kept = 0;
function element(name, content) {
  const made = document.createElement(name);
  if (content !== undefined) made.textContent = content;
  return made;
}
function show(i) {
  const [name, probability, numbers, best] = data[i];
  for (const group of [tokens, bars]) group.forEach((one, j) => one.classList.toggle("chosen", i === j));
  const table = element("table");
  for (const [other, words, share] of best) {
    const row = table.insertRow(), bar = element("b");
    if (other === name) row.className = "taken";
    row.insertCell().textContent = other;
    row.insertCell().textContent = words;
    bar.style.width = 100 * share + "%";
    row.insertCell().append(bar);
  }
  const place = element("p", "token " + (i + 1) + " of " + data.length + ", " + numbers);
  panel.replaceChildren(element("h2", name + "  " + probability), place, table);
}
function keep(i) {
  tokens[kept].tabIndex = -1;
  kept = i;
  tokens[i].tabIndex = 0;
  (narrow.matches ? tokens[i].parentNode : bits).after(panel);
  show(i);
}
[tokens, bars].forEach(group => group.forEach((one, i) => {
  one.addEventListener("mouseenter", () => show(i));
  one.addEventListener("mouseleave", () => show(kept));
  one.addEventListener("click", () => keep(i));
}));
tokens.forEach((token, i) => token.addEventListener("focus", () => keep(i)));
narrow.addEventListener("change", () => keep(kept));
text.addEventListener("keydown", event => {
  const last = tokens.length - 1, {key} = event;
  const steps = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -last, End: last};
  if (!(key in steps)) return;
  event.preventDefault();
  tokens[Math.max(0, Math.min(last, kept + steps[key]))].focus();
});
document.querySelectorAll("[name=by]").forEach(radio => radio.addEventListener("change", () => {
  text.dataset.by = radio.value;
}));
if (tokens.length) {
  tokens[0].tabIndex = 0;
  show(0);
}
"""


def button(choice: Choice) -> str:
    """One token on the page; one without text of its own (part of a character, the end) shows its name."""
    words = f"{choice.name}, {percent(choice.probability)}, {choice.surprise:.1f} bits of surprise"
    return (
        f'<button type="button" tabindex="-1" class="{"" if choice.text else "name"}" '
        f'data-surprise="{colour_by_surprise(choice.share)}" '
        f'data-probability="{colour_by_probability(choice.probability)}" '
        f'aria-label="{html.escape(words)}">{face(choice)}</button>'
    )


def scale(value: str, words: str, legend: list[tuple[str, str]], checked: bool = False) -> str:
    """One choice of colours: a radio button and its legend."""
    bands = "".join(f'<span class="{name}">{band}</span>' for name, band in legend)
    state = " checked" if checked else ""
    return f'<div><label><input type="radio" name="by" value="{value}"{state}> {words}</label>{bands}</div>'


def page(
    loaded: LoadedModel, prompt: str, choices: list[Choice], answer: Answer, theme: str | None = None
) -> str:
    """The complete page as one HTML document.

    `theme` is "light" or "dark"; None follows the reader's system.
    """
    most = math.log2(loaded.model.config.vocab_size)
    settings = ", ".join(f"{name} {value:g}" for name, value in vars(answer.settings).items())
    rows = []
    for choice in choices:
        numbers = (f"{choice.surprise:.1f} bits of surprise ({choice.share:.0%} of a uniform guess), "
                   f"rank {choice.rank}, entropy {choice.entropy:.1f} bits")
        best = [[name, percent(p), round(p, 4)] for name, p in choice.best]
        rows.append([choice.name, percent(choice.probability), numbers, best])
    data = json.dumps(rows, ensure_ascii=False).replace("<", "\\u003c")
    highest = max([choice.surprise for choice in choices], default=0.0) or 1.0
    bars = "".join(f'<i style="height:{100 * choice.surprise / highest:.1f}%"></i>' for choice in choices)
    mean = sum(choice.surprise for choice in choices) / max(1, len(choices))
    title = f"Token explorer: {html.escape(loaded.name)}"
    policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    by_surprise = scale("surprise", "Surprise, as a share of a uniform guess:", surprise_legend(), True)
    by_probability = scale("probability", "Probability, the cards' bands:", probability_legend())
    return f"""<!DOCTYPE html>
<html lang="en"{f' data-theme="{theme}"' if theme else ""}><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{title}</title><style>{STYLE}</style></head><body>
<h1>{title}</h1>
<p class="soft">Green tokens surprised the model little, red ones much. Point at a token, tap it, or move with
Tab and the arrow keys, to see what else the model considered. All numbers are the model's own, before
temperature and filters. {SIGNS} Seed {answer.seed}; {html.escape(settings)}.</p>
<fieldset aria-label="colours">{by_surprise}{by_probability}</fieldset>
<div id="text" role="group" aria-label="generated tokens" data-by="surprise"><span
class="prompt">{html.escape(prompt)}</span>{in_words(choices, list(map(button, choices)))}</div>
<p class="soft">Surprise of each token: mean {mean:.1f} bits, highest {highest:.1f}; a uniform guess among all
tokens has {most:.1f}.</p>
<div id="bits" aria-hidden="true">{bars}</div>
<div id="panel" aria-live="polite">No token was generated.</div>
<script type="application/json" id="data">{data}</script><script>{SCRIPT}</script></body></html>
"""


def show(loaded: LoadedModel, prompt: str, settings: SampleSettings, seed: int, path: str) -> None:
    """Write the page to the file at `path` and print the same to the terminal."""
    file = output_file("--explore", Path(path), "page.html")
    started = time.perf_counter()
    choices, answer = explore(loaded, prompt, settings, seed)
    history.remember(loaded, prompt, [answer], time.perf_counter() - started)
    atomic_write(file, page(loaded, prompt, choices, answer))
    print(in_terminal(prompt, choices, shutil.get_terminal_size().columns))
    print("\n" + wrapped(f"written: {file}, the same as a page for the browser; seed {seed}", "", "  "))
