"""What every strategy has to heed: capacity, pins, what is together and what apart."""

from __future__ import annotations

import pytest
from hypothesis import given
from labs import Lab, every_placement, is_right, labs, reach

from golden.memory import compile_text
from kvmcompose.core.errors import InputError, Problem
from kvmcompose.placement import strategies
from random_cases import cases

HEEDING = tuple(name for name in strategies() if name != "round_robin")
REFUSALS = {"no-room", "placement-conflict"}

TWO = [([0], 1, 100), ([1], 1, 100)]


def refused(lab: Lab, strategy: str) -> tuple[Problem, ...]:
    with pytest.raises(InputError) as caught:
        lab.placed(strategy)
    return caught.value.problems


def check_codes(error: InputError, codes: set[str]) -> None:
    assert {problem.code for problem in error.problems} <= codes


@pytest.mark.parametrize("strategy", HEEDING)
@cases(120)
@given(lab=labs())
def test_a_placement_is_what_was_asked_for_and_found_when_there_is_one(strategy: str, lab: Lab) -> None:
    try:
        logical, placement = lab.placed(strategy)
    except InputError as error:
        check_codes(error, REFUSALS)
        assert every_placement(lab.logical()) == []
        return
    assert is_right(logical, placement.segments)
    for guest in logical.guests:
        hosts = {placement.segments[each.segment] for each in guest.attachments}
        assert hosts == {placement.guests[guest.name]}
    assert placement.reasons.keys() == placement.segments.keys() | placement.guests.keys()


@cases(120)
@given(lab=labs())
def test_round_robin_is_right_or_refuses(lab: Lab) -> None:
    try:
        logical, placement = lab.placed("round_robin")
    except InputError as error:
        check_codes(error, REFUSALS | {"torn-guest"})
        return
    assert is_right(logical, placement.segments)
    pinned = {each for name in logical.constraints.pin for each in reach(logical, name)}
    if not pinned:
        dealt = {f"b{number}": f"h{number % len(lab.capacities)}" for number in range(lab.bridges)}
        assert placement.segments == dealt


def test_round_robin_deals_the_others_as_if_nothing_were_pinned() -> None:
    lab = Lab([([n], 1, 100) for n in range(4)], 4, constraints="{pin: {g1: h0}}")
    assert list(lab.placed("round_robin")[1].segments.values()) == ["h0", "h0", "h0", "h1"]


def test_a_pin_holds_a_guest_together_that_round_robin_would_tear() -> None:
    lab = Lab([([0, 1], 1, 100)], 2, constraints="{pin: {g0: h1}}")
    assert set(lab.placed("round_robin")[1].segments.values()) == {"h1"}


@pytest.mark.parametrize(
    ("constraints", "path"),
    [("{together: [[b0, b1]]}", "together[0]"), ("{apart: [[b0, b2]]}", "apart[0]")],
)
def test_round_robin_refuses_what_it_ignores(constraints: str, path: str) -> None:
    (problem,) = refused(Lab([([n], 1, 100) for n in range(3)], 3, constraints=constraints), "round_robin")
    assert (problem.code, problem.path) == ("placement-conflict", f"testbed_options.placement.{path}")
    assert "min_tunnels or pack or spread" in str(problem.hint)


@pytest.mark.parametrize("strategy", strategies())
def test_what_does_not_fit_is_refused_with_the_numbers(strategy: str) -> None:
    problems = refused(Lab([([0], 2, 300), ([1], 2, 300)], 2, capacities=[(4, 200), (4, 250)]), strategy)
    said = "\n".join(map(str, problems))
    assert {problem.code for problem in problems} == {"no-room"}
    assert "300 MiB" in said
    assert "h0" in said
    assert "200" in said
    assert "250" in said


@pytest.mark.parametrize(
    ("guests", "constraints", "place", "words"),
    [
        (TWO, "{pin: {b0: h0, g0: h1}}", "pin.g0", ["'g0'", "h1", "'b0'", "h0"]),
        ([([0, 1], 1, 1)], "{pin: {b0: h0, b1: h1}}", "pin.b1", ["share the guest 'g0'"]),
        (TWO, "{pin: {g0: h0, g1: h1}, together: [[b0, b1]]}", "pin.g1", ["together[0] binds b0 and b1"]),
        ([([0, 1], 1, 1)], "{apart: [[b0, b1]]}", "apart[0]", ["share the guest 'g0'"]),
        (TWO, "{together: [[g0, g1]], apart: [[b1, b0]]}", "apart[0]", ["together[0] binds"]),
        (TWO, "{pin: {g0: h1, g1: h1}, apart: [[g0, g1]]}", "apart[0]", ["'g0'", "'g1'", "pinned to 'h1'"]),
        ([*TWO, ([2], 1, 1)], "{apart: [[g0, g1, g2]]}", "apart[0]", ["3 must", "2 hosts"]),
    ],
)
def test_wishes_that_contradict_each_other_are_named(
    guests: list[tuple[list[int], int, int]], constraints: str, place: str, words: list[str]
) -> None:
    for strategy in HEEDING:
        problems = refused(Lab(guests, 3, constraints=constraints), strategy)
        assert [(each.code, each.path) for each in problems] == [
            ("placement-conflict", f"testbed_options.placement.{place}")
        ]
        assert problems[0].location.line > 1
        for word in words:
            assert word in problems[0].message


@pytest.mark.parametrize(
    ("constraints", "code", "path"),
    [
        ("{pin: {g7: h0}}", "unknown-placed-name", "pin.g7"),
        ("{pin: {g0: h7}}", "unknown-host", "pin.g0"),
        ("{together: [[g0, b7]]}", "unknown-placed-name", "together[0][1]"),
        ("{apart: [[g0, g1], [b0, x]]}", "unknown-placed-name", "apart[1][1]"),
    ],
)
def test_an_unknown_name_is_refused(constraints: str, code: str, path: str) -> None:
    (problem,) = refused(Lab(TWO, 2, constraints=constraints), "pack")
    assert (problem.code, problem.path) == (code, f"testbed_options.placement.{path}")


def test_a_name_of_a_guest_and_a_bridge_is_refused() -> None:
    text = Lab(TWO, 2, constraints="{pin: {b0: h0}}").text("pack").replace("name: g0", "name: b0")
    with pytest.raises(InputError) as caught:
        compile_text(text, on=Lab(TWO, 2).hosts)
    assert [problem.code for problem in caught.value.problems] == ["ambiguous-name"]


def test_a_scaled_machine_stands_for_its_clones() -> None:
    text = """\
machines:
  - name: web
    libvirt:
      cpus: 1
      memory_mb: 100
      libvirt_type: {cloud_image: {name: debian_12}}
      scaling: {count: 2, interfaces: [{bridge: b0, clones: [0]}, {bridge: b1, clones: [1]}]}
network: {bridges: [{name: b0}, {name: b1}]}
testbed_options: {load_balancing: pack, placement: WISHES}
"""
    on = Lab(TWO, 2).hosts
    placement = compile_text(text.replace("WISHES", "{pin: {web: h1}}"), on=on).placed.placement
    assert placement.guests == {"web": "h0", "web-0": "h1", "web-1": "h1"}  # its golden image stays
    placement = compile_text(text.replace("WISHES", "{apart: [[web-0, web-1]]}"), on=on).placed.placement
    assert placement.segments == {"b0": "h0", "b1": "h1"}
