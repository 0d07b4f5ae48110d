# SPDX-License-Identifier: Apache-2.0
"""Grades ungreedy_step against tokenizer.py:TokenMonster.steps, wherever that had a choice to make and no
delete token was in play.
"""
import pytest
from lessons.exercises.grading import call

import tokenizer

TEXT = (
    "The tokenizer looks one token further than a greedy one would, and sometimes a shorter word now buys a longer one next. "
    "Understanding misinterpretations, re-examining the unlikeliest abbreviations, she outwitted them. "
) * 3


def test_ungreedy_step(answer):
    words = tokenizer.load()
    data = tokenizer.normalize(TEXT) + b"\0"
    plain = [turn for turn in words.turns(data[:-1]) if turn.branches and not turn.virtual]
    steps = [step for step in plain if not any(branch.name.endswith("b") for branch in step.branches)]
    assert sum(step.winner.first != step.record for step in steps) >= 3  # places where greedy is wrong
    function = answer("ungreedy_step")
    found = [call(function, words, data, step.start) for step in steps]
    right = [step.winner.first for step in steps]
    if found == right:
        return
    last_of_equals = [max(reversed(step.branches), key=lambda branch: branch.score).first for step in steps]
    without_third = [max(step.branches[:2], key=lambda branch: branch.score).first for step in steps]
    seconds = [step.winner.second for step in steps]
    mistakes = {
        "this is greedy: the longest token is taken without looking at what follows": [
            step.record for step in steps
        ],
        "the second token of the best pair came back; return the first": seconds,
        "of equal scores the last won; the first must": last_of_equals,
        "the second alternative (alt2) is not tried": without_third,
    }
    for message, wrong in mistakes.items():
        if found == wrong:
            pytest.fail(f"ungreedy_step: {message}", pytrace=False)
    number = next(i for i, (mine, theirs) in enumerate(zip(found, right)) if mine != theirs)
    step = steps[number]
    records = words.vocab.records
    pairs = [
        (branch.first, records[branch.first].token, records[branch.second].token, branch.score)
        for branch in step.branches
    ]
    pytest.fail(f"ungreedy_step: at {step.start} record {found[number]!r} was chosen; (record, token, next, score) there: {pairs}", pytrace=False)
