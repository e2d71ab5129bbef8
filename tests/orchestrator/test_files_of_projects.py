"""Files of projects on a host, by real programs on files of the test: whatever links are in the way."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import time
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Any

import pytest

from kvmcompose.hosts.command import Completed
from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.local import LocalRunner
from kvmcompose.providers.console_logs.driver import HostConsoleLogs
from kvmcompose.providers.disks.driver import HostDisks
from kvmcompose.providers.project_folder.driver import HostProjectFolders


class Ordinary(LocalRunner):
    """Programs that do not run as root cannot use ``closed`` files; which ran as root is noted."""

    def __init__(self, *closed: Path) -> None:
        super().__init__("main")
        self.closed = tuple(map(str, closed))
        self.as_root: list[str] = []

    async def run(self, argv: Sequence[str], *, privileged: bool = False, **options: Any) -> Completed:
        if privileged:
            self.as_root.append(argv[0])
        elif any(word.removeprefix("if=").startswith(self.closed) for word in argv if self.closed):
            return Completed(1, b"", f"{argv[0]}: Permission denied".encode())
        elif self.closed and Path(argv[4] if argv[0] == "sh" else "/").is_relative_to(self.closed[0]):
            return Completed(1, b"", b"sh: Permission denied")
        return await super().run(argv, **options)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "lab/artefacts").mkdir(parents=True)
    (tmp_path / "lab/.kvm-compose/consoles").mkdir(parents=True)
    return tmp_path / "lab"


@pytest.fixture
def disks() -> HostDisks:
    return HostDisks(LocalRunner("main"))


@pytest.fixture
def logs() -> HostConsoleLogs:
    return HostConsoleLogs(LocalRunner("main"))


@pytest.fixture
def folders(tmp_path: Path) -> HostProjectFolders:
    return HostProjectFolders(LocalRunner("main"), tmp_path / "projects")


def done(call: Awaitable[Any]) -> Any:
    async def run() -> Any:
        return await asyncio.wait_for(call, 30)

    return asyncio.run(run())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_disk_is_frozen_and_thawed(disks: HostDisks, project: Path) -> None:
    disk = project / "artefacts/base.qcow2"
    disk.write_bytes(b"x")
    disk.chmod(0o664)
    signature = done(disks.signature(disk))
    done(disks.set_frozen(disk, frozen=True))
    assert mode(disk) == 0o444
    assert done(disks.signature(disk)) == signature
    done(disks.set_frozen(disk, frozen=False))
    assert mode(disk) == 0o644
    disk.write_bytes(b"y")
    assert done(disks.signature(disk)) != signature


def test_a_file_is_removed_once(disks: HostDisks, project: Path) -> None:
    disk = project / "artefacts/web.img"
    disk.write_bytes(b"x")
    for _ in range(2):
        done(disks.remove(disk))
        assert not disk.exists()
    done(disks.remove(project / "artefacts/nowhere/web.img"))


def test_the_last_lines_of_a_console_are_read(logs: HostConsoleLogs, project: Path) -> None:
    log = project / ".kvm-compose/consoles/web.log"
    assert done(logs.read_tail(log, 3)) == ""
    log.write_bytes(b"".join(b"line %d\n" % number for number in range(50_000)) + b"\xff no end")
    assert done(logs.read_tail(log, 3)) == "line 49998\nline 49999\n\ufffd no end"
    assert done(logs.read_tail(log, 0)) == ""
    assert len(done(logs.read_tail(log, 10**6))) < 1 << 19


def test_a_console_is_read_in_parts(logs: HostConsoleLogs, project: Path) -> None:
    log = project / ".kvm-compose/consoles/web.log"
    assert done(logs.read_from(log, None, 10)) == (0, b"")
    log.write_bytes(data := bytes(range(256)))
    assert done(logs.read_from(log, None, 10)) == (246, data[246:])
    assert done(logs.read_from(log, None, 1000)) == (0, data)
    assert done(logs.read_from(log, 0, 10)) == (0, data[:10])
    assert done(logs.read_from(log, 250, 10)) == (250, data[250:])
    assert done(logs.read_from(log, 256, 10)) == (256, b"")
    assert done(logs.read_from(log, 257, 10)) == (0, data[:10])  # the guest was started again


@pytest.mark.parametrize("started_again", [False, True])
def test_a_console_is_waited_for(logs: HostConsoleLogs, project: Path, started_again: bool) -> None:
    log = project / ".kvm-compose/consoles/web.log"
    log.write_bytes(b"before")

    async def scenario() -> tuple[int, bytes]:
        reading = asyncio.create_task(logs.read_from(log, 6, 100, wait=30))
        await asyncio.sleep(0.5)
        assert not reading.done()
        with log.open("wb" if started_again else "ab") as file:
            file.write(b"new")
        return await asyncio.wait_for(reading, 10)

    assert done(scenario()) == ((0, b"new") if started_again else (6, b"new"))
    began = time.monotonic()
    assert done(logs.read_from(log, log.stat().st_size, 100, wait=1)) == (log.stat().st_size, b"")
    assert 0.5 < time.monotonic() - began < 10


@pytest.mark.parametrize("way", ["file", "folder", "hard"])
def test_nothing_is_changed_or_read_through_a_link(
    disks: HostDisks, logs: HostConsoleLogs, project: Path, tmp_path: Path, way: str
) -> None:
    victim = tmp_path / "elsewhere/web.img"
    victim.parent.mkdir()
    victim.write_text("a secret")
    disk = project / "artefacts/web.img"
    if way == "folder":
        disk.parent.rmdir()
        disk.parent.symlink_to(victim.parent)
    elif way == "file":
        disk.symlink_to(victim)
    else:
        disk.hardlink_to(victim)
    before = victim.stat()
    for call in (disks.set_frozen(disk, frozen=True), logs.read_tail(disk, 1)):
        with pytest.raises(DriverError, match="on main is a link, or not a regular file") as caught:
            done(call)
        named = disk.parent if way == "folder" else disk
        assert f"mv {named} {named}.found" in str(caught.value.hint)
    if way == "folder":
        with pytest.raises(DriverError, match="is a link"):
            done(disks.remove(disk))
    assert (victim.stat().st_mode, victim.read_text()) == (before.st_mode, "a secret")


def test_what_is_not_there_is_said_with_what_helps(disks: HostDisks, project: Path) -> None:
    gone = project / "artefacts/gone.img"
    for call in (disks.signature(gone), disks.pristine(gone), disks.reset_overlay(gone)):
        with pytest.raises(DriverError, match=f"^{gone} does not exist on main$") as caught:
            done(call)
        assert "kvm-compose generate" in str(caught.value.hint)
    with pytest.raises(DriverError):
        done(disks.set_frozen(gone, frozen=True))
    folder = project / "artefacts"
    with pytest.raises(DriverError, match=f"cannot read {folder} on main: .*Is a directory"):
        done(disks.pristine(folder))


def test_files_of_roots_are_handled_as_root_and_others_are_not(project: Path) -> None:
    log, disk = project / ".kvm-compose/consoles/web.log", project / "artefacts/web.img"
    for path in (log, disk):
        path.write_bytes(bytes(4096))
    own = Ordinary()
    disks, logs = HostDisks(own), HostConsoleLogs(own)
    done(logs.read_tail(log, 1))
    done(disks.pristine(disk))
    done(disks.set_frozen(disk, frozen=True))
    assert own.as_root == []
    closed = Ordinary(project)
    disks, logs = HostDisks(closed), HostConsoleLogs(closed)
    assert done(logs.read_tail(log, 1)) == "\0" * 4096
    assert not done(disks.pristine(disk))
    done(disks.set_frozen(disk, frozen=False))
    done(disks.remove(disk))
    assert not disk.exists()
    assert closed.as_root == ["sh", "dd", "sh", "sh"]


def test_the_file_for_variables_is_libvirts_to_make(disks: HostDisks, project: Path) -> None:
    nvram, elsewhere = project / "artefacts/web-uefi-nvram.fd", project / "elsewhere"
    elsewhere.write_text("of the host")
    nvram.write_bytes(b"")
    nvram.with_name(f"{nvram.name}.new").symlink_to(elsewhere)
    done(disks.ready_nvram(nvram, fresh=False))
    assert list(nvram.parent.glob("web-uefi*")) == []  # an empty one is as good as none
    done(disks.ready_nvram(nvram, fresh=False))
    nvram.write_bytes(b"boot entries")
    done(disks.ready_nvram(nvram, fresh=False))
    assert nvram.read_bytes() == b"boot entries"
    done(disks.ready_nvram(nvram, fresh=True))
    assert not nvram.exists()
    for take in (nvram.symlink_to, nvram.hardlink_to):
        take(elsewhere)
        with pytest.raises(DriverError, match="is a link, or not a regular file"):
            done(disks.ready_nvram(nvram, fresh=False))
        nvram.unlink()
    nvram.mkdir()
    with pytest.raises(DriverError, match="is a link, or not a regular file"):
        done(disks.ready_nvram(nvram, fresh=False))
    assert elsewhere.read_text() == "of the host"


def test_a_raw_disk_is_made_as_long_as_it_is_to_be_and_no_shorter(project: Path) -> None:
    """As root, where libvirt has left it to QEMU's user."""
    disk = project / "artefacts/shared.quorum.raw"
    disk.write_bytes(b"QFI\xfb of a guest")
    closed = Ordinary(project)
    disks = HostDisks(closed)
    for size in (1 << 30, 1 << 20):
        done(disks.ready_raw(disk, size))
        assert done(disks.length(disk)) == 1 << 30
    with disk.open("rb") as file:
        assert file.read(14) == b"QFI\xfb of a gues"
    assert disk.stat().st_blocks < 64, "it has holes"

    async def at_a_time() -> None:
        await asyncio.gather(*(HostDisks(LocalRunner("main")).ready_raw(empty, 1 << 20) for _ in range(8)))

    empty = disk.with_name("shared.new.raw")
    empty.touch()
    asyncio.run(at_a_time())
    assert empty.stat().st_size == 1 << 20
    assert set(closed.as_root) == {"sh", "stat"}


def test_an_overlay_is_emptied_in_place(disks: HostDisks, project: Path) -> None:
    base, overlay = project / "artefacts/base.qcow2", project / "artefacts/web.img"

    async def make() -> None:
        runner = LocalRunner("main")
        await runner.run(["qemu-img", "create", "-q", "-f", "qcow2", str(base), "64M"])
        words = ["-u", "-b", "base.qcow2", "-F", "qcow2"]
        await runner.run(["qemu-img", "create", "-q", "-f", "qcow2", *words, str(overlay), "96M"])

    done(make())
    overlay.chmod(0o640)
    assert done(disks.pristine(overlay))
    with overlay.open("r+b") as file:  # an entry in its first-level table
        file.seek(int.from_bytes(overlay.read_bytes()[40:48], "big"))
        file.write(b"\x80\0\0\0\0\4\0\0")
    assert not done(disks.pristine(overlay))
    inode = overlay.stat().st_ino
    done(disks.reset_overlay(overlay))
    assert done(disks.pristine(overlay))
    assert overlay.stat().st_ino != inode
    assert mode(overlay) == 0o640
    assert int.from_bytes(overlay.read_bytes()[24:32], "big") == 96 << 20
    assert sorted(path.name for path in overlay.parent.iterdir()) == ["base.qcow2", "web.img"]
    with pytest.raises(DriverError, match="is not an overlay"):
        done(disks.reset_overlay(base))


def test_a_project_is_linked_under_its_name(
    folders: HostProjectFolders, project: Path, tmp_path: Path
) -> None:
    link = tmp_path / "projects/lab"
    shutil.rmtree(project / ".kvm-compose")
    for folder in (project, project, tmp_path / "other/../lab"):
        done(folders.link("lab", folder))
        assert link.readlink() == project
    assert (project / ".kvm-compose/consoles").is_dir()
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(
        DriverError, match=f"another project on main is named lab: {link} points to {project}"
    ):
        done(folders.link("lab", other))
    done(folders.unlink("lab", other))
    assert link.is_symlink()  # it is another's
    done(folders.link("lab", other, before=project))  # it is known to have been there before
    assert link.readlink() == other
    other.rename(tmp_path / "moved")
    done(folders.link("lab", project))  # the other one is gone
    assert link.readlink() == project
    for _ in range(2):
        done(folders.unlink("lab", project))
        assert not os.path.lexists(link)
    assert list((tmp_path / "projects").iterdir()) == []


def test_something_else_in_the_place_of_a_link_is_left_alone(
    folders: HostProjectFolders, project: Path, tmp_path: Path
) -> None:
    there = tmp_path / "projects/lab"
    there.mkdir(parents=True)
    for call in (folders.link("lab", project), folders.unlink("lab", project)):
        with pytest.raises(DriverError, match=f"{there} on main is a directory, not a link to a project"):
            done(call)
    assert there.is_dir()


@pytest.mark.parametrize("place", [".kvm-compose", ".kvm-compose/consoles", ".kvm-compose/consoles/web.log"])
def test_consoles_are_not_written_through_links(
    folders: HostProjectFolders, project: Path, tmp_path: Path, place: str
) -> None:
    """QEMU writes them as root."""
    (tmp_path / "elsewhere/consoles").mkdir(parents=True)
    path = project / place
    if path.is_dir():
        shutil.rmtree(path)
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DriverError, match=f"{path} on main is a link") as caught:
        done(folders.link("lab", project))
    assert f"rm {path}" in str(caught.value.hint)
