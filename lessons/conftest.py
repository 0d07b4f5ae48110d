# SPDX-License-Identifier: Apache-2.0
"""The option that both graders share: lessons/exercises and lessons/yours."""


def pytest_addoption(parser):
    parser.addoption("--answers", metavar="FOLDER", help="grade the answers in FOLDER instead of the stubs")
    parser.addoption(
        "--start", type=int, default=1, metavar="N",
        help="lessons/yours: take the steps before N from the reference solutions",
    )
