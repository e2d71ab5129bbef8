"""How many random cases a test tries."""

from __future__ import annotations

import os

import hypothesis

_LONG = bool(os.environ.get("KVM_COMPOSE_TEST_LONG"))


def cases(number: int) -> hypothesis.settings:
    """Settings of a test that tries ``number`` cases: a third, the same each time, in CI; ten times as many,
    others each time, under ``make test-long``."""
    number = number * 10 if _LONG else number // 3 if os.environ.get("CI") else number
    return hypothesis.settings(max_examples=number, deadline=None)
