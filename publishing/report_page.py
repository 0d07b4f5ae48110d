# SPDX-License-Identifier: Apache-2.0
"""How a report looks: its style, its script, and the HTML of its parts. What they say is in report.py.

Every text goes through `html.escape`; the data of the explorer are JSON in which < is written as an escape.
The page needs nothing from elsewhere, and its Content-Security-Policy makes the browser refuse it.
"""
from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable

from sampling.explore import SIGNS, Choice, colour_by_surprise, face, in_words, percent, surprise_legend

ALTERNATIVES = 5                                                  # tokens shown beside each token of the text

STYLE = """
:root{
  color-scheme:light dark;
  --paper:light-dark(#fdfdfc,#16181a); --ink:light-dark(#1b1b1b,#ececec); --soft:light-dark(#5c5c5c,#a9a9a9);
  --line:light-dark(#d5d5d3,#3c4044); --panel:light-dark(#f3f3f1,#212427); --bar:light-dark(#4a6fa5,#8db4ea);
  --green:light-dark(#a6e3ae,#1f5f33); --yellow:light-dark(#ece59b,#5d5712);
  --orange:light-dark(#fbc98d,#7a4811); --red:light-dark(#f7aaa2,#7d2a26)
}
*{box-sizing:border-box}
body{
  margin:0 auto; max-width:66rem; padding:1rem 1rem 3rem;
  background:var(--paper); color:var(--ink); font:1rem/1.55 system-ui,sans-serif
}
h1{font-size:1.5rem; line-height:1.25; margin:.3rem 0 .6rem; overflow-wrap:anywhere}
h2{
  font-size:1.3rem; margin:2.2rem 0 .5rem; padding-top:1rem; border-top:1px solid var(--line);
  overflow-wrap:anywhere
}
h3{font-size:1.05rem; margin:1.6rem 0 .4rem}
p{margin:.4rem 0}
.lead{font-size:1.1rem}
.soft{color:var(--soft); font-size:.9rem}
.two{display:grid; grid-template-columns:repeat(auto-fit,minmax(min(100%,26rem),1fr)); gap:1rem 1.5rem}
svg.chart{display:block; width:100%; max-width:34rem; height:auto}
svg.chart text{fill:var(--soft)}
.scroll{overflow-x:auto; margin:.4rem 0 .8rem}
table{border-collapse:collapse; font-size:.92rem}
th,td{padding:.15rem 1.1rem .15rem 0; text-align:left; vertical-align:top}
th:last-child,td:last-child{padding-right:0}
th{font-weight:600; color:var(--soft)}
tr+tr td{border-top:1px solid var(--line)}
td.number,th.number{text-align:right; font-variant-numeric:tabular-nums; white-space:nowrap}
code,pre,.written,.tokens{font-family:ui-monospace,monospace; font-size:.92em}
pre{
  background:var(--panel); border-radius:.4rem; padding:.6rem .8rem; white-space:pre-wrap;
  overflow-wrap:anywhere
}
pre span{display:inline-block; max-width:100%}
dl{margin:.4rem 0}
dt{color:var(--soft); font-size:.9rem; margin-top:.6rem}
dd{margin:0; white-space:pre-wrap; overflow-wrap:anywhere}
.parts{display:flex; height:1.6rem; border-radius:.3rem; overflow:hidden; margin:.4rem 0}
.parts i{display:block; min-width:1px}
.keys{display:flex; flex-wrap:wrap; gap:.2rem 1.2rem}
.key{display:inline-block; width:.8rem; height:.8rem; border-radius:.15rem; margin-right:.4rem}
.slider{display:flex; gap:.8rem; align-items:center; flex-wrap:wrap; margin:.6rem 0}
.slider input{flex:1 1 12rem; max-width:28rem; accent-color:var(--bar)}
.slider output{font-variant-numeric:tabular-nums}
.tokens{line-height:1.9; white-space:pre-wrap; overflow-wrap:anywhere; margin:.6rem 0}
.word{white-space:pre}
.tokens button{
  font:inherit; color:inherit; border:0; border-radius:.2rem; margin:0 1px; padding:.05rem 0;
  cursor:pointer; white-space:pre-wrap; text-align:left
}
.tokens button.name{opacity:.8; padding:.05rem .2rem; font-size:.8em}
.tokens button:focus-visible,.tokens button.chosen{outline:2px solid var(--ink); outline-offset:1px}
.green{background:var(--green)} .yellow{background:var(--yellow)}
.orange{background:var(--orange)} .red{background:var(--red)}
.bands span{padding:.1rem .5rem; border-radius:.25rem; margin-right:.3rem; white-space:nowrap}
.panel{background:var(--panel); border-radius:.4rem; padding:.5rem .8rem; min-height:9.6rem}
.panel b{font-family:ui-monospace,monospace}
.panel table{width:100%; max-width:30rem}
.panel td{padding:0 .6rem 0 0; border:0}
.panel td:first-child{font-family:ui-monospace,monospace; overflow-wrap:anywhere}
.panel td:last-child{width:45%}
.panel td u{
  display:block; height:.6rem; margin-top:.4rem; min-width:1px; background:var(--bar); border-radius:.15rem
}
@media (max-width:40rem){
  th,td{padding-right:.6rem}
  .stacked tr:first-child{display:none}
  .stacked tr{display:block; padding:.3rem 0; border-top:1px solid var(--line)}
  .stacked td,.stacked td.number{display:flex; padding:0; border:0; text-align:left}
  .stacked td::before{content:attr(data-name); flex:0 0 10rem; color:var(--soft)}
  .stacked td:first-child{font-weight:600}
}
@media print{
  :root{color-scheme:light}
  body{max-width:none; padding:0; font-size:10pt}
  .slider,.panel{display:none}
  h2{break-before:page} h2:first-of-type{break-before:auto}
  h3,dt{break-after:avoid} figure,svg,table,dd,pre,.parts{break-inside:avoid}
  .scroll{overflow:visible} table{font-size:9pt} th,td{padding-right:.6rem} .stacked td{white-space:nowrap}
  *{print-color-adjust:exact; -webkit-print-color-adjust:exact}
}
"""

SCRIPT = """
for (const box of document.querySelectorAll(".explorer")) {
  const {names, states} = JSON.parse(box.querySelector("script").textContent);
  const tokens = [...box.querySelectorAll(".tokens button")], panel = box.querySelector(".panel");
  const slider = box.querySelector("input"), output = box.querySelector("output");
  let chosen = 0;
  function element(name, content) {
    const made = document.createElement(name);
    made.textContent = content;
    return made;
  }
  function look(i) {
    const [words, numbers, , best] = states[slider.value].rows[i], table = document.createElement("table");
    tokens.forEach((token, j) => token.classList.toggle("chosen", i === j));
    for (const [name, share, width] of best) {
      const row = table.insertRow(), bar = document.createElement("u");
      row.append(element("td", names[name]), element("td", share), element("td", ""));
      bar.style.width = 100 * width + "%";
      row.lastChild.append(bar);
    }
    const name = element("b", tokens[i].dataset.name), place = element("span", "  " + words + ", " + numbers);
    panel.replaceChildren(name, place, table);
  }
  function keep(i) {
    tokens[chosen].tabIndex = -1;
    chosen = i;
    tokens[i].tabIndex = 0;
    look(i);
  }
  function turn() {
    const state = states[slider.value];
    output.textContent = state.label;
    slider.setAttribute("aria-valuetext", state.label);
    tokens.forEach((token, i) => token.classList.remove("green", "yellow", "orange", "red"));
    tokens.forEach((token, i) => token.classList.add(state.rows[i][2]));
    look(chosen);
  }
  tokens.forEach((token, i) => {
    token.addEventListener("mouseenter", () => look(i));
    token.addEventListener("mouseleave", () => look(chosen));
    token.addEventListener("click", () => keep(i));
    token.addEventListener("focus", () => keep(i));
  });
  box.querySelector(".tokens").addEventListener("keydown", event => {
    const steps = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -Infinity, End: Infinity};
    if (!(event.key in steps)) return;
    event.preventDefault();
    tokens[Math.max(0, Math.min(tokens.length - 1, chosen + steps[event.key]))].focus();
  });
  slider.addEventListener("input", turn);
  keep(0);
  turn();
}
"""


def page(title: str, parts: Iterable[str]) -> str:
    """The complete document."""
    policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{html.escape(title)}</title><style>{STYLE}</style></head><body>
<h1>{html.escape(title)}</h1>
{"".join(parts)}<script>{SCRIPT}</script></body></html>
"""


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph; `kind` is "lead", "soft" or nothing."""
    return f'<p class="{kind}">{html.escape(text)}</p>\n' if kind else f"<p>{html.escape(text)}</p>\n"


def table(head: list[str], rows: list[tuple], stacked: bool = False) -> str:
    """A table; columns that hold only numbers are aligned to the right.

    With `stacked`, for many columns, each row becomes a list of its cells on a narrow screen.
    """
    cells = [[str(value) for value in row] for row in rows]
    right = [all(re.fullmatch(r"-?[\d.,]+%?", cell) for cell in column) for column in zip(*cells)]
    kinds = [' class="number"' if side else "" for side in right]

    def line(name: str, texts: list[str]) -> str:
        made = (f'<{name}{kind} data-name="{html.escape(title)}">{html.escape(text)}</{name}>'
                for text, kind, title in zip(texts, kinds, head))
        return f"<tr>{''.join(made)}</tr>\n"

    body = "".join(line("td", row) for row in cells)
    kind = ' class="stacked"' if stacked else ""
    return f'<div class="scroll"><table{kind}>{line("th", head)}{body}</table></div>\n'


def terms(rows: list[tuple[str, str]]) -> str:
    """Short headings, each with a text whose lines are kept."""
    return "<dl>" + "".join(f'<dt>{html.escape(name)}</dt><dd class="written">{html.escape(text)}</dd>\n'
                            for name, text in rows) + "</dl>\n"


def commands(rows: list[tuple[str, str]]) -> str:
    """What to do, each with the command that does it."""
    def parts(line: str) -> str:
        """The words of a line, each in an element that is not broken, not even after the dashes of a flag."""
        return " ".join(f"<span>{html.escape(part)}</span>" for part in line.split(" "))

    return "".join(f"<p>{html.escape(words)}</p><pre>{parts(line)}</pre>\n" for words, line in rows)


def bar(parts: list[tuple[str, float, str]]) -> str:
    """(name, share of all, colour) of each part as one bar."""
    pieces = keys = ""
    for name, share, colour in parts:
        pieces += f'<i style="width:{100 * share:.2f}%;background:{colour}"></i>'
        key = f'<i class="key" style="background:{colour}"></i>'
        keys += f"<span>{key}{html.escape(name)} {share:.1%}</span>"
    return f'<div class="parts" aria-hidden="true">{pieces}</div><p class="soft keys">{keys}</p>\n'


def explorer(states: list[tuple[str, list[Choice]]]) -> str:
    """The same tokens as a model saw them in each state (label, choices), with a slider between the states.

    It opens with the last state, which is also what a printer gets.
    """
    numbers: dict[str, int] = {}
    data = []
    for label, choices in states:
        rows = []
        for choice in choices:
            words = f"{choice.surprise:.1f} bits of surprise, rank {choice.rank:,}"
            best = [[numbers.setdefault(name, len(numbers)), percent(p), round(p, 3)]
                    for name, p in choice.best[:ALTERNATIVES]]
            rows.append([percent(choice.probability), words, colour_by_surprise(choice.share), best])
        mean = sum(choice.surprise for choice in choices) / max(1, len(choices))
        data.append({"label": f"{label}: {mean:.2f} bits of surprise a token", "rows": rows})
    text = json.dumps({"names": list(numbers), "states": data}, ensure_ascii=False, separators=(",", ":"))
    tokens = in_words(states[-1][1], [
        f'<button type="button" tabindex="-1" class="{"" if choice.text else "name "}'
        f'{colour_by_surprise(choice.share)}" data-name="{html.escape(choice.name)}">'
        f"{face(choice)}</button>" for choice in states[-1][1]
    ])
    legend = "".join(f'<span class="{name}">{html.escape(words)}</span>' for name, words in surprise_legend())
    last = len(states) - 1
    return f"""<div class="explorer">
<div class="slider"><input type="range" min="0" max="{last}" value="{last}" aria-label="state of the model"{
    "" if last else " hidden"}>
<output>{html.escape(data[-1]["label"])}</output></div>
<p class="bands soft">Surprise, as a share of a uniform guess: {legend}</p>
<div class="tokens" role="group" aria-label="tokens of a validation document">{tokens}</div>
<div class="panel" aria-live="polite"></div>
<p class="soft">{SIGNS}</p>
<script type="application/json">{text.replace("<", chr(92) + "u003c")}</script></div>
"""
