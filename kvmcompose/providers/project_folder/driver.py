"""The links to the folders of projects on a host."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from pathlib import Path

from kvmcompose.core.model import PROJECTS_ROOT
from kvmcompose.hosts.command import CommandRunner, failure
from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.guarded_files import A_LINK, NO_FILE, is_nothing

CONSOLES = Path(".kvm-compose", "consoles")
#: Arguments: folder, and paths in it at which folders are created.
_MAKE_CONSOLES = """\
cd -- "$1" || exit
shift
for each; do
    if [ -L "$each" ]; then printf %s "$each"; exit 66; fi
    [ -d "$each" ] || mkdir -- "$each" || [ -d "$each" ] || exit
done
for each in .kvm-compose/consoles/* .kvm-compose/consoles/.[!.]*; do
    if [ -L "$each" ]; then printf %s "$each"; exit 66; fi
done
"""


class HostProjectFolders:
    """See ``ProjectFolders``. ``projects`` is where the links to projects are."""

    def __init__(self, runner: CommandRunner, projects: Path = Path(PROJECTS_ROOT)) -> None:
        self._runner = runner
        self._projects = projects

    async def link(self, project: str, folder: Path, before: Path | None = None) -> None:
        """Link ``/var/lib/kvm-compose/<project>`` to the folder, and create a folder for consoles in it.

        A link to a folder that was moved away is replaced. Root checks that, because a folder that we may not
        enter exists all the same.
        """
        folder = await self._resolved(folder)
        link = self._path(project)
        current = await self._target(link)
        if current != folder:
            if current not in (None, before) and current is not None and not await self._is_gone(current):
                raise DriverError(
                    f"another project on {self._runner.name} is named {project}: {link} points to {current},"
                    f" not to {folder}",
                    hint=f"bring that one down first, or remove the link: sudo rm {link}",
                )
            await self._make_link(link, folder)
        await self._make_consoles(folder)

    async def linked(self, project: str, folders: Sequence[Path]) -> Path | None:
        target = await self._target(self._path(project))
        if target is None:
            return None
        for folder in folders:
            if target == await self._resolved(folder):
                return folder
        return None

    async def unlink(self, project: str, folder: Path) -> None:
        link = self._path(project)
        if await self._target(link) == await self._resolved(folder):
            await self._runner.run(["rm", "-f", "--", str(link)], privileged=True)

    def _path(self, project: str) -> Path:
        if project in {"", ".", ".."} or "/" in project:
            raise DriverError(f"invalid project name: {project!r}")
        return self._projects / project

    async def _make_link(self, link: Path, folder: Path) -> None:
        """Create the link under another name and rename it, so that there is a link at any time."""
        await self._runner.run(["mkdir", "-p", "-m", "755", "--", str(self._projects)], privileged=True)
        staged = self._projects / f".{link.name}-{uuid.uuid4().hex}"
        await self._runner.run(["ln", "-s", "--", str(folder), str(staged)], privileged=True)
        try:
            await self._runner.run(["mv", "-fT", "--", str(staged), str(link)], privileged=True)
        except BaseException:
            await self._runner.run(["rm", "-f", "--", str(staged)], privileged=True, check=False)
            raise

    async def _resolved(self, folder: Path) -> Path:
        """Return the folder with all links resolved, even if it does not exist."""
        argv = ["realpath", "-m", "--", str(folder)]
        done = await self._runner.run(argv, check=False)
        if done.status != 0:  # in a folder that we may not enter
            done = await self._runner.run(argv, privileged=True)
        return Path(done.text.removesuffix("\n"))

    async def _target(self, link: Path) -> Path | None:
        """Return the target of the link; None when there is nothing of that name."""
        argv = ["stat", "--format=%F", "--", str(link)]
        done = await self._runner.run(argv, check=False)
        if done.status != 0:
            if NO_FILE in done.complaint:
                return None
            raise failure(argv, done, self._runner.name)
        if done.text.strip() != "symbolic link":
            raise DriverError(
                f"{link} on {self._runner.name} is a {done.text.strip()}, not a link to a project",
                hint=f"move it away: sudo mv {link} {link}.away",
            )
        return await self._resolved(link)

    async def _make_consoles(self, folder: Path) -> None:
        """Create the folder for consoles. QEMU writes there as root, and must not follow a link."""
        argv = ["sh", "-c", _MAKE_CONSOLES, "sh", str(folder), *map(str, (CONSOLES.parent, CONSOLES))]
        done = await self._runner.run(argv, check=False)
        if done.status == A_LINK:
            raise DriverError(
                f"{folder / done.text.strip()} on {self._runner.name} is a link, and consoles of guests"
                " would be written to its target",
                hint=f"remove it: rm {folder / done.text.strip()}",
            )
        if done.status != 0:
            raise failure(argv, done, self._runner.name)

    async def _is_gone(self, path: Path) -> bool:
        """Return whether root finds nothing there: what we may not inspect is not gone."""
        argv = ["stat", "--format=%F", "--", str(path)]
        done = await self._runner.run(argv, privileged=True, check=False)
        if done.status != 0 and not is_nothing(done):
            raise failure(argv, done, self._runner.name, privileged=True)
        return done.status != 0
