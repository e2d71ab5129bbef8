"""Packets of a host, captured by tcpdump(8).

On the interface of an Open vSwitch bridge itself only what is for the host can be seen. So a bridge is
captured through a mirror (``Mirror`` in ovs-vswitchd.conf.db(5)): a port of our own that gets all that comes
into the bridge, each packet once. Port and mirror are marked, made in one transaction and gone after the
capture; what a killed server leaves goes with the next capture of the bridge, or with the bridge.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any

import msgspec

from kvmcompose.core.deployment import Capture
from kvmcompose.server.drivers import DriverError
from kvmcompose.server.drivers.machine import Machine, failure
from kvmcompose.server.drivers.ovs import VSCTL, Table, check_ports, project_mark, run_ovs

#: The key in ``external_ids`` of a port and a mirror that serve a capture; its value is the bridge.
CAPTURE_KEY = "kvm-compose-capture"

_WRONG = "can't parse filter expression: "
#: What tcpdump ends with when what it listens on goes: the guest is off, the bridge was removed.
_GONE = ("The interface disappeared", "The interface went down")

log = logging.getLogger(__name__)


class TcpdumpCaptures:
    """See ``Captures``."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._ports: set[str] = set()
        self._endings: set[asyncio.Task[None]] = set()

    async def check_filter(self, expression: str) -> str | None:
        """What is wrong with it, as tcpdump says."""
        argv = ["tcpdump", "-d", "--", expression]
        done = await self._machine.run(argv, check=False)
        if done.status == 0:
            return None
        said = done.complaint
        if not said.startswith("tcpdump: "):
            raise failure(argv, done, self._machine.name)
        return said.removeprefix("tcpdump: ").removeprefix(_WRONG)

    def interface(self, name: str, wanted: Capture) -> AsyncGenerator[bytes]:
        """Packets on one network interface, in both directions."""
        return self._stream(arguments(name, wanted))

    async def bridge(self, project: str, name: str, wanted: Capture) -> AsyncGenerator[bytes]:
        """Packets that come into a bridge."""
        await self._remove(name, await self._leftovers(name))
        port = f"cap-{secrets.token_hex(4)}"
        self._ports.add(port)
        try:
            done = await run_ovs(self._machine, [*VSCTL, *mirror_arguments(project, name, port)])
            check_ports(done, self._machine.name)
            await self._set_up(port)
            async with aclosing(self._stream([*arguments(port, wanted, mirrored=True)])) as packets:
                async for chunk in packets:
                    yield chunk
        finally:
            await self._surely(self._end(name, port))

    async def _stream(self, argv: list[str]) -> AsyncGenerator[bytes]:
        try:
            async with aclosing(self._machine.stream(argv, privileged=True)) as packets:
                async for chunk in packets:
                    yield chunk
        except DriverError as error:
            if not any(word in error.message for word in _GONE):
                raise

    async def _set_up(self, port: str) -> None:
        """Up, but mute: with an address it would speak to the guests."""
        link = ["ip", "link", "set", "dev", port]
        await self._machine.run([*link, "addrgenmode", "none"], privileged=True, check=False)  # without IPv6
        await self._machine.run([*link, "up"], privileged=True)

    async def _surely(self, work: Coroutine[Any, Any, None]) -> None:
        """Do it to its end, whoever does not want to wait for that."""
        task = asyncio.create_task(work)
        self._endings.add(task)
        task.add_done_callback(self._endings.discard)
        await asyncio.shield(task)

    async def _end(self, bridge: str, port: str) -> None:
        try:
            found = await self._mirrors(bridge)
            await self._remove(bridge, {name: uuid for name, uuid in found.items() if name == port})
        except DriverError as error:
            log.warning("the mirror port %s of %s is left: %s", port, bridge, error.message)
        finally:
            self._ports.discard(port)

    async def _leftovers(self, bridge: str) -> dict[str, str]:
        """Mirrors of captures that are over: nobody here knows of them, and no tcpdump listens to them."""
        found = await self._mirrors(bridge)
        strangers = {name: uuid for name, uuid in found.items() if name not in self._ports}
        if not strangers:
            return {}
        running = (await self._machine.run(["ps", "-C", "tcpdump", "-o", "args="], check=False)).text.split()
        return {name: uuid for name, uuid in strangers.items() if name not in running}

    async def _mirrors(self, bridge: str) -> dict[str, str]:
        """The mirrors of captures of a bridge, called as their ports are, and their UUIDs."""
        condition = f'external_ids:{CAPTURE_KEY}="{bridge}"'
        argv = [*VSCTL, "--format=json", "--columns=name,_uuid", "find", "Mirror", condition]
        done = await run_ovs(self._machine, argv)
        try:
            rows = msgspec.json.decode(done.stdout, type=Table).rows()
            return {row["name"]: row["_uuid"][1] for row in rows}
        except (ValueError, LookupError, TypeError) as error:  # msgspec's errors are ValueErrors
            raise DriverError(f"ovs-vsctl printed something else than a table: {error}") from error

    async def _remove(self, bridge: str, mirrors: dict[str, str]) -> None:
        words: list[str] = []
        for port, uuid in mirrors.items():
            words += ["--", "--if-exists", "remove", "Bridge", bridge, "mirrors", uuid]
            words += ["--", "--if-exists", "del-port", port]
        if words:
            await run_ovs(self._machine, [*VSCTL, *words])


def arguments(interface: str, wanted: Capture, *, mirrored: bool = False) -> list[str]:
    """The command that writes packets to its standard output, each one at once.

    ``mirrored``: the interface only gets packets; what the host itself might send there is not the bridge's.
    """
    argv = ["tcpdump", "-i", interface, "-U", "--immediate-mode", "-s", str(wanted.snaplen), "-w", "-"]
    if mirrored:
        argv += ["-Q", "in"]
    if wanted.count is not None:
        argv += ["-c", str(wanted.count)]
    if wanted.filter is not None:
        argv += ["--", wanted.filter]
    return argv


def mirror_arguments(project: str, bridge: str, port: str) -> list[str]:
    """What follows ``ovs-vsctl`` to have a port of our own that gets all packets of a bridge."""
    mark = f'external_ids:{CAPTURE_KEY}="{bridge}"'
    return [
        "--", "--id=@interface", "create", "Interface", f"name={port}", "type=internal",
        "--", "--id=@port", "create", "Port", f"name={port}", "interfaces=@interface",
        project_mark(project), mark,
        "--", "--id=@mirror", "create", "Mirror", f"name={port}", "select_all=true", "output_port=@port",
        mark,
        "--", "add", "Bridge", bridge, "ports", "@port",
        "--", "add", "Bridge", bridge, "mirrors", "@mirror",
    ]  # fmt: skip
