"""As few tunnels as can be: compared with trying everything."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from labs import Lab, every_placement, is_right, labs, tunnels

from kvmcompose.core.errors import InputError, RefusedError
from kvmcompose.placement import place
from kvmcompose.placement.min_tunnels import place as min_tunnels
from random_cases import cases


@cases(150)
@given(labs())
def test_no_placement_has_fewer_tunnels(lab: Lab) -> None:
    try:
        logical, placement = lab.placed("min_tunnels")
    except InputError:
        return  # that there is none then is looked at for all strategies alike
    least = min(tunnels(logical, segments) for segments in every_placement(logical))
    assert tunnels(logical, placement.segments) == least
    assert "and no placement has fewer" in placement.reasons["b0"]


@pytest.mark.parametrize("ends", [(0, 4), (1, 3), (2, 0)])
def test_a_tree_is_cut_where_it_costs_least(ends: tuple[int, int]) -> None:
    """Where a walk along the connections alone does not find it."""
    sizes = [3, 1, 2, 1, 3, 2, 2]
    links = [(0, 1), (1, 2), (1, 3), (3, 4), (3, 5), (0, 6)]
    guests = [([number], 1, size * 100) for number, size in enumerate(sizes)]
    constraints = f"{{apart: [[b{ends[0]}, b{ends[1]}]]}}"
    lab = Lab(guests, 7, links, [(None, 500), (None, 500), (None, 500)], constraints)
    logical, placement = lab.placed("min_tunnels")
    least = min(tunnels(logical, segments) for segments in every_placement(logical))
    assert tunnels(logical, placement.segments) == least


def test_a_large_testbed_is_improved_two_hosts_at_a_time() -> None:
    count = 90
    links = [((number - 1) // 2, number) for number in range(1, count)]
    guests = [([number], 1 + number % 3, 100 * (1 + number % 4)) for number in range(count)]
    memory = sum(each[2] for each in guests) // 5
    logical, placement = Lab(guests, count, links, [(None, memory)] * 6).placed("min_tunnels")
    assert is_right(logical, placement.segments)
    assert tunnels(logical, placement.segments) < 15
    assert "the fewest that were found" in placement.reasons["b0"]
    assert min_tunnels(logical) == placement


def test_one_host_without_limits_takes_everything() -> None:
    logical, placement = Lab([([0], 1, 1), ([2], 1, 1)], 3, [(0, 1), (1, 2)]).placed("min_tunnels")
    assert set(placement.segments.values()) == {"h0"}
    assert tunnels(logical, placement.segments) == 0


def test_without_the_solver_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    logical = Lab([([0], 1, 1)], 1).placed("pack")[0]
    monkeypatch.setitem(sys.modules, "highspy", None)
    with pytest.raises(RefusedError) as caught:
        place(logical, "min_tunnels")
    assert "pip install 'kvmcompose[placement]'" in str(caught.value.hint)
