# SPDX-License-Identifier: Apache-2.0
"""The speed of `evaluate.py` beside lm-eval: the same folder, requests and threads, one after the other.

    python -m bench.scoring runs/tiny --python ../lm-eval-venv/bin/python --choices piqa.jsonl.gz

lm-eval runs in another interpreter and outside this folder. Only its `loglikelihood` or `generate_until` is
timed, with prepared prompts. Ours is timed with everything but loading the model: reading the file, prompts,
encoding, scoring, counting.
"""
from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

import torch

from common import Parser, UserError, count_of, find_run, run
from evaluate import lm_eval_prompt, multiple_choice, read_items
from judging.gsm8k import exact_match
from model import Llama
from tokenizer import load as load_tokenizer

LM_EVAL = """
import json, sys, time, torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
folder, path, rows, threads = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
torch.set_num_threads(threads)
model = HFLM(pretrained=folder, trust_remote_code=True, dtype="float32", device="cpu", batch_size=rows)
until = {"until": ["Question:", "</s>", "<|im_end|>"], "do_sample": False, "temperature": 0.0}
seconds = []
for kind, requests in json.load(open(path)):
    if kind == "loglikelihood":
        arguments = [(context, choice) for context, choice in requests]
    else:
        arguments = [(context, dict(until)) for context in requests]
    instances = [Instance(kind, {}, one, index) for index, one in enumerate(arguments)]
    start, cpu = time.time(), time.process_time()
    getattr(model, kind)(instances, disable_tqdm=True)
    seconds.append((time.time() - start, time.process_time() - cpu))
print(json.dumps(seconds))
"""


def requests_of(path: str, limit: int, kind: str) -> list:
    """lm-eval's requests for a file: (context, choice) pairs, or prompts to continue."""
    items = read_items(path, {})[:limit]
    if kind == "generate_until":
        return [f"Question: {item['question']}\nAnswer:" for item in items]
    return [
        (context, choice) for item in items for context, choices in lm_eval_prompt(item) for choice in choices
    ]


def main() -> None:
    parser = Parser("Items per second beside lm-eval's.")
    parser.add_argument("run", help="run folder or model folder")
    parser.add_argument(
        "--python", required=True, help="an interpreter that has lm_eval, transformers and torch"
    )
    parser.add_argument(
        "--choices", action="append", default=[], metavar="FILE",
        help="multiple-choice items that lm-eval has a task for",
    )
    parser.add_argument("--gsm8k", action="append", default=[], metavar="FILE", help="GSM8K items")
    parser.add_argument(
        "--limit", type=count_of, default=200, metavar="N", help="items of each file (default: 200)"
    )
    parser.add_argument(
        "--batch", type=int, default=32, metavar="N", help="lm-eval's batch size (default: 32, the cards')"
    )
    parser.add_argument("--threads", type=int, default=2, metavar="N",
                        help="threads of torch, for both (default: 2)")
    args = parser.parse_args()
    folder = find_run(args.run).resolve()
    torch.set_num_threads(args.threads)
    model, tokenizer = Llama.from_pretrained(folder).eval(), load_tokenizer(folder)
    jobs = [(path, "loglikelihood") for path in args.choices] + [
        (path, "generate_until") for path in args.gsm8k
    ]
    ours = []
    for path, kind in jobs:
        start, cpu = time.time(), time.process_time()
        if kind == "loglikelihood":
            multiple_choice(model, tokenizer, path, boundary="lm-eval", prompt="lm-eval", limit=args.limit)
        else:
            exact_match(model, tokenizer, path, limit=args.limit)
        ours.append((time.time() - start, time.process_time() - cpu))
    with tempfile.TemporaryDirectory() as work:
        requests = Path(work) / "requests.json"
        requests.write_text(json.dumps([(kind, requests_of(path, args.limit, kind)) for path, kind in jobs]))
        environment = {
            **os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HOME": work,
        }
        command = [args.python, "-c", LM_EVAL, str(folder), str(requests), str(args.batch), str(args.threads)]
        done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"lm-eval failed: {done.stderr.strip().splitlines()[-1]}")
    theirs = json.loads(done.stdout.strip().splitlines()[-1])
    print("| file | items | ours, items/s | lm-eval, items/s | ratio | ratio in CPU seconds |\n"
          "| --- | ---: | ---: | ---: | ---: | ---: |")
    for (path, _), (wall, cpu), (their_wall, their_cpu) in zip(jobs, ours, theirs):
        items = len(read_items(path, {})[:args.limit])
        print(f"| {Path(path).name} | {items} | {items / wall:.1f} | {items / their_wall:.1f} "
              f"| {their_wall / wall:.2f} | {their_cpu / cpu:.2f} |")


if __name__ == "__main__":
    raise SystemExit(run(main))
