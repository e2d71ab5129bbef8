"""Links in a project from elsewhere, whose owner is trusted: nothing is done to what they lead to.

The server is the owner's own, and may become root with sudo, or it is root's. What would be reached by a link
here are files of tests, with the modes and owners of what an attack would be after.
"""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from sudoer import Sudoer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from golden.bench import tiny_qcow2
from kvmcompose.core.commands import Down, Up
from kvmcompose.core.deployment import ActionState
from kvmcompose.core.errors import RefusedError
from kvmcompose.effects import private
from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.local import LocalRunner
from kvmcompose.hosts.transfer_plan import Sent, note_sent
from kvmcompose.providers.console_logs.driver import HostConsoleLogs
from kvmcompose.providers.disks.driver import HostDisks
from kvmcompose.providers.guest.known_hosts import KnownHosts
from orchestrator.conftest import Lab, lab, new_lab, template

__all__ = ["lab", "new_lab", "template"]

ANN = 61_001
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="other users' rights are taken by root alone")
DISK, CONSOLE = "artefacts/golden.qcow2", ".kvm-compose/consoles/auth.log"


def state_of(path: Path) -> tuple[int, int, bytes]:
    status = path.stat()
    return stat.S_IMODE(status.st_mode), status.st_ino, path.read_bytes()


@pytest.fixture(params=["own", pytest.param("sudo", marks=as_root)])
def machine(request: pytest.FixtureRequest) -> LocalRunner:
    """Of a server with the rights of these tests, and of a user's that may become root."""
    return Sudoer(ANN) if request.param == "sudo" else LocalRunner("main")


@pytest.fixture
def disks(machine: LocalRunner) -> HostDisks:
    return HostDisks(machine)


@pytest.fixture
def logs(machine: LocalRunner) -> HostConsoleLogs:
    return HostConsoleLogs(machine)


@pytest.fixture
def target(place: Path) -> Path:
    """What only its owner reads, and nobody is to change."""
    (place / "elsewhere").mkdir()
    path = place / "elsewhere" / "golden.qcow2"
    path.write_bytes(tiny_qcow2(backing="images/base.raw"))
    path.chmod(0o400)
    path.with_name("auth.log").write_text("root's own\n")
    path.with_name("auth.log").chmod(0o400)
    return path


def link_of(project: Path, path: str, target: Path, kind: str) -> Path:
    """Lay a link in the way: the file itself, its folder, or another name of what is elsewhere."""
    link = project / path
    if kind == "folder":
        link.parent.parent.mkdir(parents=True)
        link.parent.symlink_to(target.parent)
        return link
    link.parent.mkdir(parents=True)
    if kind == "hard":
        link.hardlink_to(target)
    else:
        link.symlink_to(target)
    return link


def owned(project: Path) -> None:
    if os.geteuid() == 0:
        for each in (project, *(path for path in project.rglob("*") if path.is_dir())):
            if not each.is_symlink():
                os.chown(each, ANN, 61_000)


@pytest.mark.parametrize("kind", ["file", "folder", "hard"])
@pytest.mark.parametrize("frozen", [True, False])
def test_modes_of_what_a_disk_leads_to_stay(
    disks: HostDisks, place: Path, target: Path, kind: str, frozen: bool
) -> None:
    target.chmod(0o400 if not frozen else 0o600)
    disk = link_of(place / "lab", DISK, target, kind)
    owned(place / "lab")
    before = state_of(target)
    with pytest.raises(DriverError, match="is a link, or not a regular file") as caught:
        asyncio.run(disks.set_frozen(disk, frozen))
    assert state_of(target) == before
    assert caught.value.hint is not None
    assert str(place / "lab/artefacts") in caught.value.hint


@pytest.mark.parametrize("kind", ["file", "folder", "hard"])
def test_nobody_reads_through_a_console(logs: HostConsoleLogs, place: Path, target: Path, kind: str) -> None:
    console = link_of(place / "lab", CONSOLE, target.with_name("auth.log"), kind)
    owned(place / "lab")
    with pytest.raises(DriverError, match="is a link, or not a regular file"):
        asyncio.run(logs.read_tail(console, 30))
    with pytest.raises(DriverError, match="is a link, or not a regular file"):
        asyncio.run(logs.read_from(console, None, 30))


def test_nothing_is_removed_elsewhere(disks: HostDisks, place: Path, target: Path) -> None:
    log = target.with_name("auth.log")
    console = link_of(place / "lab", CONSOLE, log, "folder")
    owned(place / "lab")
    with pytest.raises(DriverError, match="is a link"):
        asyncio.run(disks.remove(console))
    assert log.read_text() == "root's own\n"
    disk = link_of(place / "lab", DISK, target, "file")
    owned(place / "lab")
    asyncio.run(disks.remove(disk))  # the link itself may go
    assert target.exists()
    assert not disk.is_symlink()


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_no_disk_elsewhere_is_made_anew(disks: HostDisks, place: Path, target: Path, kind: str) -> None:
    disk = link_of(place / "lab", DISK, target, kind)
    for folder in (target.parent, disk.parent):
        (folder / "images").mkdir(exist_ok=True)
        (folder / "images" / "base.raw").touch()
    owned(place / "lab")
    owned(target.parent)
    before = state_of(target)
    with pytest.raises(DriverError):
        asyncio.run(disks.reset_overlay(disk))
    assert state_of(target) == before
    assert sorted(path.name for path in target.parent.iterdir()) == ["auth.log", "golden.qcow2", "images"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_no_disk_elsewhere_grows(disks: HostDisks, place: Path, target: Path, kind: str) -> None:
    disk = link_of(place / "lab", DISK, target, kind)
    owned(place / "lab")
    owned(target.parent)
    before = state_of(target)
    with pytest.raises(DriverError, match="is a link"):
        asyncio.run(disks.grow(disk, 1 << 40))
    assert state_of(target) == before


def test_a_disk_that_is_a_pipe_holds_nothing_up(disks: HostDisks, place: Path) -> None:
    disk = place / "lab" / DISK
    disk.parent.mkdir(parents=True)
    os.mkfifo(disk)
    owned(place / "lab")
    with pytest.raises(DriverError, match="is a link, or not a regular file"):
        asyncio.run(asyncio.wait_for(disks.set_frozen(disk, frozen=True), 20))


@as_root
def test_what_is_roots_in_the_folder_is_still_worked_with(place: Path) -> None:
    """libvirt leaves disks and consoles to root."""
    disks, logs = HostDisks(Sudoer(ANN)), HostConsoleLogs(Sudoer(ANN))
    disk, console = place / "lab" / DISK, place / "lab" / CONSOLE
    for each in (disk, console):
        each.parent.mkdir(parents=True)
        each.write_text("text\n")
        each.chmod(0o600)
    owned(place / "lab")
    asyncio.run(disks.set_frozen(disk, frozen=True))
    assert stat.S_IMODE(disk.stat().st_mode) == 0o400
    asyncio.run(disks.set_frozen(disk, frozen=False))
    assert stat.S_IMODE(disk.stat().st_mode) == 0o600
    assert asyncio.run(logs.read_tail(console, 3)) == "text\n"
    assert asyncio.run(logs.read_from(console, 1, 3)) == (1, b"ext")
    for each in (disk, console):
        asyncio.run(disks.remove(each))
        asyncio.run(disks.remove(each))
        assert not each.exists()


# -- what the server itself writes


@pytest.mark.parametrize("kind", ["folder", "lock"])
def test_host_keys_are_not_written_elsewhere(place: Path, target: Path, kind: str) -> None:
    folder = place / "lab" / ".kvm-compose"
    folder.parent.mkdir()
    if kind == "folder":
        folder.symlink_to(target.parent)
    else:
        folder.mkdir()
        (folder / "known_hosts.lock").symlink_to(target.parent / "nologin")
    with pytest.raises(OSError):  # noqa: PT011 (of several kinds)
        KnownHosts(folder / "known_hosts").note("lab-web", "ssh-ed25519 AAAA")
    assert sorted(path.name for path in target.parent.iterdir()) == ["auth.log", "golden.qcow2"]


def test_host_keys_are_not_read_elsewhere(place: Path, target: Path) -> None:
    known = target.with_name("auth.log")
    known.chmod(0o600)
    known.write_text("lab-web ssh-ed25519 AAAA\n")
    (place / "known_hosts").symlink_to(known)
    with pytest.raises(OSError):  # noqa: PT011 (ELOOP, or of the door)
        KnownHosts(place / "known_hosts").key("lab-web")


def test_notes_are_not_written_elsewhere(place: Path, target: Path) -> None:
    (place / "lab").mkdir()
    (place / "lab" / ".kvm-compose").symlink_to(target.parent)
    with pytest.raises(NotADirectoryError):
        note_sent(place / "lab", "two", Sent())
    with pytest.raises(NotADirectoryError):
        private.remove(place / "lab" / ".kvm-compose" / "auth.log")
    assert sorted(path.name for path in target.parent.iterdir()) == ["auth.log", "golden.qcow2"]


# -- before anything is changed


def _first(lab: Lab, ending: str) -> str:
    return next(str(path.relative_to(lab.folder)) for path in sorted((lab.folder / "artefacts").iterdir())
                if path.name.endswith(ending))  # fmt: skip


def _replace(lab: Lab, path: str, target: Path) -> str:
    link = lab.folder / path
    link.rename(target)
    link.symlink_to(target)
    return path


def _hard(lab: Lab, target: Path) -> str:
    path = _first(lab, "-cloud-init.iso")
    target.hardlink_to(lab.folder / path)
    return path


ATTACKS: dict[str, Callable[[Lab, Path], str]] = {
    "seed": lambda lab, target: _replace(lab, _first(lab, "-cloud-init.iso"), target),
    "disk": lambda lab, target: _replace(lab, _first(lab, "-cloud-init.img"), target),
    "domain": lambda lab, target: _replace(lab, _first(lab, "-domain.xml"), target),
    "network": lambda lab, target: _replace(lab, _first(lab, "network.xml"), target),
    "folder": lambda lab, target: _replace(lab, "artefacts", target),
    "another name": _hard,
    "private folder": lambda lab, target: _replace(lab, ".kvm-compose", target),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_up_refuses_links_before_anything_is_changed(lab: Lab, tmp_path: Path, attack: str) -> None:
    path = ATTACKS[attack](lab, tmp_path / "target")
    before = msgspec.json.encode(lab.world)
    action = lab.do(Up())
    assert action.state is ActionState.FAILED
    said = msgspec.json.encode(action.faults).decode()
    assert path in said
    assert "no build made" in said or "it is not used" in said
    assert "rm -r " in said or "mv " in said
    assert msgspec.json.encode(lab.world) == before


def test_purge_forgets_nothing_elsewhere(lab: Lab, tmp_path: Path) -> None:
    known = tmp_path / "ssh" / "known_hosts"
    known.parent.mkdir()
    known.write_text("mine\n")
    assert lab.do(Up()).state is ActionState.SUCCEEDED
    (lab.folder / ".kvm-compose").rename(tmp_path / "away")
    (lab.folder / ".kvm-compose").symlink_to(known.parent)
    lab.do(Down(purge=True))
    assert known.read_text() == "mine\n"


@as_root
def test_a_build_goes_on_beside_notes_of_roots_server(place: Path) -> None:
    folder = place / "lab" / ".kvm-compose"
    folder.mkdir(parents=True)
    for name in ("golden.json", "in-use.json", "known_hosts", "sent.json"):
        (folder / name).write_text("{}")
        (folder / name).chmod(0o600)
    for each in (folder.parent, folder):
        os.chown(each, ANN, 61_000)
    child = os.fork()
    if not child:
        os.setgroups([])
        os.setgid(61_000)
        os.setuid(ANN)
        try:
            private.prepare(folder)
        except (OSError, RefusedError):
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
