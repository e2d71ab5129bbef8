"""The bench of the libvirt driver."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import libvirt
import pytest
from libvirt_bench import THEIR_NETWORK, THEIRS, Bench, domain_xml, really_open

#: Managed saves, NVRAM, and the metadata of snapshots and checkpoints (virDomainUndefineFlagsValues).
_FORGOTTEN = 0b10111


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    # functions that the test driver lacks
    monkeypatch.setattr(libvirt.virConnect, "setKeepAlive", lambda *_: 0)
    undefine = libvirt.virDomain.undefineFlags

    def undefine_flags(domain: libvirt.virDomain, flags: int) -> int:
        assert flags == _FORGOTTEN
        return undefine(domain, flags & libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA)

    monkeypatch.setattr(libvirt.virDomain, "undefineFlags", undefine_flags)
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
