"""Disks that guests share: one file for all of them, one host, one size; what their XML may name."""

from __future__ import annotations

import pytest

from golden.memory import MemoryFiles, compile_text
from kvmcompose.core.artefact import Literal, Policy
from kvmcompose.core.deployable import DomainGuest, SharedDisk
from kvmcompose.core.errors import InputError
from kvmcompose.core.state import State, decode_state, encode_state
from kvmcompose.drawing.geometry import layout
from kvmcompose.drawing.graph import sharing, topology
from kvmcompose.drawing.places import arrange
from kvmcompose.drawing.svg import to_svg
from kvmcompose.guests import guest_kind
from kvmcompose.networks import dialect, drawing
from kvmcompose.pipeline.compile import Compiled
from kvmcompose.privileges import Xml, of_disks, of_domain

TEXT = """\
machines:
  - name: one
    interfaces: [{bridge: br0}]
    libvirt: {cpus: 1, memory_mb: 64, libvirt_type: {cloud_image: {path: disk.qcow2}},
      disks: [%s]}
  - name: two
    interfaces: [{bridge: br1}]
    libvirt: {cpus: 1, memory_mb: 64, libvirt_type: {cloud_image: {path: disk.qcow2}},
      disks: [%s]}
  - name: node
    libvirt: {cpus: 1, memory_mb: 64, libvirt_type: {cloud_image: {path: disk.qcow2}}, disks: [%s],
      scaling: {count: 2, interfaces: [{bridge: br0, clones: [0]}, {bridge: br2, clones: [1]}]}}
network: {bridges: [{name: br0}, {name: br1}, {name: br2}], external_bridge: br0}
"""
QUORUM = "{name: quorum, size_gigabytes: 1, shareable: true}"
FILE = "artefacts/shared.quorum.raw"
FOLDER = "/var/lib/kvm-compose/lab"


def compiled(*disks: str) -> Compiled:
    text = TEXT % (*disks, *[""] * (3 - len(disks)))
    return compile_text(text, files=MemoryFiles({"key.pub", "key", "disk.qcow2"}))


def run_of(state: State, name: str) -> DomainGuest:
    guest = state.testbed_guests[name]
    run = guest_kind(guest.kind).deployable(guest, state.shared)
    assert isinstance(run, DomainGuest)
    return run


def test_guests_with_an_entry_of_one_name_have_one_file() -> None:
    found = compiled(QUORUM, QUORUM, QUORUM)
    (disk,) = [each for each in found.artefacts if each.task == "shared-disk:quorum"]
    assert (disk.path, disk.policy, disk.content, disk.mode) == (FILE, Policy.MUTABLE, Literal(b""), 0o600)
    assert disk.guest is None
    state = decode_state(encode_state(found.state))
    for name in ("one", "two", "node-0", "node-1"):
        run = run_of(state, name)
        assert run.shared_disks == {FILE: SharedDisk(1)}, name
        assert FILE in run.disks
        assert FILE not in run.image_disks, "it is raw, whatever is in it"


def test_pictures_say_who_shares_a_disk() -> None:
    alone = "{name: alone, size_gigabytes: 1, shareable: true}"
    state = decode_state(encode_state(compiled(f"{QUORUM}, {alone}", QUORUM, QUORUM).state))
    guests = state.testbed_guests.items()
    details = sharing({name: guest_kind(each.kind).deployable(each, state.shared) for name, each in guests})
    graph = topology(state, drawing(state), details)
    found = {node.name: node.details for node in graph.nodes if node.name in state.testbed_guests}
    assert found == {
        "one": ("disk quorum, shared with two, node-0, node-1", "disk alone, which no other guest has yet"),
        "two": ("disk quorum, shared with one, node-0, node-1",),
        "node": (),
        "node-0": ("disk quorum, shared with one, two, node-1",),
        "node-1": ("disk quorum, shared with one, two, node-0",),
    }
    svg = to_svg(graph, layout(graph, arrange(graph)), "lab")
    assert svg.count("disk quorum, shared with") == 4


def test_a_golden_image_has_no_disk_of_others() -> None:
    state = decode_state(encode_state(compiled("", "", f"{QUORUM}, {{size_gigabytes: 2}}").state))
    golden = run_of(state, "node")
    assert golden.shared_disks == {}
    # names by place are those of its clones
    assert "artefacts/node.disk2.qcow2" in golden.disks
    assert "artefacts/node-0.disk2.qcow2" in run_of(state, "node-0").disks


@pytest.mark.parametrize(
    ("one", "two", "said", "line"),
    [
        (QUORUM, QUORUM.replace("1", "2"), "one has it with 1 GiB (machines[0].libvirt.disks[0])", 9),
        (QUORUM, "{name: quorum, size_gigabytes: 1}", "one has another disk quorum, which is shareable", 9),
        ("{name: quorum, size_gigabytes: 1}", QUORUM, "one has another disk quorum, which is not", 9),
        ("{size_gigabytes: 1}", QUORUM.replace("quorum", "disk1"), "another disk disk1", 9),
    ],
)
def test_entries_of_one_name_agree(one: str, two: str, said: str, line: int) -> None:
    with pytest.raises(InputError) as caught:
        compiled(one, two)
    (problem,) = caught.value.problems
    assert said in problem.message
    assert problem.location is not None
    assert problem.location.line == line


def test_what_a_guest_alone_decides_may_differ() -> None:
    state = compiled(QUORUM, QUORUM.replace("true", "true, readonly: true, bus: scsi, serial: other")).state
    assert run_of(decode_state(encode_state(state)), "two").shared_disks == {
        FILE: SharedDisk(1, readonly=True)
    }


def test_private_disks_of_one_name_are_two_disks() -> None:
    compiled("{name: data, size_gigabytes: 1}", "{name: data, size_gigabytes: 2}")


@pytest.mark.parametrize(
    ("disk", "asked"),
    [
        ('<driver name="qemu" type="raw"/><source file="%s/artefacts/shared.quorum.raw"/><shareable/>', 0),
        # what a guest has written to it could name any file of the host
        ('<driver name="qemu" type="qcow2"/><source file="%s/artefacts/shared.quorum.raw"/>', 2),
        ('<source file="%s/artefacts/shared.quorum.raw"/>', 2),
        ('<driver name="qemu" type="raw"/><source file="%s/artefacts/shared.other.raw"/>', 2),
        ('<driver name="qemu" type="raw"/><source file="%s/artefacts/one-cloud-init.img"/>', 2),
    ],
)
def test_xml_that_was_edited_takes_it_for_nothing_else(disk: str, asked: int) -> None:
    state = decode_state(encode_state(compiled(QUORUM, QUORUM).state))
    run, guest = run_of(state, "one"), state.testbed_guests["one"]
    text = f'<disk type="file" device="disk">{disk % FOLDER}<target dev="vdc" bus="virtio"/></disk>'
    xml = Xml(f'<domain type="qemu"><name>lab-one</name><devices>{text}</devices></domain>')
    plan = dialect("bridges").network_plan(state)
    found = [str(each) for each in (*of_domain(xml, guest, run, state, plan), *of_disks(xml, run, state))]
    assert len(found) == asked, found


def test_a_guest_without_it_does_not_reach_it_as_an_image() -> None:
    """As an administrator's lab is checked, whose XML may name all of its artefacts."""
    state = decode_state(encode_state(compiled(QUORUM, "").state))
    text = f"""<disk type="file" device="disk"><driver name="qemu" type="qcow2"/>
        <source file="{FOLDER}/{FILE}"/><target dev="vdc" bus="virtio"/></disk>"""
    xml = Xml(f'<domain type="qemu"><name>lab-two</name><devices>{text}</devices></domain>')
    plan = dialect("bridges").network_plan(state)
    found = list(of_domain(xml, state.testbed_guests["two"], run_of(state, "two"), state, plan))
    assert len(found) == 1
    assert "not as raw" in str(found[0])
