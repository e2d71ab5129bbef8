"""The bench of the libvirt driver."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import libvirt
import pytest
from libvirt_bench import THEIR_NETWORK, THEIRS, Bench, domain_xml, really_open

from kvmcompose.providers.libvirt.definitions import nic_mac

#: Managed saves, NVRAM, and the metadata of snapshots and checkpoints (virDomainUndefineFlagsValues).
_FORGOTTEN = 0b10111


def plug_nics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let domains have NICs attached and detached, which the test driver cannot."""
    live, config = libvirt.VIR_DOMAIN_AFFECT_LIVE, libvirt.VIR_DOMAIN_AFFECT_CONFIG
    plugged: dict[int, dict[str, str]] = {live: {}, config: {}}
    describe = libvirt.virDomain.XMLDesc

    def attach(_domain: libvirt.virDomain, xml: str, flags: int) -> int:
        plugged[flags][nic_mac(xml)] = xml
        return 0

    def detach(_domain: libvirt.virDomain, xml: str, flags: int) -> int:
        del plugged[flags][nic_mac(xml)]
        return 0

    def xml_desc(domain: libvirt.virDomain, flags: int = 0) -> str:
        inactive = flags & libvirt.VIR_DOMAIN_XML_INACTIVE or not domain.isActive()
        nics = "".join(plugged[config if inactive else live].values())
        return str(describe(domain, flags)).replace("</devices>", f"{nics}</devices>")

    monkeypatch.setattr(libvirt.virDomain, "attachDeviceFlags", attach)
    monkeypatch.setattr(libvirt.virDomain, "detachDeviceFlags", detach)
    monkeypatch.setattr(libvirt.virDomain, "XMLDesc", xml_desc)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    # functions that the test driver lacks
    monkeypatch.setattr(libvirt.virConnect, "setKeepAlive", lambda *_: 0)
    undefine = libvirt.virDomain.undefineFlags

    def undefine_flags(domain: libvirt.virDomain, flags: int) -> int:
        assert flags == _FORGOTTEN
        return undefine(domain, flags & libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA)

    monkeypatch.setattr(libvirt.virDomain, "undefineFlags", undefine_flags)
    plug_nics(monkeypatch)
    describe = libvirt.virNetwork.XMLDesc

    def xml_desc(network: libvirt.virNetwork, flags: int = 0) -> str:
        assert flags in (0, libvirt.VIR_NETWORK_XML_INACTIVE)
        return str(describe(network))

    monkeypatch.setattr(libvirt.virNetwork, "XMLDesc", xml_desc)
    (tmp_path / "host.xml").write_text(f"<node>{domain_xml(THEIRS, project=None)}{THEIR_NETWORK}</node>")
    opened: list[libvirt.virConnect] = []

    def open_once(_uri: str) -> libvirt.virConnect:
        if not opened:
            opened.append(really_open(f"test://{tmp_path}/host.xml"))
        return opened[0]

    monkeypatch.setattr(libvirt, "open", open_once)
    made = Bench()
    made.run(made.driver.facts)
    (made.connection,) = opened
    yield made
    made.run(made.driver.close)
