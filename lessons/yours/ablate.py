# SPDX-License-Identifier: Apache-2.0
"""Run one row of the ablation table (lessons/yours/pages/ablations.md): one_file.py with one line changed.

    python lessons/yours/ablate.py no-norm      this row; without a name: the list of rows
    python lessons/yours/ablate.py all          every row, and the table

Every row trains on equally many tokens of the tales, from the same seed. Printed are the loss above the bound
and the names kept: of 60 tales that the model writes, the share that names its hero at least three times and
uses no name that was not introduced.
"""

from __future__ import annotations

import argparse
import json
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
from corpus.checker import check_tale  # noqa: E402
from lessons.tools import FAST, table  # noqa: E402

HERE = Path(__file__).resolve().parent
STEPS, LENGTH = (6, 64) if FAST else (500, 256)
TALES = 4 if FAST else 60
NOTHING_TURNED = ("q, k = rotate(q, cos, sin), rotate(k, cos, sin)", "q, k = q, k")
# row -> lines of one_file.py: (as it is, as it becomes)
ROWS: dict[str, list[tuple[str, str]]] = {
    "plain": [],
    "no-positions": [NOTHING_TURNED],
    "learned-positions": [
        NOTHING_TURNED,
        ("x = self.embed_tokens(ids)", "x = self.embed_tokens(ids) + self.positions.weight[:T]"),
        (
            "self.layers = nn.ModuleList(",
            "self.positions = nn.Embedding(config.max_position_embeddings, "
            "config.hidden_size)\n        self.layers = nn.ModuleList(",
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
    """one_file.py as a module, with the lines of this row changed."""
    text = (HERE / "one_file.py").read_text(encoding="utf-8")
    for before, after in ROWS[row]:
        if text.count(before) != 1:
            raise UserError(
                f"one_file.py holds {before!r} {text.count(before)} times; the row {row} changes one"
            )
        print(f"  - {before.strip()}\n  + {after.strip()}")
        text = text.replace(before, after)
    module = sys.modules["ablated"] = ModuleType("ablated")
    exec(compile(text, f"one_file.py ({row})", "exec"), module.__dict__)
    return module


def without_separators(ids: Tensor, separator: int) -> Tensor:
    """Rows (B, T) without their separators, cut to the length of the shortest."""
    rows = [row[row != separator] for row in ids]
    return torch.stack([row[: min(map(len, rows))] for row in rows])  # (B, T')


@torch.no_grad()
def write_tales(
    model: nn.Module, prompt: list[int], count: int, length: int, stop_id: int
) -> list[list[int]]:
    """`count` continuations of `prompt` at once, drawn from softmax(logits)."""
    chance, ids = torch.Generator().manual_seed(7), torch.tensor([prompt] * count)  # (B, T)
    for _ in range(length):
        logits = model(ids)[:, -1].float()  # (B, V)
        token = torch.multinomial(torch.softmax(logits, dim=-1), 1, generator=chance)  # (B, 1)
        ids = torch.cat([ids, token], dim=1)  # (B, T+1)
        if bool((ids[:, len(prompt) :] == stop_id).any(dim=1).all()):
            break
    rows = ids[:, len(prompt) :].tolist()
    return [row[: row.index(stop_id)] if stop_id in row else row for row in rows]


def run_row(row: str) -> dict:
    """Train and measure one row."""
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
        texts = [
            run.PROMPT + words.decode(ids)
            for ids in write_tales(model, prompt, TALES, 40 if FAST else 260, words.eos_id)
        ]
    found = [check_tale(text) for text in texts]
    kept = sum(tale.counts and tale.name for tale in found) / len(found)
    seconds = time.monotonic() - started
    print(
        f"  {loss - bound:.3f} nats above the bound {bound:.3f}; names kept in {kept:.0%} of {TALES} tales; "
        f"{seconds:.0f} seconds\n  {texts[0][:160]} ..."
    )
    result = {"row": row, "above": loss - bound, "names_kept": kept, "seconds": seconds, "sample": texts[0]}
    run.OUT.mkdir(parents=True, exist_ok=True)
    atomic_write(run.OUT / f"ablation-{row}.json", json.dumps(result, indent=2) + "\n")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("row", nargs="?", help=", ".join(ROWS) + ", or all")
    row = parser.parse_args().row
    if row not in (None, "all", *ROWS):
        raise UserError(f"no row {row!r}; the rows are: {', '.join(ROWS)}, or all")
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
