# SPDX-License-Identifier: Apache-2.0
"""Oracle (onnxruntime, transformers): an exported ONNX file against LlamaForCausalLM, with padding at the
left and with past keys and values.

    python onnx_check.py FOLDER FILE
"""
import json
import sys

import numpy
import onnx
import onnxruntime
import torch
from transformers import AutoModelForCausalLM


def main(folder, file):
    onnx.checker.check_model(file)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    inputs, outputs = [
        [value.name for value in values] for values in (session.get_inputs(), session.get_outputs())
    ]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config = model.config
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(config.vocab_size, (2, 20), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, :6] = 0  # the second row is shorter
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits
    empty = numpy.zeros((2, config.num_key_value_heads, 0, config.head_dim), dtype=numpy.float32)
    past = {name: empty for name in inputs if name.startswith("past_key_values")}
    largest, finite = 0.0, True
    for start, end in ((0, 12), (12, 13), (13, 17), (17, 20)):
        given = {
            "input_ids": ids[:, start:end].numpy(),
            "attention_mask": mask[:, :end].numpy(),
            "position_ids": positions[:, start:end].numpy(),
        }
        logits, *present = session.run(outputs, {**given, **past})
        past = dict(zip(past, present))
        real = mask[:, start:end].bool()
        largest = max(largest, (torch.from_numpy(logits) - expected[:, start:end])[real].abs().max().item())
        finite = finite and bool(numpy.isfinite(logits).all())
    print(
        json.dumps(
            {
                "inputs": inputs,
                "outputs": outputs,
                "largest": largest,
                "finite": finite,
                "past_length": past[inputs[3]].shape[2],
                "onnxruntime": onnxruntime.__version__,
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
