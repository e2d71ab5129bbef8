"""What is set on a host to make it a chassis of OVN, and what is left alone."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from kvmcompose.core.model import Host
from kvmcompose.core.ovn_hosts import ChassisSpec, Identity, Outside
from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.providers.fake import FakeDrivers
from kvmcompose.providers.ovs.chassis import FoundChassis, obstacle, to_set

SPEC = ChassisSpec(
    name="two",
    remote="ssl:192.0.2.1:6642",
    encap_ip="192.0.2.2",
    encap_type="geneve",
    bridge="br-int",
    datapath_type="system",
    keys=True,
)
SET = {
    "ovn-remote": "ssl:192.0.2.1:6642",
    "ovn-encap-type": "geneve",
    "ovn-encap-ip": "192.0.2.2",
    "ovn-bridge": "br-int",
    "ovn-bridge-datapath-type": "system",
    "system-id": "two",
}


def test_everything_is_set_where_nothing_is() -> None:
    assert to_set(SPEC, FoundChassis()) == SET
    assert obstacle("lab", SPEC, FoundChassis()) is None


def test_a_host_keeps_the_name_that_it_has() -> None:
    found = FoundChassis(name="6d1f4a4e-debian")
    assert to_set(SPEC, found) == {key: value for key, value in SET.items() if key != "system-id"}
    assert obstacle("lab", SPEC, found) is None


def test_one_of_several_encapsulations_is_enough() -> None:
    found = FoundChassis(encap_type="vxlan,geneve")
    assert "ovn-encap-type" not in to_set(SPEC, found)
    assert obstacle("lab", SPEC, found) is None


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (FoundChassis(remote="tcp:198.51.100.1:6642"), "ovn-remote is tcp:198.51.100.1:6642 already"),
        (FoundChassis(encap_ip="198.51.100.2"), "ovn-encap-ip is 198.51.100.2 already"),
        (
            FoundChassis(encap_ip="192.0.2.9", made=frozenset({"ovn-encap-ip"}), users=frozenset({"other"})),
            "ovn-encap-ip is 192.0.2.9 for other",
        ),
    ],
)
def test_what_others_have_set_or_need_is_in_the_way(found: FoundChassis, why: str) -> None:
    assert (obstacle("lab", SPEC, found) or "").startswith(why)


def test_what_this_project_alone_has_set_is_changed() -> None:
    found = FoundChassis(encap_ip="192.0.2.9", made=frozenset({"ovn-encap-ip"}), users=frozenset({"lab"}))
    assert obstacle("lab", SPEC, found) is None
    assert to_set(SPEC, found)["ovn-encap-ip"] == "192.0.2.2"


def host(drivers: FakeDrivers) -> HostDrivers:
    return drivers.host(Host(name="two", ip="192.0.2.2"))


def test_the_last_project_takes_the_settings_away() -> None:
    drivers = FakeDrivers()
    chassis = host(drivers).chassis
    drivers.worlds["two"].ovn.chassis.settings = {"system-id": "here"}
    identity = Identity(key="k", certificate="c", ca="a")

    async def run() -> None:
        await chassis.join("lab", SPEC, identity)
        await chassis.join("other", SPEC, identity)
        await chassis.leave("lab")
        assert (await chassis.observe()).remote == SPEC.remote
        await chassis.leave("other")
        assert await chassis.observe() == FoundChassis(name="here")
        await chassis.join("lab", SPEC, identity)
        with pytest.raises(DriverError, match="two is a chassis of another OVN: ovn-remote is ssl"):
            await chassis.join("other", msgspec.structs.replace(SPEC, remote="ssl:[::1]:6642"))

    asyncio.run(run())


def test_two_projects_have_the_same_bridge_or_subnets_that_do_not_overlap() -> None:
    outsides = host(FakeDrivers()).outsides
    wanted = Outside(network="public", bridge="br-ex", address="172.16.1.1/24", datapath_type="system")

    async def run() -> None:
        await outsides.create("lab", wanted)
        await outsides.check("other", wanted)  # they are neighbours there, by their routers
        near = msgspec.structs.replace(wanted, network="more", bridge="br-ex2", address="172.16.0.1/16")
        with pytest.raises(DriverError, match=r"the subnet 172.16.0.0/16 overlaps 172.16.1.0/24") as caught:
            await outsides.create("other", near)
        assert "bridge_mappings" in (caught.value.hint or "")
        assert await outsides.observe("other") == []

    asyncio.run(run())
