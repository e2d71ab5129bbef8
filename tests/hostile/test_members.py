"""Users of one machine: what one tries with another's project, and with root's rights.

A member here is a user that tests make up; the server's user may become root, as with sudo.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import driven
import msgspec
import pytest
from kvm import Project
from sudoer import Sudoer

from hosts import TestHosts
from hosts.micro_image import micro_image as make_micro_image
from hosts.testbed import make_key
from hosts.tiny_image import tiny_image
from kvmcompose.core.commands import Down, Exec, Snapshot, Up
from kvmcompose.core.deployment import Deployment, NewDeployment
from kvmcompose.core.errors import RefusedError
from kvmcompose.effects.owner_files import OwnerFiles
from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.local import LocalRunner
from kvmcompose.providers.project_folder.driver import HostProjectFolders
from kvmcompose.providers.real import RealDrivers
from kvmcompose.server.actions import Actions
from kvmcompose.server.orchestrator import Orchestrator
from kvmcompose.server.people import Person, Role
from kvmcompose.server.store import Store

if TYPE_CHECKING:
    from hosts import TestHost

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.geteuid() != 0, reason="other users' rights are taken by root alone"),
]

ANN, EVE = 61_001, 61_002


@pytest.fixture(scope="session")
def real_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestHost]:
    with TestHosts(1, directory=tmp_path_factory.mktemp("hosts"), docker=True) as hosts:
        hosts[0].run(["docker", "load", "-i", tiny_image()])
        yield hosts[0]


@pytest.fixture(scope="session")
def micro_image() -> Path:
    return make_micro_image()


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that everybody may enter."""
    with tempfile.TemporaryDirectory(prefix="kc") as folder:
        path = Path(folder)
        path.chmod(0o755)
        yield path


def folder_of(uid: int, path: Path, mode: int = 0o755) -> Path:
    path.mkdir()
    os.chown(path, uid, 61_000)
    path.chmod(mode)
    return path


def test_a_project_that_one_may_not_look_into_is_not_gone(place: Path) -> None:
    links = place / "links"
    home = folder_of(ANN, place / "ann", 0o700)
    anns, eves = folder_of(ANN, home / "lab"), folder_of(EVE, place / "eves")
    asyncio.run(HostProjectFolders(Sudoer(ANN), links).link("lab", anns))
    with pytest.raises(DriverError, match="another project on main is named lab"):
        asyncio.run(HostProjectFolders(Sudoer(EVE), links).link("lab", eves))
    asyncio.run(HostProjectFolders(Sudoer(EVE), links).unlink("lab", eves))
    assert (links / "lab").readlink() == anns
    # and one that was moved is gone
    moved = anns.rename(home / "moved")
    asyncio.run(HostProjectFolders(Sudoer(ANN), links).link("lab", moved))
    assert (links / "lab").readlink() == moved


@pytest.mark.parametrize("name", [".kvm-compose", ".kvm-compose/consoles", ".kvm-compose/consoles/web.log"])
def test_consoles_are_not_written_through_links(place: Path, name: str) -> None:
    project, target = folder_of(ANN, place / "lab"), place / "target"
    target.mkdir()
    link = project / name
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(target)
    with pytest.raises(DriverError, match="is a link"):
        asyncio.run(HostProjectFolders(LocalRunner("main"), place / "links").link("lab", project))
    assert list(target.iterdir()) == []


@pytest.fixture
def anns(place: Path) -> Iterator[OwnerFiles]:
    files = OwnerFiles(ANN)
    yield files
    files.close()


def test_a_member_reads_what_a_member_may(place: Path, anns: OwnerFiles) -> None:
    project = folder_of(ANN, place / "lab")
    secret, mine = place / "secret", project / "mine"
    secret.write_text("root's\n")
    secret.chmod(0o600)
    mine.write_bytes(b"a" * 3_000_000)
    with mine.open("r+b") as file:
        file.truncate(9 << 20)
    os.chown(mine, ANN, 61_000)
    (project / "link").symlink_to(secret)
    (project / "hard").hardlink_to(secret)
    os.mkfifo(project / "pipe", 0o666)
    (project / "image").symlink_to(mine)
    for name in ("link", "hard", "../secret", "pipe", "none", "."):
        with pytest.raises(OSError):  # noqa: PT011 (of several kinds)
            anns.read(project / name)
    assert anns.read(mine, 10) == b"a" * 10
    assert anns.read(project / "image") == mine.read_bytes()
    assert anns.digest(project / "image") == hashlib.sha256(mine.read_bytes()).hexdigest()
    assert (anns.see(mine).linked, anns.see(project / "image").linked) == (False, True)
    for _ in anns.pieces(mine):
        break  # who does not read on disturbs nobody
    assert anns.read(mine, 3) == b"aaa"
    os.truncate(mine, 9 << 40)
    with pytest.raises(OSError, match="more than 1 TiB of it are holes"):
        anns.digest(mine)


def test_who_reads_for_a_member_is_the_member(anns: OwnerFiles) -> None:
    status = (
        dict(line.split(":", 1) for line in anns.read(Path("/proc/self/status")).decode().splitlines())
        if anns.see(Path("/proc/self/status")).size
        else {}
    )
    assert status == {}  # it has no size, and so nothing is read of it
    process = anns._process
    assert process is not None
    text = Path(f"/proc/{process.pid}/status").read_text()
    found = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    assert set(found["Uid"].split()) == {str(ANN)}
    assert (int(found["CapPrm"], 16), int(found["CapEff"], 16), found["NoNewPrivs"]) == (0, 0, "1")
    assert "0" not in found["Groups"].split()


def test_root_is_no_member() -> None:
    with pytest.raises(RefusedError):
        OwnerFiles(0)


# -- a member's testbed on root's server: the whole way, on a real host -------------------------------------

LAB = """\
machines:
  - name: golden
    libvirt:
      cpus: 1
      memory_mb: 128
      libvirt_type: {cloud_image: {name: micro}}
      scaling:
        count: 1
        shared_setup: shared.sh
        interfaces: [{bridge: br0, clones: [0]}]
  - name: web
    interfaces: [{bridge: br0}]
    libvirt:
      cpus: 1
      memory_mb: 128
      libvirt_type: {cloud_image: {name: micro, setup_script: setup.sh}}
      disks: [{name: shared, size_gigabytes: 1, shareable: true}]
  - name: box
    interfaces: [{bridge: br0}]
    docker:
      image: tiny:1
      command: [sleep, "4444"]
      setup_script: setup.sh
      context: shared.sh
network:
  bridges: [{name: br0}]
  external_bridge: br0
"""
SCRIPTS = ("setup.sh", "shared.sh")
#: Writes the beginning of a qcow2 image to the shared disk, which is not looked for one.
HEADER = r"""
for each in /sys/block/*; do [ "$(cat $each/serial 2>/dev/null)" = shared ] && disk=/dev/${each##*/}; done
printf 'QFI\373\0\0\0\3' >$disk && sync
"""
SCRIPT = "#!/bin/sh\necho done >/etc/set-up\n"


class MembersServer(Orchestrator):
    """A server of root's that works for a member."""

    def _owner(self, deployment: Deployment) -> Person:
        del deployment
        return Person(name="ann", role=Role.USER, uid=ANN)


async def act(folder: str, database: str, commands: list[list[Any]]) -> None:
    """Commands, each with how it has to end."""
    drivers, store = RealDrivers(), Store(Path(database))
    name = Path(folder).name
    if store.deployment(name) is None:
        store.put_deployment(NewDeployment(name, folder))
    server = MembersServer(drivers, store)
    kinds = {"up": Up, "down": Down, "exec": Exec, "snapshot": Snapshot}
    try:
        for kind, options, wanted in commands:
            actions = Actions(store, server)
            deployment = store.deployment(name)
            assert deployment is not None
            if kind == "status":
                found = await server.status(deployment)
                assert str(wanted) in str(found)
                continue
            uuid = actions.begin(deployment, msgspec.convert(options, kinds[kind]), "a test").uuid
            await actions.wait(uuid)
            action = store.action(uuid)
            assert action is not None
            said = "\n".join(line.text for line in store.lines(uuid, limit=10_000))
            assert action.state == ("succeeded" if wanted is True else "failed"), (
                f"{kind}: {action.faults}\n{said}"
            )
            assert wanted is True or wanted in f"{action.faults}{said}", f"{action.faults}\n{said}"
    finally:
        store.close()
        await drivers.close()


@pytest.fixture
def lab(place: Path, real_host: TestHost, micro_image: Path) -> Iterator[Callable[..., Path]]:
    del micro_image
    (place / "lab").mkdir()
    config = json.dumps(driven.CONFIG)
    files = {
        "kvm-compose.yaml": LAB,
        "kvm-compose-config.json": config,
        "setup.sh": SCRIPT,
        "shared.sh": SCRIPT,
    }
    make_key(place / "lab" / "key")
    project = Project(real_host, place, "lab", files)
    project.run("generate")
    folder = place / "lab"
    for link in (folder / "artefacts/images").iterdir():  # the image store is ann's own
        copy = place / link.resolve().name
        shutil.copy(link, copy)
        link.unlink()
        link.symlink_to(copy)
    for path in place.rglob("*"):
        os.chown(path, ANN, 61_000, follow_symlinks=False)

    def do(*commands: list[Any]) -> Path:
        driven.inside(
            real_host, act, folder=folder, database=place / "db" / "server.db", commands=commands, timeout=400
        )
        return folder

    yield do
    driven.inside(
        real_host, act, folder=folder, database=place / "db" / "server.db",
        commands=[["down", {"purge": True}, True]],
    )  # fmt: skip


def test_a_members_testbed_lives_in_a_tree_of_roots(
    lab: Callable[..., Path], real_host: TestHost, place: Path
) -> None:
    folder = lab(
        ["up", {}, True],
        ["status", {}, "running"],
        ["exec", {"guest": "web", "argv": ["cat", "/etc/set-up"]}, True],
        ["exec", {"guest": "box", "argv": ["cat", "/etc/set-up", "/etc/nocloud/context/shared.sh"]}, True],
        ["exec", {"guest": "box", "argv": ["ping", "-c", "1", "-W", "5", "web"]}, True],
        ["exec", {"guest": "web", "argv": ["sudo", "sh", "-c", HEADER]}, True],
        ["snapshot", {"verb": "create", "name": "one"}, "web writes to a shareable disk"],
        ["snapshot", {"verb": "create", "name": "one", "guests": ["golden-0"]}, True],
        ["up", {}, True],
        ["down", {}, True],
    )
    assert not (folder / ".kvm-compose/consoles").exists()
    assert not (folder / ".kvm-compose/known_hosts").exists()
    # from here on, what is the server's in every other project is a link to root's own folder
    private, bait = folder / ".kvm-compose", place / "bait"
    bait.mkdir(mode=0o700)
    private.rename(folder / "private")
    private.symlink_to(bait)
    os.chown(private, ANN, 61_000, follow_symlinks=False)
    lab(
        ["up", {}, True],
        ["exec", {"guest": "web", "argv": ["cat", "/etc/set-up"]}, True],
        ["snapshot", {"verb": "restore", "name": "one", "guests": ["golden-0"]}, True],
    )
    tree = "/var/lib/kvm-compose/.hosted/lab"
    assert real_host.run(["readlink", "/var/lib/kvm-compose/lab"]).stdout.strip() == tree
    assert real_host.run(["stat", "-c", "%u %a", f"{tree}/artefacts"]).stdout.strip() == "0 711"
    assert real_host.run(["stat", "-c", "%u", f"{tree}/.kvm-compose/consoles/web.log"]).stdout.strip() == "0"
    assert real_host.run(["stat", "-c", "%a", f"{tree}/.kvm-compose/known_hosts"]).stdout.strip() == "644"
    for path in folder.rglob("*"):  # nothing was written, nobody's owner or mode changed
        assert path.lstat().st_uid == ANN, path
    lab(["down", {"purge": True}, True])
    assert list(bait.iterdir()) == []
    assert real_host.run(["ls", "-A", "/var/lib/kvm-compose/.hosted"]).stdout.strip() == ""
    assert real_host.run(["docker", "ps", "-aq"]).stdout == ""


def test_links_of_a_members_lead_root_nowhere(lab: Callable[..., Path], place: Path) -> None:
    folder = place / "lab"
    secret = place / "shadow"
    secret.write_bytes(b"root:secret\n" * 100)
    secret.chmod(0o600)
    before = secret.stat()
    for name in ("web-cloud-init.iso", "web-cloud-init.img", "web-domain.xml"):
        artefact = folder / "artefacts" / name
        kept = artefact.rename(place / "kept")
        artefact.symlink_to(secret)
        lab(["up", {}, "artefacts are missing"])
        artefact.unlink()
        artefact.hardlink_to(secret)
        lab(["up", {}, "artefacts are missing"])
        artefact.unlink()
        os.mkfifo(artefact, 0o666)
        lab(["up", {}, "artefacts are missing"])
        artefact.unlink()
        kept.rename(artefact)
    state = (folder / "state.json").rename(place / "state")
    (folder / "state.json").symlink_to(secret)
    lab(["up", {}, "cannot be read"])
    (folder / "state.json").unlink()
    state.rename(folder / "state.json")
    # an image that names another file
    disk = folder / "artefacts" / "web-cloud-init.img"
    disk.rename(place / "kept")
    argv = ["qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", str(secret), "-F", "raw", str(disk), "64M"]
    subprocess.run(argv, check=True)
    os.chown(disk, ANN, 61_000)
    lab(["up", {}, "shadow"])
    (place / "kept").rename(disk)
    after = secret.stat()
    assert (after.st_mode, after.st_uid, after.st_mtime_ns) == (
        before.st_mode,
        before.st_uid,
        before.st_mtime_ns,
    )
