# SPDX-License-Identifier: Apache-2.0
"""Oracle (lm-eval on transformers 5.x): the cards' tasks by lm-eval's own task files, on local items, with
each choice's log-probability.

    python lm_eval_cards.py FOLDER ITEMS

ITEMS holds NAME.jsonl in the form of evaluate.py, NAME being a key of TASKS. Each item is put back into the
form of the data set that lm-eval's task reads, so that prompt, choices, target and metrics are lm-eval's and
nothing of ours.
"""
import json
import os
import sys

import lm_eval
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

LETTERS = "ABCDE"
HOME = os.path.join(os.path.dirname(lm_eval.__file__), "tasks")


def arc(item):
    labels = list(LETTERS[:len(item["choices"])])
    return {
        "question": item["context"],
        "choices": {"text": item["choices"], "label": labels},
        "answerKey": labels[item["label"]],
    }


def openbookqa(item):
    return {**arc(item), "question_stem": item["context"]}


def piqa(item):
    return {
        "goal": item["context"],
        "sol1": item["choices"][0],
        "sol2": item["choices"][1],
        "label": item["label"],
    }


def winogrande(item):
    return {
        "sentence": item["context"],
        "option1": item["choices"][0],
        "option2": item["choices"][1],
        "answer": str(item["label"] + 1),
    }


def mmlu(item):
    return {
        "question": item["context"],
        "choices": item["choices"],
        "answer": item["label"],
        "subject": item["subject"],
    }


def truthfulqa(item):
    return {
        "question": item["context"],
        "mc2_targets": {"choices": item["choices"], "labels": item["labels"]},
        "mc1_targets": {"choices": item["choices"], "labels": item["labels"]},
    }


def hellaswag(item):  # the copy at hand is already put together, so the task's own preparation is left out
    return {"query": item["context"], "choices": item["choices"], "label": item["label"]}


def blimp(item):
    return {key: item[key] for key in ("sentence_good", "sentence_bad")}


def gsm8k(item):
    return {key: item[key] for key in ("question", "answer")}


# name of the items -> lm-eval's task file, the split it reads, the converter, changes to the task
TASKS = {
    "arc_easy": ("arc/arc_easy.yaml", "test", arc, {}),
    "openbookqa": ("openbookqa/openbookqa.yaml", "test", openbookqa, {}),
    "piqa": ("piqa/piqa.yaml", "validation", piqa, {}),
    "winogrande": ("winogrande/default.yaml", "validation", winogrande, {}),
    "commonsenseqa": ("commonsense_qa/default.yaml", "validation", arc, {}),
    "hellaswag": ("hellaswag/hellaswag.yaml", "validation", hellaswag, {"process_docs": None}),
    "truthfulqa_mc2": ("truthfulqa/truthfulqa_mc2.yaml", "validation", truthfulqa, {}),
    "mmlu": ("mmlu/default/mmlu_abstract_algebra.yaml", "test", mmlu, {"fewshot_split": None}),
    "blimp": ("blimp/adjunct_island.yaml", "train", blimp, {}),
    "gsm8k_0": ("gsm8k/gsm8k.yaml", "test", gsm8k, {"num_fewshot": 0}),
    "gsm8k_5": (
        "gsm8k/gsm8k.yaml",
        "test",
        gsm8k,
        {"num_fewshot": 5, "fewshot_split": "train", "fewshot_config": {"sampler": "first_n"}},
    ),
}


def read_items(folder, name):
    with open(os.path.join(folder, name + ".jsonl")) as lines:
        return [json.loads(line) for line in lines]


def write_items(folder, name, items):
    path = os.path.join(folder, name + ".converted.jsonl")
    with open(path, "w") as file:
        file.write("".join(json.dumps(item) + "\n" for item in items))
    return path


def task_of(name, folder):
    """The configuration of a task that reads local items; for GSM8K the first 5 of gsm8k_train.jsonl are the
    worked examples.
    """
    file, split, convert, changes = TASKS[name]
    items = read_items(folder, name)
    files = {split: write_items(folder, name, map(convert, items))}
    if "num_fewshot" in changes:
        files["train"] = write_items(folder, "gsm8k_train", map(convert, read_items(folder, "gsm8k_train")))
    config = {
        "include": os.path.join(HOME, file),
        "task": "cards_" + name,
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": files},
        "training_split": None,
        **changes,
    }
    if name == "gsm8k_5":
        config["training_split"] = "train"
    if split != "test":
        config["test_split"] = None
    if split != "validation" and name != "blimp":
        config["validation_split"] = None
    if name == "mmlu":  # one subject's task: its description names the subject
        config["description"] = (
            f"The following are multiple choice questions (with answers) about {items[0]['subject'].replace('_', ' ')}.\n\n"
        )
    path = os.path.join(folder, name + ".yaml")
    with open(path, "w") as yaml:
        json.dump(config, yaml)  # JSON is YAML
    return path


def main(folder, items):
    names = [name for name in TASKS if os.path.isfile(os.path.join(items, name + ".jsonl"))]
    for name in names:
        task_of(name, items)
    model = HFLM(pretrained=folder, trust_remote_code=True, dtype="float32", device="cpu", batch_size=32)
    manager = TaskManager(include_path=items)
    found = {}
    for name in names:
        result = lm_eval.simple_evaluate(
            model, tasks=["cards_" + name], task_manager=manager, bootstrap_iters=0, log_samples=True
        )
        samples = sorted(result["samples"]["cards_" + name], key=lambda sample: sample["doc_id"])
        if name.startswith("gsm8k"):
            answers = [sample["resps"][0][0] for sample in samples if sample["filter"] == "flexible-extract"]
        else:
            answers = [[answer[0] for answer in sample["filtered_resps"]] for sample in samples]
        metrics = {
            key: value
            for key, value in result["results"]["cards_" + name].items()
            if isinstance(value, float)
        }
        found[name] = {"metrics": metrics, "answers": answers}
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
