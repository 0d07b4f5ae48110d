# SPDX-License-Identifier: Apache-2.0
"""Oracle (transformers 4.5x or 5.x): load a model folder as a stranger would, and say what differs from what
the project expects.

    python load_folder.py FOLDER CASES.json LOGITS.npz

CASES: a list of {text, ids, decoded}. LOGITS: input_ids (B, T), logits (B, T, V), prompt_ids (T,), greedy
(new ids), padded (batch texts).
"""
import json
import logging
import os
import sys
import tempfile
import warnings

import numpy
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, pipeline


class Listener(logging.Handler):
    """Keeps every warning of the libraries, but not the notice with which 4.57 opens every pipeline."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.said = []

    def emit(self, record):
        if not record.getMessage().startswith("Device set to use"):
            self.said.append(record.getMessage())


def main(folder, cases_file, logits_file):
    with open(cases_file, encoding="utf-8") as file:
        cases = json.load(file)
    expected = numpy.load(logits_file)
    listener = Listener()
    for name in ("", "transformers", "huggingface_hub", "torch"):
        logging.getLogger(name).addHandler(listener)
    report = {"transformers": transformers.__version__}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
        model, info = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True
        )
        GenerationConfig.from_pretrained(folder)
        writer = pipeline("text-generation", model=folder, trust_remote_code=True)
        torch.manual_seed(0)
        written = writer("Once upon a time", max_new_tokens=8)[0]["generated_text"]
    report["warnings"] = listener.said + [
        str(warning.message) for warning in caught if warning.category is not ResourceWarning
    ]
    report["loading_info"] = {key: sorted(map(str, value)) for key, value in info.items() if value}
    report["classes"] = [type(config).__name__, type(model).__name__, type(tokenizer).__name__]
    report["pipeline_starts_with_prompt"] = written.startswith("Once upon a time")

    report["wrong_ids"] = [
        case["text"]
        for case in cases
        if tokenizer(case["text"], split_special_tokens=True)["input_ids"] != case["ids"]
    ]
    report["wrong_text"] = [
        case["text"] for case in cases if tokenizer.decode(case["ids"]) != case["decoded"]
    ]
    vocabulary = tokenizer.get_vocab()
    report["tokenizer"] = {
        "vocab_size": tokenizer.vocab_size,
        "len": len(tokenizer),
        "strings": len(vocabulary),
        "ids": len(set(vocabulary.values())),
        "highest": max(vocabulary.values()),
        "eos": tokenizer.eos_token_id,
        "bos": tokenizer.bos_token_id,
        "pad": tokenizer.pad_token_id,
        "model_max_length": tokenizer.model_max_length,
        "round_trip": all(tokenizer.convert_tokens_to_ids(string) == id for string, id in vocabulary.items()),
        "past_the_table": tokenizer.decode([config.vocab_size - 1, config.vocab_size + 5]),
    }
    eos = tokenizer.eos_token_id
    hello = tokenizer("Hello")["input_ids"]
    report["special"] = {
        "shown": tokenizer.decode(hello + [eos] + hello),
        "skipped": tokenizer.decode(hello + [eos] + hello, skip_special_tokens=True),
        "in_text": tokenizer(f"a{tokenizer.eos_token}b")["input_ids"].count(eos),
        "split": eos in tokenizer(f"a{tokenizer.eos_token}b", split_special_tokens=True)["input_ids"],
        "as_tokens": tokenizer.convert_tokens_to_string(tokenizer.convert_ids_to_tokens(hello + [eos])),
    }
    messages = [
        {"role": "user", "content": "Hi there"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Bye"},
    ]
    chat = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    chat_ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)[
        "input_ids"
    ]
    report["chat"] = {"text": chat, "ids_agree": list(chat_ids) == tokenizer(chat)["input_ids"]}

    with torch.no_grad():
        logits = model(torch.from_numpy(expected["input_ids"])).logits.numpy()
        report["logit_difference"] = float(numpy.abs(logits - expected["logits"]).max())
        prompt = torch.from_numpy(expected["prompt_ids"])[None]
        greedy = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=len(expected["greedy"]),
            do_sample=False,
        )
        report["greedy_agrees"] = greedy[0, prompt.shape[1]:].tolist() == expected["greedy"].tolist()
        texts = ["Once upon a time there was", "Hello"]
        batch = tokenizer(texts, padding=True, return_tensors="pt")
        together = model.generate(**batch, max_new_tokens=8, do_sample=False)
        alone = [
            model.generate(**tokenizer(text, return_tensors="pt"), max_new_tokens=8, do_sample=False)[0]
            for text in texts
        ]
        width = batch["input_ids"].shape[1]
        report["padded_batch_agrees"] = all(
            torch.equal(together[i, width:][:8], alone[i][-8:]) for i in range(2)
        )

    with tempfile.TemporaryDirectory() as again:
        some = [case["text"] for case in cases[::10]]
        tokenizer.save_pretrained(again)
        config.save_pretrained(again)
        reloaded = AutoTokenizer.from_pretrained(again, trust_remote_code=True)
        with (
            open(os.path.join(folder, "tokenmonster.vocab"), "rb") as one,
            open(os.path.join(again, "tokenmonster.vocab"), "rb") as two,
        ):
            report["saved_again"] = [
                one.read() == two.read(),
                reloaded.get_vocab() == vocabulary,
                all(reloaded(text)["input_ids"] == tokenizer(text)["input_ids"] for text in some),
            ]
    print(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
