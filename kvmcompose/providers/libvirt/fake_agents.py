"""Guest agents of simulated domains."""

from __future__ import annotations

import asyncio
import base64
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.fake import SimulatedHost
from kvmcompose.hosts.fake_world import FakeDomain
from kvmcompose.providers.libvirt.agent import ANSWER_SECONDS, AgentCommand, no_answer

#: Runs a command in a domain by its name, with this input; what it prints is reported line by line.
Inside = Callable[[str, list[str], AsyncIterator[bytes], Callable[[str], None]], Awaitable[int]]


class FakeAgents:
    """See ``DomainAgents``. They do what ``agent_guest`` asks of a guest with a shell."""

    def __init__(self, host: SimulatedHost, inside: Inside) -> None:
        """``inside`` runs a command in a domain, as its guest agent does."""
        self._host = host
        self._inside = inside
        self._numbers = itertools.count(1)
        #: Files by the names of their domains and paths, and what is open: a file, and the next byte of it.
        self.files: dict[tuple[str, str], bytearray] = {}
        self._open: dict[int, tuple[bytearray, int]] = {}
        self._running: dict[int, asyncio.Task[int]] = {}

    async def ask(
        self,
        name: str,
        command: AgentCommand,
        seconds: int = ANSWER_SECONDS,  # noqa: ARG002 (fakes answer at once)
    ) -> Any:
        await self._host.call("ask_agent", f"{name}:{command.execute}")
        domain = self._host.world.running(name, "ask the guest agent of")
        return await self.answer(name, domain, command)

    async def wait(self, name: str, seconds: float) -> None:  # noqa: ARG002 (fakes are ready at once)
        await self._host.call("wait_agent", name)
        self._host.world.running(name, "wait for the guest agent of").agent = True
        self._host.keep(("domains", name))

    async def answer(self, name: str, domain: FakeDomain, command: AgentCommand) -> Any:
        """Return what the agent of a domain answers. Raises DriverError without one."""
        if not domain.agent:
            raise no_answer(name, command.execute, "QEMU guest agent is not connected")
        given = command.arguments
        match command.execute:
            case "guest-network-get-interfaces":
                return [
                    {"name": "eth0", "hardware-address": nic.mac, "ip-addresses": [{"ip-address": address}]}
                    for nic, address in zip(domain.hardware.nics, domain.agent_addresses, strict=False)
                ]
            case "guest-get-osinfo":
                return {"id": "debian"}
            case "guest-exec":
                return {"pid": self._start(name, given["arg"])}
            case "guest-exec-status":
                return self._status(given["pid"])
            case "guest-file-open" | "guest-file-close" | "guest-file-read" | "guest-file-write":
                return self._file(name, command.execute, given)
        return {}

    def _start(self, name: str, words: list[str]) -> int:
        match words:
            case ["-c", script, "sh", output, given, *argv] if script.startswith(": kvm-compose-"):
                file = self.files[name, output] = bytearray()
                task = asyncio.create_task(self._run(name, argv, given, file))
            case ["-c", 'rm -f "$@"', "sh", *paths]:
                for path in paths:
                    self.files.pop((name, path), None)
                task = asyncio.create_task(_done())
            case ["-c", _, "sh", path]:  # a file for input
                self.files[name, path] = bytearray()
                task = asyncio.create_task(_done())
            case _:  # it ends a command
                for each in self._running.values():
                    each.cancel()
                task = asyncio.create_task(_done())
        number = next(self._numbers)
        self._running[number] = task
        return number

    async def _run(self, name: str, argv: list[str], given: str, file: bytearray) -> int:
        async def stdin() -> AsyncIterator[bytes]:
            yield bytes(self.files.get((name, given), b""))

        return await self._inside(name, argv, stdin(), lambda line: file.extend(f"{line}\n".encode()))

    def _status(self, pid: int) -> dict[str, Any]:
        task = self._running[pid]
        if not task.done():
            return {"exited": False}
        del self._running[pid]
        return {"exited": True, "exitcode": 143 if task.cancelled() else task.result()}

    def _file(self, name: str, execute: str, given: Mapping[str, Any]) -> Any:
        if execute == "guest-file-open":
            place = name, given["path"]
            if given["mode"] == "r" and place not in self.files:
                raise DriverError(f"failed to open file '{given['path']}'")
            number = next(self._numbers)
            self._open[number] = self.files.setdefault(place, bytearray()), 0
            return number
        file, offset = self._open[given["handle"]]
        if execute == "guest-file-close":
            del self._open[given["handle"]]
            return {}
        if execute == "guest-file-write":
            file.extend(base64.b64decode(given["buf-b64"]))
            return {"count": len(file), "eof": False}
        data = bytes(file[offset : offset + given["count"]])
        self._open[given["handle"]] = file, offset + len(data)
        return {"count": len(data), "buf-b64": base64.b64encode(data).decode(), "eof": not data}


async def _done() -> int:
    return 0
