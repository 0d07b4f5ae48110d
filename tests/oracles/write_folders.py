# SPDX-License-Identifier: Apache-2.0
"""Oracle (transformers 4.5x or 5.x): save Llama folders of many kinds, and the FP32 logits of each as loaded
again.

    python write_folders.py OUT

OUT/KIND/ are folders that a plain Llama can represent, each with logits.npz; OUT/refuse_WHY/ are folders that
it cannot.
"""
import json
import os
import sys

import numpy
import torch
import transformers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

PLAIN = {
    "vocab_size": 131,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": None,
    "eos_token_id": 2,
    "pad_token_id": 2,
}
THETA = (
    {"rope_theta": 50000.0}
    if transformers.__version__ < "5"
    else {"rope_parameters": {"rope_type": "default", "rope_theta": 50000.0}}
)
KINDS = {
    "grouped": {},
    "one_kv_head": {"num_key_value_heads": 1},
    "all_heads": {"num_key_value_heads": 4},
    "tied": {"tie_word_embeddings": True},
    "wide_heads": {"head_dim": 32},
    "theta": THETA,
    "eps": {"rms_norm_eps": 1e-3},
    "sharded": {},
    "sharded_tied": {"tie_word_embeddings": True},
    "bf16": {},
    "fp16": {"tie_word_embeddings": True},
}


def scaling(kind, **values):
    if transformers.__version__ < "5":
        return {"rope_scaling": {"rope_type": kind, **values}}
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **values}}


REFUSE = {
    "attention_bias": {"attention_bias": True},
    "mlp_bias": {"mlp_bias": True},
    "hidden_act": {"hidden_act": "gelu"},
    "linear": scaling("linear", factor=2.0),
    "dynamic": scaling("dynamic", factor=2.0),
    "llama3": scaling(
        "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32
    ),
    "yarn": scaling("yarn", factor=2.0, original_max_position_embeddings=32),
}


def random_model(config, cls=LlamaForCausalLM):
    model = cls(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.uniform_(0.5, 1.5) if "norm" in name else parameter.normal_(0, 0.15)
    return model


def main(out):
    torch.manual_seed(0)
    for kind, changes in KINDS.items():
        folder = os.path.join(out, kind)
        model = random_model(LlamaConfig(**{**PLAIN, **changes}))
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(kind, torch.float32)
        model.to(dtype).save_pretrained(
            folder, max_shard_size="40KB" if kind.startswith("sharded") else "5GB"
        )
        again = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        ids = torch.randint(131, (2, 40))
        with torch.no_grad():
            numpy.savez(os.path.join(folder, "logits.npz"), input_ids=ids, logits=again(ids).logits)
    for why, changes in REFUSE.items():
        random_model(LlamaConfig(**{**PLAIN, **changes})).save_pretrained(os.path.join(out, "refuse_" + why))
    window = {**PLAIN, "sliding_window": 16, "bos_token_id": 1}
    random_model(MistralConfig(**window), MistralForCausalLM).save_pretrained(
        os.path.join(out, "refuse_mistral")
    )
    random_model(LlamaConfig(**{**PLAIN, "sliding_window": 16})).save_pretrained(
        os.path.join(out, "refuse_sliding_window")
    )
    model = random_model(LlamaConfig(**PLAIN))
    model.config.quantization_config = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    model.save_pretrained(os.path.join(out, "refuse_quantization_config"))
    shards = sorted(
        name for name in os.listdir(os.path.join(out, "sharded")) if name.endswith(".safetensors")
    )
    print(json.dumps({"transformers": transformers.__version__, "shards": len(shards)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
