"""The MTU of guests follows from the addresses of hosts, and tunnels need addresses of one family."""

from __future__ import annotations

import pytest

from golden.memory import MemoryFiles, compile_text, host
from kvmcompose.core.errors import InputError
from kvmcompose.core.model import Host
from kvmcompose.pipeline.compile import Compiled

TEXT = """\
machines:
  - name: web
    interfaces: [{bridge: br0}]
    libvirt: {cpus: 1, memory_mb: 128, libvirt_type: {cloud_image: {name: debian_12}}}
  - name: db
    interfaces: [{bridge: br1}]
    libvirt: {cpus: 1, memory_mb: 128, libvirt_type: {cloud_image: {name: debian_12}}}
network:
  bridges: [{name: br0}, {name: br1}]
  bridge_connections: {br0: br1}
  external_bridge: br0
testbed_options: {placement: {pin: {br0: h0, br1: %s}}}
"""


def compiled(*addresses: str, second: str = "h1") -> Compiled:
    hosts: list[Host] = [host(f"h{n}", ip, main=n == 0) for n, ip in enumerate(addresses)]
    return compile_text(TEXT % second, on=hosts, files=MemoryFiles({"key", "key.pub"}))


def mtus(result: Compiled) -> set[int]:
    guests = result.state.testbed_guests.values()
    return {result.state.network.mtu, *(nic.mtu for guest in guests for nic in guest.interfaces)}


@pytest.mark.parametrize(
    ("addresses", "mtu"),
    [
        (("192.0.2.1", "192.0.2.2"), 1442),
        (("fd00::1", "2001:db8::2"), 1422),
        (("one.example", "two.example"), 1442),
        (("one.example", "192.0.2.2"), 1442),
        (("192.0.2.1", "192.0.2.2", "fd00::3"), 1442),
        (("192.0.2.1", "192.0.2.2", "fd00::3", "fd00::4"), 1422),
    ],
)
def test_the_mtu_is_what_the_tunnels_leave(addresses: tuple[str, ...], mtu: int) -> None:
    assert mtus(compiled(*addresses)) == {mtu}


def test_one_host_has_no_tunnel() -> None:
    assert mtus(compiled("fd00::1", second="h0")) == {1442}


def test_moving_a_bridge_changes_no_mtu() -> None:
    assert mtus(compiled("fd00::1", "fd00::2", second="h0")) == mtus(
        compiled("fd00::1", "fd00::2", second="h1")
    )


@pytest.mark.parametrize(
    "addresses", [("192.0.2.1", "fd00::2"), ("fd00::1", "192.0.2.2"), ("name", "fd00::2")]
)
def test_a_tunnel_between_families_is_refused_at_both_places(addresses: tuple[str, str]) -> None:
    with pytest.raises(InputError) as raised:
        compiled(*addresses)
    problems = raised.value.problems
    assert [each.code for each in problems] == ["mixed-addresses"] * 2
    assert {each.path for each in problems} == {f"testbed_host_ssh_config.h{n}.ip" for n in (0, 1)}
    for each in problems:
        assert all(address in each.message for address in addresses)


def test_hosts_that_no_tunnel_joins_may_differ() -> None:
    assert mtus(compiled("192.0.2.1", "fd00::2", second="h0")) == {1442}


@pytest.mark.parametrize(
    ("addresses", "code"),
    [(("fd00::1", "fd00:0:0::1"), "duplicate-address"), (("0:0::1", "fd00::2"), "loopback-address")],
)
def test_an_address_counts_in_all_its_spellings(addresses: tuple[str, str], code: str) -> None:
    with pytest.raises(InputError) as raised:
        compiled(*addresses)
    assert [each.code for each in raised.value.problems] == [code]
