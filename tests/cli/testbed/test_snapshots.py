"""``snapshot``: of all guests or some, in our words and TestbedOS's."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Lab


def found(lab: Lab) -> list[tuple[str, str]]:
    return [(each["name"], each["guest"]) for each in lab.must("snapshot", "list", "--json").json]


def test_of_all_guests_and_back(up: Lab) -> None:
    assert "there are no snapshots" in up.must("snapshot", "list").err
    up.must("snapshot", "create", "clean")
    assert found(up) == [("clean", "web"), ("clean", "db")]
    up.must("snapshot", "restore", "clean")
    header, *rows = up.must("snapshot", "info", "clean").out.splitlines()
    assert header.split()[:2] == ["SNAPSHOT", "GUEST"]
    assert len(rows) == 2
    up.must("snapshot", "delete", "clean")
    assert found(up) == []
    assert up.state() == "up"


@pytest.mark.parametrize(
    "words",
    [("--guest", "web", "clean"), ("-n", "lab-web", "-s", "clean"), ("--name", "web", "--snapshot", "clean")],
)
def test_of_one_guest(up: Lab, words: tuple[str, ...]) -> None:
    up.must("snapshot", "create", *words)
    assert found(up) == [("clean", "web")]
    assert up.must("snapshot", "list", "-n", "db", "--json").json == []
    up.must("snapshot", "delete", *words)
    assert found(up) == []


def test_all_without_a_name_makes_one_up(up: Lab) -> None:
    up.must("snapshot", "create", "--all")
    names = {name for name, _guest in found(up)}
    assert len(names) == 1
    assert re.fullmatch(r"snapshot-\d{8}-\d{6}", names.pop())


def test_without_a_name_the_newest_is_suggested(up: Lab) -> None:
    for name in ("one", "two words"):
        up.must("snapshot", "create", name)
    ran = up.must("snapshot", "restore", "-a", status=2)
    assert "no snapshot named to restore" in ran.err
    assert "hint: kvm-compose snapshot restore 'two words'" in ran.err


def test_all_of_one_guest_can_be_deleted(up: Lab) -> None:
    for name in ("one", "two"):
        up.must("snapshot", "create", name)
    up.must("snapshot", "delete", "-n", "web", "-a")
    assert found(up) == [("one", "db"), ("two", "db")]
    up.must("snapshot", "delete", "--all")
    assert found(up) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("create",), "no snapshot named to create"),
        (("restore", "-a"), "no snapshot named to restore"),
        (("info", "nothing"), "no such snapshot: 'nothing'"),
        (("create", "--guest", "wbe", "x"), "did you mean web?"),
        (("create", "--guest", "web", "--all", "x"), "exclude each other"),
        (("create", "-s", "x", "y"), "two names given"),
    ],
)
def test_what_cannot_be_meant(running: Lab, words: tuple[str, ...], message: str) -> None:
    assert message in running.must("snapshot", *words, status=2).err


def test_errors_are_errors(up: Lab) -> None:
    ran = up.run("snapshot", "restore", "nothing")
    assert ran.status in (1, 3)
    assert "nothing" in ran.err
    assert up.run("snapshot", "create", "../x").status in (1, 2)
    assert up.state() == "up"


@pytest.mark.parametrize("name", ["two words", "l\u00e4uft \u5feb\u7167", "it's so & <so>; $x"])
def test_names_of_any_script(up: Lab, name: str) -> None:
    up.must("snapshot", "create", "--guest", "web", name)
    assert found(up) == [(name, "web")]
    up.must("snapshot", "restore", "--guest", "web", name)
    assert name in up.must("snapshot", "info", name).out
    up.must("snapshot", "delete", "--guest", "web", name)
    assert found(up) == []


@pytest.mark.parametrize(
    "name", ["a/b", "a\\b", 'a"b', "a ", ".a", " a", "a\nb", "a\x1b[0m", "a" * 64, "a\u202eb"]
)
def test_other_names_are_refused_in_words(running: Lab, name: str) -> None:
    ran = running.must("snapshot", "create", name, status=2)
    assert "the name of a snapshot: at most 63 printable characters" in ran.err
    assert "regex" not in ran.err


def test_what_is_not_utf_8_is_refused(running: Lab) -> None:
    assert "not encoded in UTF-8: 'a\\udcff'" in running.must("snapshot", "create", "a\udcff", status=2).err
    assert "not encoded in UTF-8" in running.must("exec", "web", "--", "echo", "\udcff", status=255).err


def test_a_small_number_is_no_name(up: Lab) -> None:
    refused = up.must("snapshot", "create", "2", status=3)
    assert "a snapshot cannot be named 2" in refused.err
    assert "hint: kvm-compose snapshot create v2" in refused.err
    assert found(up) == []
    up.must("snapshot", "create", "20260131")
    assert {name for name, _ in found(up)} == {"20260131"}
