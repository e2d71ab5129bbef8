"""What scripts ran as, compared with what they are."""

from __future__ import annotations

import pytest

from kvmcompose.core.seed import SeedContents
from kvmcompose.reconcile.wording import because
from kvmcompose.server.orchestrator.script_records import (
    Ran,
    decode_ran,
    decode_record,
    encode_ran,
    encode_record,
    last_runs,
    reasons,
    record_of,
)

A, B, C = Ran("a"), Ran("b"), Ran("c")


@pytest.mark.parametrize(
    ("wanted", "found", "expected"),
    [
        ({"00-a": A}, {}, {}),
        ({"00-a": A}, {"00-a": A}, {"00-a": A}),
        ({"00-a": A}, {"00-a": B}, {"00-a": B}),
        ({"00-a": A}, {"00-a": None}, {"00-a": None}),
        ({"00-new": A}, {"00-old": A}, {"00-new": A}),
        ({"00-new": A}, {"00-old": B}, {"00-new": B}),
        ({"00-a": A, "01-b": B}, {"00-a": A}, {"00-a": A}),
        ({"00-a": A, "01-a": A}, {"00-a": A}, {"00-a": A}),
        ({"00-b": B, "01-a": A}, {"00-a": A}, {"01-a": A}),
        ({"00-b": B}, {"00-a": A, "01-b": B}, {"00-b": B}),
        ({"00-b": B, "01-a": A}, {"00-a": A, "01-b": B}, {"00-b": B, "01-a": A}),
    ],
)
def test_which_run_was_the_last_of_a_script(
    wanted: dict[str, Ran], found: dict[str, Ran | None], expected: dict[str, Ran | None]
) -> None:
    assert last_runs(wanted, found) == expected


def texts(wanted: dict[str, Ran], found: dict[str, Ran]) -> list[list[str]]:
    return [[because(each) for each in part] for part in reasons(wanted, found, "setup script")]


def test_reasons_are_what_the_user_changed() -> None:
    before = Ran("a", "context", {"KEPT": "1", "GONE": "2", "OTHER": "3"})
    after = Ran("b", "", {"KEPT": "1", "OTHER": "4", "NEW": "5"})
    assert texts({"00-a.sh": after, "01-b.sh": C}, {"00-a.sh": before}) == [
        ["setup script b.sh added"],
        [
            "setup script a.sh has changed",
            "context removed",
            "environment GONE removed",
            "environment NEW added",
            "environment OTHER has changed",
        ],
    ]
    assert texts({"00-a.sh": A}, {"00-a.sh": A}) == [[], []]


def test_what_is_not_known_is_said_so() -> None:
    unknown = record_of(None, ["/etc/nocloud/setup/00-a.sh"])
    assert texts({"00-a.sh": A}, dict(unknown)) == [
        [],
        ["setup script a.sh, its context or its environment has changed"],
    ]


def test_what_cannot_be_read_now_is_no_change() -> None:
    assert texts(dict(record_of(None, ["/etc/nocloud/setup/00-a.sh"])), {"00-a.sh": A}) == [[], []]
    assert decode_ran(encode_ran(Ran("?", "?"))) is None


def test_records_are_of_the_scripts_that_are_named() -> None:
    contents = SeedContents(scripts={"setup/00-a.sh": "a", "run/00-a.sh": "r"}, context="c")
    assert record_of(contents, ["/etc/nocloud/run/00-a.sh"]) == {"00-a.sh": Ran("r", "c")}


def test_they_survive_storage_and_other_versions_count_as_none() -> None:
    ran = Ran("a", "c", {"A": "1"})
    assert decode_ran(encode_ran(ran)) == ran
    assert decode_record(encode_record({"00-a": ran})) == {"00-a": ran}
    for text in ("", "{}", "x", '{"script":"a","format":2}', "0" * 64):
        assert decode_ran(text) is None
    for text in ("", "x", '{"00-a":{"script":"a","format":2}}', "0" * 64):
        assert decode_record(text) is None
