# SPDX-License-Identifier: Apache-2.0
"""The generated corpus: exact probabilities, the same bytes everywhere, a checker that can fail."""

import collections
import hashlib
import itertools
import math
import random
import re

import pytest

from corpus import checker, exercises, programs, tales
from corpus.builtin import GENERATOR, HARD, KINDS, builtin_documents, vocabulary_documents
from corpus.grammar import Choice, Copy, Grammar, Sort, Text, parse
from data import clean_text
from evaluate import wilson_interval
from tokenizer import load

EXPECTED = ("tales-5", "8f17cdec227309308012ee3dcdb4856b291579390dbbd8be0faa0098a2a2e563")
COUNTS = {"web": 1500, "code": 2000, "math": 1500}


@pytest.mark.parametrize("kind", KINDS)
def test_every_text_has_one_derivation_with_its_nats(kind):
    """Parsing finds exactly one derivation, with the same -log p; cleaning changes nothing."""
    grammar = KINDS[kind].grammar
    for text in itertools.islice(builtin_documents(kind), COUNTS[kind]):
        found = [reading for reading in grammar.readings(text) if reading.complete]
        assert len(found) == 1, text
        assert found[0].nats == pytest.approx(text.nats, rel=1e-12)
        assert clean_text(text, preserve_linebreaks=kind == "code") == text


def every(grammar):
    """All texts of a small grammar, each with its -log p."""
    waiting = [(grammar.nodes, "", 0.0, {})]
    while waiting:
        nodes, text, nats, slots = waiting.pop()
        if not nodes:
            yield text, nats
            continue
        node, rest = nodes[0], nodes[1:]
        if isinstance(node, Text):
            waiting.append((rest, text + node.text, nats, slots))
        elif isinstance(node, Copy):
            waiting.append((rest, text + node.value(slots), nats, slots))
        elif isinstance(node, Choice):
            nats += math.log(len(node.options))
            waiting += [((*option, *rest), text, nats, slots) for option in node.options]
        else:
            values = grammar.values(node.sort, slots)
            nats += math.log(len(values))
            waiting += [(rest, text + value, nats, {**slots, node.slot: (node.sort, value)})
                        for value in values]


def test_the_probabilities_of_a_small_grammar_sum_to_one():
    """Choices in choices, distinct and repeatable values, copies: each text once, sum of p = 1."""
    sorts = {"WHO": Sort(("Ada", "Max", "Zoe")), "DIGIT": Sort(("1", "2"), distinct=False)}
    template = "{a=WHO} [saw {b=WHO}[|, and {b} saw {a}]|slept|counted {n=DIGIT}, {m=DIGIT}, {n}]."
    grammar = Grammar(parse(template), sorts, {})
    written = list(every(grammar))
    assert len(written) == len({text for text, _ in written}) == 3 * (2 * 2 + 1 + 2 * 2)
    assert math.fsum(math.exp(-nats) for _, nats in written) == pytest.approx(1, abs=1e-12)
    for text, nats in written:
        (reading,) = [reading for reading in grammar.readings(text) if reading.complete]
        assert reading.nats == pytest.approx(nats)
    drawn = collections.Counter(grammar.write(seed).text for seed in range(20_000))
    assert set(drawn) == {text for text, _ in written}
    assert all(abs(drawn[text] / 20_000 - math.exp(-nats)) < 0.02 for text, nats in written)


def test_an_ambiguous_grammar_is_found_out():
    """The test of one derivation can fail."""
    grammar = Grammar(parse("[a|ab][bc|c]"), {}, {})
    assert sum(reading.complete for reading in grammar.readings("abc")) == 2
    assert math.fsum(math.exp(-nats) for text, nats in every(grammar) if text == "abc") == pytest.approx(0.5)


def test_the_bytes_are_the_same_everywhere():
    """Chance is random.Random(seed).random() alone, whose values Python keeps in every version."""
    draws = random.Random(7).random
    assert [draws(), draws()] == [0.32383276483316237, 0.15084917392450192]
    digest = hashlib.sha256()
    for kind in KINDS:
        for text in itertools.islice(builtin_documents(kind), 300):
            digest.update(text.encode())
    assert (GENERATOR, digest.hexdigest()) == EXPECTED


def test_tales_are_demanding_and_readable():
    """Length, lexicon, plots, dialogue, 20,000 different sentences, articles."""
    texts = list(itertools.islice(builtin_documents("web"), 4000))
    lengths = [len(text.split()) for text in texts]
    assert 60 <= min(lengths) and max(lengths) <= 200
    assert 300 <= len({word for text in texts for word in re.findall(r"[a-z]+", text.lower())}) <= 1000
    assert len(tales.PLOTS) >= 8 and sum('"' in text for text in texts) > 0.7 * len(texts)
    assert len({sentence for text in texts for sentence in checker.END.split(text)}) >= 20_000
    assert not re.search(r"\b[Aa] [aeiou]|\ban (?!hour)[^aeiou]|  | ,", " ".join(texts))


def test_tales_have_a_quarter_nat_per_token():
    """With the built-in vocabulary, in which names, kinds and things take two tokens and more."""
    coder = load("builtin-4096")
    texts = list(itertools.islice(builtin_documents("web"), 300))
    tokens = sum(len(coder.encode(text, document=True)) + 1 for text in texts)
    assert sum(text.nats for text in texts) / tokens >= 0.25
    assert [word for word in HARD if len(coder.encode(f"a {word} b")) < 4] == []


def test_the_vocabulary_text_has_no_phrases_and_no_names():
    """Words in a random order; names, kinds and things cut in two and put together anew."""
    text = " ".join(vocabulary_documents("web", 200))
    assert "Once upon a" not in text and "so that" not in text[:2000]
    assert all(len(re.findall(rf"\b{name}\b", text)) < 20 for name in tales.NAMES)


# --------------------------------------------------------------------------------------------------- checker


def test_the_checker_accepts_what_the_grammar_writes():
    for seed in range(200):
        found = checker.check_tale(tales.GRAMMAR.write(seed).text)
        assert found.faultless and found.counts
        assert (
            found.good_sentences == found.sentences
            and found.name
            and found.pronoun
            and found.thing
            and found.kind
        )
        assert checker.check_program(programs.GRAMMAR.write(seed).text) == checker.Program(True, True, 2, 2)
        assert checker.right_answers(exercises.GRAMMAR.write(seed).text) == 4


TALE = (
    "Long ago there lived a lazy mole named Nora. She had a small tunnel by the river. One day Nora lost "
    "her red kite. Nora looked for the kite under a bush, but the kite was not there. She sat down and wept. "
    'Then a shy fox named Milo came by. "What is wrong?" asked Milo. "I miss my kite," said Nora. '
    '"Do not cry," said Milo. "Let us look together." They searched all day. At last Milo found the kite '
    "in the hay. Nora was so happy that she sang. From that day on Nora and Milo were friends."
)


@pytest.mark.parametrize(
    "old, new, wrong",
    [
        ("found the kite", "found the drum", {"thing"}),
        ("asked Milo", "asked Greta", {"name"}),
        ("said Nora", "said Milo", {"name"}),
        ("that she sang", "that he sang", {"pronoun"}),
        ("lost her", "lost his", {"pronoun"}),
        ("a small tunnel", "a small den", {"kind"}),
        ("At last Milo found", "At last Milo kicked", set()),
    ],
)
def test_the_checker_finds_a_mistake(old, new, wrong):
    """One change is one mistake of its sort; an unknown sentence ends the reading."""
    assert checker.check_tale(TALE).faultless and TALE.count(old) == 1
    found = checker.check_tale(TALE.replace(old, new))
    assert {group for group in checker.GROUPS if not getattr(found, group)} == wrong and not found.faultless
    assert (found.good_sentences < found.sentences) == (not wrong)


def test_the_checker_finds_another_look():
    """In the game with the bag each thing keeps its look."""
    text = next(text for text in builtin_documents("web") if "I pack my bag" in text)
    look = re.findall(tales.ANY_LOOK, text)[-2]
    at = text.rindex(f" {look} ")
    other = next(other for other in tales.SORTS["LOOK"].values if other not in text)
    found = checker.check_tale(f"{text[:at]} {other} {text[at + len(look) + 2:]}")
    assert not found.look and found.thing and not found.faultless


def test_the_checker_judges_what_the_grammar_cannot_read():
    """After an unknown sentence words decide: unknown names and things, pronouns that fit nobody."""
    start = "Long ago there lived a lazy mole named Nora. Nothing happened then. "
    cases = {
        "Olive laughed.": {"name"},
        "She saw the drum.": {"thing"},
        "She saw a red drum. The drum was big.": set(),
        "He laughed.": {"pronoun"},
        "She met Milo the fox, and he laughed.": set(),
    }
    for rest, wrong in cases.items():
        found = checker.check_tale(start + rest)
        assert {group for group in checker.GROUPS if not getattr(found, group)} == wrong, rest
    assert not checker.check_tale("").faultless and checker.check_tale("").mentions == 0


PROGRAM = (
    'def add(x, n):\n    """Return the sum of x and n."""\n    return x + n\n\n'
    '>>> add(2, 4)\n6\n>>> add(4, 6)\n10'
)


@pytest.mark.parametrize(
    "old, new, found",
    [
        ("\n6\n", "\n7\n", checker.Program(True, True, 2, 1)),
        ("return x + n", "return x + number", checker.Program(True, False, 2, 0)),
        ("return x + n", "return x +", checker.Program(False, False, 2, 0)),
        ("return x", "retrun = x", checker.Program(True, False, 2, 0)),
    ],
)
def test_programs_with_a_mistake(old, new, found):
    assert checker.check_program(PROGRAM) == checker.Program(True, True, 2, 2)
    assert checker.check_program(PROGRAM.replace(old, new)) == found


def test_exercises_with_a_mistake():
    sheet = (
        "Question: What is 3 + 4? Answer: 3 + 4 = 7. Question: Is 10 even or odd? Answer: even. "
        "Question: Write 2 as a word. Answer: two. Question: Copy: red blue pink. Answer: red blue pink."
    )
    assert checker.right_answers(sheet) == 4
    assert checker.right_answers(sheet.replace("= 7", "= 8").replace("even. ", "odd. ")) == 2
    assert checker.right_answers(sheet.replace("3 + 4?", "3 plus 4?")) == 0


def test_the_interval_of_a_share():
    """Wilson's interval of 90 in 100 and of none in 10, as tables give it."""
    assert wilson_interval(90 / 100, 100) == pytest.approx([0.8256, 0.9448], abs=1e-4)
    assert wilson_interval(0, 10) == pytest.approx([0.0, 0.2775], abs=1e-4)
