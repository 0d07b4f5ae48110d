# SPDX-License-Identifier: Apache-2.0
"""Oracle (transformers): load a model folder and save it again as transformers does, in BF16 and in several
files.

    python resave.py FOLDER OUT
"""
import json
import os
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def main(folder, out):
    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(
        out, max_shard_size="1MB"
    )
    AutoTokenizer.from_pretrained(folder, trust_remote_code=True).save_pretrained(out)
    print(json.dumps(sorted(os.listdir(out))))


if __name__ == "__main__":
    main(*sys.argv[1:])
