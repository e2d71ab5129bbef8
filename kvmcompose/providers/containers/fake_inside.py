"""The inside of containers of a simulated host."""

from __future__ import annotations

import io
import tarfile
from collections import defaultdict
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import PurePosixPath

from kvmcompose.core.access import TerminalSize
from kvmcompose.hosts.errors import DriverError, NoSuchPathError
from kvmcompose.hosts.fake import SimulatedHost
from kvmcompose.hosts.lines import OnLine, Pieces
from kvmcompose.providers.containers.fake_images import whole
from kvmcompose.providers.containers.fake_ownership import own
from kvmcompose.providers.containers.fake_terminal import FakeTerminal


class FakeInside:
    """See ``ContainerInside``. A command prints itself."""

    def __init__(self, host: SimulatedHost) -> None:
        self._host = host
        #: Those that are open, by the container.
        self._terminals: defaultdict[str, set[FakeTerminal]] = defaultdict(set)

    async def run(
        self,
        project: str,
        name: str,
        argv: Sequence[str],
        on_line: OnLine,
        *,
        user: str = "",
        seconds: float | None = None,  # noqa: ARG002 (it ends at once)
        stdin: Pieces | None = None,
    ) -> int:
        await self._host.call("run_in_container", f"{name}:{argv[0]}")
        container = own(self._host, project, name, f"run {argv[0]} in")
        if container.state != "running":
            raise DriverError(f"cannot run {argv[0]} in the container {name}: it is not running")
        if stdin is not None:
            on_line((await whole(stdin)).decode(errors="replace"))
        shown = f" as {user}" if user else ""
        on_line(f"(a fake container{shown}) {' '.join(argv)}")
        return 0

    @asynccontextmanager
    async def terminal(
        self, project: str, name: str, argv: Sequence[str], size: TerminalSize
    ) -> AsyncGenerator[FakeTerminal]:
        await self._host.call("open_terminal", f"{name}:{argv[0]}")
        container = own(self._host, project, name, "open a terminal in")
        if container.state != "running":
            raise DriverError(f"cannot open a terminal in the container {name}: it is not running")
        terminal = FakeTerminal(size)
        self._terminals[name].add(terminal)
        try:
            yield terminal
        finally:
            self._terminals[name].discard(terminal)
            await terminal.close()
            await self._host.call("close_terminal", name)

    def kill_terminals(self, name: str) -> None:
        """End the terminals of a container that ends."""
        for terminal in self._terminals[name]:
            terminal.kill()

    async def logs(
        self, project: str, name: str, *, tail: int | None = None, follow: bool = False
    ) -> AsyncGenerator[str]:
        await self._host.call("logs", name)
        container = own(self._host, project, name, "read the log of")
        if container.started and tail != 0 and not follow:
            yield f"(a fake container) {name} started"

    async def put(self, project: str, name: str, folder: str, archive: Pieces) -> None:
        await self._host.call("put_in_container", name)
        container = own(self._host, project, name, "copy files into")
        with tarfile.open(fileobj=io.BytesIO(await whole(archive))) as tar:
            for entry in tar:
                file = tar.extractfile(entry) if entry.isfile() else None
                if file is not None:
                    path = str(PurePosixPath(folder, entry.name))
                    container.files[path] = file.read().decode(errors="replace")
        self._host.keep(("containers", name))

    async def get(self, project: str, name: str, path: str) -> AsyncGenerator[bytes]:
        await self._host.call("get_from_container", name)
        container = own(self._host, project, name, "copy files from")
        parent = PurePosixPath(path).parent
        found = {
            each: text
            for each, text in container.files.items()
            if each == path or each.startswith(f"{path.rstrip('/')}/")
        }
        if not found:
            raise NoSuchPathError(f"cannot copy files from the container {name}: no such file: {path}")
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for each, text in sorted(found.items()):
                entry = tarfile.TarInfo(str(PurePosixPath(each).relative_to(parent)))
                entry.size = len(text.encode())
                tar.addfile(entry, io.BytesIO(text.encode()))
        yield buffer.getvalue()
