"""A guest writes the header of an image that names files of the host to a disk that guests share.

Nothing may take the file for that image: not a build, not the check of what is trusted, not qemu-img.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from golden.bench import Bench, new_bench
from kvmcompose.build.trust import asked_by
from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.local import LocalRunner
from kvmcompose.hosts.local_blobs import check_images
from kvmcompose.images.locks import is_open_in_qemu
from kvmcompose.providers.disks.driver import HostDisks

YAML = """\
machines:
  - name: one
    interfaces: [{bridge: br0}]
    libvirt: {cpus: 1, memory_mb: 64, libvirt_type: {cloud_image: {name: debian_12}},
      disks: [{name: quorum, size_gigabytes: 1, shareable: true}]}
  - name: two
    interfaces: [{bridge: br0}]
    libvirt: {cpus: 1, memory_mb: 64, libvirt_type: {cloud_image: {name: debian_12}},
      disks: [{name: quorum, size_gigabytes: 1, shareable: true}, {name: own, size_gigabytes: 1}]}
network:
  bridges: [{name: br0}]
  external_bridge: br0
"""
FILE = "shared.quorum.raw"


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """The project, after a guest has written to the disk."""
    bench = new_bench(tmp_path_factory.mktemp("shared"), "lab", {"kvm-compose.yaml": YAML})
    assert f"artefacts/{FILE}" in bench.generate("one")
    bench.generate()
    secret = bench.root / "secret"
    secret.write_text("secret")
    disk = bench.path(FILE)
    backing = ["-u", "-b", str(secret), "-F", "raw"]
    command = ["qemu-img", "create", "-q", "-f", "qcow2", *backing, str(disk), "1M"]
    subprocess.run(command, check=True)
    with disk.open("r+b") as file:
        file.truncate(1 << 30)
    return bench


def test_a_build_keeps_it_and_asks_for_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with bench.path(FILE).open("rb") as file:
        before = file.read(1 << 16)
    assert bench.plan() == {}
    ran = bench.run("why", "shared-disk:quorum")
    assert "its guest has run" in ran.said
    assert "secret" not in ran.said
    monkeypatch.setenv("KVM_COMPOSE_STORE", str(bench.root / "store"))
    assert asked_by(bench.folder).privileges == ()
    # of one of several guests, nothing is lost of what others have
    assert f"artefacts/{FILE}" not in bench.generate("--provision", "one")
    with bench.path(FILE).open("rb") as file:
        assert file.read(1 << 16) == before


def test_it_is_no_image_by_any_name(bench: Bench) -> None:
    link = bench.folder / "disks" / "link.raw"
    link.symlink_to(bench.path(FILE))
    own = "{name: own, size_gigabytes: 1}"
    for entry in (
        f"{{name: own, path: artefacts/{FILE}}}",
        f"{{name: own, path: artefacts/../artefacts/{FILE}, format: raw}}",
        "{name: own, path: disks/link.raw, create_deep_copy: true}",
    ):
        bench.edit(own, entry)
        (problem,) = bench.run("validate", "--json").json["problems"]
        bench.edit(entry, own)
        assert problem["message"].endswith("is a disk that guests share, and no image")
        assert problem["location"]["line"] == 9


def test_no_image_is_on_top_of_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVM_COMPOSE_STORE", str(bench.root / "store"))
    own = bench.path("two.own.qcow2")
    kept = own.read_bytes()
    link = bench.path("image")
    link.symlink_to(FILE)
    for backing, kind in ((FILE, "qcow2"), (FILE, "raw"), ("image", "qcow2")):
        create = ["qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", backing, "-F", kind, str(own), "1M"]
        subprocess.run(create, check=True)
        (asked,) = asked_by(bench.folder).privileges
        assert f"{FILE}', which guests share, as an image" in str(asked)
        with pytest.raises(DriverError, match="not one of the project's images"):
            check_images(bench.folder, ["artefacts/two.own.qcow2"])
    own.write_bytes(kept)
    link.unlink()


def test_it_grows_and_is_read_as_what_it_is(bench: Bench, tmp_path: Path) -> None:
    disk, disks = bench.path(FILE), HostDisks(LocalRunner("main"))
    asyncio.run(disks.ready_raw(disk, 2 << 30))
    asyncio.run(disks.ready_raw(disk, 1 << 30))
    assert asyncio.run(disks.length(disk)) == 2 << 30, "it never shrinks"
    assert not is_open_in_qemu(disk)
    opened = {"driver": "raw", "file": {"driver": "file", "filename": str(disk)}}
    argv = ["qemu-io", f"json:{json.dumps(opened)}"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as guest:
        assert guest.stdin is not None
        assert guest.stdout is not None
        guest.stdin.write(b"length\n")
        guest.stdin.flush()
        assert b"2 GiB" in guest.stdout.readline()
        assert is_open_in_qemu(disk)
        guest.stdin.close()
    # a file of another host's, or another user's, by a link
    victim = tmp_path / "victim"
    victim.write_text("kept")
    other = bench.path("shared.other.raw")
    for make in (other.symlink_to, other.hardlink_to):
        make(victim)
        with pytest.raises(DriverError, match="is a link, or not a regular file"):
            asyncio.run(disks.ready_raw(other, 1 << 20))
        other.unlink()
    assert victim.read_text() == "kept"
