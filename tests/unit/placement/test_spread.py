"""Even loads, and few moves."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from labs import Lab

from kvmcompose.placement import used_by
from random_cases import cases


def moved(before: dict[str, str], after: dict[str, str]) -> int:
    return sum(after[name] != host for name, host in before.items())


@cases(60)
@given(st.integers(1, 40), st.integers(1, 6))
def test_equal_guests_are_spread_evenly(count: int, hosts: int) -> None:
    lab = Lab([([n], 1, 100) for n in range(count)], count, capacities=[(None, None)] * hosts)
    logical, placement = lab.placed("spread")
    loads = [each[0] for each in used_by(logical, placement).values()]
    assert max(loads) <= max(-(-count // hosts), count / hosts * 9 / 8)


def test_hosts_take_their_share() -> None:
    lab = Lab([([n], 1, 100) for n in range(90)], 90, capacities=[(100, 10000), (200, 20000)])
    logical, placement = lab.placed("spread")
    loads = [each[0] for each in used_by(logical, placement).values()]
    assert 27 <= loads[0] <= 34


def test_cpus_count_as_memory_does() -> None:
    lab = Lab([([0], 8, 100), ([1], 1, 800), ([2], 8, 100), ([3], 1, 800)], 4, capacities=[(None, None)] * 4)
    assert len(set(lab.placed("spread")[1].segments.values())) == 4


def test_a_new_guest_moves_few() -> None:
    """On average of many: with 200 guests on 10 hosts, less than one in fifty."""
    sizes = [(1, 256), (2, 512), (1, 1024), (4, 2048)]
    total = 0
    for start in range(20):
        guests = [([n], *sizes[(n * 7 + start) % 4]) for n in range(200)]
        before = Lab(guests, 202, capacities=[(None, None)] * 10).placed("spread")[1].guests
        more = [*guests, ([200 + start % 2], 1, 512)]
        after = Lab(more, 202, capacities=[(None, None)] * 10).placed("spread")[1].guests
        total += moved(before, after)
    assert total / 20 < 200 / 50


def test_a_host_that_goes_moves_mostly_its_own_guests() -> None:
    guests = [([n], 1, 256) for n in range(200)]
    before = Lab(guests, 200, capacities=[(None, None)] * 10).placed("spread")[1].guests
    after = Lab(guests, 200, capacities=[(None, None)] * 9).placed("spread")[1].guests
    assert moved(before, after) < 200 / 10 * 4
