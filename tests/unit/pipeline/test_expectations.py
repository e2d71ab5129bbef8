"""``expect``: its shape, the guests that a line is about, and lines that make no sense."""

from __future__ import annotations

import itertools
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the golden projects are a package there

from golden.memory import compile_text
from kvmcompose.core.errors import InputError, Problem
from kvmcompose.core.expectation import Expectation, Traffic
from kvmcompose.core.model import LogicalTestbed
from kvmcompose.core.state import encode_state
from kvmcompose.pipeline.expectations import GuestNames, check_expectations

LAB = """\
machines:
  - {name: web, docker: {image: a}, interfaces: [{bridge: br0}]}
  - {name: db, docker: {image: a}, interfaces: [{bridge: br0}]}
  - name: client
    docker:
      image: a
      scaling: {count: 2, interfaces: [{bridge: br0, clones: [0, 1]}]}
network: {bridges: [{name: br0}]}
"""


def lab_with(*lines: str, lab: str = LAB) -> LogicalTestbed:
    text = lab + ("expect:\n" + "".join(f"  - {{{line}}}\n" for line in lines) if lines else "")
    return compile_text(text).placed.logical


def problems(*lines: str, lab: str = LAB) -> tuple[Problem, ...]:
    with pytest.raises(InputError) as caught:
        lab_with(*lines, lab=lab)
    return tuple(caught.value.problems)


def pairs(line: str) -> list[tuple[str, str]]:
    logical = lab_with(line)
    return list(GuestNames(logical.guests).pairs(logical.expectations[0]))


def test_a_line_is_read_as_written() -> None:
    found = lab_with(
        "from: web, to: [db, internet], tcp: 5432, is: allowed", "from: db, to: web, icmp: true, is: denied"
    )
    assert found.expectations == (
        Expectation(
            index=0, sources=("web",), targets=("db", "internet"), probe=Traffic("tcp", 5432), is_allowed=True
        ),
        Expectation(index=1, sources=("db",), targets=("web",), probe=Traffic("icmp"), is_allowed=False),
    )


def test_without_a_protocol_a_line_is_about_all_traffic() -> None:
    assert lab_with("from: db, to: internet, is: denied").expectations[0].probe is None


def test_expectations_are_no_part_of_the_state() -> None:
    lines = "expect: [{from: web, to: db, is: denied}]\n"
    assert encode_state(compile_text(LAB + lines).state) == encode_state(compile_text(LAB).state)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("from: web, to: db, is: denied", [("web", "db")]),
        ("from: client, to: db, is: denied", [("client-0", "db"), ("client-1", "db")]),
        ("from: 'client-*', to: db, is: denied", [("client-0", "db"), ("client-1", "db")]),
        ("from: client-1, to: internet, is: denied", [("client-1", "internet")]),
        ("from: 'client-*', to: client, is: denied", [("client-0", "client-1"), ("client-1", "client-0")]),
        ("from: [web, 'w?b'], to: [web, db], is: denied", [("web", "db")]),
        ("from: '*b', to: db, is: denied", [("web", "db")]),
    ],
)
def test_names_machines_and_patterns_mean_guests(line: str, expected: list[tuple[str, str]]) -> None:
    assert pairs(line) == expected


def test_an_unknown_guest_is_an_error_at_its_word_with_the_nearest_name() -> None:
    (found,) = problems("from: [web, dbb], to: web, is: denied")
    assert (found.code, found.path, found.hint) == (
        "unknown-guest",
        "expect[0].from[1]",
        "did you mean 'db'?",
    )
    assert (found.location.line, found.location.column) == (10, 18)


def test_a_pattern_that_matches_nothing_is_an_error_that_lists_guests() -> None:
    (found,) = problems("from: 'server-*', to: web, is: denied")
    assert found.code == "unknown-guest"
    assert found.hint == "guests: web, db, client-0, client-1"


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("from: web, to: web, is: denied", "no-pair"),
        ("from: internet, to: internet, is: denied", "no-pair"),
        ("from: web, to: db, tcp: 1, udp: 1, is: denied", "several-protocols"),
        ("from: web, to: db, tcp: 0, is: denied", "out-of-range"),
        ("from: web, to: db, tcp: 65536, is: denied", "out-of-range"),
        ("from: web, to: db, tcp: http, is: denied", "wrong-type"),
        ("from: web, to: db, icmp: false, is: denied", "bad-value"),
        ("from: web, to: db, is: forbidden", "bad-value"),
        ("from: web, to: db", "missing-key"),
        ("from: web, to: [], is: denied", "too-few"),
        ("from: '', to: db, is: denied", "empty-value"),
        ("from: {name: web}, to: db, is: denied", "wrong-type"),
        ("from: web, to: db, port: 80, is: denied", "unknown-key"),
    ],
)
def test_lines_that_make_no_sense(line: str, code: str) -> None:
    assert [each.code for each in problems(line)] == [code]


def test_a_guest_called_internet_cannot_be_told_from_the_outside() -> None:
    lab = LAB.replace("name: db,", "name: internet,")
    (found,) = problems("from: web, to: internet, is: denied", lab=lab)
    assert found.code == "ambiguous-name"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("from: web, to: db, tcp: 5432, is: allowed", "from: web, to: db, tcp: 5432, is: denied"),
        ("from: web, to: db, tcp: 5432, is: allowed", "from: '*', to: [db, internet], is: denied"),
        ("from: client, to: internet, is: denied", "from: client-1, to: internet, udp: 53, is: allowed"),
    ],
)
def test_lines_that_contradict_each_other(first: str, second: str) -> None:
    (found,) = problems(first, second)
    assert (found.code, found.path) == ("contradiction", "expect[1].is")
    assert found.message.startswith("this contradicts expect[0] (")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("from: web, to: db, tcp: 5432, is: allowed", "from: web, to: db, tcp: 80, is: denied"),
        ("from: web, to: db, tcp: 5432, is: allowed", "from: web, to: db, udp: 5432, is: denied"),
        ("from: web, to: db, is: allowed", "from: db, to: web, is: denied"),
        # the only guest in common would be paired with itself
        ("from: web, to: [db, web], is: allowed", "from: [web, client], to: web, is: denied"),
    ],
)
def test_lines_that_are_about_different_traffic(first: str, second: str) -> None:
    assert len(lab_with(first, second).expectations) == 2


def test_a_hostile_number_of_lines_and_patterns_is_refused_soon() -> None:
    (found,) = problems(*["from: web, to: db, is: allowed"] * 1001)
    assert (found.code, found.path) == ("too-many", "expect")
    lines = [
        "from: [" + ", ".join(f"'x{line}-{number}*'" for number in range(100)) + "], to: web, is: allowed"
        for line in range(11)
    ]
    (found,) = problems(*lines)
    assert (found.code, found.found) == ("too-many", "1100")


def test_many_lines_are_compared_in_little_time() -> None:
    lines = [
        f"from: '*', to: '*', tcp: {port}, is: {'allowed' if port % 2 else 'denied'}"
        for port in range(1, 1001)
    ]
    began = time.process_time()
    assert len(lab_with(*lines).expectations) == 1000
    assert time.process_time() - began < 10


def test_many_lines_about_many_guests_are_compared_in_little_time() -> None:
    clones = ", ".join(map(str, range(5000)))
    lab = LAB.replace("count: 2", "count: 5000").replace("clones: [0, 1]", f"clones: [{clones}]")
    lines = [
        f"from: ['*', 'c*'], to: client-{each}, is: {'allowed' if each % 2 else 'denied'}"
        for each in range(1000)
    ]
    logical = lab_with(lab=lab)
    expectations = lab_with(*lines, lab=lab).expectations
    written = [{"from": each.sources, "to": each.targets, "is": each.word} for each in expectations]
    began = time.process_time()
    assert not list(check_expectations(written, expectations, logical.guests))
    assert time.process_time() - began < 10


_NAMES = ("client-0", "db", "web")
_SOME = [chosen for count in (1, 2, 3) for chosen in itertools.combinations(_NAMES, count)]


@pytest.mark.parametrize("sources", _SOME)
def test_the_first_pair_in_common_is_named(sources: tuple[str, ...]) -> None:
    for targets in _SOME:
        wanted = [(source, target) for source in sources for target in targets if source != target]
        if not wanted:
            continue
        both = f"to: [{', '.join((*targets, 'internet'))}], is: allowed"
        lines = f"from: [{', '.join(sources)}], {both}", f"from: '*', to: [{', '.join(targets)}], is: denied"
        (found,) = problems(*lines)
        assert found.message.endswith(f" for {wanted[0][0]} to {wanted[0][1]}")
