# SPDX-License-Identifier: Apache-2.0
"""All checks of the three model cards: `python params.py --audit`."""
from __future__ import annotations

from audit import claims, results, runs, shapes
from audit.cards import Audit, Finding, show
from params import read_cards


def audit() -> list[Finding]:
    """All findings on the cards; every number of cards.json has at least one."""
    cards = Audit(read_cards())
    for part in (*shapes.PARTS, *runs.PARTS, *claims.PARTS, *results.PARTS):
        part(cards)
    cards.rest()
    return cards.findings


def main(as_json: bool, full: bool = False) -> int:
    """Audit the cards, print the findings and return the exit code.

    Errors in the cards are an expected result. The exit code is 1 only if our own tables contradict
    each other.
    """
    own = shapes.own_contradictions()
    show(audit(), own, as_json, full)
    return 1 if own else 0
