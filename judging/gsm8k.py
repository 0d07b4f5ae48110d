# SPDX-License-Identifier: Apache-2.0
"""GSM8K: the model writes the solution of a word problem; its last number is compared (Cobbe et al. 2021).

Prompt, end of an answer, extraction and comparison are those of lm-eval 0.4.13: task gsm8k, filter
flexible-extract.
"""
from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from common import UserError, sha256_file
from evaluate import check_options, in_blocks, mean_and_error, read_items, wilson_interval
from model import Llama
from sampling.many import decode_many
from tokenizer import Tokenizer

STOPS = ("Question:", "</s>", "<|im_end|>")                       # an answer ends here, or at a stop id
ANSWER_TOKENS = 256
ROWS = 32                                                         # prompts in one pass


def greedy(model: Llama, tokenizer: Tokenizer, prompts: list[list[int]]) -> list[str]:
    """The greedy continuation of each prompt, all prompts at once.

    An answer ends after ANSWER_TOKENS, at an id of `tokenizer.stop_ids`, or at a text of STOPS.
    """
    answers: list[list[int]] = [[] for _ in prompts]
    texts = [""] * len(prompts)
    unfinished = set(range(len(prompts)))
    steps = decode_many(model, prompts, ANSWER_TOKENS, lambda logits: logits.argmax(dim=-1).tolist())
    for step, tokens in enumerate(steps, 1):
        for number in unfinished:
            answers[number].append(tokens[number])
        # Decoding the texts at every step would take longer than the model does.
        if step % 16 == 0 or tokenizer.stop_ids & set(tokens):
            for number in list(unfinished):
                texts[number] = tokenizer.decode(answers[number], skip_special=True)
                if answers[number][-1] in tokenizer.stop_ids or any(stop in texts[number] for stop in STOPS):
                    unfinished.discard(number)
        if not unfinished:
            break
    return [re.split("|".join(map(re.escape, STOPS)), text)[0] for text in texts]


def final_number(text: str) -> str:
    """The answer of a solution by flexible extraction: the last number, without $, commas and final point.

    >>> final_number("6 * 2 = $1,012.50.\\n#### 1,012.50")
    '1012.50'
    """
    found = re.findall(r"(-?[$0-9.,]{2,})|(-?[0-9]+)", text)
    number = (found[-1][0] or found[-1][1]) if found else "[invalid]"
    return re.sub(r"\.$", "", re.sub(r"[,$]", "", number))


def exact_match(
    model: Llama, tokenizer: Tokenizer, path: str | Path, shots: int = 0, examples: str | Path | None = None,
    limit: int | None = None, finished: dict[str, list] | None = None,
) -> dict[str, Any]:
    """Share of problems whose greedy answer ends in the right number, after `shots` worked examples.

    Returns {exact_match, stderr, interval, items, shots}; `interval` is Wilson's 95% interval. The examples
    are the first ones of the file `examples` (the training split), or else the first other problems of
    `path`. A prompt too long for the context is cut at its beginning, as in lm-eval. Raises UserError if an
    answer alone is too long for the context, or if there are fewer examples than `shots`.
    """
    check_options(limit=limit)
    fields = {"question": str, "answer": str}
    problems = read_items(path, fields)
    items = problems[:limit]
    pool = read_items(examples, fields) if examples else problems
    most = len(pool) - (examples is None)
    if not 0 <= shots <= most:
        raise UserError(
            f"{examples or path}: --shots {shots} needs more worked examples than it has; give 0 to {most}"
        )
    room = model.config.max_position_embeddings - ANSWER_TOKENS - len(tokenizer.prefix_ids)
    if room <= 0:
        raise UserError(
            f"the model has {model.config.max_position_embeddings} positions; an answer alone needs "
            f"{ANSWER_TOKENS}"
        )
    tasks = []
    for item in items:
        worked = [
            f"Question: {other['question']}\nAnswer: {other['answer']}\n\n"
            for other in pool[: shots + 1]
            if other is not item
        ][:shots]
        prompt = f"{''.join(worked)}Question: {item['question']}\nAnswer:"
        wanted = final_number(item["answer"].split("#### ")[-1])
        tasks.append((tokenizer.prefix_ids + tokenizer.encode(prompt, document=True)[-room:], wanted))
    tasks.sort(key=lambda task: len(task[0]))

    def judge(part: list[tuple[list[int], str]]) -> list[float]:
        texts = greedy(model, tokenizer, [prompt for prompt, _ in part])
        return [float(final_number(text) == wanted) for text, (_, wanted) in zip(texts, part)]

    digests = " ".join(sha256_file(file)[:16] for file in (path, examples) if file)
    name = f"gsm8k {digests} {shots} shots of {len(items)}"
    results = in_blocks(name, tasks, ROWS, judge, finished)
    exact, stderr = mean_and_error(results)
    return {
        "exact_match": exact, "stderr": stderr, "interval": wilson_interval(exact, len(items)),
        "items": len(items), "shots": shots,
    }
