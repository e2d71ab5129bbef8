"""What is read in libvirt's XML, and what is written into it."""

from __future__ import annotations

import re

import pytest

from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.libvirt import definitions as xmls
from kvmcompose.providers.libvirt import network_definitions as network_xmls
from kvmcompose.providers.libvirt import snapshot_definitions as snapshot_xmls
from kvmcompose.providers.libvirt.processes import parsed

DOMAIN = """\
<domain type="qemu" xmlns:qemu="http://libvirt.org/schemas/domain/qemu/1.0">
  <name>p-one</name>
  <metadata><kc:guest xmlns:kc="urn:kvmcompose:guest:1" project="p" name="one" host="main"/></metadata>
  <devices>
    <disk type="file" device="disk">
      <driver name="qemu" type="qcow2"/><source file="/d"/><target dev="vda"/>
    </disk>
    <disk type="file" device="disk">
      <driver name="qemu" type="raw"/><source file="/s"/><target dev="vdb"/><readonly/>
    </disk>
    <disk type="file" device="cdrom"><target dev="sda"/></disk>
  </devices>
  <qemu:commandline><qemu:arg value="-S"/></qemu:commandline>
</domain>
"""
NETWORK = """\
<network>
  <name>p-network</name>
  <metadata><kc:network xmlns:kc="urn:kvmcompose:network:1" project="p"/></metadata>
  <ip address="10.1.0.1" prefix="20"/>
</network>
"""
SNAPSHOT = """\
<domainsnapshot>
  <name>second</name><state>running</state><creationTime>1700000000</creationTime>
  <parent><name>first</name></parent>
  <domain><name>p-one</name><uuid>old</uuid></domain>
  <inactiveDomain><name>p-one</name><uuid>old</uuid></inactiveDomain>
</domainsnapshot>
"""


def test_domain_says_whose_it_is() -> None:
    assert xmls.domain_identity(DOMAIN) == xmls.Ownership(name="p-one", project="p", guest="one")
    bare = "<domain><name>p-one</name></domain>"
    assert xmls.domain_identity(bare) == xmls.Ownership(name="p-one", project=None)


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        ("", "cannot parse the XML of a domain"),
        ("<domain>", "cannot parse the XML of a domain"),
        ("<network/>", "expected the XML of a <domain>, found a <network>"),
        ("<domain/>", "has no name"),
        ("<domain><name/></domain>", "has no name"),
    ],
)
def test_broken_xml_is_an_error(xml: str, message: str) -> None:
    with pytest.raises(DriverError, match=message):
        xmls.domain_identity(xml)


def test_uuid_is_put_in_and_all_else_stays() -> None:
    changed = xmls.with_uuid(DOMAIN, "u-1")
    assert xmls.parse(changed, "domain").findtext("uuid") == "u-1"
    assert xmls.with_uuid(changed, "u-2") == changed.replace("u-1", "u-2")
    assert xmls.domain_identity(changed) == xmls.domain_identity(DOMAIN)
    name = "{http://libvirt.org/schemas/domain/qemu/1.0}commandline"
    assert xmls.parse(changed, "domain").find(name) is not None


def test_digest_follows_the_content_not_its_form() -> None:
    marked, digest = network_xmls.with_digest(NETWORK)
    assert xmls.network_identity(marked) == xmls.Ownership(name="p-network", project="p", digest=digest)
    assert network_xmls.with_digest(NETWORK.replace("  <", "\t<").replace('"', "'"))[1] == digest
    assert network_xmls.with_digest(NETWORK.replace("10.1", "10.2"))[1] != digest
    with pytest.raises(DriverError, match="does not name its project"):
        network_xmls.with_digest("<network><name>n</name></network>")


def test_bridge_is_known_by_a_mac_address_that_stays() -> None:
    marked, _ = network_xmls.with_digest(NETWORK.replace("<ip", '<bridge name="p-prjbr0"/><ip'))
    remains = network_xmls.network_remains(marked)
    assert remains is not None
    assert (remains.bridge, remains.mac[:9]) == ("p-prjbr0", "52:54:00:")
    assert network_xmls.network_remains(network_xmls.with_digest(marked)[0]) == remains
    assert network_xmls.network_remains(NETWORK) is None


def test_address_of_a_network() -> None:
    assert network_xmls.network_address(NETWORK) == "10.1.0.1/20"
    netmask = NETWORK.replace('prefix="20"', 'netmask="255.255.240.0"')
    assert network_xmls.network_address(netmask) == "10.1.0.1/255.255.240.0"
    assert network_xmls.network_address("<network><name>n</name></network>") == ""


def test_snapshots_are_asked_of_disks_that_are_written_to() -> None:
    disks = list(xmls.disks(DOMAIN))
    assert disks == [
        xmls.Disk("vda", "qcow2", writable=True, path="/d"),
        xmls.Disk("vdb", "raw", writable=False, path="/s"),
        xmls.Disk("sda", "raw", writable=False),
    ]
    assert snapshot_xmls.snapshot_xml("a&b", iter(disks)) == (
        "<domainsnapshot><name>a&amp;b</name><disks>"
        '<disk name="vda" snapshot="internal" /><disk name="vdb" snapshot="no" />'
        '<disk name="sda" snapshot="no" /></disks></domainsnapshot>'
    )


def test_snapshot_of_a_domain_that_was_defined_anew() -> None:
    facts = snapshot_xmls.snapshot_facts(SNAPSHOT)
    assert facts == snapshot_xmls.SnapshotFacts(
        name="second", created=1700000000, state="running", parent="first"
    )
    kept = snapshot_xmls.snapshot_of(SNAPSHOT, "new", keep_parent=True)
    assert kept.count("<uuid>new</uuid>") == 2
    assert "old" not in kept
    assert "<parent>" in kept
    assert "<parent>" not in snapshot_xmls.snapshot_of(SNAPSHOT, "new", keep_parent=False)
    assert snapshot_xmls.snapshot_facts(SNAPSHOT.replace("1700000000", "soon")).created == 0


def test_ages_of_guests_are_those_of_their_qemu() -> None:
    shown = (
        "    1   5000 /sbin/init\n"
        "   22      7 /usr/bin/qemu-system-x86_64 -name guest=p-one,debug-threads=on -S\n"
        "  333 120000 /usr/bin/qemu-system-x86_64 -name guest=p-two -S\n"
        "   44      3 vim qemu -name guest=p-three\n"
    )
    assert parsed(shown) == {"p-one": ("22", 7.0), "p-two": ("333", 120000.0)}


def test_disks_are_read_whatever_is_left_out() -> None:
    xml = """<domain><name>p-one</name><devices>
    <disk type='file' device='disk'/>
    <disk type='network' device='disk'><target dev='vda'/></disk>
    <disk type='file' device='disk'><driver type='qcow2'/><source file='/d'/><target dev='vdb'/></disk>
    </devices></domain>"""
    assert list(xmls.disks(xml)) == [
        xmls.Disk("vda", "raw", writable=True),
        xmls.Disk("vdb", "qcow2", writable=True, path="/d"),
    ]


def test_a_snapshot_without_a_time_is_one_of_long_ago() -> None:
    for text in ("", "yesterday"):
        xml = f"<domainsnapshot><name>a</name><creationTime>{text}</creationTime></domainsnapshot>"
        facts = snapshot_xmls.snapshot_facts(xml)
        assert (facts.created, facts.state, facts.parent) == (0, "unknown", None)


def test_the_bridge_of_a_network_is_recognised_by_what_follows_from_its_name() -> None:
    def mac(xml: str) -> str | None:
        element = xmls.parse(network_xmls.with_digest(xml)[0], "network").find("mac")
        return element.get("address") if element is not None else None

    found = mac(NETWORK)
    assert re.fullmatch("52:54:00(:[0-9a-f]{2}){3}", found or "")
    assert mac(NETWORK.replace("10.1", "10.2")) == found
    assert mac(NETWORK.replace("p-network", "q-network")) != found
    own = NETWORK.replace("<ip", "<mac address='02:00:00:00:00:01'/><ip")
    assert mac(own) == "02:00:00:00:00:01"
    marked = network_xmls.with_digest(NETWORK.replace("<ip", "<bridge name='p-br'/><ip"))[0]
    assert network_xmls.network_remains(marked) == network_xmls.NetworkRemains(
        network="p-network", bridge="p-br", mac=found or "", address="10.1.0.1/20"
    )
    assert network_xmls.network_remains(network_xmls.with_digest(NETWORK)[0]) is None  # it has no bridge
