# SPDX-License-Identifier: Apache-2.0
"""Run a step of the track: train what you have written, see its loss, the distance to the bound, a sample.

    python lessons/yours/run.py 3              step 3, with your files
    python lessons/yours/run.py 3 --start 3    the same; steps 1 and 2 are taken from the reference
    python lessons/yours/run.py all            all twelve steps in order
    python lessons/yours/run.py text FILE      write a thousand tales to FILE, for one_file.py

The model trains on the tales of the built-in corpus. A program made them by random choices, so their entropy
is known. It is the bound: no model can have a lower mean loss. runs/yours/samples.html shows the samples of
all steps.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import html
import itertools
import json
import sys
import time
from pathlib import Path
from typing import Callable

sys.path.insert(0, str(Path(__file__).resolve().parent))
from steps import HERE, STEPS, Steps  # noqa: E402

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

import model as real  # noqa: E402
import tokenizer  # noqa: E402
from common import UserError, atomic_write, run  # noqa: E402
from corpus.builtin import builtin_documents  # noqa: E402
from corpus.command import prepare_builtin  # noqa: E402
from data import Corpus  # noqa: E402
from lessons.exercises.grading import own_line  # noqa: E402
from lessons.tools import FAST, HOME  # noqa: E402
from precision import cpu_multiplies_bf16  # noqa: E402

OUT = HOME / "runs" / "yours"
KIND = "web"  # the tales: they take the place of the cards' web pages
PROMPT = "Once upon a time there"
CONFIG = real.SIZES["tiny"]
SHORT, LONG = (8, 20) if FAST else (200, 800)  # steps of a short and of the long training
WARMUP = max(1, SHORT // 10)
ADD = 1e-4  # step 1: what is added to each count
TITLES = [
    "count pairs",
    "a network that sees one token",
    "one head",
    "several heads",
    "grouped heads",
    "positions",
    "norm",
    "SwiGLU and the block",
    "the stack and the output head",
    "the loss",
    "AdamW and the loop",
    "sampling",
]


# ------------------------------------------------------------------------------------------------------- data


@functools.lru_cache
def tales() -> Path:
    """The folder of the prepared built-in tales. It is made once."""
    return prepare_builtin(HOME / "corpora" / "tales", kinds=(KIND,))


def batches(steps: int, rows: int = 8, length: int = 128) -> Callable[[int], Tensor]:
    """batch(step) -> int64 (rows, length), for `steps` steps."""
    corpus = Corpus(tales(), length, rows, steps)
    return lambda step: torch.from_numpy(corpus.batch(step))


def whole_tales(count: int) -> tuple[list[list[int]], float | None]:
    """The first `count` complete tales of the validation split as ids, and the bound in nats per token."""
    corpus = Corpus(tales(), 128, 1, split="validation")
    rows = [corpus.batch(step)[0].tolist() for step in range(min(len(corpus), 4 * count))]
    found, tale = [], []
    for token in itertools.chain.from_iterable(rows):
        if token == corpus.eos_id:
            found.append(tale)
            tale = []
        else:
            tale.append(token)
    return found[:count], corpus.entropy()


@torch.no_grad()
def measure(model: Callable[[Tensor], Tensor], documents: list[list[int]], separator: int) -> float:
    """Mean loss in nats per token over complete tales, the separator at the end included."""
    total, tokens = 0.0, 0
    for first in range(0, len(documents), 16):
        rows = [[separator, *tale, separator] for tale in documents[first : first + 16]]
        longest = max(len(row) for row in rows)
        ids = torch.tensor([row + [separator] * (longest - len(row)) for row in rows])  # (B, T)
        lengths = torch.tensor([len(row) for row in rows])  # (B,)
        real_token = torch.arange(1, longest) < lengths[:, None]  # (B, T-1), False for padding
        logp = torch.log_softmax(model(ids)[:, :-1].float(), dim=-1)  # (B, T-1, V)
        chosen = logp.gather(2, ids[:, 1:, None])[:, :, 0]  # (B, T-1)
        total -= float((chosen * real_token).sum())
        tokens += int(real_token.sum())
    return total / tokens


def in_low_precision() -> contextlib.AbstractContextManager:
    """BF16 matrix products where the processor has them: the same training in less time.

    Autocast's cache is off. It keeps the BF16 copy of each weight until the context ends, so a training loop
    inside the context would compute every gradient with the first weights.
    """
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=cpu_multiplies_bf16(), cache_enabled=False)


# -------------------------------------------------------------------------------------------- what is trained


class Trial(nn.Module):
    """An embedding, the part of one step, and an output matrix: the model of steps 3 to 8."""

    def __init__(self, part: nn.Module, rotary: bool, norm: nn.Module | None = None):
        super().__init__()
        self.embed_tokens = nn.Embedding(CONFIG.vocab_size, CONFIG.hidden_size)
        self.part, self.rotary, self.norm = part, rotary, norm
        self.lm_head = nn.Linear(CONFIG.hidden_size, CONFIG.vocab_size, bias=False)
        self.cos, self.sin = real.rotary_table(1024, CONFIG.head_dim, CONFIG.rope_theta)

    def forward(self, ids: Tensor) -> Tensor:
        T = ids.shape[1]
        x = self.embed_tokens(ids)  # (B, T, D)
        x = self.part(x, self.cos[:T], self.sin[:T]) if self.rotary else self.part(x)
        return self.lm_head(self.norm(x) if self.norm else x)  # (B, T, V)


class Added(nn.Module):
    """x + part(norm(x)), or x + part(x) without a norm."""

    def __init__(self, part: nn.Module, norm: nn.Module | None = None):
        super().__init__()
        self.part, self.norm = part, norm

    def forward(self, x: Tensor, *tables: Tensor) -> Tensor:
        return x + self.part(self.norm(x) if self.norm else x, *tables)  # (B, T, D)


def fit(model: nn.Module, rate: float, loss_of: Callable = real.next_token_loss) -> None:
    """Train for SHORT steps with torch's AdamW: the training of steps 2 to 10.

    The learning rate rises for WARMUP steps, then it is constant. Without the warmup the four blocks of step
    9 learn far less in the same time, and how much depends on the seed (loss 1.2 or 1.6 instead of 0.7).
    """
    batch = batches(SHORT)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.01)
    with in_low_precision():
        for step in range(SHORT):
            optimizer.param_groups[0]["lr"] = rate * min(1.0, (step + 1) / WARMUP)
            ids = batch(step)  # (B, T)
            loss = loss_of(model(ids), ids)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def part_of(steps: Steps, number: int) -> nn.Module:
    """The untrained model of step 2 to 12, built from the student's parts."""
    module, D, H, F = steps.module(number), CONFIG.hidden_size, CONFIG.num_attention_heads, CONFIG.head_dim
    if number == 2:
        return module.Bigram(CONFIG.vocab_size, D)
    if number == 3:
        return Trial(Added(module.Head(D, D)), False)
    if number == 4:
        return Trial(Added(module.MultiHead(D, H, F)), False)
    if number == 5:
        return Trial(Added(module.GroupedHeads(D, H, CONFIG.num_key_value_heads, F)), False)
    if number == 6:
        return Trial(Added(module.Attention(CONFIG)), True)
    if number == 7:
        attention = steps.module(6).Attention(CONFIG)
        return Trial(Added(attention, module.RMSNorm(D, 1e-5)), True, module.RMSNorm(D, 1e-5))
    if number == 8:
        return Trial(module.Block(CONFIG), True, steps.module(7).RMSNorm(D, 1e-5))
    return steps.module(9).Llama(CONFIG)


def trained(steps: Steps, number: int) -> Callable[[Tensor], Tensor]:
    """The trained model of step `number`: ids (B, T) -> logits (B, T, V)."""
    torch.manual_seed(42)
    if number == 1:
        ids = torch.cat([batches(SHORT)(step).flatten() for step in range(SHORT)])  # (N,)
        module = steps.module(1)
        table = module.probabilities(module.count_pairs(ids, CONFIG.vocab_size), ADD)  # (V, V)
        print(f"loss {float(module.mean_loss(table, ids)):.3f} nats per token on the text that was counted")
        return lambda ids: table.log()[ids]
    model = part_of(steps, number)
    if number < 9:
        for weight in model.parameters():
            if weight.dim() == 2:
                nn.init.normal_(weight, 0.0, 0.02)  # as in step 9; torch's own first weights are too large
    if number < 10:
        fit(model, 2e-2 if number < 7 else 3e-3)  # models without a norm need the larger rate
    elif number == 10:
        fit(model, 3e-3, steps.module(10).next_token_loss)
    elif number == 11:
        with in_low_precision():
            losses = steps.module(11).train(model, batches(LONG, 8, 256), LONG)
        shown = [f"{losses[i]:.2f} (step {i})" for i in [*range(0, LONG, max(1, LONG // 6)), LONG - 1]]
        print("training loss:", ", ".join(shown))
        save(model)
    else:
        if not (OUT / "model" / "config.json").is_file():
            raise UserError("step 12 uses the model that step 11 trains; run python lessons/yours/run.py 11")
        model.load_state_dict(real.Llama.from_pretrained(OUT / "model").state_dict())
    return model.eval()


def save(model: nn.Module) -> None:
    """The student's model as a Llama folder with its tokenizer, which sample.py and transformers read."""
    copy, words = real.Llama(CONFIG), tokenizer.load(tales() / "tokenizer")
    copy.load_state_dict(model.state_dict())
    copy.save_pretrained(OUT / "model", eos_token_id=words.eos_id, pad_token_id=words.pad_id)
    words.save_pretrained(OUT / "model")


@torch.no_grad()
def draw(model: Callable[[Tensor], Tensor], ids: list[int], count: int, stop_id: int) -> list[int]:
    """Tokens drawn from softmax(logits): the sampling of steps 1 to 11."""
    chance, new = torch.Generator().manual_seed(5), []
    while len(new) < count:
        probability = torch.softmax(model(torch.tensor([ids + new]))[0, -1].float(), dim=0)  # (V,)
        new.append(int(torch.multinomial(probability, 1, generator=chance)))
        if new[-1] == stop_id:
            return new[:-1]
    return new


# --------------------------------------------------------------------------------------------------- one step


def show(steps: Steps, number: int) -> None:
    """Run a step, print its loss, the bound and a sample, and store them for the page."""
    started = time.monotonic()
    print(f"step {number}: {TITLES[number - 1]}")
    model = trained(steps, number)
    documents, bound = whole_tales(16 if FAST else 160)
    words = tokenizer.load(tales() / "tokenizer")
    loss = measure(model, documents, words.eos_id)
    ids = [words.eos_id, *words.encode(PROMPT, document=True)]
    if number == 12:
        generate = steps.module(12).generate
        new = generate(model, ids, 160, temperature=0.6, top_p=0.9, seed=5, stop_id=words.eos_id)
    else:
        new = draw(model, ids, 60 if number < 11 else 160, words.eos_id)
    sample = PROMPT + words.decode(new)
    seconds = time.monotonic() - started
    print(f"loss {loss:.3f} nats per token on new tales; bound {bound:.3f}; {loss - bound:.3f} above it")
    print(f"sample: {sample}\n({seconds:.0f} seconds)\n")
    OUT.mkdir(parents=True, exist_ok=True)
    kept = {"step": number, "title": TITLES[number - 1], "loss": loss, "bound": bound, "sample": sample,
            "seconds": seconds}
    atomic_write(OUT / f"step{number:02d}.json", json.dumps(kept, indent=2) + "\n")
    atomic_write(OUT / "samples.html", page())


def page() -> str:
    """The HTML page with the samples of all steps that have run, in order."""
    kept = [json.loads(file.read_text()) for file in sorted(OUT.glob("step[0-9][0-9].json"))]
    rows = []
    for step in kept:
        above = step["loss"] - step["bound"]
        rows.append(
            f"<h2>{step['step']}. {html.escape(step['title'])}</h2>\n"
            f"<p>loss {step['loss']:.3f}, {above:.3f} above the bound "
            f"<meter min='0' max='8' value='{above:.3f}'></meter></p>\n"
            f"<blockquote>{html.escape(step['sample'])}</blockquote>"
        )
    style = "body{max-width:44em;margin:2em auto;font:16px/1.5 sans-serif} :root{color-scheme:light dark}"
    return (
        "<!doctype html><meta charset='utf-8'><title>From letter soup to a story</title>"
        f"<style>{style}</style>\n<h1>From letter soup to a story</h1>\n" + "\n".join(rows) + "\n"
    )


def write_text(file: Path) -> None:
    """A thousand tales as plain text, a blank line between them."""
    file.write_text("\n\n".join(itertools.islice(builtin_documents(KIND), 1000)), encoding="utf-8")


def main() -> None:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("step", help=f"1 to {len(STEPS)}, all, or text")
    parser.add_argument("file", nargs="?", type=Path, help="for text: the file to write")
    parser.add_argument("--start", type=int, default=1, help="take earlier steps from the reference")
    parser.add_argument("--answers", type=Path, default=HERE, help="folder of your files (default: this one)")
    options = parser.parse_args()
    if options.step == "text" and options.file:
        return write_text(options.file)
    if options.step != "all" and options.step not in map(str, range(1, len(STEPS) + 1)):
        raise UserError(f"unknown step {options.step!r}; use 1 to {len(STEPS)}, all, or text FILE")
    chosen = range(1, len(STEPS) + 1) if options.step == "all" else [int(options.step)]
    steps = Steps(options.answers, options.start)
    for number in chosen:
        try:
            show(steps, number)
        except NotImplementedError as missing:
            hint = "--start takes earlier steps from the reference"
            raise UserError(f"not written yet: {missing} ({hint})") from None
        except Exception as error:
            if not own_line(error):
                raise
            raise UserError(f"{own_line(error)}{type(error).__name__}: {error}") from None


if __name__ == "__main__":
    sys.exit(run(main))
