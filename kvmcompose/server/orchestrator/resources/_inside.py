"""One guest whose scripts are run, with what its project has for it now."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping

from kvmcompose.core.deployment import Level
from kvmcompose.core.once import once
from kvmcompose.core.seed import SeedContents
from kvmcompose.effects.threads import in_thread
from kvmcompose.hosts.errors import DriverError
from kvmcompose.images.seeds import archive_pieces
from kvmcompose.providers.guest.interface import Entrance
from kvmcompose.server.action_log import RunningStep
from kvmcompose.server.orchestrator import scripts
from kvmcompose.server.orchestrator.resources._work import Work
from kvmcompose.server.orchestrator.script_records import Ran
from kvmcompose.server.orchestrator.testbed import LoadedGuest


class ScriptedGuest:
    """A guest at work in. It is asked, and sent to, only when a script has to be run, and once."""

    def __init__(self, work: Work, guest: LoadedGuest) -> None:
        self._work = work
        self._guest = guest
        self._entrance: Entrance | None = None
        self._inside: scripts.Inside | None = None

    @once
    def _contents(self) -> SeedContents:
        return self._work.testbed.seed_contents(self._guest) or SeedContents()

    async def entrance(self) -> Entrance:
        """Return the way into it."""
        if self._entrance is None:
            self._entrance = await self._work.starter.entrance(self._guest)
        return self._entrance

    async def ran(self) -> Mapping[str, Ran | None]:
        """Return what its set-up scripts ran as. Raises DriverError."""
        return (await self._look()).ran

    async def _look(self) -> scripts.Inside:
        if self._inside is None:
            self._inside = await scripts.look_inside(await self.entrance())
        return self._inside

    async def run(self, script: str, step: RunningStep) -> None:
        """Run a script as it is now. Raises DriverError."""
        entrance = await self.entrance()
        archive, name = self._contents.archive, self._guest.name
        # what a guest has that was started just now came with its seed, unless it was sent something before
        if name not in self._work.waited_for and name not in self._work.current:
            if (await self._look()).sent != archive or not archive:
                await self._send(step)
            self._work.current.add(name)
        if not await scripts.run_script(entrance, script, step.output, archive):
            await self._send(step)
            await scripts.run_script(entrance, script, step.output)

    async def note(self, script: str, ran: Ran) -> None:
        """Note in the guest what a set-up script ran as."""
        await scripts.note_run(await self.entrance(), script, ran)

    async def forget(self) -> None:
        """Let no set-up script have run in the guest."""
        await scripts.forget_runs(await self.entrance())

    async def _send(self, step: RunningStep) -> None:
        testbed, contents = self._work.testbed, self._contents
        path = testbed.seed_path(self._guest)
        if path is None or not contents.archive:
            step.say(
                f"{path} is not as a build makes it: {self._guest.name} has what changed there from its next"
                " start",
                Level.WARNING,
            )
            return
        step.say("changed scripts and files are sent to the guest")
        await scripts.send(await self.entrance(), self._archive(path, contents.archive), contents.archive)

    async def _archive(self, path: str, digest: str) -> AsyncIterator[bytes]:
        """Yield the archive of a seed. Raises DriverError when it is not the one that was compared."""
        sent = hashlib.sha256()
        try:
            with await in_thread(self._work.testbed.source.open, path) as image:
                pieces = archive_pieces(image)
                while piece := await in_thread(next, pieces, b""):
                    sent.update(piece)
                    yield piece
        except (OSError, ValueError) as error:
            raise DriverError(f"cannot read {path}: {error}", hint="kvm-compose generate") from error
        if sent.hexdigest() != digest:
            raise DriverError(f"{path} changed while it was sent", hint="kvm-compose up sends it again")
