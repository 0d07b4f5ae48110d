# SPDX-License-Identifier: Apache-2.0
"""Oracle (transformers): a folder with a BPE's own tokenizer.json and no custom code.

    python load_bpe.py FOLDER CASES.json
"""
import json
import sys
import warnings

from transformers import AutoTokenizer


def main(folder, cases_file):
    with open(cases_file, encoding="utf-8") as file:
        cases = json.load(file)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokenizer = AutoTokenizer.from_pretrained(folder)
    wrong = [
        case["text"]
        for case in cases
        if tokenizer(case["text"], add_special_tokens=False)["input_ids"] != case["ids"]
    ]
    print(
        json.dumps(
            {
                "wrong": wrong,
                "class": type(tokenizer).__name__,
                "eos": tokenizer.eos_token_id,
                "bos": tokenizer.bos_token_id,
                "pad": tokenizer.pad_token_id,
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
