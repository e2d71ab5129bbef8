"""What of a definition cannot change while its guest runs; what is stored on a domain, if edited."""

from __future__ import annotations

import json

import pytest

from kvmcompose.core.state import Interface
from kvmcompose.server.orchestrator.resources._domain_spec import DomainSpec, decode, encode, frame_of

NIC = "<interface type='bridge'><mac address='52:54:00:00:00:01'/></interface>"
PORT = "<controller type='pci' model='pcie-root-port'/>"


def domain(devices: str = "", cpus: str = "<vcpu>2</vcpu>", memory: str = "") -> str:
    disk = "<disk><target dev='vda'/></disk>"
    return f"<domain><name>a</name>{memory}{cpus}<devices>{disk}{devices}</devices></domain>"


def test_what_changes_alive_is_no_part_of_the_frame() -> None:
    frame = frame_of(domain())
    assert frame.disks == ("vda",)
    assert frame_of(domain(NIC + PORT)) == frame
    assert frame_of(domain(memory="<currentMemory>1</currentMemory>")) == frame
    assert frame_of(domain(cpus="<vcpu current='1'>2</vcpu>")) == frame
    assert frame_of(domain(cpus="<vcpu>3</vcpu>")) != frame
    assert frame_of(domain("<controller type='usb'/>")) != frame


@pytest.mark.parametrize("opened", ["<interface ", "<disk ", "<disk>", "<interface>", "<vcpu "])
def test_a_text_that_closes_nothing_has_no_frame_and_takes_no_time(opened: str) -> None:
    """Megabytes of it took minutes, and the whole server waited."""
    assert frame_of("<domain><devices>" + opened * 300_000).digest == ""


def test_a_definition_that_is_too_deep_has_no_frame() -> None:
    deep = "<a>" * 100_000 + "</a>" * 100_000
    assert frame_of(f"<domain>{deep}</domain>").digest == ""


def test_what_was_edited_on_a_domain_counts_as_not_known() -> None:
    nic = Interface("br0", "ovs", "lab-br0", "lab-tap", "52:54:00:00:00:01", "10.0.0.2", 24, 1500)
    spec = DomainSpec(guest={"name": "a", "interfaces": [json.loads(json.dumps(_plain(nic)))]}, xml="x")
    assert decode(encode(spec)) == spec
    for edited in ([{"mac": 1}], [{}], ["br0"], "br0", {"mac": "x"}, 7):
        assert decode(encode(DomainSpec(guest={"interfaces": edited}, xml="x"))) is None
    assert decode("{") is None
    assert decode("[" * 100_000) is None


def _plain(nic: Interface) -> dict[str, object]:
    return {name: getattr(nic, name) for name in nic.__struct_fields__}
