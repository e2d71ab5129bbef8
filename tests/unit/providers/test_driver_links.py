"""What is asked of ip-link, given what is there."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from recorder import Recorder

from kvmcompose.core.deployable import VethPair
from kvmcompose.hosts.command import Completed
from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.iplink.driver import IpLinks, batch_to_apply, batch_to_remove, parse_links
from kvmcompose.providers.iplink.interface import FoundLink

EXTERNAL = VethPair(
    host="main",
    left="p-veth0",
    left_bridge="p-br0",
    right="p-veth1",
    right_bridge="p-prjbr0",
    right_is_linux=True,
)
JOINT = VethPair(host="main", left="p-a", left_bridge="p-br0", right="p-b", right_bridge="p-br1")

THERE = msgspec.json.encode([
    {"ifname": "lo", "flags": ["LOOPBACK", "UP"], "mtu": 65536},
    {"ifname": "p-br0", "flags": ["BROADCAST"], "linkinfo": {"info_kind": "tun"}},
    {
        "ifname": "p-veth0",
        "link": "p-veth1",
        "flags": ["PROMISC", "UP"],
        "mtu": 1442,
        "linkinfo": {"info_kind": "veth"},
    },
    {
        "ifname": "p-veth1",
        "link": "p-veth0",
        "flags": [],
        "mtu": 1442,
        "master": "p-prjbr0",
        "linkinfo": {"info_kind": "veth", "info_slave_kind": "bridge"},
    },
])  # fmt: skip


def test_everything_is_made_in_order() -> None:
    assert batch_to_apply({}, [EXTERNAL, JOINT], up=["nic0"], mtu=1442) == [
        "link add name p-veth0 mtu 1442 type veth peer name p-veth1 mtu 1442",
        "link set dev p-veth1 master p-prjbr0",
        "link add name p-a mtu 1442 type veth peer name p-b mtu 1442",
        "link set dev nic0 up",
        "link set dev p-veth0 up",
        "link set dev p-veth1 up",
        "link set dev p-a up",
        "link set dev p-b up",
    ]


def test_what_is_there_stays() -> None:
    there = parse_links(THERE)
    assert batch_to_apply(there, [EXTERNAL], up=["p-br0"], mtu=1442) == [
        "link set dev p-br0 up",
        "link set dev p-veth1 up",
    ]


def test_what_was_changed_of_a_pair_is_set() -> None:
    there = parse_links(THERE)
    other = msgspec.structs.replace(EXTERNAL, right_bridge="other")
    assert batch_to_apply(there, [other], up=[], mtu=1500) == [
        "link set dev p-veth0 mtu 1500",
        "link set dev p-veth1 mtu 1500",
        "link set dev p-veth1 master other",
        "link set dev p-veth1 up",
    ]
    there["p-veth1"] = msgspec.structs.replace(there["p-veth1"], master=None)
    assert "link set dev p-veth1 master p-prjbr0" in batch_to_apply(there, [EXTERNAL], up=[], mtu=1442)


def test_links_are_observed_in_one_command() -> None:
    machine = Recorder(("link show", 0, THERE, b""))
    assert asyncio.run(IpLinks(machine).observe(["p-veth0", "p-veth1", "p-br0", "gone"])) == {
        "p-veth0": FoundLink(up=True, mtu=1442, peer="p-veth1", attached=True),
        "p-veth1": FoundLink(up=False, mtu=1442, peer="p-veth0", master="p-prjbr0", attached=True),
        "p-br0": FoundLink(up=False, mtu=0),
    }
    assert len(machine.commands) == 1


@pytest.mark.parametrize(
    "pair",
    [
        msgspec.structs.replace(JOINT, left="lo"),
        msgspec.structs.replace(JOINT, right="p-br0"),
        msgspec.structs.replace(JOINT, left="p-veth0", right="p-b"),
        msgspec.structs.replace(JOINT, left="p-veth0", right="p-br0"),
    ],
)
def test_name_that_is_taken_is_an_error(pair: VethPair) -> None:
    with pytest.raises(DriverError, match=r"there already is an interface"):
        batch_to_apply(parse_links(THERE), [pair], up=[], mtu=1442)


@pytest.mark.parametrize(
    "name", ["", "x up\nlink delete dev lo", "a b", "sixteen-letters-", "..", "a/b", "ü" * 8]
)
def test_name_that_would_be_more_than_a_name_is_refused(name: str) -> None:
    with pytest.raises(DriverError, match="invalid name of a network interface"):
        batch_to_apply({}, [msgspec.structs.replace(JOINT, left=name)], up=[], mtu=1442)


def test_pair_goes_with_one_end() -> None:
    there = parse_links(THERE)
    assert batch_to_remove(there, ["p-veth0", "p-veth1", "gone", "p-veth0"]) == ["link delete dev p-veth0"]


def test_what_is_gone_keeps_no_other_from_going() -> None:
    there = parse_links(THERE)
    wanted = ["link delete dev p-br0", "link delete dev p-veth1"]
    assert batch_to_remove(there, ["gone", "p-br0", "p-br0", "p-veth1", "p-veth0"]) == wanted


def test_removal_that_another_was_faster_with_is_no_error() -> None:
    class Host(Recorder):
        async def run(self, argv: Sequence[str], **options: Any) -> Completed:
            if "-batch" in argv:
                self.answers = (("link show", 0, b"[]", b""), ("-batch", 1, b"", b"Cannot find device"))
            return await super().run(argv, **options)

    host = Host(("link show", 0, THERE, b""))
    asyncio.run(IpLinks(host).remove(["p-veth0"]))
    assert host.scripts == ["link delete dev p-veth0\n"]


def test_nothing_to_do_asks_nothing() -> None:
    machine = Recorder(("link show", 0, THERE, b""))
    links = IpLinks(machine)
    asyncio.run(links.remove(["gone"]))
    asyncio.run(links.apply([], up=["lo"], mtu=1500))
    assert asyncio.run(links.observe(["lo", "gone"])).keys() == {"lo"}
    assert machine.scripts == []


def test_change_is_one_batch_as_root() -> None:
    machine = Recorder(("link show", 0, b"[]", b""))
    asyncio.run(IpLinks(machine).apply([JOINT], up=[], mtu=1442))
    assert machine.commands[1:] == [["ip", "-batch", "-"]]
    assert machine.privileged == [False, True]
    assert machine.scripts[0].count("\n") == 3


def test_removal_that_fails_while_something_is_left_is_an_error() -> None:
    machine = Recorder(("link show", 0, THERE, b""), ("-batch", 1, b"", b"RTNETLINK answers: Not permitted"))
    with pytest.raises(
        DriverError, match="ip failed with status 1 on main: RTNETLINK answers: Not permitted"
    ):
        asyncio.run(IpLinks(machine).remove(["p-veth0"]))


def test_other_words_than_json_are_an_error() -> None:
    with pytest.raises(DriverError, match="printed invalid output"):
        parse_links(b"Option -json is unknown")
