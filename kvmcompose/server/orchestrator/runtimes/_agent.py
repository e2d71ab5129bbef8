"""The way into a guest by its guest agent: as root, or as SYSTEM on Windows, and without a network."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

from kvmcompose.core.errors import RefusedError
from kvmcompose.hosts.errors import DriverError, NoSuchPathError
from kvmcompose.hosts.lines import Lines, OnLine, Pieces
from kvmcompose.providers.guest.command import END, END_AS_ROOT, START, WAIT_UNTIL_READY
from kvmcompose.providers.guest.entrance import by_su
from kvmcompose.providers.libvirt.agent import PING
from kvmcompose.providers.libvirt.agent_guest import AgentGuest, ShellScripts
from kvmcompose.server.orchestrator.context import Context
from kvmcompose.server.orchestrator.testbed import LoadedGuest, LoadedTestbed

_SCRIPTS = ShellScripts(start=START, end=("-c", END_AS_ROOT, END))
#: How long a guest may take to say whether a file is there, in seconds.
_LOOK_SECONDS = 30.0
_NO_FILE = 66
#: Arguments: a path. Packs what is there, as a link where it is one.
_PACK = f"""\
if [ ! -e "$1" ] && [ ! -L "$1" ]; then exit {_NO_FILE}; fi
cd / && cd -- "$(dirname -- "$1")" && exec tar -cf - -- "$(basename -- "$1")" 2>/dev/null
"""
_UNPACK = f"""\
if [ ! -d "$1" ]; then exit {_NO_FILE}; fi
exec tar -xof - -C "$1"
"""


def is_entered_by_agent(guest: LoadedGuest) -> bool:
    """Return whether a guest is entered by its agent: SSH has no way to it, or ``ready`` says so."""
    wanted = guest.domain.ready if guest.domain is not None else None
    return guest.address is None or (wanted is not None and wanted.agent)


async def agent_entrance(context: Context, testbed: LoadedTestbed, guest: LoadedGuest) -> AgentEntrance:
    """Return the way into a guest by its agent. Raises RefusedError where no other is, and that is silent."""
    agents = context.host_of(guest, testbed).hypervisor.agents
    wanted = guest.domain.ready if guest.domain is not None else None
    if wanted is None or not wanted.agent:
        try:
            await agents.ask(guest.state.domain, PING)
        except DriverError as error:
            raise RefusedError(
                f"{guest.name} has no address that can be reached from here",
                hint="set testbed_options.management to true, or install qemu-guest-agent in it"
                f" ({error.message})",
            ) from error
    return AgentEntrance(AgentGuest(agents, guest.state.domain, _SCRIPTS), guest)


class AgentEntrance:
    """See ``Entrance``. Without a user, commands run as root, or as SYSTEM on Windows."""

    def __init__(self, agent: AgentGuest, guest: LoadedGuest) -> None:
        self._agent = agent
        self.guest = guest.name
        self.notes = guest.state.identity
        self.by_hand = f"kvm-compose exec {guest.name} -- sh -c 'COMMAND'"

    async def run(
        self,
        argv: Sequence[str],
        on_line: OnLine,
        *,
        user: str | None = None,
        seconds: float | None = None,
        stdin: Pieces | None = None,
    ) -> int:
        """Run a command and return its exit status. It starts when all of its input is there."""
        lines = Lines(on_line)
        words = argv if user in (None, "root") else by_su(user, argv)
        status = await self._agent.run(words, lines.feed, seconds=seconds, stdin=stdin)
        lines.end()
        return status

    async def check_user(self, user: str | None) -> None:
        """Raise DriverError when commands cannot run as this user."""
        if user is None:
            return
        if await self._agent.is_windows():
            raise DriverError(
                f"in {self.guest}, commands run as SYSTEM: the guest agent starts them as no other user",
                hint=f"without --user: kvm-compose exec {self.guest} -- COMMAND",
            )
        if user == "root":
            return
        printed: list[str] = []
        if await self.run(["true"], printed.append, user=user, seconds=_LOOK_SECONDS) != 0:
            raise DriverError(
                f"cannot run commands as {user} in {self.guest}: {(printed or ['no reason given'])[-1]}",
                hint=f"its users: kvm-compose exec {self.guest} -- cut -d: -f1 /etc/passwd",
            )

    async def wait_ready(self, seconds: float) -> None:
        """Wait until the first-boot set-up is complete, in a guest whose agent answers."""
        try:
            async with asyncio.timeout(seconds):
                await self.run(["sh", "-c", WAIT_UNTIL_READY], lambda _: None)
        except TimeoutError:
            raise DriverError(
                f"{self.guest} was not ready within {seconds:.0f} s: its guest agent answers, but the"
                " first-boot set-up (cloud-init) is not complete",
                hint="see /var/log/cloud-init-output.log in the guest",
            ) from None

    async def pack(self, path: str) -> AsyncGenerator[bytes]:
        """Yield a tar archive of a file or folder. Raises NoSuchPathError, DriverError."""
        await self._check_shell()
        pieces: asyncio.Queue[bytes] = asyncio.Queue()
        place = path if path.startswith("/") else f"/{path}"
        packing = asyncio.create_task(
            self._agent.run(["sh", "-c", _PACK, "kvm-compose", place], pieces.put_nowait)
        )
        try:
            while not packing.done() or not pieces.empty():
                getting = asyncio.create_task(pieces.get())
                await asyncio.wait([getting, packing], return_when=asyncio.FIRST_COMPLETED)
                if getting.done():
                    yield getting.result()
                else:
                    getting.cancel()
            status = packing.result()
        finally:
            packing.cancel()
            await asyncio.gather(packing, return_exceptions=True)
        self._check(status, path, "packed")

    async def unpack(self, folder: str, archive: Pieces) -> None:
        """Extract a tar archive in a folder. Raises NoSuchPathError, DriverError, what ``archive`` raises."""
        await self._check_shell()
        place = folder if folder.startswith("/") else f"/{folder}"
        argv = ["sh", "-c", _UNPACK, "kvm-compose", place]
        self._check(await self._agent.run(argv, lambda _: None, stdin=archive), folder, "unpacked")

    def _check(self, status: int, path: str, done: str) -> None:
        if status == _NO_FILE:
            raise NoSuchPathError(f"there is no {path} in {self.guest}")
        if status:
            raise DriverError(f"{path} in {self.guest} could not be {done}: tar ended with status {status}")

    async def _check_shell(self) -> None:
        if await self._agent.is_windows():
            raise DriverError(
                f"{self.guest} is entered by its guest agent and has Windows: no files are copied that way",
                hint="share a folder with it, or use its network",
            )
