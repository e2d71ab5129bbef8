"""The text of a problem, as editors and people read it."""

from __future__ import annotations

from kvmcompose.core.errors import Location, Problem


def test_a_key_with_line_ends_begins_no_other_line() -> None:
    problem = Problem(
        code="bad-name", message="bad", location=Location("a\rb", 1, 2), path="x.A\nb.yaml:1:1: ok"
    )
    assert str(problem) == "a\\rb:1:2: x.A\\nb.yaml:1:1: ok: error: bad [bad-name]"
