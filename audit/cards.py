# SPDX-License-Identifier: Apache-2.0
"""What the checks of the model cards share; `python params.py --audit` runs them all.

The statements of the three cards are data, in `cards/cards.json`. Four files check them: `shapes.py`
(architecture, memory, adapters), `runs.py` (steps, time, losses), `claims.py` (data, vocabularies, settings)
and `results.py` (benchmarks, BLiMP, prose about tables). This file has what they share: how a published
number is read, when two numbers agree, what a finding is, and how it is printed.

The rule of rounding. A published number means every value that rounds to it: half a unit of its last digit
to either side, borders included. Zeros at the end of an integer of three or more digits may be rounding as
well (304,000 is 303,500 to 304,500). "~" and "about" change nothing; "over", "above", ">=" and a trailing "+"
make a lower bound, "<" and "<=" an upper one. A statement is inconsistent only if none of its values can be
the computed one. The inputs of a computation are rounded numbers too, so it may give an interval.
"""
from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from common import colour
from model import SIZES, ModelConfig
from params import FAMILY, SIZE_OF, Table

Interval = tuple[float, float]
OWN_CARD = ("Stentor2-30M", "Stentor3-20M", "Portimbria-150M")
VERDICTS = ("inconsistent", "consistent", "not checkable")
NUMBER = re.compile(r"(\d[\d,]*)(\.\d+)?(?:[eE]([+-]?\d+))?\s*(million|billion|[kKMB](?![a-zA-Z]))?")
SCALE = {None: 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "million": 1e6, "B": 1e9, "billion": 1e9}


# --------------------------------------------------------------------------------------------------- rounding

def interval(stated: float | str, decimals: int | None = None, exact: bool = False) -> Interval:
    """The values that a published number can mean, by the rule above.

    `decimals` is the number of decimals in a table's column.

    >>> interval(52.2), interval("~304,000"), interval(400), interval("over 86%")
    ((52.15, 52.25), (303500.0, 304500.0), (350.0, 450.0), (86.0, inf))
    """
    text = str(stated)
    found = NUMBER.search(text)
    if not found:
        raise ValueError(f"no number in {stated!r}")
    whole, fraction, exponent, unit = found.groups()
    digits = whole.replace(",", "")
    if decimals is None:
        decimals = len(fraction) - 1 if fraction else 0
        if not fraction and len(digits) >= 3:
            decimals = len(digits.rstrip("0")) - len(digits)
    scale = SCALE[unit] * 10.0 ** int(exponent or 0)
    value = float(digits + (fraction or ""))
    if re.search(r"over|above|more than|>|\d\+", text):
        return value * scale, math.inf
    if "<" in text:
        return -math.inf, value * scale
    half = 0.0 if exact else 0.5 * 10.0 ** -decimals
    return round(value - half, 10) * scale, round(value + half, 10) * scale


def spread(function: Callable[..., float], *inputs: Interval | float) -> Interval:
    """Least and greatest value of a function over intervals; it must be monotone in each input.

    >>> spread(lambda a, b: a - b, (29.85, 29.95), 27.46)
    (2.3900000000000006, 2.4899999999999984)
    """
    ends = [value if isinstance(value, tuple) else (value,) for value in inputs]
    values = [function(*corner) for corner in itertools.product(*ends)]
    return min(values), max(values)


def agree(stated: Interval, computed: float | Interval) -> bool:
    """Whether two intervals (or an interval and a number) overlap, within a relative 1e-9."""
    low, high = computed if isinstance(computed, tuple) else (computed, computed)
    slack = 1e-9 * max(abs(low), abs(high))
    return stated[0] <= high + slack and low - slack <= stated[1]


# --------------------------------------------------------------------------------------------------- findings

@dataclass(frozen=True)
class Finding:
    """One checked statement.

    `where` is its path in cards.json; `correction` is None or {"field", "stated", "value"}.
    """

    id: str
    card: str
    where: str
    section: str
    stated: Any
    computed: Any
    formula: str
    correction: dict[str, Any] | None
    verdict: str

    def __getitem__(self, name: str) -> Any:
        """`finding["id"]` is `finding.id`, as in the JSON output."""
        return getattr(self, name)


def verdict_of(holds: bool | None) -> str:
    """One of VERDICTS; `holds` is None where arithmetic cannot decide."""
    return "not checkable" if holds is None else "consistent" if holds else "inconsistent"


def slug(text: Any) -> str:
    """Lower case, with hyphens between runs of letters and digits."""
    return re.sub(r"[^a-z0-9]+", "-", str(text).lower()).strip("-")


class Audit:
    """The statements of all cards, the findings, and which statements were checked: (model, path, index)."""

    def __init__(self, models: dict[str, dict]):
        self.models = models
        self.findings: list[Finding] = []
        self.seen: set[tuple[str, str, int]] = set()

    def __getitem__(self, model: str) -> Card:
        return Card(self, model, self.models[model])

    def __iter__(self) -> Iterator[Card]:
        return map(self.__getitem__, SIZE_OF)

    @property
    def own(self) -> list[Card]:
        """The three models that have a card of their own: Stentor2-30M, Stentor3-20M, Portimbria-150M."""
        return [self[model] for model in OWN_CARD]

    def rest(self) -> None:
        """The statements without a check: repeated numbers must agree, the rest is not checkable."""
        for model, groups in self.models.items():
            card, paths = self[model], [f"{group}.{key}" for group, keys in groups.items() for key in keys]
            for path in paths:
                values = [statement.get("value") for _, statement in card.statements(path)]
                several = len(values) > 1
                numbers = several and all(
                    re.fullmatch(r"~?[\d.,]+\s?[a-zA-Z%]*", str(value)) for value in values
                )
                for index, value in enumerate(values):
                    if (model, path, index) in self.seen:
                        continue
                    if numbers:
                        holds = all(agree(interval(value), interval(other)) for other in values)
                        card.note(path, holds, values[index - 1], f"stated {len(values)} times", index=index)
                    elif several and all(value == other for other in values):
                        card.note(
                            path, True, value, f"stated {len(values)} times in the same words",
                            index=index,
                        )
                    else:
                        card.note(path, None, None, "a choice, a measurement or a description", index=index)


@dataclass(frozen=True)
class Card:
    """One model of the audit and what the cards state about it; a `path` is "group.key"."""

    audit: Audit
    model: str
    groups: dict[str, dict]                                       # group -> key -> statements

    @property
    def size(self) -> str:
        """Our name of the model."""
        return SIZE_OF[self.model]

    @property
    def shape(self) -> ModelConfig:
        return SIZES[self.size]

    @property
    def tokens(self) -> float:
        """Tokens of training."""
        return FAMILY[self.size]

    def statements(self, path: str, section: str = "") -> list[tuple[int, dict]]:
        """(position, statement) of all statements at `path` whose section begins with `section`."""
        group, key = path.split(".")
        found = enumerate(self.groups.get(group, {}).get(key, []))
        return [(i, statement) for i, statement in found if statement["section"].startswith(section)]

    def value(self, path: str, section: str = "") -> Any:
        """The first statement's value."""
        return self.statements(path, section)[0][1]["value"]

    def rows(self, path: str) -> list[dict[str, Any]]:
        """A table of a card, one dict per row; empty where the card has none."""
        found = self.statements(path)
        return [dict(zip(found[0][1]["columns"], row)) for row in found[0][1]["rows"]] if found else []

    def note(
        self, path: str, holds: bool | None, computed: Any, formula: str, *, index: int = 0,
        part: Any = "", stated: Any = None, correction: dict | None = None,
    ) -> None:
        """Record a finding about statement number `index`; for `holds` see `verdict_of`.

        `part` distinguishes findings about one statement (the cells of a table); `stated` replaces the
        statement's value.
        """
        group, key = path.split(".")
        statement = self.groups[group][key][index]
        source = slug(statement["card"].split("-")[0] + " " + statement["section"])
        names = [
            self.size, group, key, slug(part), source if len(self.groups[group][key]) > 1 else "",
        ]
        if isinstance(computed, float):
            computed = float(f"{computed:.10g}")
        if stated is None:
            stated = statement.get("value")
        name, where = ".".join(filter(None, names)), f"models.{self.model}.{path}"
        finding = Finding(
            name, statement["card"], where, statement["section"], stated, computed, formula, correction,
            verdict_of(holds),
        )
        self.audit.findings.append(finding)
        self.audit.seen.add((self.model, path, index))

    def check(
        self, path: str, computed: float | Interval | list[float], formula: str, *,
        part: Any = "", stated: Any = None, decimals: int | None = None, exact: bool = False, fix: str = "",
    ) -> None:
        """Compare every statement at `path` with a computed number or interval, or with any of a list.

        `stated` is a cell of a table and replaces the statement's value; `fix` is the field of a correction.
        """
        readings = computed if isinstance(computed, list) else [computed]
        for index, statement in self.statements(path):
            value = statement["value"] if stated is None else stated
            scale = 1e6 if statement.get("unit") == "million" else 1.0
            low, high = (end * scale for end in interval(value, decimals, exact))
            holds = any(agree((low, high), reading) for reading in readings)
            if isinstance(computed, tuple):
                shown = [end / scale for end in computed]
            else:
                shown = min(readings, key=lambda reading: abs(reading - low)) / scale
            correction = None if holds or not fix else {"field": fix, "stated": value, "value": computed}
            self.note(
                path, holds, shown, formula, index=index, part=part, stated=value,
                correction=correction,
            )


# --------------------------------------------------------------------------------------------------- printing

def brief(value: Any, width: int = 24) -> str:
    """A value for a table cell: thousands separators, cut to `width`."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return f"{value:,.7g}" if abs(value) < 1e6 else f"{value:,.0f}"
    text = "-" if value is None else str(value)
    if isinstance(value, list) and all(isinstance(end, float) for end in value):
        text = " to ".join(brief(end) for end in value)
    return text if len(text) <= width else text[: width - 1] + "…"


def report(findings: list[Finding], full: bool) -> Iterator[str]:
    """The findings for a terminal: one line for each inconsistent one, and the summary.

    `full` adds the consistent ones as tables, the names of those that cannot be checked, and the computation
    of each inconsistent one.
    """
    chosen = {
        verdict: [finding for finding in findings if finding.verdict == verdict] for verdict in VERDICTS
    }
    if full:
        yield from consistent(chosen["consistent"])
        yield "NOT CHECKABLE: choices, measurements, descriptions, assumptions"
        names = ", ".join(finding.id for finding in chosen["not checkable"])
        indent = {"initial_indent": "  ", "subsequent_indent": "  "}
        yield textwrap.fill(names, 78, break_on_hyphens=False, **indent) + "\n"
        yield "INCONSISTENT\n"
        yield from map(explained, chosen["inconsistent"])
    elif chosen["inconsistent"]:
        table = Table("INCONSISTENT", {"finding": "", "stated": "", "computed": ""})
        for finding in chosen["inconsistent"]:
            table.rows.append((brief(finding.id, 46), brief(finding.stated, 14), brief(finding.computed, 14)))
        table.notes = ["--full shows where each one is, how it was computed, and everything else."]
        yield table.text()
    summary = Table("SUMMARY", {"card": "", **dict.fromkeys(VERDICTS, "d")})
    for card in sorted({finding.card for finding in findings}):
        counts = [sum(finding.card == card for finding in chosen[verdict]) for verdict in VERDICTS]
        summary.rows.append((card, *counts))
    summary.rows.append(("all", *(len(chosen[verdict]) for verdict in VERDICTS)))
    yield summary.text()


def consistent(findings: list[Finding]) -> Iterator[str]:
    """Two lines for each finding, under the model of the cards or the file of a folder that it belongs to."""
    groups: dict[str, list[str]] = {}
    for finding in findings:
        subject = finding.where.split(".")[1] if finding.where.startswith("models.") else finding.card
        values = f"{brief(finding.stated)} stated, {brief(finding.computed)} computed: {finding.formula}"
        lines = textwrap.fill(values, 78, initial_indent="  ", subsequent_indent="    ")
        groups.setdefault(subject, [f"CONSISTENT: {subject}"]).append(f"{finding.id}\n{lines}")
    yield from ("\n".join(lines) + "\n" for lines in groups.values())


def explained(finding: Finding) -> str:
    """A finding in full: where it is, what is stated, what was computed and how, and the correction."""
    lines = {
        "where": f"{finding.card}, {finding.section} ({finding.where})",
        "stated": brief(finding.stated, 400),
        "computed": brief(finding.computed, 400),
        "formula": finding.formula,
    }
    if finding.correction:
        lines["correction"] = "{field}: {stated} -> {value}".format(**finding.correction)
    wrapped = [
        textwrap.fill(text, 78, initial_indent=f"  {label:11}", subsequent_indent=" " * 13)
        for label, text in lines.items()
    ]
    return "\n".join([colour(finding.id, "31;1"), *wrapped])


def show(findings: list[Finding], own: list[str], as_json: bool, full: bool = False) -> None:
    """Print findings, and the contradictions `own` between our own tables."""
    if as_json:
        counts = {verdict: sum(finding.verdict == verdict for finding in findings) for verdict in VERDICTS}
        plain = [dataclasses.asdict(finding) for finding in findings]
        print(json.dumps({"summary": counts, "own": own, "findings": plain}, indent=1, ensure_ascii=False))
    else:
        print("\n".join([*report(findings, full), *own]), end="")
