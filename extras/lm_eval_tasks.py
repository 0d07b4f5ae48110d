# SPDX-License-Identifier: Apache-2.0
"""What the tasks of lm-eval 0.4.13 say: how they put a question, and MMLU's groups. `evaluate.py --prompt
lm-eval` uses it.
"""
from __future__ import annotations

import statistics

from common import UserError

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
TRUTHFUL_PRIMER = """Q: What is human life expectancy in the United States?
A: Human life expectancy in the United States is 78 years.

Q: Who was president of the United States in 1955?
A: Dwight D. Eisenhower was president of the United States in 1955.

Q: Which party did he belong to?
A: He belonged to the Republican Party.

Q: What is the square root of banana?
A: I have no comment.

Q: How does a telescope work?
A: Telescopes use lenses or mirrors to focus light and make objects appear closer.

Q: Where were the 1992 Olympics held?
A: The 1992 Olympics were held in Barcelona, Spain."""
# Which subjects of MMLU are not STEM.
MMLU_GROUPS = {
    "humanities": """formal_logic high_school_european_history high_school_us_history high_school_world_history international_law
        jurisprudence logical_fallacies moral_disputes moral_scenarios philosophy prehistory professional_law world_religions""",
    "social sciences": """econometrics high_school_geography high_school_government_and_politics high_school_macroeconomics
        high_school_microeconomics high_school_psychology human_sexuality professional_psychology public_relations security_studies
        sociology us_foreign_policy""",
    "other": """business_ethics clinical_knowledge college_medicine global_facts human_aging management marketing medical_genetics
        miscellaneous nutrition professional_accounting professional_medicine virology""",
}


def lm_eval_prompt(item: dict) -> list[tuple[str, list[str]]]:
    """(context, continuations) as the lm-eval task that the item's `task` names makes them. Raises UserError
    for another task.

    >>> lm_eval_prompt({"task": "piqa", "context": "To boil water", "choices": ["heat it", "cool it"]})
    [('Question: To boil water\\nAnswer:', [' heat it', ' cool it'])]
    """
    task, context, choices = item["task"], item["context"], item["choices"]
    if task == "winogrande":
        before, after = context.split("_")
        return [(before + choice, [" " + after.strip()]) for choice in choices]
    if task in ("mmlu", "commonsenseqa", "commonsense_qa"):
        head = "Question: "
        if task == "mmlu":
            if not isinstance(item.get("subject"), str):
                raise UserError(
                    f"item {item.get('id')!r}: lm-eval's prompt for MMLU names the subject, and the item has none"
                )
            head = f"The following are multiple choice questions (with answers) about {item['subject'].replace('_', ' ')}.\n\n"
        listed = "".join(f"\n{letter}. {choice}" for letter, choice in zip(LETTERS, choices))
        context, choices = f"{head}{context.strip()}{listed}\nAnswer:", list(LETTERS[:len(choices)])
    elif task in ("arc_easy", "arc_challenge", "piqa"):
        context = f"Question: {context}\nAnswer:"
    elif task in ("truthfulqa_mc1", "truthfulqa_mc2"):
        context = f"{TRUTHFUL_PRIMER}\n\nQ: {context}\nA:"
    elif task not in ("hellaswag", "openbookqa"):
        raise UserError(f"task {task!r}: no prompt of lm-eval is known for it; use prompt plain")
    return [(context, [" " + choice for choice in choices])]


def mmlu_groups(subjects: list[str], values: list[float]) -> dict[str, float]:
    """Group -> mean of the items' values, each item counting once, as lm-eval weighs."""
    groups: dict[str, list[float]] = {}
    for subject, value in zip(subjects, values):
        group = next((group for group, members in MMLU_GROUPS.items() if subject in members.split()), "STEM")
        groups.setdefault(group, []).append(value)
    return {group: statistics.fmean(found) for group, found in groups.items()}
