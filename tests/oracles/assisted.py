# SPDX-License-Identifier: Apache-2.0
"""Oracle (transformers): assisted generation, a small model of ours as the draft of a larger one of the same
vocabulary.

    python assisted.py TARGET DRAFT

Greedy text must be the same with the draft as without it. Prints that, and how many calls of the target each
needed.
"""
import json
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def main(target_folder, draft_folder):
    tokenizer = AutoTokenizer.from_pretrained(target_folder, trust_remote_code=True)
    target = AutoModelForCausalLM.from_pretrained(target_folder, dtype=torch.float32)
    draft = AutoModelForCausalLM.from_pretrained(draft_folder, dtype=torch.float32)
    calls = []
    target.register_forward_hook(lambda *_: calls.append(1))
    report = {"same": [], "calls": [], "calls_with_draft": [], "tokens": []}
    for prompt in ("Once upon a time", "The use of", "import os\n"):
        inputs = tokenizer(prompt, return_tensors="pt")
        texts = []
        for assistant, key in ((None, "calls"), (draft, "calls_with_draft")):
            calls.clear()
            texts.append(
                target.generate(**inputs, max_new_tokens=40, do_sample=False, assistant_model=assistant)
            )
            report[key].append(len(calls))
        report["same"].append(torch.equal(*texts))
        report["tokens"].append(texts[0].shape[1] - inputs["input_ids"].shape[1])
    print(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
