# SPDX-License-Identifier: Apache-2.0
"""Grades ungreedy_step against tokenizer.py:TokenMonster.turns, wherever there was a choice to make and no
delete token was in play.
"""
from lessons.exercises.grading import call, fail

import tokenizer

# Long words, code, rulers and curly quotes, so that every rule decides somewhere.
TEXT = """\
The tokenizer looks one token further than a greedy one would, and sometimes a shorter word now buys a longer
one next. Understanding misinterpretations, re-examining the unlikeliest abbreviations, she outwitted them.

Irrefutable Case Blocks
-----------------------

An irrefutable case block is a match-all case block. A match statement may have at most one irrefutable
case block, and it must be last. Otherwise "TypeError" is raised.

      See also:

        Customizing instance and subclass checks

The "async with" statement
--------------------------

   async_with_stmt: "async" with_stmt

"__repr__()" is also used when an \u201cinformal\u201d string representation of instances is required. This
method is called by "print()" to compute the \u201cinformal\u201d or nicely printable string representation.

    def outwitted(self, other): return [item for item in self.unlikeliest if item >= other.threshold * 1.25]
"""


def variant(words, data, start, numbers=(1, 2, 3), alternatives=2, last_wins=False, longest=False,
            lowest=False, one_middle=False, exchanged=False, returned="first", above_0=False, swapped=False,
            by_name=False, skip=0):
    """The step with one part changed."""
    records, end = words.vocab.records, len(data) - 1
    candidate = words.longest(data, start, end)
    tried, best = [candidate, records[candidate].alt1, records[candidate].alt2], None
    tried = [tried[0], tried[2], tried[1]] if exchanged else tried
    for number, first in zip(numbers[skip:], tried[skip:1 + alternatives]):
        covered = len(records[candidate].token)
        middle = start + (covered if one_middle else len(records[first].token)) if first is not None else end
        second = words.longest(data, middle, end) if first is not None else None
        if second is None:
            continue
        pair = (second, first) if swapped else (first, second)
        score = words.weigh(data, start, covered, 0, number, *pair, 0).score
        if above_0 and score <= 0:
            continue
        if longest:
            score = len(records[first].token) + len(records[second].token)
        score = -score if lowest else number if by_name else score
        if best is None or score > best["score"] or (last_wins and score == best["score"]):
            best = {"score": score, "first": first, "second": second, "number": number,
                    "id": records[first].id, "token": records[first].token}
    return best[returned] if best else candidate


MISTAKES = {
    "a pair that reaches no further than the longest token must lose: `number` is 1, 2 and 3, not always 1, "
    "and `covered` is the length of the longest token, not each one's own": {"numbers": (1, 1, 1)},
    "`number` counts from 0; the candidate has 1": {"numbers": (0, 1, 2)},
    "this is greedy: the longest token is taken without trying an alternative": {"alternatives": 0},
    "the second alternative (alt2) is not tried": {"alternatives": 1},
    "of equal scores the last won; the first must": {"last_wins": True},
    "the pair that covers most bytes won; the score of `weigh` decides": {"longest": True},
    "the pair with the lowest score won; the highest must": {"lowest": True},
    "`second` begins where the candidate ends, not where the longest token ends": {"one_middle": True},
    "alt2 is tried before alt1": {"exchanged": True},
    "a pair with a score of 0 or less can win too: the first pair is the best so far, whatever its score": {
        "above_0": True},
    "first and second are exchanged in `weigh`": {"swapped": True},
    "the pairs are compared, not their scores: `weigh(...).score`": {"by_name": True},
    "the longest token is missing among the candidates": {"skip": 1},
    "the second token of the pair came back; return the first": {"returned": "second"},
    "the place among the candidates (1, 2 or 3) came back; return the number of the record": {
        "returned": "number"},
    "the id of the token came back; return the number of its record": {"returned": "id"},
    "the token itself came back; return the number of its record": {"returned": "token"},
}


def test_ungreedy_step(answer):
    words = tokenizer.load()
    data = tokenizer.normalize(TEXT) + b"\0"
    turns = [turn for turn in words.turns(data[:-1]) if len(turn.branches) > 1 and not turn.virtual
             and not any(branch.name.endswith("b") for branch in turn.branches)]
    right = [turn.winner.first for turn in turns]
    results = {message: [variant(words, data, turn.start, **changed) for turn in turns]
               for message, changed in MISTAKES.items()}
    assert [variant(words, data, turn.start) for turn in turns] == right
    assert all(wrong != right for wrong in results.values())      # the text shows every mistake
    function = answer("ungreedy_step")
    found = [call(function, words, data, turn.start) for turn in turns]
    if found == right:
        return
    for message, wrong in results.items():
        if found == wrong:
            fail(f"ungreedy_step: {message}")
    if None in found:
        fail("ungreedy_step returned None: is the last line a `return`, and is it reached?")
    number = next(i for i, (mine, theirs) in enumerate(zip(found, right)) if mine != theirs)
    turn, records = turns[number], words.vocab.records
    pairs = [(branch.first, records[branch.first].token, records[branch.second].token, branch.score)
             for branch in turn.branches]
    fail(f"ungreedy_step: at {turn.start} record {found[number]!r} was chosen; "
         f"(record, token, next, score) there: {pairs}")


def test_at_the_end_of_a_text(answer):
    """Nothing can follow the last token, so there is no pair."""
    words = tokenizer.load()
    for text in ("stops", "looks"):
        data = tokenizer.normalize(text) + b"\0"
        last = list(words.turns(data[:-1]))[-1]
        found = call(answer("ungreedy_step"), words, data, last.start)
        if found != last.record:
            fail(f"ungreedy_step: nothing follows the last token of {text!r}, so the longest is taken: "
                 f"record {last.record}, not {found!r}")
