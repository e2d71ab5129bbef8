"""Users of one machine: what one tries with another's project, and with root's rights.

A member here is a user that tests make up; the server's user may become root, as with sudo.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from kvmcompose.server.drivers import DriverError
from kvmcompose.server.drivers.disks import HostDisks
from kvmcompose.server.drivers.machine import Completed, ThisMachine

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.geteuid() != 0, reason="other users' rights are taken by root alone"),
]

ANN, EVE = 61_001, 61_002


class Sudoer(ThisMachine):
    """This machine, as a user sees it who may use sudo."""

    def __init__(self, uid: int) -> None:
        super().__init__("main")
        self._uid = uid

    async def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes | None = None,
        seconds: float = 60,
        privileged: bool = False,
        check: bool = True,
    ) -> Completed:
        rights = [] if privileged else ["setpriv", f"--reuid={self._uid}", "--regid=61000", "--clear-groups"]
        return await super().run([*rights, *argv], stdin=stdin, seconds=seconds, check=check)


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
    asyncio.run(HostDisks(Sudoer(ANN), links).link_project("lab", anns))
    with pytest.raises(DriverError, match="another project is called lab on main"):
        asyncio.run(HostDisks(Sudoer(EVE), links).link_project("lab", eves))
    asyncio.run(HostDisks(Sudoer(EVE), links).unlink_project("lab", eves))
    assert (links / "lab").readlink() == anns
    # and one that was moved is gone
    moved = anns.rename(home / "moved")
    asyncio.run(HostDisks(Sudoer(ANN), links).link_project("lab", moved))
    assert (links / "lab").readlink() == moved


@pytest.mark.parametrize("name", [".kvm-compose", ".kvm-compose/consoles", ".kvm-compose/consoles/web.log"])
def test_consoles_are_not_written_through_links(place: Path, name: str) -> None:
    project, target = folder_of(ANN, place / "lab"), place / "target"
    target.mkdir()
    link = project / name
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(target)
    with pytest.raises(DriverError, match="is a link"):
        asyncio.run(HostDisks(ThisMachine("main"), place / "links").link_project("lab", project))
    assert list(target.iterdir()) == []
