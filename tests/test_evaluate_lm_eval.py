# SPDX-License-Identifier: Apache-2.0
"""lm-eval as an oracle: the same folder, the same items, the prompts of its own task files; scores and
log-probabilities are equal.
"""
import json

import pytest
import torch

import evaluate
import tokenizer
from judging.gsm8k import greedy
from evaluate import lm_eval_prompt
from judging import gsm8k
from model import SIZES, Llama
from oracle_runner import oracle

# name of an oracle task -> file and number of items, 320 in all; ARC and MC2 are made of others' items, as
# their own are not at hand
FILES = {
    "openbookqa": ("openbookqa_test", 40),
    "piqa": ("piqa_val", 40),
    "winogrande": ("winogrande_dev", 50),
    "hellaswag": ("hellaswag_val", 50),
    "commonsenseqa": ("commonsenseqa_dev", 40),
    "arc_easy": ("openbookqa_test", 20),
    "truthfulqa_mc2": ("truthfulqa_mc1", 12),
    "blimp": ("blimp", 60),
}


@pytest.fixture(scope="module")
def made(shared, tmp_path_factory):
    """A model folder of random weights, far from uniform, and a folder of items."""
    work = tmp_path_factory.mktemp("lm_eval")
    coder = tokenizer.load(shared / "vocabs" / "english-4096-strict-nocapcode-v1.vocab")
    torch.manual_seed(0)
    model = Llama(SIZES["tiny"]).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.mul_(4)
    model.save_pretrained(work / "model", eos_token_id=coder.eos_id, pad_token_id=coder.pad_id)
    coder.save_pretrained(work / "model")
    items = {}
    for name, (file, count) in FILES.items():
        items[name] = evaluate.read_items(shared / "eval" / f"{file}.jsonl.gz", {})[:count]
    for item in items["arc_easy"]:
        item["task"] = "arc_easy"
    for item in items["truthfulqa_mc2"]:
        item["task"] = "truthfulqa_mc2"
        item["labels"] = [
            int(number == item.get("label") or number % 3 == 0) for number in range(len(item["choices"]))
        ]
        del item["label"]
    history = [
        item
        for item in evaluate.read_items(shared / "eval" / "mmlu_test.jsonl.gz", {})
        if item["subject"] == "high_school_us_history"
    ]
    problems = evaluate.read_items(shared / "eval" / "gsm8k_test.jsonl.gz", {})
    items.update(mmlu=history[:8], gsm8k_0=problems[:8], gsm8k_5=problems[:8], gsm8k_train=problems[100:110])
    (work / "items").mkdir()
    for name, rows in items.items():
        (work / "items" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    theirs = oracle(
        "tf5", "lm_eval_cards.py", work / "model", work / "items", work=work, needs=("lm_eval",), timeout=1500
    )
    return Llama.from_pretrained(work / "model").eval(), coder, work / "items", theirs


@pytest.mark.ci
@pytest.mark.parametrize("name", [name for name in [*FILES, "mmlu"] if name != "blimp"])
def test_choices(made, name):
    model, coder, items, theirs = made
    path = items / f"{name}.jsonl"
    found = evaluate.multiple_choice(model, coder, path, boundary="lm-eval", prompt="lm-eval")
    metrics = theirs[name]["metrics"]
    assert found["acc"] == pytest.approx(metrics["acc,none"], abs=1e-5)
    if "acc_norm,none" in metrics:
        assert found["acc_norm"] == pytest.approx(metrics["acc_norm,none"], abs=1e-9)
    crossed = 0
    for item, answers in zip(evaluate.read_items(path, {}), theirs[name]["answers"], strict=True):
        ours, exact = [], []
        for context, choices in lm_eval_prompt(item):
            for boundary, values in (("lm-eval", ours), ("bytes", exact)):
                rows, moved = evaluate.choice_queries(coder, context, choices, boundary)
                values += evaluate.choice_scores(rows, evaluate.score(model, [rows])[0])
        assert ours == pytest.approx(answers, abs=1e-3)
        crossed += max(abs(a - b) for a, b in zip(ours, exact)) > 1e-3
    assert crossed == found["crossed"]  # on all other items the exact score is lm-eval's


@pytest.mark.ci
def test_blimp(made):
    model, coder, items, theirs = made
    found = evaluate.blimp(model, coder, items / "blimp.jsonl", prompt="lm-eval")
    assert found["overall_lm_eval"] == pytest.approx(theirs["blimp"]["metrics"]["acc,none"], abs=1e-9)


@pytest.mark.ci
@pytest.mark.parametrize("shots", [0, 5])
def test_gsm8k(made, shots):
    model, coder, items, theirs = made
    name = f"gsm8k_{shots}"
    found = gsm8k.exact_match(model, coder, items / f"{name}.jsonl", shots, items / "gsm8k_train.jsonl")
    assert found["exact_match"] == pytest.approx(
        theirs[name]["metrics"]["exact_match,flexible-extract"], abs=1e-9
    )
    prompts = [
        f"Question: {item['question']}\nAnswer:" for item in evaluate.read_items(items / f"{name}.jsonl", {})
    ]
    if shots == 0:  # what was generated is the same text, not only its last number
        assert greedy(model, coder,
            [coder.encode(prompt, document=True) for prompt in prompts]) == theirs[name]["answers"]
