"""A server in a thread of the test, with an orchestrator that the test controls."""

from __future__ import annotations

import asyncio
import select
import socket
import threading
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Collection, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from kvmcompose.client.address import Address
from kvmcompose.client.remote import RemoteServer
from kvmcompose.core.access import ConsolePart, GuestAccess, GuestTerminals, TerminalSize
from kvmcompose.core.commands import Capture, Command, Exec, Up
from kvmcompose.core.deployment import (
    Deployment,
    GuestStatus,
    Health,
    Level,
    Phase,
    SnapshotStatus,
    TestbedStatus,
)
from kvmcompose.core.errors import KvmComposeError, RefusedError
from kvmcompose.core.picture import TestbedPicture
from kvmcompose.core.planned import PlanDocument, PlanRequest, TestbedPlan
from kvmcompose.effects.resources import schemas
from kvmcompose.hosts.command import Completed
from kvmcompose.hosts.errors import DriverError, NoSuchPathError
from kvmcompose.pipeline.stored import read_state
from kvmcompose.providers.capture.fake import file_header, record
from kvmcompose.providers.containers.fake_terminal import FakeTerminal
from kvmcompose.providers.libvirt.fake_consoles import FakeTerminals
from kvmcompose.providers.libvirt.interface.domains import DomainEvent
from kvmcompose.server.action_log import ActionLog
from kvmcompose.server.actions import Actions, NotFoundError
from kvmcompose.server.api import create_app
from kvmcompose.server.api.authentication import AccessPolicy, Authenticator
from kvmcompose.server.api.guard import Activity, Guard
from kvmcompose.server.api.service import Service
from kvmcompose.server.byte_stream import BegunStream
from kvmcompose.server.listen import Listener
from kvmcompose.server.orchestrator import Orchestrator, Outcome
from kvmcompose.server.orchestrator.captures import WrongCaptureError
from kvmcompose.server.orchestrator.picture import Picture
from kvmcompose.server.people import People
from kvmcompose.server.project_commands import OwnedProject, ProjectCommands
from kvmcompose.server.sessions import Sessions
from kvmcompose.server.settings import ServerSettings
from kvmcompose.server.sockets import bound_port, tcp_socket, unix_socket
from kvmcompose.server.store import Store
from kvmcompose.server.tokens import Tokens

TOKEN = "a-token-for-tests-only"  # noqa: S105
SECRET_STATE = b'{"version":1}'


class Stub(Orchestrator):
    """An orchestrator that obeys the arguments of an ``exec``: ``say 100``, ``wait``, ``fail`` and so on."""

    def __init__(self) -> None:
        self.ran: list[tuple[str, Command]] = []
        self.go_on = asyncio.Event()
        self.captures: list[str] = []
        self.connected: list[str] = []
        self.input = b""
        self.packets = 0
        self.files: dict[str, bytes] = {}
        self.largest = 0
        self.guests: dict[str, str] = {}
        self.reasons: dict[str, str] = {}
        self.looks = 0
        self.printed = b"booting\r\nlogin: "
        self.consoles = FakeTerminals()
        #: Whether commands other than ``exec`` wait for ``go_on``.
        self.waits = False

    async def run(
        self,
        deployment: Deployment,
        command: Command,
        log: ActionLog,
        stdin: AsyncIterable[bytes] | None = None,
    ) -> Outcome:
        self.ran.append((deployment.name, command))
        words = command.argv if isinstance(command, Exec) else ("step",)
        self.input = b""
        with log.step("stage", "step", guest="web"):
            if stdin is not None:
                if "slow" in words:
                    await self.go_on.wait()
                async for chunk in stdin:
                    self.input += chunk
            if self.waits:
                await self.go_on.wait()
            for word, argument in zip(words, (*words[1:], ""), strict=True):
                await self._do(word, argument, log)
        return Outcome(Phase.UP if isinstance(command, Up) else Phase.DOWN, 0)

    async def _do(self, word: str, argument: str, log: ActionLog) -> None:  # noqa: C901, PLR0912 (a word each)
        match word:
            case "say":
                for number in range(int(argument)):
                    log.say(f"line {number}")
                    await asyncio.sleep(0)
            case "print":
                for number in range(int(argument)):
                    log.say(f"line {number}", Level.OUTPUT)
            case "trickle":
                for number in range(int(argument)):
                    log.say(f"line {number}")
                    await asyncio.sleep(0.002)
            case "long":
                for _ in range(int(argument)):
                    log.say("x" * 10_000)
                    await asyncio.sleep(0)
            case "wait":
                await self.go_on.wait()
            case "fail":
                raise KvmComposeError("it failed", hint="mend it")
            case "refuse":
                raise RefusedError("refused")
            case "crash":
                raise RuntimeError("a secret of the inside")
            case _:
                log.say("done")

    async def state(self, deployment: Deployment) -> bytes:
        return SECRET_STATE

    async def picture(self, deployment: Deployment, opened: Collection[str]) -> Picture:
        """Return a picture of nothing, with the names of the open stacks as its tag."""
        empty = TestbedPicture(
            hosts=(), nodes=(), edges=(), stacks=(), width=24, height=24, svg="<svg></svg>"
        )
        names = [quote(each, safe="@/,") for each in opened]
        return Picture("-".join(["tag", *names]), msgspec.json.encode(empty))

    async def access(self, deployment: Deployment) -> list[GuestAccess]:
        return []

    async def measure(self, _deployment: Deployment) -> None:
        return None

    async def status(self, deployment: Deployment) -> TestbedStatus:
        if deployment.name == "broken":
            raise DriverError("libvirt does not answer")
        if deployment.name == "crashing":
            raise RuntimeError("a secret of the inside")
        self.looks += 1
        guests = [
            GuestStatus(name=name, kind="libvirt", host="main", state=state, reason=self.reasons.get(name))
            for name, state in self.guests.items()
        ]
        return TestbedStatus(deployment=deployment, guests=tuple(guests))

    async def plan(self, deployment: Deployment, request: PlanRequest) -> TestbedPlan:
        document = request.document
        if document is not None:
            read_state(document, schemas())
        return TestbedPlan(
            deployment=deployment, changes=(), refusals=(), warnings=(), hosts=(), seconds=None, digest=""
        )

    async def guest_events(self, deployment: Deployment) -> AsyncGenerator[DomainEvent]:
        for event in ():
            yield event
        raise RefusedError("no host reports anything")

    async def snapshots(self, deployment: Deployment, guest: str | None = None) -> list[SnapshotStatus]:
        if guest is not None and guest != "web":
            raise NotFoundError(f"there is no guest {guest!r}")
        return []

    async def reach(self, deployment: Deployment, name: str) -> socket.socket:
        """Connect to a guest whose name is what it does: ``silent``, ``leaves``, ``stuck``; others echo.

        One that is ``stuck`` reads nothing. All of them are in ``connected`` meanwhile.
        """
        if name == "silent":
            raise DriverError("nothing answers")
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        threading.Thread(target=self._talk, args=(theirs, name), daemon=True).start()
        return ours

    def _talk(self, endpoint: socket.socket, name: str) -> None:
        self.connected.append(name)
        with endpoint:
            if name == "stuck":
                poll = select.poll()
                poll.register(endpoint, 0)  # ends when the server closes it
                poll.poll()
            while name not in ("leaves", "stuck") and (data := endpoint.recv(1 << 16)):
                endpoint.sendall(data)
        self.connected.remove(name)

    async def console(
        self, deployment: Deployment, name: str, after: int | None, wait: int = 0
    ) -> ConsolePart:
        """Return what a guest has ``printed``; one that is ``lost`` fails from the second look on."""
        if name == "lost" and after is not None:
            raise DriverError("the host is lost")
        start = after if after is not None and after <= len(self.printed) else 0
        if start == len(self.printed):
            await asyncio.sleep(min(wait, 0.05))
        return ConsolePart(start=start, data=self.printed[start:])

    async def open_console(self, deployment: Deployment, name: str, *, force: bool) -> socket.socket:
        if name == "off":
            raise RefusedError("off is off")
        return self.consoles.open(name, force=force)

    async def open_screen(self, deployment: Deployment, name: str) -> socket.socket:
        if name != "web":
            raise RefusedError(f"{name} has no screen")
        return self.consoles.open_screen()

    @asynccontextmanager
    async def shell(
        self, deployment: Deployment, name: str, size: TerminalSize
    ) -> AsyncGenerator[FakeTerminal]:
        """Open a shell, which is in ``connected`` meanwhile; one that is ``removed`` has no exit status."""
        await self.check_shell(deployment, name)
        terminal = FakeTerminal(size)
        if name == "removed":
            terminal.status = _no_status  # type: ignore[method-assign]
        self.connected.append(name)
        try:
            yield terminal
        finally:
            await terminal.close()
            self.connected.remove(name)

    async def check_shell(self, deployment: Deployment, name: str) -> None:
        if name == "off":
            raise RefusedError("off is off")

    async def terminals(self, deployment: Deployment, name: str) -> GuestTerminals:
        return GuestTerminals(console="input", screen="vnc" if name == "web" else None)

    async def get_files(self, deployment: Deployment, name: str, path: str) -> AsyncGenerator[bytes]:
        """Send what was put; a guest ``endless`` sends more, one that ``breaks`` less."""
        if path == "/missing":
            raise NoSuchPathError("no such file or folder: /missing")
        self.captures.append(name)
        try:
            yield self.files.get(path, b"")[:1000]
            if name == "breaks":
                raise DriverError("the engine has ended")
            while name == "endless":
                yield bytes(1 << 16)
                await asyncio.sleep(0)
            yield self.files.get(path, b"")[1000:]
        finally:
            self.captures.remove(name)

    async def put_files(
        self, deployment: Deployment, name: str, folder: str, archive: AsyncIterable[bytes]
    ) -> None:
        """Keep what comes; ``refused`` reads nothing, and ``counts`` keeps nothing."""
        if name == "refused":
            raise RefusedError("refused is not up")
        self.captures.append(name)
        try:
            async for piece in archive:
                self.largest = max(self.largest, len(piece))
                self.packets += len(piece)
                if name != "counts":
                    self.files[folder] = self.files.get(folder, b"") + piece
        finally:
            self.captures.remove(name)

    async def capture(self, deployment: Deployment, wanted: Capture) -> BegunStream:
        """Capture; the target selects the behaviour."""
        if wanted.target == "refused":
            raise RefusedError("refused is not up", hint="kvm-compose up")
        if wanted.filter == "wrong":
            raise WrongCaptureError("the filter is wrong", hint="mend it")
        stream = self._packets(wanted)
        return BegunStream(await anext(stream), stream)

    async def _packets(self, wanted: Capture) -> AsyncGenerator[bytes]:
        self.captures.append(wanted.target)
        try:
            yield file_header(wanted.snaplen)
            match wanted.target:
                case "silent":
                    await asyncio.Event().wait()
                case "breaks":
                    yield record(0, wanted.snaplen, 0)[:-1]
                    raise DriverError("the cable is cut")
                case "endless":
                    while True:
                        yield record(self.packets, wanted.snaplen, 0) * 100
                        self.packets += 100
                        await asyncio.sleep(0)
                case _:
                    for number in range(min(wanted.count or 3, 1000)):
                        yield record(number, wanted.snaplen, number)
        finally:
            await asyncio.sleep(0.05)  # time to clean up
            self.captures.remove(wanted.target)

    def check_removal(self, deployment: Deployment) -> None:
        if deployment.state is not Phase.DOWN:
            raise RefusedError(f"{deployment.name} is {deployment.state}")


async def _no_status() -> int:
    raise DriverError("no such exec")


class StubCommands(ProjectCommands):
    """The command line of projects without problems, in which nothing is to be done."""

    async def look(self, project: OwnedProject, words: Sequence[str], stdin: bytes = b"") -> Completed:
        printed = {
            "validate": b'{"valid": true, "problems": []}',
            "why": b"[]",
            "plan": msgspec.json.encode(
                PlanDocument(
                    version=1, project=project.deployment, options=Up(), allow_moves=False, recipes="",
                    files=(), testbed=None, unseen="nothing is up",
                )
            ),
        }  # fmt: skip
        return Completed(0, printed[words[0]], b"")

    async def build(
        self, project: OwnedProject, words: Sequence[str], stdin: bytes = b""
    ) -> AsyncGenerator[bytes | int | None]:
        yield b'{"uuid": "00000000-0000-0000-0000-000000000000"}\n'
        yield 0


class StubServer:
    """The server, its Unix socket and its TCP port."""

    drivers = "stub"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.projects = folder / "projects"
        self.socket = folder / "s"
        self.stub: Stub
        self.store: Store
        self.actions: Actions
        self.service: Service
        self.activity: Activity
        self.sessions: Sessions
        self.port = 0
        self._loop: asyncio.AbstractEventLoop
        self._listeners: list[Listener] = []
        self._ready = threading.Event()
        self._end: asyncio.Event
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def commands(self) -> ProjectCommands:
        """Return what runs the command line in projects."""
        return StubCommands(self.socket)

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = asyncio.Event()
        self.store = Store(self.folder / "state" / "server.db")
        self.stub = Stub()
        orchestrator = self.orchestrator()
        self.actions = Actions(self.store, orchestrator)
        self.activity = Activity()
        settings = ServerSettings(
            state_dir=self.folder / "state", socket=self.socket, host="127.0.0.1", project_roots=()
        )
        service = self.service = Service(
            self.store,
            self.actions,
            orchestrator,
            project_roots=(self.projects,),
            health=Health(version="1", drivers=self.drivers, embedded=False, pid=1),
            activity=self.activity,
            page_address=lambda: self.tcp,
        )
        commands = self.commands()
        app = create_app(service, commands)
        unix, tcp = unix_socket(settings), tcp_socket("127.0.0.1", self.port)
        self.port = bound_port(tcp)
        tokens, self.sessions = Tokens(self.folder / "state"), Sessions()
        hosts = frozenset({"localhost", "127.0.0.1"})
        policies = (AccessPolicy(), AccessPolicy(token=TOKEN, hosts=hosts))
        self._listeners = [
            Listener(
                Guard(app, Authenticator(each, People(), tokens, self.sessions, commands), self.activity),
                settings,
                tls=False,
            )
            for each in policies
        ]
        serving = [
            asyncio.create_task(listener.serve([each]))
            for listener, each in zip(self._listeners, (unix, tcp), strict=True)
        ]
        while not all(each.started for each in self._listeners):  # noqa: ASYNC110 (uvicorn has no event)
            await asyncio.sleep(0.005)
        self._ready.set()
        await self._end.wait()
        service.stop()
        await self.stub.consoles.end()
        await self.actions.stop()
        for listener in self._listeners:
            listener.should_exit = True
        await asyncio.gather(*serving)
        self.store.close()

    def orchestrator(self) -> Orchestrator:
        """Return what carries out actions; called in the server's thread, with the store open."""
        return self.stub

    def start(self) -> None:
        self.projects.mkdir(exist_ok=True)
        self._thread.start()
        assert self._ready.wait(20)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(20)
        assert not self._thread.is_alive()

    def inside(self, function: Callable[[], Any]) -> Any:
        """Call a function in the server's thread, and return its result."""

        async def call() -> Any:
            return function()

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(20)

    def cut_connections(self) -> int:
        """Abort all connections, as a network failure does; return their number."""

        def cut() -> int:
            found = [each for listener in self._listeners for each in listener.server_state.connections]
            for connection in found:
                connection.transport.abort()
            return len(found)

        count = self.inside(cut)
        assert isinstance(count, int)
        return count

    @property
    def address(self) -> Address:
        return Address(socket=self.socket)

    @property
    def tcp(self) -> Address:
        return Address(host="127.0.0.1", port=self.port)

    def client(self, *, tcp: bool = False) -> RemoteServer:
        return RemoteServer(self.tcp, token=TOKEN) if tcp else RemoteServer(self.address)

    def project(self, name: str) -> Path:
        """Return a folder that can be a project."""
        folder = self.projects / name
        folder.mkdir(exist_ok=True)
        return folder

    def raw(self, data: bytes, *, tcp: bool = False, seconds: float = 10) -> bytes:
        """Send bytes, and return the whole response."""
        address = self.tcp if tcp else self.address
        with address.connect() as connection:
            connection.settimeout(seconds)
            answer = b""
            try:
                connection.sendall(data)
                while part := connection.recv(65536):
                    answer += part
            except (TimeoutError, ConnectionError):
                pass
            return answer


@contextmanager
def running(folder: Path) -> Iterator[StubServer]:
    server = StubServer(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()
