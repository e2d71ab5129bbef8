"""What is to be sent to another host, and what is noted of it."""

from __future__ import annotations

import hashlib
import os
import struct
import time
from pathlib import Path

import msgspec
import pytest

from kvmcompose.core.deployable import DomainGuest
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.hosts.transfer_plan import (
    Digests,
    NeededFile,
    Sent,
    forget_sent,
    needed_files,
    note_sent,
    read_sent,
)

MIB = 1 << 20
STORED = "5" * 64


def qcow2(path: Path, backing: str | None = None) -> None:
    """An empty image, as far as it matters here: the header (QEMU's docs/interop/qcow2.rst)."""
    name = (backing or "").encode()
    header = struct.pack(
        ">4sIQIIQIIQQIIQ", b"QFI\xfb", 2, 72 if backing else 0, len(name), 16, MIB, 0, 1, 0, 0, 0, 0, 0
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((header + name).ljust(4096, b"\0"))


def guest(name: str, *files: str, disk: str | None = None) -> DomainGuest:
    xml = f"artefacts/{name}-domain.xml"
    named = (xml, *files, *([disk] if disk else []))
    disks = (disk,) if disk else ()
    return DomainGuest(
        domain_xml=xml, files=named, disks=disks, boot_disk=disk, cloud_init=True, username=None
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project with an image, a golden image on it, a clone on that, and a disk that lies on the image."""
    stored = tmp_path / "store" / STORED
    qcow2(stored)
    project = tmp_path / "lab"
    (project / "artefacts/images").mkdir(parents=True)
    (project / "artefacts/images/debian.qcow2").symlink_to(stored)
    qcow2(project / "artefacts/golden.img", "images/debian.qcow2")
    qcow2(project / "artefacts/clone.qcow2", "golden.img")
    qcow2(project / "artefacts/web.img", "images/debian.qcow2")
    (project / "artefacts/web.iso").write_text("a seed")
    (project / "artefacts/media.iso").symlink_to(stored)
    return project


def test_a_disk_comes_with_all_that_it_lies_on(folder: Path) -> None:
    found = needed_files(folder, [guest("clone", disk="artefacts/clone.qcow2")])
    assert {path: (each.shared, each.disk) for path, each in found.items()} == {
        "artefacts/clone.qcow2": (False, True),
        "artefacts/golden.img": (True, False),
        "artefacts/images/debian.qcow2": (True, False),
    }
    assert found["artefacts/images/debian.qcow2"].source == str(folder.parent / "store" / STORED)


def test_domain_xml_stays_here_and_what_is_linked_to_an_image_is_shared(folder: Path) -> None:
    files = ("artefacts/web.iso", "artefacts/media.iso")
    found = needed_files(folder, [guest("web", *files, disk="artefacts/web.img")])
    assert {path: each.shared for path, each in found.items()} == {
        "artefacts/web.iso": False,
        "artefacts/media.iso": True,
        "artefacts/web.img": False,
        "artefacts/images/debian.qcow2": True,
    }


def test_many_guests_share_what_they_lie_on(folder: Path) -> None:
    guests = [guest("clone", disk="artefacts/clone.qcow2"), guest("web", disk="artefacts/web.img")]
    found = needed_files(folder, guests * 3)
    assert len(found) == 4


def test_holes_weigh_nothing(folder: Path) -> None:
    path = folder / "artefacts/web.iso"
    with path.open("wb") as file:
        file.truncate(100 * MIB)
        file.write(b"x" * 4096)
    parcel = needed_files(folder, [guest("web", "artefacts/web.iso")])["artefacts/web.iso"]
    assert 0 < parcel.size < MIB


def test_a_disk_that_lies_on_itself_is_an_error(folder: Path) -> None:
    qcow2(folder / "artefacts/golden.img", "clone.qcow2")
    with pytest.raises(KvmComposeError, match=r"artefacts/clone\.qcow2 has a chain of more than"):
        needed_files(folder, [guest("clone", disk="artefacts/clone.qcow2")])


def test_notes_are_not_read_through_a_link(folder: Path, tmp_path: Path) -> None:
    """The folder is a member's, and root's server reads it."""
    (folder / ".kvm-compose").mkdir()
    note_sent(folder, "two", Sent())
    noted = folder / ".kvm-compose/sent.json"
    noted.rename(tmp_path / "elsewhere.json")
    noted.symlink_to(tmp_path / "elsewhere.json")
    assert read_sent(folder) == {}


def test_what_is_not_there_is_said(folder: Path) -> None:
    (folder / "artefacts/golden.img").unlink()
    with pytest.raises(FileNotFoundError):
        needed_files(folder, [guest("clone", disk="artefacts/clone.qcow2")])


def test_images_of_the_store_are_called_by_their_digest(folder: Path) -> None:
    (folder.parent / "store" / STORED).unlink()  # it is not even looked at
    assert Digests(folder).of(str(folder.parent / "store" / STORED)) == STORED


def test_digests_are_those_of_the_files_as_they_are(folder: Path) -> None:
    path = folder / "artefacts/web.iso"
    digests = Digests(folder)
    assert digests.of(str(path)) == hashlib.sha256(b"a seed").hexdigest()
    path.write_text("b seed")
    digests.recheck()
    assert digests.of(str(path)) == hashlib.sha256(b"b seed").hexdigest()


def test_digests_are_remembered_for_files_that_stay_as_they_are(folder: Path) -> None:
    path = folder / "artefacts/web.iso"
    os.utime(path, ns=(1, 1))
    while path.stat().st_ctime_ns + 30_000_000 > time.time_ns():
        pass  # a change just now might not show
    (folder / ".kvm-compose").mkdir()
    first = Digests(folder)
    first.of(str(path))
    first.keep()
    again = Digests(folder)
    again.of(str(path))
    assert not again._cache.fresh  # it was not read
    path.write_text("c seed")
    assert Digests(folder).of(str(path)) == hashlib.sha256(b"c seed").hexdigest()
    (folder / ".kvm-compose/digests.json").write_text("{")
    assert Digests(folder).of(str(path)) == hashlib.sha256(b"c seed").hexdigest()


def test_what_was_sent_is_noted_by_host(folder: Path) -> None:
    assert read_sent(folder) == {}
    (folder / ".kvm-compose").mkdir()
    two, three = Sent(frozenset({STORED}), {"artefacts/web.iso": "1" * 64}), Sent()
    note_sent(folder, "two", two)
    note_sent(folder, "three", three)
    assert read_sent(folder) == {"two": two, "three": three}
    forget_sent(folder, "two")
    forget_sent(folder, "never-there")
    assert read_sent(folder) == {"three": three}
    (folder / ".kvm-compose/sent.json").write_text("[1]")
    assert read_sent(folder) == {}
    note_sent(folder, "two", two)
    assert read_sent(folder) == {"two": two}


def test_a_parcel_says_where_it_comes_from(folder: Path) -> None:
    found = needed_files(folder, [guest("web", "artefacts/web.iso")])
    source = folder / "artefacts/web.iso"
    assert found == {
        "artefacts/web.iso": NeededFile(path="artefacts/web.iso", source=str(source), size=len("a seed"))
    }


def test_what_a_raw_disk_begins_with_names_no_file(folder: Path) -> None:
    """Its guest writes its first bytes, too: a header in it must not have another file be sent."""
    qcow2(folder / "artefacts/vars.fd", "/etc/passwd")
    one = guest("web", "artefacts/vars.fd", disk="artefacts/web.img")
    one = msgspec.structs.replace(
        one, disks=(*one.disks, "artefacts/vars.fd"), raw_disks=frozenset({"artefacts/vars.fd"})
    )
    found = needed_files(folder, [one])["artefacts/vars.fd"]
    assert (found.disk, found.raw, found.shared, found.below) == (True, True, False, ())
    assert one.image_disks == ("artefacts/web.img",)
