"""Names and numbers derived from names."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmcompose.core.names import (
    PROJECT_NAME,
    UniqueNames,
    first_few,
    project_name_from,
    stable_number,
)

WORDS = st.from_regex(r"[a-z][a-z0-9-]{0,40}", fullmatch=True)


@given(st.lists(WORDS, max_size=60), st.integers(8, 63))
def test_every_name_is_given_once_and_fits(wanted: list[str], limit: int) -> None:
    names = UniqueNames(limit)
    given_out = [names.name(each) for each in wanted]
    assert len(set(given_out)) == len(given_out)
    assert all(0 < len(name) <= limit for name in given_out)


@given(st.lists(WORDS, max_size=30))
def test_the_same_wishes_get_the_same_names(wanted: list[str]) -> None:
    first, second = UniqueNames(), UniqueNames()
    assert [first.name(each) for each in wanted] == [second.name(each) for each in wanted]


@given(st.lists(st.from_regex(r"[a-z][a-z0-9-]{0,14}", fullmatch=True), unique=True, max_size=30))
def test_names_that_fit_stay_as_they_are(wanted: list[str]) -> None:
    names = UniqueNames()
    assert [names.name(each) for each in wanted] == wanted


@given(st.from_regex(r"[a-z][a-z0-9-]{15,40}", fullmatch=True), st.lists(WORDS, max_size=5))
def test_a_short_stand_in_does_not_depend_on_the_names_before_it(long: str, before: list[str]) -> None:
    alone = UniqueNames().name(long)
    names = UniqueNames()
    taken = {names.name(each) for each in before}
    if long not in before and alone not in taken:
        assert names.name(long) == alone


def test_long_names_that_differ_only_at_the_end_get_different_stand_ins() -> None:
    names = UniqueNames()
    assert len({names.name(f"a-project-with-a-long-name-{number}") for number in range(1000)}) == 1000


def test_a_stand_in_begins_like_the_name_and_can_be_an_interface_name() -> None:
    name = UniqueNames().name("production-frontend")
    assert re.fullmatch(r"producti-[0-9a-f]{6}", name)


def test_a_stand_in_has_no_two_dashes_where_the_cut_is() -> None:
    assert re.fullmatch(r"abcdefg-[0-9a-f]{6}", UniqueNames().name("abcdefg-hijklmnop"))


def test_a_doubled_name_gets_a_stand_in() -> None:
    names = UniqueNames()
    assert names.name("br0") == "br0"
    assert re.fullmatch(r"br0-[0-9a-f]{6}", names.name("br0"))


def test_a_stand_in_that_somebody_wants_as_a_name_is_given_to_one_of_them() -> None:
    long = "a-name-that-is-too-long"
    stand_in = UniqueNames().name(long)
    names = UniqueNames()
    assert names.name(stand_in) == stand_in
    assert names.name(long) not in ("", stand_in)


@given(st.text(max_size=100))
def test_any_folder_name_makes_a_project_name(folder: str) -> None:
    assert PROJECT_NAME.fullmatch(project_name_from(folder))


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("lab", "lab"),
        ("My Lab 2", "my-lab-2"),
        ("2-hosts", "p-2-hosts"),
        ("__x__", "x"),
        ("größe", "gr-e"),
        ("", "testbed"),
        ("...", "testbed"),
        ("x" * 100, "x" * 40),
        ("x" * 39 + "-y", "x" * 39),
    ],
)
def test_a_project_is_called_like_its_folder(folder: str, name: str) -> None:
    assert project_name_from(folder) == name


@given(WORDS)
def test_a_project_name_is_the_project_name_of_a_folder_so_called(name: str) -> None:
    if PROJECT_NAME.fullmatch(name) and "--" not in name and len(name) <= 40:
        assert project_name_from(name) == name


def test_numbers_stay_the_same_from_version_to_version() -> None:
    """They are in people's committed artefacts: MAC addresses, subnets, interface names."""
    assert stable_number("mac", "lab", "server", 0, 0) == 13226530995427554885263197500739728989
    assert stable_number() == 302652579918965577886386472538583578916


def test_words_are_kept_apart() -> None:
    assert stable_number("ab", "c") != stable_number("a", "bc")
    assert stable_number("a", 1) == stable_number("a", "1")


@pytest.mark.parametrize(
    ("names", "most", "text"),
    [([], 6, ""), (["a"], 6, "a"), (["a", "b"], 2, "a, b"), ([1, 2, 3, 4], 2, "1, 2 and 2 more")],
)
def test_of_many_names_the_first_few_are_named(names: list[str | int], most: int, text: str) -> None:
    assert first_few(names, most) == text
