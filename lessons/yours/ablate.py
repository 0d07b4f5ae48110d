# SPDX-License-Identifier: Apache-2.0
"""Run a row of the ablation table (lessons/yours/pages/ablations.md): one_file.py with one line changed.

    python lessons/yours/ablate.py              the list of rows
    python lessons/yours/ablate.py no-norm      one row
    python lessons/yours/ablate.py all          every row, and the table

Every row trains on the same number of tokens of the tales, from the same seed. It prints the loss above the
bound and the names kept: the model begins 30 tales, and of all names in them, this share was introduced
earlier in the same tale ("a fox named Lena"). The introductions themselves are not counted.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from pathlib import Path
from types import ModuleType

sys.path.insert(0, str(Path(__file__).resolve().parent))
import run  # noqa: E402
import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

import tokenizer  # noqa: E402
from common import UserError, atomic_write  # noqa: E402
from corpus.checker import INTRODUCED  # noqa: E402
from corpus.tales import ANY_NAME  # noqa: E402
from lessons.tools import FAST, table  # noqa: E402

HERE = Path(__file__).resolve().parent
STEPS, LENGTH = (6, 64) if FAST else (240, 256)
TALES, TOKENS = (4, 40) if FAST else (30, 160)
NOT_ROTATED = ("q, k = rotate(q, cos, sin), rotate(k, cos, sin)", "q, k = q, k")
# row -> changes to one_file.py: (before, after)
ROWS: dict[str, list[tuple[str, str]]] = {
    "plain": [],
    "no-positions": [NOT_ROTATED],
    "learned-positions": [
        NOT_ROTATED,
        ("x = self.embed_tokens(ids)", "x = self.embed_tokens(ids) + self.positions[:, :T]"),
        (
            "self.layers = nn.ModuleList(",
            "self.positions = nn.Parameter(torch.zeros(1, config.max_position_embeddings, "
            "config.hidden_size))\n        self.layers = nn.ModuleList(",
        ),
    ],
    "no-norm": [("return self.weight * normed.to(x.dtype)", "return self.weight * x")],
    "no-residual-scaling": [("residual_std if to_residual else std", "std")],
    "relu": [("nn.functional.silu(", "nn.functional.relu(")],
    "one-head": [
        ("num_attention_heads: int = 4", "num_attention_heads: int = 1"),
        ("num_key_value_heads: int = 2", "num_key_value_heads: int = 1"),
        ("head_dim: int = 32", "head_dim: int = 128"),
    ],
    "no-separator": [],  # a change of the data, not of the model
}


def changed_file(row: str) -> ModuleType:
    """one_file.py as a module, with the changes of this row."""
    text = (HERE / "one_file.py").read_text(encoding="utf-8")
    for before, after in ROWS[row]:
        if text.count(before) != 1:
            raise UserError(f"row {row}: one_file.py must contain {before!r} once, but it is there "
                            f"{text.count(before)} times")
        print(f"  - {before.strip()}\n  + {after.strip()}")
        text = text.replace(before, after)
    module = sys.modules["ablated"] = ModuleType("ablated")
    exec(compile(text, f"one_file.py ({row})", "exec"), module.__dict__)
    return module


def without_separators(ids: Tensor, separator: int) -> Tensor:
    """Rows (B, T) without their separators, all cut to the length of the shortest row."""
    rows = [row[row != separator] for row in ids]
    return torch.stack([row[: min(map(len, rows))] for row in rows])  # (B, T')


@torch.no_grad()
def write_tales(model: nn.Module, prompt: list[int], count: int, length: int, stop_id: int) -> list:
    """The ids of `count` continuations of `prompt`, made as one batch and drawn from softmax(logits)."""
    chance, ids = torch.Generator().manual_seed(7), torch.tensor([prompt] * count)  # (B, T)
    finished = []
    for _ in range(length):
        hidden = model.model(ids)[:, -1]  # (B, D)
        probability = torch.softmax((hidden @ model.model.embed_tokens.weight.t()).float(), dim=-1)  # (B, V)
        token = torch.multinomial(probability, 1, generator=chance)  # (B, 1)
        ended = token[:, 0] == stop_id  # (B,)
        finished += ids[ended].tolist()
        ids = torch.cat([ids, token], dim=1)[~ended]  # (B, T+1), the tales that are not finished
        if len(ids) == 0:
            break
    return [row[len(prompt) :] for row in [*finished, *ids.tolist()]]


def names_kept(tales: list[str]) -> float:
    """The share of all names that were introduced earlier in their tale; 0 if there are none.

    >>> names_kept(["There was a fox named Lena. Lena met Oscar. Lena slept."])
    0.6666666666666666
    """
    kept = names = 0
    for tale in tales:
        introductions = {found.start(found.lastindex) for found in INTRODUCED.finditer(tale)}
        known = set()
        for found in re.finditer(ANY_NAME, tale):
            if found.start() in introductions:
                known.add(found[0])
            else:
                names += 1
                kept += found[0] in known
    return kept / names if names else 0.0


def run_row(row: str) -> dict:
    """Train one row, measure it, and store the result in runs/yours/ablation-ROW.json."""
    started = time.monotonic()
    print(f"{row}:")
    module, words = changed_file(row), tokenizer.load(run.tales() / "tokenizer")
    torch.manual_seed(42)
    model = module.Llama(module.Config(vocab_size=words.vocab_size))
    batch = run.batches(STEPS, 8, LENGTH)
    with run.in_low_precision():
        if row == "no-separator":
            module.train(model, lambda step: without_separators(batch(step), words.eos_id), STEPS)
        else:
            module.train(model, batch, STEPS)
    documents, bound = run.whole_tales(16 if FAST else 160)
    loss = run.measure(model, documents, words.eos_id)
    prompt = [words.eos_id, *words.encode(run.PROMPT, document=True)]
    with run.in_low_precision():
        written = write_tales(model, prompt, TALES, TOKENS, words.eos_id)
    texts = [run.PROMPT + words.decode(ids) for ids in written]
    kept, seconds = names_kept(texts), time.monotonic() - started
    print(f"  {loss - bound:.3f} nats above the bound {bound:.3f}; {kept:.0%} of the names kept; "
          f"{seconds:.0f} seconds\n  {texts[0][:160]} ...")
    result = {"row": row, "above": loss - bound, "names_kept": kept, "seconds": seconds, "sample": texts[0]}
    run.OUT.mkdir(parents=True, exist_ok=True)
    atomic_write(run.OUT / f"ablation-{row}.json", json.dumps(result, indent=2) + "\n")
    return result


def main() -> None:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("row", nargs="?", help=", ".join(ROWS) + ", or all")
    row = parser.parse_args().row
    if row not in (None, "all", *ROWS):
        raise UserError(f"unknown row {row!r}; the rows are: {', '.join(ROWS)}, or all")
    if row is None:
        print("rows: " + ", ".join(ROWS))
        return
    results = [run_row(name) for name in (ROWS if row == "all" else [row])]
    table(
        ["row", "above the bound", "names kept"],
        [(r["row"], f"{r['above']:.3f}", f"{100 * r['names_kept']:.0f}%") for r in results],
    )


if __name__ == "__main__":
    from common import run as run_main

    sys.exit(run_main(main))
