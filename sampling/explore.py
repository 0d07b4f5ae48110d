# SPDX-License-Identifier: Apache-2.0
"""What the model thought at each token: `sample.py --explore FILE.html`.

Every generated token is coloured by the probability that the model itself gave it (softmax of the logits,
before temperature, penalties and filters), with the eight tokens that it found most probable and the entropy
of the whole distribution, in bits (Shannon 1948, section 6):

    H = -sum_v p_v log2 p_v          0: certain; log2 V: no idea

The page is one file: no script, font or picture from anywhere else, and a Content-Security-Policy in its head
that says so to the browser.
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

from common import UserError, atomic_write, colour
from sampling import history
from tokenizing.view import names_of
from sample import Answer, Options, Row, Settings, Source, decode

ALTERNATIVES = 8
# At least this probability -> name of the class on the page, colour on the terminal. The cards' demo: green
# from 80%, red below 35%.
BANDS = [
    (0.80, "green", "30;48;5;114"),
    (0.55, "yellow", "30;48;5;186"),
    (0.35, "orange", "30;48;5;215"),
    (0.0, "red", "30;48;5;210"),
]


@dataclass(frozen=True)
class Thought:
    """One generated token: the text that it adds, its name, its probability and rank, the entropy in bits,
    and the most probable tokens.
    """

    text: str
    name: str
    probability: float
    rank: int
    entropy: float
    best: list[tuple[str, float]]


def band(probability: float) -> tuple[str, str]:
    """(class on the page, ANSI colour) of a probability.

    >>> band(0.8)[0], band(0.349)[0]
    ('green', 'red')
    """
    return next((name, code) for least, name, code in BANDS if probability >= least)


def legend() -> list[tuple[str, str, str]]:
    """(class, ANSI colour, words) of each band."""
    return [
        (name, code, f"from {least:.0%}" if least else f"below {BANDS[-2][0]:.0%}")
        for least, name, code in BANDS
    ]


def think(source: Source, prompt: str, settings: Settings, seed: int) -> tuple[list[Thought], Answer]:
    """Answer `prompt` as `sample.respond` does, and keep what the model thought at each token, the document's
    end included.
    """
    vocabulary = source.tokenizer
    ids = vocabulary.encode(prompt, document=True) or [vocabulary.eos_id]
    row, stream = Row(source.model, ids, settings, seed, vocabulary.eos_id), vocabulary.stream()
    stream.feed(ids)
    answer, thoughts = Answer(settings, seed), []
    for (token,), logits in decode(source.model, ids, [row], source.step):
        log_p = torch.log_softmax(logits[0].double(), dim=0)                            # (V,)
        p = log_p.exp()                                                                 # (V,)
        best = torch.topk(p, min(ALTERNATIVES, len(p)))                                 # (8,)
        answer.ended = token == vocabulary.eos_id
        text = "" if answer.ended else stream.feed([token])
        names = names_of(vocabulary, [token, *best.indices.tolist()])
        entropy = max(0.0, float(-(p * log_p).nansum()) / math.log(2))                  # nansum: 0 log 0 is 0
        rank = 1 + int((p > p[token]).sum())
        thoughts.append(
            Thought(
                text, names[0], float(p[token]), rank, entropy, list(zip(names[1:], best.values.tolist()))
            )
        )
        if not answer.ended:
            answer.ids.append(token)
            answer.text += text
    return thoughts, answer


def percent(probability: float) -> str:
    """A probability for people: 43%, 0.3%, <0.1%."""
    if probability < 0.001:
        return "<0.1%"
    return f"{probability:.1%}" if probability < 0.1 else f"{probability:.0%}"


# --------------------------------------------------------------------------------------------------- terminal

def in_terminal(prompt: str, thoughts: list[Thought], width: int) -> str:
    """The coloured text, then a line for each token: probability, rank, entropy, and as many alternatives as
    fit.
    """
    text = "".join(colour(thought.text or thought.name, band(thought.probability)[1]) for thought in thoughts)
    bands = " ".join(colour(f" {name} {words} ", code) for name, code, words in legend())
    lines = [
        colour(prompt, "2") + text,
        "",
        bands,
        "",
        f"{'token':16}{'prob.':>6}{'rank':>6}{'bits':>6}  most probable",
    ]
    for thought in thoughts:
        line = (
            f"{thought.name[:15]:16}{percent(thought.probability):>6}{thought.rank:6}{thought.entropy:6.1f} "
        )
        others = ""
        for name, probability in thought.best:
            more = f" {name} {percent(probability)}"
            if len(line) + len(others) + len(more) > width:
                break
            others += more
        lines.append(colour(line[:22], band(thought.probability)[1]) + line[22:] + others)
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------------------- page

STYLE = """
:root{color-scheme:light dark;--paper:#fdfdfc;--ink:#1b1b1b;--soft:#5c5c5c;--line:#cfcfcf;--panel:#f3f3f1;
--green:#a6e3ae;--yellow:#ece59b;--orange:#fbc98d;--red:#f7aaa2;--bar:#4a6fa5}
@media (prefers-color-scheme:dark){:root{--paper:#16181a;--ink:#ececec;--soft:#a9a9a9;--line:#43474b;--panel:#212427;
--green:#1f5f33;--yellow:#5d5712;--orange:#7a4811;--red:#7d2a26;--bar:#8db4ea}}
*{box-sizing:border-box}
html{scroll-padding-bottom:17rem}
body{margin:0 auto;max-width:60rem;padding:1rem 1rem 1.5rem;background:var(--paper);color:var(--ink);font:1rem/1.6 system-ui,sans-serif}
h1{font-size:1.25rem;margin:.2rem 0}
p{margin:.4rem 0}
.soft{color:var(--soft);font-size:.9rem}
.legend{display:flex;flex-wrap:wrap;gap:.3rem .4rem}
.legend span{padding:.1rem .5rem;border-radius:.25rem}
#text{margin:1rem 0;font:1.1rem/2 ui-monospace,monospace;white-space:pre-wrap;overflow-wrap:anywhere}
#text .prompt{color:var(--soft)}
#text button{font:inherit;color:inherit;border:0;border-radius:.2rem;margin:0 1px;padding:.1rem 0;cursor:pointer;white-space:pre-wrap;text-align:left}
#text button.name{font-size:.75rem;opacity:.85;padding:.1rem .2rem}
#text button:focus-visible,#text button.chosen{outline:2px solid var(--ink);outline-offset:1px}
.green{background:var(--green)}.yellow{background:var(--yellow)}.orange{background:var(--orange)}.red{background:var(--red)}
#bits{display:flex;align-items:flex-end;height:5rem;border-bottom:1px solid var(--line)}
#bits i{flex:1 1 0;min-width:0;background:var(--bar);opacity:.55;border-right:1px solid var(--paper)}
#bits i.chosen{opacity:1}
#panel{position:sticky;bottom:0;margin-top:1rem;padding:.6rem 1rem;min-height:15.5rem;background:var(--panel);border:1px solid var(--line);
border-radius:.5rem}
#panel h2{font:600 1rem/1.4 ui-monospace,monospace;margin:0 0 .3rem;overflow-wrap:anywhere}
table{border-collapse:collapse;width:100%;font-size:.9rem}
td{padding:0 .5rem 0 0;line-height:1.45}
td:first-child{font-family:ui-monospace,monospace;width:12rem;max-width:12rem;overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
td:nth-child(2){width:4rem;text-align:right;font-variant-numeric:tabular-nums}
td b{display:block;height:.7rem;min-width:1px;background:var(--bar);border-radius:.15rem}
tr.taken td:first-child{font-weight:700}
@media (max-width:30rem){td:first-child{width:8rem;max-width:8rem}}
"""

SCRIPT = """
const data = JSON.parse(document.getElementById("data").textContent);
const tokens = [...document.querySelectorAll("#text button")], bars = [...document.querySelectorAll("#bits i")];
const panel = document.getElementById("panel");
let kept = 0;
function element(name, text) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  return made;
}
function show(i) {
  const [name, probability, rank, entropy, best] = data[i];
  for (const group of [tokens, bars]) group.forEach((other, j) => other.classList.toggle("chosen", i === j));
  const table = element("table");
  for (const [other, text, share] of best) {
    const row = table.insertRow(), bar = element("b");
    if (other === name) row.className = "taken";
    row.insertCell().textContent = other;
    row.insertCell().textContent = text;
    bar.style.width = 100 * share + "%";
    row.insertCell().append(bar);
  }
  panel.replaceChildren(element("h2", name + "  " + probability),
    element("p", "token " + (i + 1) + " of " + data.length + ", rank " + rank + ", entropy " + entropy + " bits"), table);
}
function keep(i) {
  tokens[kept].tabIndex = -1;
  kept = i;
  tokens[i].tabIndex = 0;
  show(i);
}
[tokens, bars].forEach(group => group.forEach((token, i) => {
  token.addEventListener("mouseenter", () => show(i));
  token.addEventListener("mouseleave", () => show(kept));
  token.addEventListener("click", () => keep(i));
}));
tokens.forEach((token, i) => token.addEventListener("focus", () => keep(i)));
document.getElementById("text").addEventListener("keydown", event => {
  const last = tokens.length - 1;
  const to = {ArrowRight: kept + 1, ArrowDown: kept + 1, ArrowLeft: kept - 1, ArrowUp: kept - 1, Home: 0, End: last}[event.key];
  if (to === undefined) return;
  event.preventDefault();
  tokens[Math.max(0, Math.min(last, to))].focus();
});
if (tokens.length) keep(0);
"""


def button(thought: Thought) -> str:
    """One token on the page. One that adds no text of its own (half a character, the document's end) shows
    its name.
    """
    kind, shown = band(thought.probability)[0], thought.text or thought.name
    style = kind if thought.text else f"{kind} name"
    label = f"{thought.name}, {percent(thought.probability)}, entropy {thought.entropy:.1f} bits"
    return f'<button type="button" tabindex="-1" class="{style}" aria-label="{html.escape(label)}">{html.escape(shown)}</button>'


def page(source: Source, prompt: str, thoughts: list[Thought], answer: Answer) -> str:
    """The whole page as one HTML document."""
    settings = ", ".join(f"{name} {value:g}" for name, value in vars(answer.settings).items())
    bands = "".join(f'<span class="{name}">{name}: {words}</span>' for name, _, words in legend())
    rows = [
        [
            t.name,
            percent(t.probability),
            t.rank,
            f"{t.entropy:.2f}",
            [[name, percent(p), round(p, 4)] for name, p in t.best],
        ]
        for t in thoughts
    ]
    data = json.dumps(rows, ensure_ascii=False).replace("<", "\\u003c")
    highest = max([thought.entropy for thought in thoughts], default=0.0) or 1.0
    bars = "".join(f'<i style="height:{100 * thought.entropy / highest:.1f}%"></i>' for thought in thoughts)
    mean = sum(thought.entropy for thought in thoughts) / max(1, len(thoughts))
    most = math.log2(source.model.config.vocab_size)
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>{html.escape(source.name)}: what the model thought</title><style>{STYLE}</style></head><body>
<h1>{html.escape(source.name)}: what the model thought</h1>
<p class="soft">Each token is coloured by the probability that the model gave it, before temperature and filters. Point at a token, tap it, or
move with Tab and the arrow keys. Seed {answer.seed}; {html.escape(settings)}.</p>
<p class="legend">{bands}</p>
<div id="text" role="group" aria-label="generated tokens"><span class="prompt">{html.escape(prompt)}</span>{"".join(map(button, thoughts))}</div>
<p class="soft">Entropy per token, mean {mean:.2f} bits, highest {highest:.2f}; a guess among all tokens would have {most:.1f}.</p>
<div id="bits" aria-hidden="true">{bars}</div>
<div id="panel" aria-live="polite">No token was generated.</div>
<script type="application/json" id="data">{data}</script><script>{SCRIPT}</script></body></html>
"""


def show(source: Source, prompt: str, settings: Settings, seed: int, options: Options) -> None:
    """Write the page and print the same to the terminal."""
    file = Path(options.explore)
    if not file.parent.is_dir() or file.is_dir():
        raise UserError(
            f"--explore {file}: "
            + ("that is a folder" if file.is_dir() else "there is no such folder")
            + "; name a file, as page.html"
        )
    began = time.perf_counter()
    thoughts, answer = think(source, prompt, settings, seed)
    history.remember(source, prompt, [answer], time.perf_counter() - began)
    atomic_write(file, page(source, prompt, thoughts, answer))
    print(in_terminal(prompt, thoughts, shutil.get_terminal_size().columns))
    print(f"\n{file}: the same as a page, to be opened in a browser; seed {seed}")
