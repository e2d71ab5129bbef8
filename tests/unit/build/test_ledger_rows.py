"""A damaged or forged row of the ledger counts as missing, and costs no other row."""

from __future__ import annotations

import pytest

from kvmcompose.build.ledger import Intent, Ledger, as_built
from kvmcompose.core.artefact import Policy
from kvmcompose.effects.stat_cache import Signature

SIGNATURE = Signature(1, 2, 3, 4)


def intent(path: str) -> Intent:
    return Intent(path, f"task:{path}", Policy.TEXT, "recipe", "content", b"{}")


@pytest.fixture
def ledger() -> Ledger:
    """Two artefacts, built and intended."""
    ledger = Ledger(None)
    ledger.record(as_built(intent(path), SIGNATURE) for path in ("state.json", "artefacts/a"))
    ledger.intend([intent("state.json"), intent("artefacts/a")])
    return ledger


def test_what_is_recorded_is_read_back(ledger: Ledger) -> None:
    found = ledger.records()
    assert list(found) == ["artefacts/a", "state.json"]
    assert found["artefacts/a"].policy is Policy.TEXT
    assert found["artefacts/a"].signature == SIGNATURE
    assert found["artefacts/a"].inputs == b""  # they are read one by one
    assert ledger.records(["state.json", "artefacts/b"]) == {"state.json": found["state.json"]}
    assert [each.path for each in ledger.intents()] == ["artefacts/a", "state.json"]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("path", "artefacts/../a"),
        ("path", "/etc/passwd"),
        ("path", "artefacts/\x1b"),
        ("path", 7),
        ("task", None),
        ("task", "a\nb"),
        ("policy", "mine"),
        ("recipe", b"\xff"),
        ("content", None),
        ("size", "large"),
        ("mtime_ns", None),
        ("inode", b"4"),
        ("offered", b"recipe"),
    ],
)
def test_a_damaged_row_counts_as_missing(ledger: Ledger, column: str, value: object) -> None:
    ledger.write((f"UPDATE artefacts SET {column} = ? WHERE path = 'artefacts/a'", [(value,)]))  # noqa: S608
    assert list(ledger.records()) == ["state.json"]


@pytest.mark.parametrize(
    ("column", "value"), [("path", "artefacts//a"), ("policy", ""), ("recipe", None), ("inputs", "text")]
)
def test_a_damaged_intent_counts_as_missing(ledger: Ledger, column: str, value: object) -> None:
    ledger.write((f"UPDATE intended SET {column} = ? WHERE path = 'artefacts/a'", [(value,)]))  # noqa: S608
    assert [each.path for each in ledger.intents()] == ["state.json"]
