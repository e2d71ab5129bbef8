"""``disks``: what is refused at its line, what a guest writes to, and what its XML may name of it."""

from __future__ import annotations

import pytest

from golden.memory import MemoryFiles, compile_text
from kvmcompose.core.artefact import Overlay
from kvmcompose.core.deployable import DomainGuest
from kvmcompose.core.errors import InputError
from kvmcompose.core.state import decode_state, encode_state
from kvmcompose.guests import guest_kind
from kvmcompose.networks import dialect
from kvmcompose.pipeline.compile import Compiled
from kvmcompose.privileges import Xml, of_disks, of_domain

TEXT = """\
machines:
  - name: web
    interfaces: [{bridge: br0}]
    libvirt: {cpus: 1, memory_mb: 64, libvirt_type: {cloud_image: {path: disk.qcow2}}, MORE
      disks: [{name: first, size_gigabytes: 1},
        %s]}
network: {bridges: [{name: br0}], external_bridge: br0}
"""
SCALED = "scaling: {count: 1, interfaces: [{bridge: br0, clones: [0]}]},"
FOLDER = "/var/lib/kvm-compose/lab"


def compiled(disks: str, more: str = "") -> Compiled:
    text = (TEXT % disks).replace("MORE", more)
    if "scaling" in more:
        text = text.replace("    interfaces: [{bridge: br0}]\n", "", 1)
    return compile_text(text, files=MemoryFiles({"key.pub", "key", "disk.qcow2"}))


def run_of(found: Compiled, name: str = "web") -> DomainGuest:
    # as read back
    state = decode_state(encode_state(found.state))
    guest = state.testbed_guests[name]
    run = guest_kind(guest.kind).deployable(guest, state.shared)
    assert isinstance(run, DomainGuest)
    return run


@pytest.mark.parametrize(
    ("disk", "more", "said"),
    [
        ("{}", "", "nothing says what it is"),
        ("{size_gigabytes: 1, path: disk.qcow2}", "", "a disk with size_gigabytes and path"),
        ("{size_gigabytes: 1, expand_gigabytes: 1}", "", "does not go with size_gigabytes"),
        ("{size_gigabytes: 1, format: raw}", "", "format does not go with size_gigabytes"),
        ("{image: debian_12, create_deep_copy: true}", "", "create_deep_copy does not go with image"),
        ("{path: disk.qcow2, create_deep_copy: true, expand_gigabytes: 1}", "", "as large as its image"),
        ("{size_gigabytes: 1, bus: ide}", "", "a machine of the type q35"),
        ("{size_gigabytes: 1, bus: sata}", "arch: aarch64,", "a machine of the type virt"),
        ("{size_gigabytes: 1, bus: usb}", "usb: none,", "virtio, scsi, sata"),
        ("{size_gigabytes: 1, bus: sata, readonly: true}", "", "no read-only disks on the bus sata"),
        ("{device: cdrom, size_gigabytes: 1}", "", "a CD-ROM has no size_gigabytes"),
        ("{device: cdrom, bus: virtio}", "", "the bus of a CD-ROM"),
        ("{name: first, size_gigabytes: 1}", "", "the name first is that of disks[0]"),
        ("{serial: first, size_gigabytes: 1}", "", "the serial first is that of disks[0]"),
        ("{size_gigabytes: 1, boot: 1}", "boot: [disk],", "its key boot"),
        ("{path: disk.qcow2, create_deep_copy: true}", SCALED, "cannot be emptied"),
        ("{path: none.qcow2}", "", "does not exist"),
        ("{size_gigabytes: 0}", "", "from 1 to 65536"),
        ("{size_gigabytes: 1, name: a.b}", "", "at most 20 lower-case letters"),
        ("{size_gigabytes: 1, serial: '<a>'}", "", "at most 20 letters"),
        ("{size_gigabytes: 1, shareable: true}", "", "a shareable disk without a name"),
        ("{name: q, path: disk.qcow2, shareable: true}", "", "shareable does not go with path"),
        ("{name: q, image: debian_12, shareable: true}", "", "shareable does not go with image"),
        ("{name: q, size_gigabytes: 1, shareable: true, format: raw}", "", "format does not go with"),
        ("{device: cdrom, shareable: true}", "", "a CD-ROM has no shareable"),
    ],
)
def test_what_cannot_be_is_refused_at_its_line(disk: str, more: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        compiled(disk, more)
    (problem,) = caught.value.problems
    assert said in f"{problem.message} {problem.found} {problem.wanted}"
    assert problem.location is not None
    assert problem.location.line == (5 if "scaling" in more else 6)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("create_deep_copy: true", "create_deep_copy"),
        ("device_type: cdrom", "device_type"),
        ("readonly: true", "readonly"),
    ],
)
def test_an_existing_disk_grows_as_an_overlay_only(more: str, said: str) -> None:
    text = (TEXT % "{size_gigabytes: 1}").replace("MORE", "")
    disk = "existing_disk: {path: disk.qcow2, expand_gigabytes: 3"
    text = text.replace("cloud_image: {path: disk.qcow2", disk)
    files = MemoryFiles({"key.pub", "key", "disk.qcow2"})
    (content,) = (
        each.content
        for each in compile_text(text, files=files).artefacts
        if each.path == "artefacts/web-cloud-init.img"
    )
    assert isinstance(content, Overlay)
    assert content.expand_gigabytes == 3
    with pytest.raises(InputError) as caught:
        compile_text(text.replace(disk, f"{disk}, {more}"), files=files)
    (problem,) = caught.value.problems
    assert said in problem.message


def test_places_in_the_boot_order_differ() -> None:
    with pytest.raises(InputError) as caught:
        compiled("{size_gigabytes: 1, boot: 1}, {size_gigabytes: 1, boot: 1}")
    (problem,) = caught.value.problems
    assert "the boot 1 is that of disks[1]" in problem.message


def test_a_bus_has_room_for_so_many_devices() -> None:
    with pytest.raises(InputError) as caught:
        compiled(", ".join(["{size_gigabytes: 1, bus: ide}"] * 4), "machine: pc, boot_disk: {bus: ide},")
    assert "more than 4 devices" in caught.value.problems[0].message


def test_a_boot_disk_and_a_cdrom_without_serial_numbers_have_none_in_common() -> None:
    compiled("{device: cdrom}", "boot_disk: {bus: scsi},")


@pytest.mark.parametrize(
    ("bus", "most", "more"), [("scsi", 6, ""), ("sata", 5, ""), ("sata", 4, "boot_disk: {bus: sata},")]
)
def test_a_controller_has_room_for_so_many_disks(bus: str, most: int, more: str) -> None:
    """With one more, libvirt adds a controller that guests have no driver for, and status sees an edit."""
    text = (TEXT % "").replace(
        "MORE", f"libvirt_type: {{iso_guest: {{path: disk.qcow2, expand_gigabytes: 1}}}}, {more}"
    )
    text = text.replace("libvirt_type: {cloud_image: {path: disk.qcow2}}, ", "")
    disks = [f"{{size_gigabytes: 1, bus: {bus}}}"] * most
    files = MemoryFiles({"key.pub", "key", "disk.qcow2"})
    text = text.replace("{name: first, size_gigabytes: 1},\n        ", ", ".join(disks))
    compile_text(text, files=files)
    with pytest.raises(InputError) as caught:
        compile_text(text.replace("disks: [", f"disks: [{disks[0]}, "), files=files)
    (problem,) = caught.value.problems
    assert f"no place on the bus {bus}" in problem.message
    assert problem.path.endswith(f"disks[{most}]")


def test_a_guest_writes_to_its_boot_disk_and_to_its_further_ones() -> None:
    run = run_of(compiled("{path: disk.qcow2, bus: scsi}, {device: cdrom}"))
    assert run.boot_disk == "artefacts/web-cloud-init.img"
    assert run.disks == (run.boot_disk, "artefacts/web.first.qcow2", "artefacts/web.disk2.qcow2")
    assert run.image_disks == run.disks


def test_a_clone_has_disks_on_those_of_its_golden_image() -> None:
    run = run_of(compiled("{path: disk.qcow2}", SCALED), "web-0")
    assert run.boot_disk == "artefacts/web-0-linked-clone.qcow2"
    assert run.disks[1:] == ("artefacts/web-0.first.qcow2", "artefacts/web-0.disk2.qcow2")


def test_no_two_guests_have_a_disk_in_common() -> None:
    """Names of guests contain hyphens, and no dots."""
    paths = set()
    for guest, disk in (("web", "db-data"), ("web-db", "data")):
        text = (
            (TEXT % f"{{size_gigabytes: 1, name: {disk}}}")
            .replace("MORE", "")
            .replace("name: web", f"name: {guest}")
        )
        found = compile_text(text, files=MemoryFiles({"key.pub", "key", "disk.qcow2"}))
        paths.add(run_of(found, guest).disks[-1])
    assert paths == {"artefacts/web.db-data.qcow2", "artefacts/web-db.data.qcow2"}


@pytest.mark.parametrize(
    ("disk", "asked"),
    [
        ('<driver name="qemu" type="qcow2"/><source file="%s/artefacts/web.first.qcow2"/>', 0),
        # one file is never raw here and an image there: the guest could write the header of another image
        ('<driver name="qemu" type="raw"/><source file="%s/artefacts/web.first.qcow2"/>', 2),
        ('<driver name="qemu" type="qcow2"/><source file="%s/artefacts/db.first.qcow2"/>', 1),
        ('<driver name="qemu" type="qcow2"/><source file="%s/../../../etc/shadow"/>', 2),
    ],
)
def test_xml_that_was_edited_reaches_no_other_file(disk: str, asked: int) -> None:
    found = compiled("{size_gigabytes: 1}")
    run, state = run_of(found), decode_state(encode_state(found.state))
    guest = state.testbed_guests["web"]
    alias = '<alias name="ua-disk-first"/><serial>first</serial><boot order="1"/>'
    text = f'<disk type="file" device="disk">{disk % FOLDER}<target dev="vdc" bus="virtio"/>{alias}</disk>'
    xml = Xml(f'<domain type="qemu"><name>lab-web</name><devices>{text}</devices></domain>')
    plan = dialect("bridges").network_plan(state)
    found_files = [
        str(each) for each in (*of_domain(xml, guest, run, state, plan), *of_disks(xml, run, state))
    ]
    assert len(found_files) == asked, found_files
