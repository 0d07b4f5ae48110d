# SPDX-License-Identifier: Apache-2.0
"""Model folders that other programs wrote: what their config.json leaves unsaid, what of it our Llama has
not, weights in several files.

`ModelConfig.from_json`, `load_model` and `tensor_index` in model.py come here; a folder of our own needs none
of it.
"""
from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from common import UserError, read_json

if TYPE_CHECKING:
    from model import ModelConfig

# What a plain Llama says under these keys, if anything. Another value asks for a part that model.py does not
# have.
PLAIN = {
    "model_type": "llama",
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "sliding_window": None,
    "quantization_config": None,
    "partial_rotary_factor": 1,
}


def plain_llama(path: Path, values: dict, names: list[str]) -> dict:
    """`values`, read from a Llama config.json at `path`, with transformers' own defaults where a key is
    absent or null.

    The kind of rotary embedding stands under `rope_parameters` (transformers 5) or `rope_scaling` (4; where
    both are given, 5 takes it as well), theta there or beside. Raises UserError that names everything that is
    not as PLAIN says, and those of `names` that have neither value nor default.
    """
    rope = values.get("rope_scaling") or values.get("rope_parameters") or {}
    if not isinstance(rope, dict):
        raise UserError(f"{path}: rope_parameters and rope_scaling must be objects or null, not {rope!r}")
    rope = {key: value for key, value in rope.items() if value is not None}
    stated = {key: value for key, value in values.items() if value is not None}
    foreign = [
        f"{key} {place[key]!r}"
        for place in (stated, rope)
        for key, usual in PLAIN.items()
        if place.get(key, usual) != usual
    ]
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        foreign.append(f"rope scaling {kind!r}")
    if foreign:
        raise UserError(
            f"{path}: this model has no {', no '.join(foreign)}; only a plain Llama can be loaded"
        )
    theta = stated.get("rope_theta", rope.get("rope_theta", 10_000.0))
    if rope.get("rope_theta", theta) != theta:
        raise UserError(
            f"{path}: rope_theta is {theta!r} here and {rope['rope_theta']!r} in rope_parameters; make them equal"
        )
    width, heads = stated.get("hidden_size"), stated.get("num_attention_heads")
    whole = isinstance(width, int) and isinstance(heads, int) and heads > 0
    defaults = {
        "num_key_value_heads": heads,
        "head_dim": width // heads if whole else 0,
        "rope_theta": theta,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
    }
    complete = {**defaults, **stated}
    missing = [name for name in names if complete.get(name) is None]
    if missing:
        raise UserError(f"{path}: missing {', '.join(missing)}; a Llama config.json states them")
    return complete


def weight_files(folder: Path) -> list[Path]:
    """`model.safetensors`, or the files that `model.safetensors.index.json` names, in this folder only.
    Raises UserError if there is neither.
    """
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if not index.is_file():
        raise UserError(f"{single}: no such file; a model folder holds config.json and model.safetensors")
    parts = read_json(index).get("weight_map")
    if not isinstance(parts, dict) or not all(
        re.fullmatch(r"[\w.-]{1,200}\.safetensors", str(part)) for part in parts.values()
    ):
        raise UserError(f"{index}: weight_map must map tensor names to .safetensors files of this folder")
    return [folder / part for part in sorted(set(parts.values()))]


def check_surplus(folder: Path, config: ModelConfig, surplus: dict[str, Tensor], embedding: Tensor) -> None:
    """Raise UserError for a tensor that our model has no place for, save two harmless ones.

    Old exports hold their rotary tables, and tied ones an exact copy of the embedding as lm_head. (A
    differing head is no copy: transformers 4 would ignore it and 5 use it, so one folder would be two
    models.)
    """
    for name, tensor in surplus.items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            if not torch.equal(tensor, embedding):
                raise UserError(
                    f"{folder}: tensor lm_head.weight differs from model.embed_tokens.weight, but config.json says "
                    "tie_word_embeddings true; set it to false, or remove the tensor"
                )
        elif not name.endswith("rotary_emb.inv_freq"):
            raise UserError(f"{folder}: unexpected tensor {name}; config.json describes a model without it")
