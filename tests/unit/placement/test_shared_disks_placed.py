"""Guests that share a disk are on one host, whatever the strategy."""

from __future__ import annotations

import msgspec
import pytest

from golden.memory import compile_text, host
from kvmcompose.core.errors import InputError
from kvmcompose.core.model import PlacedTestbed
from kvmcompose.placement import strategies
from kvmcompose.placement._capacity_check import check

HOSTS = tuple(host(f"h{number}", f"192.0.2.{number + 1}", main=number == 0) for number in range(3))
BRIDGES = "{bridges: [{name: s0}, {name: s1}, {name: s2}, {name: s3}]}"
_SWITCHES = ", ".join(f"s{each}: {{subnet: 10.0.{each}.0/24}}" for each in range(4))
OVN = f"{{ovn: {{switches: {{{_SWITCHES}}}}}}}"


def placed(strategy: str, constraints: str = "{}", network: str = BRIDGES) -> PlacedTestbed:
    nics = "interfaces: [{bridge: s%d}]" if network == BRIDGES else "network: [{switch: s%d}]"
    machines = ""
    for number in range(4):
        disk = "{name: quorum, size_gigabytes: 1, shareable: true}" if number in (1, 3) else ""
        machines += (
            f"  - {{name: g{number}, {nics % number}, libvirt: {{cpus: 1, memory_mb: 64,"
            f" libvirt_type: {{cloud_image: {{name: debian_12}}}}, disks: [{disk}]}}}}\n"
        )
    text = (
        f"machines:\n{machines}network: {network}\n"
        f"testbed_options: {{load_balancing: {strategy}, placement: {constraints}}}\n"
    )
    return compile_text(text, on=HOSTS).placed


@pytest.mark.parametrize("network", [BRIDGES, OVN], ids=["bridges", "ovn"])
@pytest.mark.parametrize("strategy", strategies())
def test_they_are_together(strategy: str, network: str) -> None:
    guests = placed(strategy, network=network).placement.guests
    assert guests["g1"] == guests["g3"]
    pinned = placed(strategy, "{pin: {g3: h2}}", network).placement.guests
    assert (pinned["g1"], pinned["g3"]) == ("h2", "h2")


def test_others_are_assigned_in_turn_as_ever() -> None:
    found = placed("round_robin").placement
    assert found.segments == {"s0": "h0", "s1": "h1", "s2": "h2", "s3": "h1"}
    assert found.reasons["s3"] == "with s1, as guests on them share a disk"


@pytest.mark.parametrize("constraints", ["{pin: {g1: h1, g3: h2}}", "{apart: [[g1, g3]]}"])
def test_what_separates_them_is_refused_at_its_line(constraints: str) -> None:
    with pytest.raises(InputError) as caught:
        placed("spread", constraints)
    (problem,) = caught.value.problems
    assert "'g1' and 'g3' share the disk 'quorum'" in problem.message
    assert problem.location is not None
    assert problem.location.line == 7


def test_a_strategy_that_separates_them_is_refused() -> None:
    """A plug-in may know nothing of disks."""
    found = placed("pack")
    guests = {**found.placement.guests, "g3": "h2"}
    (complaint,) = check(found.logical, msgspec.structs.replace(found.placement, guests=guests), "own")
    assert complaint.message.startswith("own separates guests that share the disk 'quorum': g1 on h0, g3 on")
