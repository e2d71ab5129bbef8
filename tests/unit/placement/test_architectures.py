"""Guests are placed on hosts of their architecture where that is possible, and are emulated elsewhere."""

from __future__ import annotations

import msgspec
import pytest

from golden.memory import MemoryFiles, compile_text, host
from kvmcompose.core.model import Host
from kvmcompose.core.state import State
from kvmcompose.placement import strategies

INTEL = host("intel", "192.0.2.1", main=True)
AMPERE = msgspec.structs.replace(host("ampere", "192.0.2.2", main=False), arch="aarch64")
ALTRA = msgspec.structs.replace(host("altra", "192.0.2.3", main=False), arch="aarch64")
MACHINE = (
    "  - {name: %s, interfaces: [{bridge: %s}], libvirt: {cpus: 1, memory_mb: 64, arch: %s,"
    " libvirt_type: {cloud_image: {path: disk.qcow2}}}}\n"
)


def built(
    strategy: str, *machines: tuple[str, str, str], on: tuple[Host, ...], constraints: str = "{}"
) -> tuple[State, dict[str, str]]:
    bridges = sorted({bridge for _, bridge, _ in machines})
    names = ", ".join(f"{{name: {each}}}" for each in bridges)
    text = (
        f"machines:\n{''.join(MACHINE % each for each in machines)}network: {{bridges: [{names}]}}\n"
        f"testbed_options: {{load_balancing: {strategy}, placement: {constraints}}}\n"
    )
    found = compile_text(text, on=on, files=MemoryFiles({"key.pub", "key", "disk.qcow2"}))
    return found.state, found.placed.placement.reasons


def hosts_of(state: State) -> dict[str, str]:
    return {name: each.testbed_host for name, each in state.testbed_guests.items()}


@pytest.mark.parametrize("strategy", strategies())
def test_every_strategy_puts_guests_where_their_architecture_is(strategy: str) -> None:
    machines = [("a", "br0", "aarch64"), ("x", "br1", "x86_64"), ("b", "br2", "aarch64")]
    state, _ = built(strategy, *machines, on=(INTEL, AMPERE, ALTRA))
    found = hosts_of(state)
    assert found["x"] == "intel"
    assert {found["a"], found["b"]} <= {"ampere", "altra"}
    assert {each.virt_type for each in state.testbed_guests.values()} == {INTEL.virt_type}


@pytest.mark.parametrize("strategy", strategies())
def test_a_pin_wins_and_the_guest_is_emulated(strategy: str) -> None:
    machines = [("a", "br0", "aarch64"), ("x", "br1", "x86_64")]
    state, reasons = built(strategy, *machines, on=(INTEL, AMPERE), constraints="{pin: {a: intel}}")
    assert hosts_of(state) == {"a": "intel", "x": "intel"}
    assert state.testbed_guests["a"].virt_type == "qemu"
    assert reasons["a"].endswith("; emulated, as intel is x86_64 and not aarch64")


@pytest.mark.parametrize("strategy", strategies())
def test_on_a_bridge_with_both_most_guests_decide(strategy: str) -> None:
    machines = [("x", "br0", "x86_64"), ("a", "br0", "aarch64"), ("b", "br0", "aarch64")]
    state, _ = built(strategy, *machines, on=(INTEL, AMPERE))
    assert set(hosts_of(state).values()) == {"ampere"}
    assert state.testbed_guests["x"].virt_type == "qemu"


@pytest.mark.parametrize("strategy", sorted({*strategies()} - {"round_robin"}))
def test_where_there_is_no_room_guests_are_emulated(strategy: str) -> None:
    full = msgspec.structs.replace(AMPERE, cpus=1, memory_mb=64)
    machines = [("a", "br0", "aarch64"), ("b", "br1", "aarch64")]
    state, _ = built(strategy, *machines, on=(INTEL, full))
    assert sorted(each.virt_type for each in state.testbed_guests.values()).count("qemu") >= 1


def test_hosts_of_one_architecture_are_chosen_as_ever() -> None:
    machines = [("a", "br0", "aarch64"), ("x", "br1", "x86_64")]
    state, _ = built("round_robin", *machines, on=(INTEL, host("other", "192.0.2.9", main=False)))
    assert hosts_of(state) == {"a": "intel", "x": "other"}
    assert state.testbed_guests["a"].virt_type == "qemu"
