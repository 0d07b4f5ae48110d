# SPDX-License-Identifier: Apache-2.0
"""Oracle (transformers 5.x): what vLLM asks of a model folder and its tokenizer, written down from its source
(read, not run: it needs a GPU build).

    python vllm_rules.py FOLDER CASES.json

Rules: the architecture is registered; heads, head width and rotary settings are of the kinds that its Llama
has; every tensor finds its place once q/k/v and gate/up are stacked; the tokenizer survives being copied
under a subclass with cached properties; text that is decoded piece by piece, with vLLM's two offsets, is the
text that is decoded at once.
"""
import copy
import glob
import json
import os
import re
import sys

from safetensors import safe_open
from transformers import AutoConfig, AutoTokenizer

HEAD_SIZES = (32, 64, 96, 128, 160, 192, 224, 256)  # of its FlashAttention backend
STACKED = {
    "q_proj": "qkv_proj",
    "k_proj": "qkv_proj",
    "v_proj": "qkv_proj",
    "gate_proj": "gate_up_proj",
    "up_proj": "gate_up_proj",
}


def broken_weight_rules(folder, config):
    files = glob.glob(os.path.join(folder, "*.safetensors"))
    found, broken = {}, []
    for file in files:
        with safe_open(file, framework="pt") as tensors:
            found.update({name: tensors.get_slice(name).get_shape() for name in tensors.keys()})
    layer = {
        "input_layernorm.weight": 1,
        "post_attention_layernorm.weight": 1,
        "self_attn.qkv_proj.weight": 3,
        "self_attn.o_proj.weight": 1,
        "mlp.gate_up_proj.weight": 2,
        "mlp.down_proj.weight": 1,
    }
    expected = {
        f"model.layers.{i}.{name}": parts
        for i in range(config.num_hidden_layers)
        for name, parts in layer.items()
    }
    expected |= {"model.embed_tokens.weight": 1, "model.norm.weight": 1}
    if not config.tie_word_embeddings:
        expected["lm_head.weight"] = 1
    placed = dict.fromkeys(expected, 0)
    for name in found:
        place = re.sub("|".join(STACKED), lambda match: STACKED[match[0]], name)
        if place not in placed:
            broken.append(f"no place for {name}")
        else:
            placed[place] += 1
    broken += [
        f"{name} got {placed[name]} of {parts} parts"
        for name, parts in expected.items()
        if placed[name] != parts
    ]
    width = (config.num_attention_heads + 2 * config.num_key_value_heads) * config.head_dim
    stacked = sum(found[f"model.layers.0.self_attn.{part}_proj.weight"][0] for part in "qkv")
    if stacked != width:
        broken.append(f"q, k and v have {stacked} rows, the configuration says {width}")
    return broken


def broken_config_rules(config):
    rules = {
        "LlamaForCausalLM": config.architectures == ["LlamaForCausalLM"],
        "head_dim is one of FlashAttention's": config.head_dim in HEAD_SIZES,
        "heads are a multiple of key/value heads": config.num_attention_heads % config.num_key_value_heads
        == 0,
        "activation silu": config.hidden_act == "silu",
        "default rotary settings": config.rope_parameters.get("rope_type", "default") == "default"
        and config.rope_parameters["rope_theta"] > 0,
        "no quantization": getattr(config, "quantization_config", None) is None,
        "a length": config.max_position_embeddings > 0,
    }
    return [rule for rule, kept in rules.items() if not kept]


def cached(tokenizer):
    """A shallow copy whose class is a new subclass, as vLLM makes it."""
    vocabulary, length = tokenizer.get_vocab(), len(tokenizer)
    copied = copy.copy(tokenizer)

    class Cached(type(tokenizer)):
        def get_vocab(self):
            return vocabulary

        def __len__(self):
            return length

    copied.__class__ = Cached
    return copied


def joined(tokenizer, tokens):
    """Text of token strings, those of added tokens by themselves (skipping special tokens was done before).
    """
    added, parts, run = tokenizer.get_added_vocab(), [], []
    for token in tokens:
        if token in added:
            parts += [tokenizer.convert_tokens_to_string(run), token]
            run = []
        else:
            run.append(token)
    return "".join(parts) + tokenizer.convert_tokens_to_string(run)


def piece_by_piece(tokenizer, ids):
    """A window of tokens is decoded twice, without and with the new one; what the second has more is the new
    text, unless it ends in U+FFFD.
    """
    tokens, text, prefix, read = [], "", 0, 0
    for id in ids:
        tokens += tokenizer.convert_ids_to_tokens([id], skip_special_tokens=True)
        before, after = joined(tokenizer, tokens[prefix:read]), joined(tokenizer, tokens[prefix:])
        if len(after) > len(before) and not after.endswith("\ufffd"):
            text += after[len(before):]
            prefix, read = read, len(tokens)
    return text


def main(folder, cases_file):
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    tokenizer = cached(AutoTokenizer.from_pretrained(folder, trust_remote_code=True))
    with open(cases_file, encoding="utf-8") as file:
        cases = [case for case in json.load(file) if not case["decoded"].endswith("\ufffd")]
    wrong = [case["text"] for case in cases if piece_by_piece(tokenizer, case["ids"]) != case["decoded"]]
    print(
        json.dumps(
            {
                "broken": broken_config_rules(config) + broken_weight_rules(folder, config),
                "wrong_text": wrong,
                "cases": len(cases),
                "highest_id": max(tokenizer.get_vocab().values()),
                "rows": config.vocab_size,
                "longest_string": max(map(len, tokenizer.get_vocab())),
                "ids_of_copy": tokenizer("Hello world")["input_ids"],
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
