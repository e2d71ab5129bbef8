"""Where bridges and guests go."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from golden.memory import compile_text, host, hosts
from kvmcompose.core.errors import InputError
from kvmcompose.core.model import Placement
from kvmcompose.placement import strategies
from random_cases import cases


def lab(guests: list[list[int]], bridges: int, strategy: str) -> str:
    """A testbed of guests of 100 MiB, each on the bridges of these numbers."""
    machines = "".join(
        f"  - {{name: g{number}, interfaces: [{', '.join(f'{{bridge: b{each}}}' for each in on)}], {BODY}}}\n"
        for number, on in enumerate(guests)
    )
    names = ", ".join(f"{{name: b{number}}}" for number in range(bridges))
    return (
        f"machines:\n{machines}network: {{bridges: [{names}]}}\n"
        f"testbed_options: {{load_balancing: {strategy}}}\n"
    )


BODY = "libvirt: {cpus: 1, memory_mb: 100, libvirt_type: {cloud_image: {name: debian_12}}}"


def placed(text: str, count: int) -> Placement:
    return compile_text(text, on=hosts(count)).placed.placement


SINGLE = st.lists(st.integers(0, 7).map(lambda bridge: [bridge]), min_size=1, max_size=12)
SEVERAL = st.lists(st.lists(st.integers(0, 7), min_size=1, max_size=3, unique=True), min_size=1, max_size=10)


@cases(60)
@given(SINGLE, st.integers(1, 5))
def test_round_robin_deals_bridges_in_turn_and_guests_follow(guests: list[list[int]], count: int) -> None:
    placement = placed(lab(guests, 8, "round_robin"), count)
    assert placement.segments == {f"b{number}": f"h{number % count}" for number in range(8)}
    assert placement.guests == {f"g{number}": f"h{on[0] % count}" for number, on in enumerate(guests)}
    assert placement.reasons.keys() == placement.segments.keys() | placement.guests.keys()


@cases(60)
@given(SEVERAL, st.integers(1, 4))
def test_no_strategy_tears_a_guest(guests: list[list[int]], count: int) -> None:
    for strategy in strategies():
        torn = [number for number, on in enumerate(guests) if len({bridge % count for bridge in on}) > 1]
        if strategy == "round_robin" and torn:
            with pytest.raises(InputError) as caught:
                placed(lab(guests, 8, strategy), count)
            assert {problem.code for problem in caught.value.problems} == {"torn-guest"}
            assert [each.path for each in caught.value.problems] == [f"machines[{number}]" for number in torn]
            continue
        placement = placed(lab(guests, 8, strategy), count)
        for number, on in enumerate(guests):
            assert {placement.segments[f"b{bridge}"] for bridge in on} == {placement.guests[f"g{number}"]}


@cases(40)
@given(SEVERAL, st.integers(1, 4))
def test_pack_takes_one_host_where_there_is_room(guests: list[list[int]], count: int) -> None:
    placement = placed(lab(guests, 8, "pack"), count)
    assert set(placement.guests.values()) == {"h0"}


@cases(60)
@given(SEVERAL, st.lists(st.integers(1, 10), min_size=1, max_size=4))
def test_pack_never_overfills_a_host(guests: list[list[int]], capacities: list[int]) -> None:
    on = [
        host(f"h{number}", f"192.0.2.{number + 1}", main=number == 0, memory_mb=100 * room, cpus=100)
        for number, room in enumerate(capacities)
    ]
    try:
        placement = compile_text(lab(guests, 8, "pack"), on=on).placed.placement
    except InputError as error:
        if {problem.code for problem in error.problems} != {"no-room"}:
            raise
        return
    for number, room in enumerate(capacities):
        assert sum(each == f"h{number}" for each in placement.guests.values()) <= room


def test_pack_fills_the_main_host_first_and_needs_no_more_hosts_than_it_must() -> None:
    on = [
        host("far", "192.0.2.1", main=False, memory_mb=300),
        host("near", "192.0.2.2", memory_mb=300),
        host("spare", "192.0.2.3", main=False, memory_mb=300),
    ]
    text = lab([[0], [1], [2], [3], [4]], 5, "pack")
    placement = compile_text(text, on=on).placed.placement
    assert [placement.guests[f"g{number}"] for number in range(5)] == ["near", "near", "near", "far", "far"]


def test_pack_keeps_bridges_that_share_a_guest_together() -> None:
    on = [host(memory_mb=200), host("b", "192.0.2.2", main=False, memory_mb=200)]
    text = lab([[0, 1], [1, 2], [3], [4]], 5, "pack")
    segments = compile_text(text, on=on).placed.placement.segments
    assert len({segments["b0"], segments["b1"], segments["b2"]}) == 1
    assert {segments["b3"], segments["b4"]} != {segments["b0"]}


def test_one_host_takes_everything() -> None:
    for strategy in strategies():
        placement = placed(lab([[0, 1, 2], [2, 0]], 3, strategy), 1)
        assert set(placement.segments.values()) | set(placement.guests.values()) == {"h0"}


def test_a_torn_guest_is_told_what_would_work() -> None:
    with pytest.raises(InputError) as caught:
        placed(lab([[0, 1]], 2, "round_robin"), 2)
    (problem,) = caught.value.problems
    assert "'g0'" in problem.message
    assert "b0 on h0, b1 on h1" in problem.message
    assert problem.hint is not None
    assert "pack" in problem.hint


def test_where_nothing_works_it_says_so() -> None:
    on = [host(memory_mb=50), host("b", "192.0.2.2", main=False, memory_mb=50)]
    with pytest.raises(InputError) as caught:
        compile_text(lab([[0, 1]], 2, "round_robin"), on=on)
    assert "no strategy" in str(caught.value.problems[0].hint)


@pytest.mark.parametrize("strategy", strategies())
def test_the_external_bridge_is_on_the_main_host(strategy: str) -> None:
    text = lab([[0], [1], [1, 2], [3]], 4, strategy).replace("bridges: [", "external_bridge: b2, bridges: [")
    if strategy == "round_robin":
        text = text.replace("interfaces: [{bridge: b1}, {bridge: b2}]", "interfaces: [{bridge: b2}]")
    placement = placed(text, 3)
    assert placement.segments["b2"] == "h0"
    assert placement.guests["g2"] == "h0"
    if strategy == "round_robin":  # the others are dealt as without it
        assert placement.segments == {"b0": "h0", "b1": "h1", "b2": "h0", "b3": "h0"}


def test_an_external_bridge_is_not_pinned_elsewhere() -> None:
    text = lab([[0], [1, 2]], 3, "pack").replace("bridges: [", "external_bridge: b2, bridges: [")
    pinned = text.replace("load_balancing: pack", "load_balancing: pack, placement: {pin: {g1: h1}}")
    with pytest.raises(InputError) as caught:
        placed(pinned, 2)
    (problem,) = caught.value.problems
    assert (problem.code, problem.path) == ("placement-conflict", "testbed_options.placement.pin.g1")
    assert "the NAT network, which is on the main host, 'h0'" in problem.message
