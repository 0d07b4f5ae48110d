# SPDX-License-Identifier: Apache-2.0
"""Export a model to ONNX, with the keys and values of past positions as inputs and outputs.

    python -m publishing.to_onnx runs/tiny

The graph has the inputs and outputs of optimum's `text-generation-with-past` export, so that onnxruntime and
transformers.js can use it:

    in    `input_ids` (B, T), `attention_mask` (B, S), `position_ids` (B, T),
          `past_key_values.N.key` and `.value` (B, K, P, F)
    out   `logits` (B, T, V), `present.N.key` and `.value` (B, K, S, F)

with S = P + T. A prompt is read with P = 0.
"""
from __future__ import annotations

import io
import logging
import os
import sys
import tempfile
import warnings
from contextlib import redirect_stdout
from pathlib import Path

import torch
from torch import Tensor, nn

from common import Parser, UserError, find_run, naming, run
from model import Llama, ModelConfig, attention_written_out


class PastAndPresent:
    """Replaces KVCache in the exported graph: appends new keys and values to the past ones."""

    def __init__(self, past: list[tuple[Tensor, Tensor]]):
        self.past = past
        self.present: list[tuple[Tensor, Tensor]] = []

    def append(self, layer_idx: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """k and v (B, K, T, F) of the new positions; returns those of all positions, (B, K, S, F) each."""
        past_k, past_v = self.past[layer_idx]
        k = torch.cat([past_k, k], dim=2)                                     # (B, K, S, F)
        v = torch.cat([past_v, v], dim=2)                                     # (B, K, S, F)
        self.present.append((k, v))
        return k, v


class OnnxModel(nn.Module):
    """The function that is exported: T new positions after P past ones."""

    def __init__(self, model: Llama):
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor,
                past: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        decoder = self.model.model
        cos = decoder.cos[position_ids][:, None]                              # (B, 1, T, F)
        sin = decoder.sin[position_ids][:, None]                              # (B, 1, T, F)
        P, T = past[0][0].shape[2], input_ids.shape[1]
        key = torch.arange(P + T)                                             # (S,)
        query = torch.arange(T)[:, None] + P                                  # (T, 1)
        real = attention_mask.bool()[:, None, None]                           # (B, 1, 1, S)
        # A padded position attends to itself. With nothing to attend to, its softmax would be NaN, and
        # NaN times weight 0 is NaN for all other positions.
        mask = (key <= query) & (real | (key == query))                       # (B, 1, T, S)
        cache = PastAndPresent(past)
        x = decoder.embed_tokens(input_ids)                                   # (B, T, D)
        for layer in decoder.layers:
            x = layer(x, cos, sin, mask, cache)                               # (B, T, D)
        return self.model.project(decoder.norm(x)), cache.present


def example_inputs(config: ModelConfig, batch: int, past: int, new: int) -> tuple:
    """Random inputs of `OnnxModel`, with `past` positions in the cache and `new` ones to compute."""
    ids = torch.randint(config.vocab_size, (batch, new))
    mask = torch.ones(batch, past + new, dtype=torch.int64)
    positions = torch.arange(past, past + new).expand(batch, new)
    shape = (batch, config.num_key_value_heads, past, config.head_dim)
    return (
        ids, mask, positions,
        [(torch.randn(shape), torch.randn(shape)) for _ in range(config.num_hidden_layers)],
    )


def names(config: ModelConfig) -> tuple[list[str], list[str]]:
    """Names of the graph's inputs and outputs, in order."""
    layers = range(config.num_hidden_layers)
    past = [f"past_key_values.{i}.{part}" for i in layers for part in ("key", "value")]
    present = [f"present.{i}.{part}" for i in layers for part in ("key", "value")]
    return ["input_ids", "attention_mask", "position_ids", *past], ["logits", *present]


def export(folder: Path, file: Path) -> None:
    """Write the model in `folder` as one ONNX file, FP32, completely or not at all.

    Raises UserError without onnx or onnxscript.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"{error.name} is not installed; the export needs: pip install onnx onnxscript onnxruntime"
        ) from None
    model = Llama.from_pretrained(folder, attend=attention_written_out).eval()
    inputs, outputs = names(model.config)
    rows = {0: "batch_size"}
    past = {0: "batch_size", 2: "past_length"}
    shapes = {
        "input_ids": {**rows, 1: "new_length"},
        "attention_mask": {**rows, 1: "total_length"},
        "position_ids": {**rows, 1: "new_length"},
        "past": [(past, past)] * model.config.num_hidden_layers,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    # It would warn about every optional library that is not installed.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with naming(file), tempfile.TemporaryDirectory(dir=file.parent) as scratch:
        made = Path(scratch) / file.name
        with redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # It would warn that axes of one size share one name.
            torch.onnx.export(
                OnnxModel(model).eval(), example_inputs(model.config, 2, 5, 3), made, input_names=inputs,
                output_names=outputs, dynamic_shapes=shapes, dynamo=True, external_data=False, verbose=False,
            )
        os.replace(made, file)


def main() -> int:
    parser = Parser(
        "Export a model to ONNX, with past keys and values.", "  python -m publishing.to_onnx runs/tiny\n",
        prog="python -m publishing.to_onnx",
    )
    parser.add_argument(
        "run", nargs="?", metavar="RUN", help="run or model folder (default: the newest under runs/)"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE",
        help="file to write (default: onnx/model.onnx in the model folder)",
    )
    args = parser.parse_args()
    folder = find_run(args.run)
    file = args.out or folder / "onnx" / "model.onnx"
    export(folder, file)
    print(f"{file}: {file.stat().st_size / 2**20:.1f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
