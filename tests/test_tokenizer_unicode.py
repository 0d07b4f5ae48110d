# SPDX-License-Identifier: Apache-2.0
"""The code points that Python's Unicode version and the reference's see differently, all of them, and that no
other does.

The reference, built with Go 1.16 to 1.20, has Unicode 13; built with Go 1.21 or later, Unicode 15. The
encoder takes a character's kind (letter, number, mark or none of these), combining class and decomposition
from Python's `unicodedata`: Unicode 13 in Python 3.10, 14 in 3.11, 15.0 in 3.12, 15.1 in 3.13. In these
versions only additions changed any of the three.
"""
import hashlib
import unicodedata

import pytest

from tokenizer import kind_of, normalize

# First Unicode version after 13 that has them -> code points that are letters, numbers or marks, or
# decompose.
ADDED = {
    "14.0.0": """870-887 889-88E 898-89F 8B5 8C8-8D2 C3C C5D CDD 170D 1715 171F 180F 1AC1-1ACE 1B4C 1DFA 2C2F 2C5F 9FFD-9FFF A7C0-A7C1
        A7D0-A7D1 A7D3 A7D5-A7D9 A7F2-A7F4 10570-1057A 1057C-1058A 1058C-10592 10594-10595 10597-105A1 105A3-105B1 105B3-105B9 105BB-105BC
        10780-10785 10787-107B0 107B2-107BA 10F70-10F85 11070-11075 110C2 11740-11746 11AB0-11ABF 12F90-12FF0 16A70-16ABE 16AC0-16AC9
        1AFF0-1AFF3 1AFF5-1AFFB 1AFFD-1AFFE 1B11F-1B122 1CF00-1CF2D 1CF30-1CF46 1DF00-1DF1E 1E290-1E2AE 1E7E0-1E7E6 1E7E8-1E7EB 1E7ED-1E7EE
        1E7F0-1E7FE 2A6DE-2A6DF 2B735-2B738""",
    "15.0.0": """CF3 ECE 10EFD-10EFF 1123F-11241 11F00-11F10 11F12-11F3A 11F3E-11F42 11F50-11F59 1342F 13440-13455 1B132 1B155
        1D2C0-1D2D3 1DF25-1DF2A 1E030-1E06D 1E08F 1E4D0-1E4F9 2B739 31350-323AF""",
    "15.1.0": "2EBF0-2EE5D",
}
# sha256 over every other code point that is a letter, number or mark, combines or decomposes; made from the
# tables of Go 1.19 (Unicode 13).
REFERENCE = "4e9f224f90115cac77396c8652619a7e373d8c900adb601ec4a8955c36b1643a"


def code_points(ranges: str) -> set[int]:
    bounds = [part.split("-") for part in ranges.split()]
    return {
        code for first, *last in bounds for code in range(int(first, 16), int((last or [first])[0], 16) + 1)
    }


def number_of(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


HERE = number_of(unicodedata.unidata_version)
LISTED = {version: code_points(ranges) for version, ranges in ADDED.items()}


def test_the_list_has_the_number_of_code_points_that_the_format_names():
    assert len(LISTED["14.0.0"]) == 638  # between the reference's Unicode 13 and Python 3.11's 14
    assert sum(map(len, LISTED.values())) == len(set().union(*LISTED.values())) == 638 + 4430 + 622


@pytest.mark.parametrize("version", ADDED)
def test_listed_code_points_are_known_from_their_version_on(version):
    known = {code for code in LISTED[version] if unicodedata.category(chr(code))[0] in "LNM"}
    assert known == (LISTED[version] if HERE >= number_of(version) else set())


@pytest.mark.skipif(HERE > (15, 1, 0),
    reason=f"Python's Unicode {unicodedata.unidata_version} was not compared with the reference's yet")
def test_no_other_code_point_differs_from_the_reference():
    listed = set().union(*LISTED.values())
    digest = hashlib.sha256()
    for code in range(0x110000):
        if 0xD800 <= code < 0xE000 or code in listed:
            continue
        character = chr(code)
        kind = unicodedata.category(character)[0]
        kind = kind if kind in "LNM" else "O"
        combining, decomposed = unicodedata.combining(character), unicodedata.normalize("NFD", character)
        if (kind, combining, decomposed) != ("O", 0, character):
            digest.update(f"{code:X} {kind} {combining} {decomposed}\n".encode())
    assert digest.hexdigest() == REFERENCE


def test_a_listed_letter_is_marked_where_python_knows_it():
    code = min(LISTED["14.0.0"])
    marked = normalize("!" + chr(code)) != ("!" + chr(code)).encode()
    assert marked == (kind_of(chr(code)) == kind_of("a")) == (HERE >= (14, 0, 0))
