# SPDX-License-Identifier: Apache-2.0
"""Oracle (llama.cpp through llama-cpp-python, gguf): logits of GGUF files on token ids, against logits saved
by the project.

    python gguf_check.py LOGITS.npz FILE ...

LOGITS: input_ids (T,), logits (T, V). Prints, for each file, the largest difference, the share of equal best
tokens, and its tensors' types.
"""
import collections
import json
import sys

import gguf
import llama_cpp
import numpy


def main(expected_file, *files):
    expected = numpy.load(expected_file)
    ids, wanted = expected["input_ids"], expected["logits"]
    report = {"llama_cpp": llama_cpp.__version__}
    for file in files:
        reader = gguf.GGUFReader(file)
        types = collections.Counter(tensor.tensor_type.name for tensor in reader.tensors)
        # FP32 keys and values, and no fused attention: by default both are FP16.
        model = llama_cpp.Llama(
            file, n_ctx=256, logits_all=True, verbose=False, n_threads=1, type_k=0, type_v=0, flash_attn=False
        )
        model.eval(ids.tolist())
        logits = numpy.array(model.scores[:len(ids)])
        greedy = []
        for token in model.generate(ids[:8].tolist(), temp=0.0, repeat_penalty=1.0):
            greedy.append(int(token))
            if len(greedy) == 8:
                break
        report[file] = {
            "largest": float(numpy.abs(logits - wanted).max()),
            "same_best": float((logits.argmax(1) == wanted.argmax(1)).mean()),
            "types": dict(types),
            "greedy": greedy,
            "vocabulary": model.n_vocab(),
        }
    print(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
