# SPDX-License-Identifier: Apache-2.0
"""Oracle (torch, bitsandbytes): a model folder under dynamic INT8 and under 4-bit loading, against its own
FP32.

    python quantized.py FOLDER TEXT

Prints, for each, the loss on the text, how often the best next token is the same as in FP32, and the bytes of
the weights.
"""
import io
import json
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

LENGTH, ROWS = 128, 16


def main(folder, text_file):
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    with open(text_file, encoding="utf-8") as file:
        ids = tokenizer(file.read())["input_ids"][:LENGTH * ROWS]
    rows = torch.tensor(ids).view(ROWS, LENGTH)

    def measure(model):
        with torch.no_grad():
            answer = model(input_ids=rows, labels=rows)
        return answer.loss.item(), answer.logits.argmax(dim=-1)

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    loss, best = measure(model)
    report = {"fp32": {"loss": loss, "bytes": sum(p.numel() * p.element_size() for p in model.parameters())}}

    kinds = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
    loss, chosen = measure(kinds)
    saved = io.BytesIO()
    torch.save(kinds.state_dict(), saved)
    linear = sum(isinstance(module, torch.ao.nn.quantized.dynamic.Linear) for module in kinds.modules())
    report["int8"] = {
        "loss": loss,
        "same_best": (chosen == best).float().mean().item(),
        "bytes": saved.tell(),
        "int8_layers": linear,
    }
    try:
        four_bit = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
        )
        small = AutoModelForCausalLM.from_pretrained(
            folder, quantization_config=four_bit, dtype=torch.float32, device_map={"": "cpu"}
        )
        loss, chosen = measure(small)
        size = sum(p.numel() * p.element_size() for p in small.parameters())
        report["four_bit"] = {
            "loss": loss,
            "same_best": (chosen == best).float().mean().item(),
            "bytes": size,
        }
    except (RuntimeError, ImportError, NotImplementedError, ValueError) as error:
        report["four_bit"] = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
