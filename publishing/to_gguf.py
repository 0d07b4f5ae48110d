# SPDX-License-Identifier: Apache-2.0
"""Export a model to GGUF, the file format of llama.cpp. The file holds the weights and no tokenizer.

    python -m publishing.to_gguf runs/tiny --type f16
    python -m publishing.to_gguf runs/20m --type q4_k_m   (llama.cpp quantizes: pip install llama-cpp-python)

With such a file llama.cpp takes ids and gives logits or ids, at any of its precisions. It cannot tokenize,
because it does not know TokenMonster; `tokenizer.py` or the folder's `tokenmonster_hf.py` turn text into ids
and back. (llama-cpp-python 0.3.36 crashes if it is asked to tokenize with such a file.) llama.cpp's own
converter cannot make the file: it stops at the unknown tokenizer.

A GGUF file (version 3, little-endian): "GGUF", version, number of tensors, number of keys; the keys, each a
name, a type and a value; for each tensor its name, shape (innermost axis first), type and offset; then the
tensors' bytes, each at a multiple of 32.
"""
from __future__ import annotations

import os
import struct
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy

from common import Parser, UserError, find_run, naming, run, run_of
from model import Llama, ModelConfig

ALIGNMENT = 32
U32, F32_VALUE, STRING = 4, 6, 8  # types of a key's value
TENSOR_TYPES = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    6: "Q5_0",
    7: "Q5_1",
    8: "Q8_0",
    10: "Q2_K",
    11: "Q3_K",
    12: "Q4_K",
    13: "Q5_K",
    14: "Q6_K",
}
FILE_TYPES = {"f32": 0, "f16": 1}
QUANTIZED = {"q4_0": 2, "q8_0": 7, "q4_k_m": 15}  # llama.cpp's numbers for its mixtures of types
# The types of a mixture's matrices. In a q4_0 file the head has Q6_K.
USUAL = {"q4_0": ("Q4_0", "Q6_K"), "q4_k_m": ("Q4_K", "Q6_K")}


def keys_of(config: ModelConfig, file_type: str, name: str) -> dict[str, tuple[int, object]]:
    """The keys of a Llama file: name -> (type of the value, value)."""
    shape = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "rope.dimension_count": config.head_dim,
        "vocab_size": config.vocab_size,
    }
    keys = {
        "general.architecture": (STRING, "llama"),
        "general.name": (STRING, name),
        "general.file_type": (U32, FILE_TYPES[file_type]),
        "general.alignment": (U32, ALIGNMENT),
        "tokenizer.ggml.model": (STRING, "none"),
    }
    keys.update({f"llama.{key}": (U32, value) for key, value in shape.items()})
    keys["llama.rope.freq_base"] = (F32_VALUE, config.rope_theta)
    keys["llama.attention.layer_norm_rms_epsilon"] = (F32_VALUE, config.rms_norm_eps)
    return keys


def interleaved(weight: numpy.ndarray, heads: int) -> numpy.ndarray:
    """Rows of q or k (heads * F, D) in llama.cpp's order.

    Its rotary embedding rotates the features (2j, 2j + 1) of a head; ours rotates (j, j + F/2).
    """
    halves = weight.reshape(heads, 2, -1, weight.shape[1])                    # (heads, 2, F/2, D)
    return halves.swapaxes(1, 2).reshape(weight.shape)                        # (heads * F, D)


def tensors_of(model: Llama) -> dict[str, numpy.ndarray]:
    """llama.cpp's names -> weights, FP32."""
    weights = {name: tensor.detach().float().numpy() for name, tensor in model.state_dict().items()}
    config = model.config
    parts = {
        "input_layernorm": "attn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "post_attention_layernorm": "ffn_norm",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    tensors = {
        "token_embd.weight": weights["model.embed_tokens.weight"],
        "output_norm.weight": weights["model.norm.weight"],
    }
    if not config.tie_word_embeddings:  # without this tensor llama.cpp uses the embedding
        tensors["output.weight"] = weights["lm_head.weight"]
    for layer in range(config.num_hidden_layers):
        for ours, theirs in parts.items():
            weight = weights[f"model.layers.{layer}.{ours}.weight"]
            if theirs == "attn_q":
                weight = interleaved(weight, config.num_attention_heads)
            elif theirs == "attn_k":
                weight = interleaved(weight, config.num_key_value_heads)
            tensors[f"blk.{layer}.{theirs}.weight"] = weight
    return tensors


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def write(model: Llama, file: Path, file_type: str, name: str) -> None:
    """Write `model` with matrices of `file_type` "f32" or "f16"; the norms are FP32."""
    keys = keys_of(model.config, file_type, name)
    tensors = tensors_of(model)
    head = [struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(keys))]
    for key, (kind, value) in keys.items():
        packed = text(value) if kind == STRING else struct.pack("<I" if kind == U32 else "<f", value)
        head.append(text(key) + struct.pack("<I", kind) + packed)
    offset, contents = 0, []
    for key, weight in tensors.items():
        half = file_type == "f16" and weight.ndim == 2
        content = weight.astype("<f2" if half else "<f4").tobytes()
        dimensions = struct.pack(f"<I{weight.ndim}Q", weight.ndim, *reversed(weight.shape))
        head.append(text(key) + dimensions + struct.pack("<IQ", int(half), offset))
        content += bytes(-len(content) % ALIGNMENT)
        contents.append(content)
        offset += len(content)
    start = b"".join(head)
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "wb") as out:
        out.write(start + bytes(-len(start) % ALIGNMENT))
        for content in contents:
            out.write(content)


def read_types(file: Path) -> dict[str, tuple[str, list[int]]]:
    """Name -> (type, shape) of the tensors, from the head of a GGUF file.

    Raises UserError if it is not a GGUF file.
    """
    with open(file, "rb") as source:
        def take(layout: str) -> tuple:
            return struct.unpack("<" + layout, source.read(struct.calcsize("<" + layout)))

        def take_text() -> str:
            return source.read(take("Q")[0]).decode()

        try:
            magic, version, tensor_count, key_count = take("4sIQQ")
            if magic != b"GGUF" or version != 3:
                raise UserError(f"{file}: not a GGUF file of version 3")
            for _ in range(key_count):
                take_text()
                take_text() if take("I")[0] == STRING else take("I")      # the others have four bytes
            found = {}
            for _ in range(tensor_count):
                name = take_text()
                shape = take(f"{take('I')[0]}Q")
                kind, _ = take("IQ")
                found[name] = (TENSOR_TYPES.get(kind, f"type {kind}"), list(reversed(shape)))
        except (struct.error, KeyError, UnicodeDecodeError):
            raise UserError(f"{file}: damaged GGUF file") from None
    return found


def quantize(source: Path, file: Path, file_type: str) -> None:
    """Let llama.cpp quantize a GGUF file. Raises UserError where it is not installed or refuses."""
    try:
        import llama_cpp
    except ImportError:
        raise UserError(
            "llama-cpp-python is not installed: pip install llama-cpp-python, or write --type f16 and run "
            f"llama.cpp's own llama-quantize FILE OUT {file_type}"
        ) from None
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype = QUANTIZED[file_type]
    settings.nthread = 2
    failed = llama_cpp.llama_model_quantize(str(source).encode(), str(file).encode(), settings)
    if failed:
        raise UserError(f"llama.cpp could not quantize {source} to {file_type} (code {failed})")


def fallbacks(types: dict[str, tuple[str, list[int]]], file_type: str) -> str:
    """The types that llama.cpp used instead of those in the file's name, and why; "" if there are none."""
    usual = USUAL.get(file_type)
    other = [name for name, (kind, shape) in types.items() if usual and len(shape) == 2 and kind not in usual]
    if not other:
        return ""
    kinds = Counter(types[name][0] for name in other)
    held = ", ".join(f"{count} as {kind}" for kind, count in sorted(kinds.items()))
    return (
        f"stored by llama.cpp with blocks of 32, because the length of their rows is not a multiple of 256 "
        f"(the block of the K types): {held}"
    )


def export(folder: Path, file: Path, file_type: str) -> dict[str, tuple[str, list[int]]]:
    """Write the model in `folder` as `file`, all or nothing; returns its tensors' types and shapes."""
    model = Llama.from_pretrained(folder)
    name = run_of(folder).name
    file.parent.mkdir(parents=True, exist_ok=True)
    with naming(file), tempfile.TemporaryDirectory(dir=file.parent) as scratch:
        made, full = Path(scratch) / "made.gguf", Path(scratch) / "f32.gguf"
        if file_type in FILE_TYPES:
            write(model, made, file_type, name)
        else:
            write(model, full, "f32", name)
            quantize(full, made, file_type)
        os.replace(made, file)
    return read_types(file)


def main() -> int:
    parser = Parser(
        "Export a model's weights to GGUF (llama.cpp).",
        "  python -m publishing.to_gguf runs/tiny --type f16\n", prog="python -m publishing.to_gguf",
    )
    parser.add_argument(
        "run", nargs="?", metavar="RUN", help="run or model folder (default: the newest under runs/)"
    )
    parser.add_argument(
        "--type", choices=[*FILE_TYPES, *QUANTIZED], default="f16",
        help="precision of the matrices (default: f16)",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE",
        help="file to write (default: gguf/model-TYPE.gguf in the model folder)",
    )
    args = parser.parse_args()
    folder = find_run(args.run)
    file = args.out or folder / "gguf" / f"model-{args.type}.gguf"
    types = export(folder, file, args.type)
    print(f"{file}: {file.stat().st_size / 2**20:.1f} MiB")
    for kind, count in sorted(Counter(kind for kind, _ in types.values()).items()):
        print(f"  {kind}: {count} tensors")
    print(fallbacks(types, args.type) or "no tensor fell back to another type")
    print("The file has no tokenizer, because llama.cpp does not support TokenMonster. Give it token ids.")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
