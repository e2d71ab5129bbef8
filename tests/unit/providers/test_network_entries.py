"""What libvirt is asked to change in a live network, by the rules that it has for entries."""

from __future__ import annotations

import itertools
import random
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable

import pytest

from kvmcompose.providers.libvirt.definitions import parse
from kvmcompose.providers.libvirt.interface.networks import FoundNetwork
from kvmcompose.providers.libvirt.network_definitions import network_digest, with_digest
from kvmcompose.providers.libvirt.network_entries import (
    Edit,
    EditCommand,
    Section,
    addresses,
    difference,
    edits,
    name_edits,
)
from kvmcompose.reconcile.wording import because

Host = tuple[str, str, str]  # the last parts of MAC address and IP address, and the name

A, B, C = ("0a", "10", "a"), ("0b", "11", "b"), ("0c", "12", "c")


def network(*hosts: Host, domain: str = "p", more: str = "") -> str:
    dns = "".join(
        f'<host ip="10.1.0.{ip}">\n  <hostname>p-{name}</hostname>\n<hostname>{name}</hostname></host>'
        for _, ip, name in hosts
        if name
    )
    dhcp = "".join(
        f'<host mac="52:54:00:00:00:{mac}" ' + (f'name="p-{name}" ' if name else "") + f'ip="10.1.0.{ip}"/>'
        for mac, ip, name in hosts
    )
    return (
        '<network><name>p-network</name><metadata><kcn:network xmlns:kcn="urn:kvmcompose:network:1" '
        f'project="p"/></metadata><bridge name="p-br" stp="off"/><forward mode="nat"/>'
        f'<domain name="{domain}" localOnly="yes"/><dns forwardPlainNames="no">{dns}</dns>{more}'
        f'<ip address="10.1.0.1" prefix="24"><dhcp><range start="10.1.0.2" end="10.1.0.254"/>{dhcp}</dhcp>'
        "</ip></network>"
    )


def found(xml: str, *, live: str | None = None) -> FoundNetwork:
    """Return a network made from this XML, as libvirt (9.0) describes it while it is active."""
    live = (live or with_digest(xml)[0]).replace("<name>", "<uuid>u-1</uuid><name>", 1)
    live = live.replace('stp="off"', "stp='off' delay='0'")
    live = live.replace('mode="nat"/>', 'mode="nat"><nat><port start="1024" end="65535"/></nat></forward>')
    return FoundNetwork(name="p-network", active=True, digest=network_digest(xml), xml=live)


class Libvirt:
    """The entries of one network, changed as virNetworkDefUpdateDNSHost and …IPDHCPHost do."""

    def __init__(self, xml: str) -> None:
        root = parse(xml, "network")
        self.dhcp = [dict(host.attrib) for host in root.iterfind("ip/dhcp/host")]
        self.dns = [self._dns(host) for host in root.iterfind("dns/host")]

    @staticmethod
    def _dns(host: ET.Element) -> tuple[str, tuple[str, ...]]:
        return host.get("ip", ""), tuple((name.text or "").strip() for name in host.iterfind("hostname"))

    def apply(self, edit: Edit) -> None:
        host = parse(edit.xml, "host")
        if edit.section is Section.DNS:
            self._change_dns(edit.command, *self._dns(host))
            return
        assert edit.ip == 0
        alike = [each for each in self.dhcp if host.attrib.items() & each.items()]
        if edit.command is EditCommand.ADD:
            assert not alike
            self.dhcp.append(dict(host.attrib))
        elif edit.command is EditCommand.MODIFY:
            self.dhcp[self.dhcp.index(alike[0])] = dict(host.attrib)
        else:
            self.dhcp.remove(next(each for each in self.dhcp if host.attrib.items() <= each.items()))

    def _change_dns(self, command: EditCommand, ip: str, names: tuple[str, ...]) -> None:
        alike = [each for each in self.dns if (ip and each[0] == ip) or set(each[1]) & set(names)]
        if command is EditCommand.ADD:
            assert not alike
            self.dns.append((ip, names))
        else:
            assert command is EditCommand.DELETE
            assert len(alike) == 1
            self.dns.remove(alike[0])

    def content(self) -> tuple[list[list[tuple[str, str]]], list[tuple[str, tuple[str, ...]]]]:
        return sorted(map(sorted, map(dict.items, self.dhcp))), sorted(self.dns)


def converge(there: str, wanted: str) -> list[Edit]:
    changes = edits(wanted, there)
    assert changes is not None
    network = Libvirt(there)
    for edit in changes:
        network.apply(edit)
    assert network.content() == Libvirt(wanted).content()
    return changes


def kinds(changes: Iterable[Edit]) -> list[str]:
    return [f"{edit.command.value} {edit.section.value}" for edit in changes]


def test_only_what_differs_is_changed() -> None:
    assert converge(network(A, B), network(B, A)) == []
    assert kinds(converge(network(A), network(A, B))) == ["add ip-dhcp-host", "add dns-host"]
    assert kinds(converge(network(A, B), network(B))) == ["delete ip-dhcp-host", "delete dns-host"]
    moved = converge(network(A, B), network(A, ("0b", "19", "b")))
    assert kinds(moved) == ["modify ip-dhcp-host", "delete dns-host", "add dns-host"]


def test_addresses_that_change_places_touch_no_third_entry() -> None:
    swapped = converge(network(A, B, C), network(("0a", "11", "a"), ("0b", "10", "b"), C))
    assert kinds(swapped[:4]) == ["delete ip-dhcp-host"] * 2 + ["add ip-dhcp-host"] * 2
    assert "10.1.0.12" not in "".join(edit.xml for edit in swapped)


@pytest.mark.parametrize("seed", range(4))
def test_any_entries_become_any_others(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - cases, not secrets
    for _ in range(100):
        versions = []
        for _ in range(2):
            count = chance.randrange(5)
            numbers = [chance.sample(range(10, 16), count) for _ in range(2)]
            names = [chance.choice([name, ""]) for name in chance.sample("abcdef", count)]
            versions.append(
                network(*((str(mac), str(ip), name) for mac, ip, name in zip(*numbers, names, strict=True)))
            )
        converge(*versions)


def test_entries_that_libvirt_cannot_tell_apart_need_another_network() -> None:
    same_name = network(A, ("0b", "11", "a"))
    assert edits(same_name, network(A)) is None
    # deleted by what only the one of them has, if there is anything
    twice = (
        network(A)
        .replace("<dns", "<dns", 1)
        .replace("</dns>", '<host ip="10.1.0.10"><hostname>x</hostname></host></dns>')
    )
    (edit,) = converge(twice, network(A))
    assert "<hostname>x</hostname>" in edit.xml
    hidden = twice.replace("<hostname>x<", "<hostname>a<")
    assert edits(network(A), hidden) is None
    no_ip = network(A).partition("<ip")[0] + "</network>"
    assert edits(no_ip, network(A)) is None


def test_a_network_is_as_its_xml_says() -> None:
    assert difference(network(A, B), found(network(A, B))) is None
    assert (
        difference(network(B, A).replace("52:54:00:00:00:0b", "52:54:00:00:00:0B"), found(network(A, B)))
        is None
    )
    assert difference(network(), found(network())) is None
    assert difference(network(), FoundNetwork(name="p-network", active=True, digest=None, xml="")) is None


def test_another_subnet_is_named() -> None:
    other = network(A, B).replace("10.1.0.", "10.9.0.")
    differs = difference(other, found(network(A, B)))
    assert differs is not None
    assert (differs.other, differs.subnet) == (True, ("10.1.0.0/24", "10.9.0.0/24"))
    mode = difference(network(A).replace("nat", "route"), found(network(A)))
    assert mode is not None
    assert (mode.other, mode.subnet, mode.entries) == (True, None, ())


def test_hosts_that_differ_are_named() -> None:
    differs = difference(network(A, ("0b", "19", "b"), ("0d", "13", "")), found(network(A, B, C)))
    assert differs is not None
    assert ([because(each) for each in differs.entries], differs.other) == (
        [
            "address 10.1.0.13 added",
            "addresses and names of b changed",
            "addresses and names of c removed",
        ],
        False,
    )
    nobody = difference(network(A), found(network()))
    assert nobody is not None
    assert ([because(each) for each in nobody.entries], nobody.other) == (
        ["addresses and names of a added"],
        False,
    )
    renamed = difference(network(A, ("0b", "11", "bob")), found(network(A, B)))
    assert renamed is not None
    assert [because(each) for each in renamed.entries] == ["name: b -> bob"]
    no_dns = re.sub("<host ip=.*?</host>", "", network(A, B), flags=re.DOTALL)
    unnamed = difference(network(A, B), found(network(A, B), live=no_dns))
    assert unnamed is not None
    assert [because(each) for each in unnamed.entries] == [
        "addresses and names of a changed",
        "addresses and names of b changed",
    ]
    swapped = difference(network(("0a", "11", "a"), ("0b", "10", "b")), found(network(A, B)))
    assert swapped is not None
    assert [because(each) for each in swapped.entries] == [
        "addresses and names of a changed",
        "addresses and names of b changed",
    ]
    # by hand, with virsh net-update: the digest still is that of the XML
    by_hand = difference(network(A, B), found(network(A, B), live=network(A)))
    assert by_hand is not None
    assert [because(each) for each in by_hand.entries] == ["addresses and names of b changed"]
    assert not by_hand.other


@pytest.mark.parametrize(
    "changed",
    [
        network(A, domain="q"),
        network(A, more="<mtu size='1400'/>"),
        network(A).replace("prefix", "netmask"),
        network(A).replace("10.1.0.254", "10.1.0.99"),
        network(A).replace('<domain name="p" localOnly="yes"/>', ""),
        network(A).replace('stp="off"', 'stp="on"'),
        network(A).replace("</ip>", "</ip><ip address='10.2.0.1'/>"),
    ],
)  # fmt: skip
def test_what_libvirt_changes_only_when_a_network_starts(changed: str) -> None:
    for old, new in itertools.permutations((network(A), changed)):
        differs = difference(new, found(old))
        assert differs is not None
        assert differs.other


def test_what_libvirt_leaves_out_is_no_difference() -> None:
    odd = network(A, more="<unknown/>")
    assert difference(odd, found(odd, live=network(A))) is None


# -- names that are not in the definition


def named(xml: str, name: str, address: str) -> str:
    return xml.replace("</dns>", f"<host ip='{address}'>\n <hostname>{name}</hostname></host></dns>")


def test_a_name_is_added_changed_and_taken_away() -> None:
    plain = network(A, B)
    (added,) = name_edits(plain, {"c": "10.1.0.12"}) or ()
    assert (added.command, added.section) == (EditCommand.ADD, Section.DNS)
    assert "10.1.0.12" in added.xml
    assert ">c<" in added.xml
    there = named(plain, "c", "10.1.0.12")
    assert name_edits(there, {"c": "10.1.0.12"}) == []
    assert [each.command for each in name_edits(there, {"c": "10.1.0.13"}) or ()] == [
        EditCommand.DELETE,
        EditCommand.ADD,
    ]
    assert [each.command for each in name_edits(there, {"c": None}) or ()] == [EditCommand.DELETE]
    assert name_edits(plain, {"c": None}) == []
    assert name_edits(plain, {"a": "10.1.0.12"}) is None  # another entry has the name
    assert (addresses(there)["c"], addresses(there)["a"]) == ("10.1.0.12", "10.1.0.10")
    assert addresses(there, alone=True) == {"c": "10.1.0.12"}


def test_names_that_are_not_in_the_definition_are_no_difference_and_stay() -> None:
    plain = network(A)
    live = found(plain, live=named(with_digest(plain)[0], "c", "10.1.0.12"))
    assert difference(plain, live, ("c",)) is None
    seen = difference(plain, live)
    assert seen is not None
    assert [each.subject for each in seen.entries] == ["addresses and names of c"]
    assert edits(plain, live.xml, ["c"]) == []
    assert [each.command for each in edits(network(A, B), live.xml, ["c"]) or ()] == [EditCommand.ADD] * 2
