"""Guests on logical switches are placed one by one, by every strategy."""

from __future__ import annotations

from collections import Counter
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from golden.memory import compile_text, host
from kvmcompose.core.errors import InputError
from kvmcompose.core.model import Host, PlacedTestbed
from kvmcompose.placement import strategies
from random_cases import cases

BODY = "libvirt: {cpus: %d, memory_mb: %d, libvirt_type: {cloud_image: {name: debian_12}}}"
Guests = list[tuple[list[int], int, int]]


def text_of(guests: Guests, strategy: str, constraints: str = "{}", switches: int = 3) -> str:
    """``guests``: the switches, CPUs and MiB of each."""
    machines = "".join(
        f"  - {{name: g{number}, network: [{', '.join(f'{{switch: s{each}}}' for each in on)}], "
        f"{BODY % (cpus, memory)}}}\n"
        for number, (on, cpus, memory) in enumerate(guests)
    )
    subnets = ", ".join(f"s{number}: {{subnet: 10.{number}.0.0/16}}" for number in range(switches))
    return (
        f"machines:\n{machines}network: {{ovn: {{switches: {{{subnets}}}}}}}\n"
        f"testbed_options: {{load_balancing: {strategy}, placement: {constraints}}}\n"
    )


def on(count: int, memory_mb: int | None = None) -> tuple[Host, ...]:
    return tuple(
        host(f"h{number}", f"192.0.2.{number + 1}", main=number == 0, memory_mb=memory_mb)
        for number in range(count)
    )


def placed(text: str, hosts: tuple[Host, ...]) -> PlacedTestbed:
    return compile_text(text, on=hosts).placed


def away(guests: Guests, at: dict[str, str]) -> int:
    """Return how many interfaces of guests are not on the host with most of their switch's."""
    total = 0
    for switch in range(3):
        hosts = Counter(at[f"g{number}"] for number, (on_, _, _) in enumerate(guests) if switch in on_)
        total += sum(hosts.values()) - max(hosts.values(), default=0)
    return total


GUESTS = st.lists(
    st.tuples(
        st.lists(st.integers(0, 2), min_size=1, max_size=3, unique=True),
        st.integers(1, 4),
        st.sampled_from([64, 100, 300]),
    ),
    min_size=1,
    max_size=6,
)


@pytest.mark.parametrize("strategy", strategies())
@cases(40)
@given(data=st.data())
def test_constraints_and_capacity_hold(strategy: str, data: st.DataObject) -> None:
    guests = data.draw(GUESTS)
    names = [f"g{number}" for number in range(len(guests))]
    pin = {data.draw(st.sampled_from(names)): "h1"}
    pair = data.draw(st.lists(st.sampled_from([*names, "s0"]), min_size=2, max_size=2, unique=True))
    kind = data.draw(st.sampled_from(["together", "apart"]))
    pinned = ", ".join(f"{key}: {value}" for key, value in pin.items())
    constraints = f"{{pin: {{{pinned}}}, {kind}: [[{', '.join(pair)}]]}}"
    try:
        result = placed(text_of(guests, strategy, constraints), on(3, 700))
    except InputError as error:
        assert {each.code for each in error.problems} <= {"no-room", "placement-conflict"}  # noqa: PT017
        return
    at = result.placement.guests
    assert set(at) == set(names) == set(result.placement.reasons)
    assert result.placement.segments == {}

    def hosts_of(name: str) -> list[str]:
        members = [f"g{number}" for number, (on_, _, _) in enumerate(guests) if name == "s0" and 0 in on_]
        return [at[each] for each in (members if name == "s0" else [name])]

    for name, wanted in pin.items():
        assert at[name] == wanted
    one, other = (hosts_of(name) for name in pair)
    if kind == "together":
        assert len({*one, *other}) <= 1
    else:
        assert set(one).isdisjoint(other)
    for each in on(3):
        assert (
            sum(memory for number, (_, _, memory) in enumerate(guests) if at[f"g{number}"] == each.name)
            <= 700
        )


def test_round_robin_deals_guests_not_switches() -> None:
    guests: Guests = [([0], 1, 64)] * 5
    at = placed(text_of(guests, "round_robin"), on(3)).placement.guests
    assert list(at.values()) == ["h0", "h1", "h2", "h0", "h1"]


def test_a_guest_may_be_on_switches_with_guests_of_all_hosts() -> None:
    guests: Guests = [([0], 1, 64), ([1], 1, 64), ([0, 1, 2], 1, 64)]
    assert len(set(placed(text_of(guests, "round_robin"), on(3)).placement.guests.values())) == 3


@cases(40)
@given(guests=GUESTS)
def test_min_tunnels_keeps_guests_of_a_switch_together(guests: Guests) -> None:
    """No placement within the capacity has fewer interfaces away from their switch's host."""
    room = 500
    try:
        at = placed(text_of(guests, "min_tunnels"), on(2, room)).placement.guests
    except InputError:
        return
    best = None
    for hosts in product(("h0", "h1"), repeat=len(guests)):
        used = Counter[str]()
        for each, (_, _, memory) in zip(hosts, guests, strict=True):
            used[each] += memory
        if max(used.values()) <= room:
            count = away(guests, {f"g{number}": each for number, each in enumerate(hosts)})
            best = count if best is None else min(best, count)
    assert away(guests, at) == best


def test_messages_speak_of_guests() -> None:
    guests: Guests = [([0], 1, 900)]
    with pytest.raises(InputError) as caught:
        placed(text_of(guests, "pack"), on(2, 700))
    assert "room for g0" in str(caught.value)
    with pytest.raises(InputError) as caught:
        placed(text_of(guests, "pack", "{pin: {s9: h1}}"), on(2))
    assert "there is no guest and no switch 's9'" in str(caught.value)


def test_thousands_of_guests_are_placed_in_a_moment() -> None:
    guests: Guests = [([number % 20], 1, 64) for number in range(2000)]
    for strategy in strategies():
        at = placed(text_of(guests, strategy, switches=20), on(3, 64 * 1000)).placement.guests
        assert max(Counter(at.values()).values()) <= 1000
