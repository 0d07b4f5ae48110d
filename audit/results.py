# SPDX-License-Identifier: Apache-2.0
"""The part of the audit about results: benchmark tables, BLiMP, and what the prose says of the tables."""
from __future__ import annotations

import itertools
import math
import re
from typing import Any

from audit.cards import OWN_CARD, Audit, Card, Interval, agree, interval, spread
from model import SIZES
from params import FAMILY, count

S2, S3, P = OWN_CARD
PEERS = "benchmarks.peer_table"
# Questions of each test set: an accuracy is an integer number of questions / all of them.
QUESTIONS = {
    "OpenBookQA": 500,
    "Winogrande": 1267,
    "CommonsenseQA": 1221,
    "HellaSwag": 10042,
    "ARC-Easy": 2376,
    "ARC-Challenge": 1172,
    "MMLU": 14042,
    "PIQA": 1838,
    "GSM8K_0shot_flexible": 1319,
    "GSM8K_5shot_flexible": 1319,
}
CHOICES = {
    "OpenBookQA": 4,
    "Winogrande": 2,
    "CommonsenseQA": 5,
    "HellaSwag": 4,
    "ARC-Easy": 4,
    "ARC-Challenge": 4,
    "ARC_avg": 4,
    "MMLU": 4,
    "PIQA": 2,
}
SAME_NAME = {
    "TruthfulQA (MC2)": "TruthfulQA", "TruthfulQA MC2": "TruthfulQA", "MMLU Average": "MMLU",
    "GSM8K (5-Shot)": "GSM8K_5shot_flexible", "GSM8K (0-Shot)": "GSM8K_0shot_flexible",
}
TableRow = dict[str, Any]
Column = dict[str, float]


def column(rows: list[TableRow], name: str) -> Column:
    """Model -> value of one column; empty cells and the baseline row left out."""
    return {
        row["model"]: row[name]
        for row in rows
        if row[name] is not None and not row["model"].lower().startswith("random")
    }


def rank(values: Column, model: str) -> tuple[int, list[str]]:
    """Place of a model from the top, 1 the highest, and the others that share it."""
    place = 1 + sum(value > values[model] for value in values.values())
    return place, [name for name, value in values.items() if value == values[model] and name != model]


def check_arc_mean(card: Card, path: str, scores: TableRow, **cell: Any) -> None:
    """The mean of ARC-Easy and ARC-Challenge, two rounded numbers."""
    easy, challenge = scores["ARC-Easy"], scores["ARC-Challenge"]
    mean = spread(lambda a, b: (a + b) / 2, interval(easy, 2), interval(challenge, 2))
    card.check(path, mean, f"({easy} + {challenge}) / 2", **cell)


# ------------------------------------------------------------------------------------------- benchmark tables

def not_whole(scores: TableRow) -> list[str]:
    """Benchmarks whose score, a fraction of four digits, is not an integer number of questions."""
    wrong = []
    for name, questions in QUESTIONS.items():
        if scores.get(name) is not None:
            right = round(scores[name] * questions) / questions
            if not agree(interval(scores[name], 4), right):
                wrong.append(name)
    return wrong


def over_chance(row: TableRow, base: TableRow, names: list[str]) -> Interval:
    """Mean over benchmarks of score - baseline; scores and measured baselines have four digits."""
    low = high = 0.0
    for name in names:
        scores = interval(row[name], 4)
        chance = interval(base[name], 4) if name == "TruthfulQA" else (base[name] or 0.0,) * 2
        low += (scores[0] - chance[1]) / len(names)
        high += (scores[1] - chance[0]) / len(names)
    return low, high


def stentor3_tables(cards: Audit) -> None:
    """The Stentor3-20M card: its peer table, its own scores, and the rows of its two relatives."""
    card = cards[S3]
    rows = card.rows(PEERS)
    peers, base = rows[:-1], rows[-1]
    names = [name for name in base if name not in ("model", "avg_over_random")]
    for row in peers:
        words = (
            "mean over the ten benchmarks of score - chance; GSM8K - 0, TruthfulQA - the lowest of the table"
        )
        mean = over_chance(row, base, names)
        card.check(
            PEERS, mean, words, part=row["model"] + " average", stated=row["avg_over_random"], decimals=4
        )
        wrong = not_whole(row)
        card.note(
            PEERS, not wrong, wrong or "whole", "score * questions of the test set",
            part=row["model"] + " questions", stated={name: row[name] for name in names},
        )
    chance = {name: 1 / CHOICES[name] for name in names if name in CHOICES} | {
        "TruthfulQA": min(column(peers, "TruthfulQA").values())
    }
    holds = all(math.isclose(base[name], value) for name, value in chance.items())
    card.note(PEERS, holds, chance, "1 / choices; TruthfulQA: the lowest of the column", part="baseline",
              stated={name: base[name] for name in chance})
    card.note("benchmarks.baseline_rule", True, "reproduces every row", "see the averages of peer_table")
    own = {row["model"]: row for row in peers}
    for row in card.rows("benchmarks.scores_percent"):
        name = SAME_NAME.get(row["benchmark"], row["benchmark"])
        card.check(
            "benchmarks.scores_percent", 100 * own[S3][name], "its row of the peer table", part=name,
            stated=row["score_percent"], decimals=2,
        )
    for model, path in (
        ("Stentor3-50M", "benchmarks.scores_fraction"),
        (P, "benchmarks.scores_fraction_reevaluated"),
    ):
        for row in cards[model].rows(path):
            name = row["benchmark"]
            cards[model].check(
                path, own[model][name], "its row of the peer table", part=name, stated=row["score"],
                decimals=4,
            )
    portimbria_scores(cards, own[P])


def portimbria_scores(cards: Audit, again: TableRow) -> None:
    """The Portimbria card's own scores.

    They are compared with its peer table, with integer numbers of questions, and with the evaluation of the
    Stentor3 card (`again`).
    """
    card = cards[P]
    path, first = "benchmarks.scores_percent", card.rows(PEERS)[0]
    for row in card.rows(path):
        name, score = SAME_NAME.get(row["benchmark"], row["benchmark"]), row["score_percent"]
        if name in first:
            card.check(path, first[name], "its row of the peer table", part=name, stated=score, decimals=2)
        wrong = not_whole({name: score / 100})
        card.note(
            path, not wrong, wrong or "whole", "score * questions of the test set",
            part=name + " questions", stated=score,
        )
        if name in again and not agree(
            interval(score, 2), spread(lambda value: 100 * value, interval(again[name], 4))
        ):
            error = math.sqrt(score * (100 - score) / QUESTIONS[name])
            words = (f"two evaluations of one model, {abs(score - 100 * again[name]):.2f} points apart; "
                     f"one standard error is {error:.1f}")
            card.note(
                "benchmarks.scores_fraction_reevaluated", None, score, words, part=name + " elsewhere",
                stated=again[name],
            )
    for card in cards.own[1:]:
        scores = {row["benchmark"]: row["score_percent"] for row in card.rows(path)}
        check_arc_mean(card, "benchmarks.arc_average_percent", scores)


def portimbria_table(cards: Audit) -> None:
    """The Portimbria card's peer table: averages, baseline, bold cells, its own size and tokens."""
    card = cards[P]
    rows = card.rows(PEERS)
    peers, base = rows[:-1], rows[-1]
    for row in peers:
        if row["ARC_avg"] is not None:
            part = row["model"] + " ARC"
            check_arc_mean(card, PEERS, row, part=part, stated=row["ARC_avg"], decimals=2)
    chance = {name: 100 / choices for name, choices in CHOICES.items() if name in base}
    holds = all(base[name] == value for name, value in chance.items())
    card.note(
        PEERS, holds, chance, "100 / choices", part="chance", stated={name: base[name] for name in chance}
    )
    card.check(PEERS, float(count(SIZES["150m"])["total"]), "count", part="params", stated=peers[0]["params"])
    card.check(PEERS, FAMILY["150m"], "token budget", part="tokens", stated=peers[0]["tokens"])
    bold = card.value("benchmarks.peer_table_bold")
    highest = {name: max(column(peers, name).values()) for name in bold}
    holds = all(column(peers, name)[model] == highest[name] for name, model in bold.items())
    card.note(
        "benchmarks.peer_table_bold", holds, highest,
        "the highest of each column; PIQA is shared with SmolLM-135M",
    )
    smol = [row for row in peers if row["model"].startswith("SmolLM")]
    implied = [
        spread(lambda mean, easy: 2 * mean - easy, interval(row["ARC_avg"], 1), row["ARC-Easy"])
        for row in smol
    ]
    holds = all(agree(interval(row["ARC-Challenge"], 2), value) for row, value in zip(smol, implied))
    card.note("benchmarks.back_calculation_rule", holds, "holds in both rows", "2 * ARC_avg - ARC-Easy")


# ------------------------------------------------------------------------------------------------------ prose

def stentor3_prose(cards: Audit) -> None:
    """What the Stentor3-20M card says of its peer table."""
    card = cards[S3]
    rows = card.rows(PEERS)
    values = {name: column(rows, name) for name in rows[0] if name != "model"}
    claims = {
        "claim_openbookqa": ("OpenBookQA", 1),
        "claim_arc_easy": ("ARC-Easy", 3),
        "claim_truthfulqa": ("TruthfulQA", 2),
    }
    for key, (name, place) in claims.items():
        found, ties = rank(values[name], S3)
        order = sorted(values[name].items(), key=lambda pair: -pair[1])[:5]
        words = ", ".join(f"{model} {value}" for model, value in order)
        card.note(f"benchmarks.{key}", found == place, ", ".join([f"place {found}", *ties]), words)
    card.note("benchmarks.claim_avg", True, "0.0109 and 0.0110", "the two rows of avg_over_random")
    trails = ("Winogrande", "HellaSwag", "GSM8K_5shot_flexible")
    lowest = [name for name in trails if min(values[name], key=values[name].get) == S3]
    card.note("benchmarks.claim_trails", len(lowest) == 3, lowest, "the lowest of these columns")
    millions = {
        "Pythia-31M": 31, "TinyStories-33M": 33, "Stentor3-50M": 49.4, "Pythia-70M": 70, "DistilGPT2": 82,
        P: 151,
    }
    ratios = {name: round(size / 20.324, 1) for name, size in millions.items()}
    card.note(
        "benchmarks.claim_size", None, ratios,
        "sizes over 20.3M; what \"competes\" means, no arithmetic decides",
    )


def portimbria_numbers(cards: Audit) -> None:
    """Token shares and gaps that the Portimbria-150M card quotes."""
    card = cards[P]
    rows = card.rows(PEERS)
    for key, billions in (("pythia", 300), ("gpt_neo", 300), ("opt", 180), ("smollm2", 2000)):
        card.check(f"benchmarks.tokens_vs_{key}_percent", 100 * 6 / billions, f"6B / {billions}B")
    card.check("benchmarks.smollm2_multiple", 2000 / 6, "2T / 6B")
    card.check("benchmarks.pythia_multiple", 300 / 6, "300B / 6B")
    gaps = {
        "truthfulqa_gap_gpt2": ("TruthfulQA", "GPT-2 (117M)"),
        "truthfulqa_gap_gpt_neo": ("TruthfulQA", "GPT-Neo 125M"),
        "hellaswag_gap_pythia": ("HellaSwag", "Pythia-160M"),
        "arc_easy_gap_pythia": ("ARC-Easy", "Pythia-160M"),
        "openbookqa_gap_pythia": ("OpenBookQA", "Pythia-160M"),
    }
    for key, (name, other) in gaps.items():
        ours, theirs = column(rows, name)[P], column(rows, name)[other]
        gap = spread(lambda a, b: abs(a - b), interval(ours, 2), interval(theirs))
        card.check(
            f"benchmarks.{key}", gap,
            f"{max(ours, theirs)} - {min(ours, theirs)}, each as rounded in the table",
        )


def portimbria_prose(cards: Audit) -> None:
    """What the Portimbria-150M card claims of its peer table: who beats whom."""
    card = cards[P]
    rows = card.rows(PEERS)
    values = {name: column(rows, name) for name in rows[0] if name not in ("model", "params", "tokens")}

    def claim(key: str, holds: bool, computed: Any, formula: str) -> None:
        card.note(f"benchmarks.claim_{key}", holds, computed, formula)

    for key, name in (("winogrande", "Winogrande"), ("truthfulqa_entries", "TruthfulQA")):
        place, _ = rank(values[name], P)
        claim(
            key, place == 1, f"place {place} of {len(values[name])}",
            f"the next has {sorted(values[name].values())[-2]}",
        )
    absent = [row["model"] for row in rows[:-1] if row["TruthfulQA"] is None]
    claim("truthfulqa_all", not absent, f"no entry: {', '.join(absent)}",
          "not every peer has an entry; and 6B tokens are 3.3% of OPT's 180B and 15% of GPT-2's 40B, not 2%")
    lower = {}
    for name in ("HellaSwag", "ARC-Easy", "ARC-Challenge", "PIQA", "OpenBookQA"):
        named = ("Pythia-160M", "GPT-Neo 125M", "OPT-125M", "GPT-2 (117M)")
        not_higher = [model for model in named if values[name].get(model, 0) <= values[name][P]]
        if not_higher:
            lower[name] = not_higher
    claim(
        "honest_gaps", not lower, lower,
        "not higher: OPT's ARC-Challenge is 22.1 against 22.53, GPT-2 has no ARC-Easy entry",
    )
    filled = {name: scores for name, scores in values.items() if "SmolLM2-135M" in scores}
    beaten = {
        name: max(scores, key=scores.get)
        for name, scores in filled.items()
        if rank(scores, "SmolLM2-135M")[0] > 1
    }
    claim(
        "smollm2", not beaten, beaten,
        "filled cells of SmolLM2-135M in which another is higher; PIQA it shares with SmolLM-135M",
    )
    leads = all(values[name]["SmolLM-135M"] > values[name][P] for name in ("HellaSwag", "PIQA", "ARC-Easy"))
    claim(
        "smollm", leads and "SmolLM-135M" in values["TruthfulQA"], "no TruthfulQA entry of SmolLM-135M",
        "its lead on HellaSwag, PIQA and ARC-Easy holds, and 52.72 against 51.3; "
        "the TruthfulQA cell is empty",
    )
    claim(
        "below_chance", values["ARC-Challenge"][P] < 25 and values["OpenBookQA"][P] < 25, "22.53 and 24.6",
        "both below 25",
    )


# ------------------------------------------------------------------------------------------------------ BLiMP

# Category of the card -> BLiMP's terms in it, and groups of paradigms (a term, or the beginning of names)
# that may be counted with it or not: the card does not say which it counts.
CATEGORIES = {
    "Agreement": (
        "determiner_noun_agreement subject_verb_agreement",
        ["irregular_forms", "anaphor_agreement"],
    ),
    "Anaphora / Binding": ("binding", ["anaphor_agreement"]),
    "NPI Licensing": (
        "npi_licensing",
        ["superlative_quantifiers", "existential_there_quantifiers", "wh_vs_that_with_gap_long"],
    ),
    "Island Constraints": ("island_effects", []),
    "Argument Structure": ("argument_structure", ["s-selection", "irregular_forms"]),
    "Filler-Gap / Wh": ("filler_gap_dependency", ["wh_island"]),
    "Raising & Existential": (
        "control_raising", ["existential_there_quantifiers", "superlative_quantifiers"],
    ),
    "Ellipsis": ("ellipsis", []),
}


def members(tasks: list[TableRow], groups: list[str]) -> Column:
    """Paradigm -> accuracy of those whose BLiMP term is one of `groups`, or whose name begins with one."""
    chosen = {}
    for task in tasks:
        if any(task["blimp_term"] == group or task["task"].startswith(group) for group in groups):
            chosen[task["task"]] = task["accuracy_percent"]
    return chosen


def category_means(tasks: list[TableRow], category: str) -> Column:
    """Every plausible reading of a category -> mean accuracy: with and without each optional group."""
    terms, optional = CATEGORIES[category]
    means = {}
    for size in range(len(optional) + 1):
        for extra in itertools.combinations(optional, size):
            groups = [*terms.split(), *extra]
            accuracies = members(tasks, groups).values()
            means[" + ".join(groups)] = sum(accuracies) / len(accuracies)
    return means


def blimp(cards: Audit) -> None:
    """Mean, bands and category averages of the 67 paradigms.

    Each has 1,000 pairs, so an accuracy in percent is exact to its one decimal.
    """
    card = cards[S2]
    tasks = card.rows("blimp.task_accuracy")
    scores = [task["accuracy_percent"] for task in tasks]
    card.check(
        "blimp.overall_accuracy_percent", sum(scores) / len(scores), f"mean of {len(scores)} paradigms"
    )
    card.check("blimp.tasks", len(tasks), "rows of the table", exact=True)
    card.note("blimp.task_accuracy", scores == sorted(scores, reverse=True), len(scores), "in falling order")
    card.note("blimp.improvement_over_12m", True, 74.17 - 68.95, "the two overall accuracies")
    for band, low, high in (("strong", 85, 100), ("moderate", 56, 84), ("weak", 0, 55)):
        inside = [task["accuracy_percent"] for task in tasks if task["band_listed_in_card"] == band]
        holds = low <= round(min(inside)) and round(max(inside)) <= high
        card.check(f"blimp.{band}_count", len(inside), "rows listed in this band", exact=True)
        card.note(
            f"blimp.{band}_threshold", holds, [min(inside), max(inside)],
            "lowest and highest, as whole percents",
        )
    path = "blimp.category_averages"
    for row in card.rows(path):
        means = category_means(tasks, row["category"])
        fitting = {
            name: mean for name, mean in means.items() if agree(interval(row["average_percent"]), mean)
        }
        words = "; ".join(f"{name}: {mean:.2f}" for name, mean in (fitting or means).items())
        limits = [round(min(means.values()), 2), round(max(means.values()), 2)]
        card.note(path, bool(fitting), limits, words, part=row["category"], stated=row["average_percent"])
        examples(card, row, tasks)
    term = next(task["blimp_term"] for task in tasks if task["task"] == "wh_vs_that_with_gap_long_distance")
    card.note(
        path, term == "npi_licensing", term, "a filler-gap paradigm, quoted again under Filler-Gap / Wh",
        part="NPI Licensing wh-gap", stated="wh-gap long-distance 14",
    )


def examples(card: Card, row: TableRow, tasks: list[TableRow]) -> None:
    """The accuracies quoted beside a category: each must be that of a paradigm that may belong to it."""
    terms, optional = CATEGORIES[row["category"]]
    accuracies = members(tasks, [*terms.split(), *optional])
    text = f"{row['strengths']}; {row['weaknesses']}"
    quoted = [int(number) for number in re.findall(r"\b\d{2,3}\b", text)]
    absent = [
        number
        for number in quoted
        if not any(agree(interval(number, 0), value) for value in accuracies.values())
    ]
    words = "each quoted figure is a paradigm's accuracy, rounded"
    if absent:
        nearest = min(accuracies.values(), key=lambda value: abs(value - absent[0]))
        words += f"; the nearest to {absent[0]} is {nearest}"
    card.note(
        "blimp.category_averages", not absent, f"not found: {absent}" if absent else "all found", words,
        part=row["category"] + " examples", stated=text,
    )


PARTS = (stentor3_tables, portimbria_table, stentor3_prose, portimbria_numbers, portimbria_prose, blimp)
