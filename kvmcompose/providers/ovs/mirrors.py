"""Mirrors of bridges (``Mirror`` in ovs-vswitchd.conf.db(5)): what a capture of a whole bridge listens to.

A mirror has a port of our own that gets every packet that enters the bridge, once. Port and mirror are
marked, created in one transaction and removed after the capture, on a host that was lost once it is back.
What a killed server leaves is removed with the next capture of the bridge, or with the bridge.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec

from kvmcompose.hosts.command import CommandRunner
from kvmcompose.hosts.errors import DriverError, HostLostError
from kvmcompose.providers.ovs.database import CAPTURE_KEY, OvsdbTable
from kvmcompose.providers.ovs.driver import VSCTL, check_ports, run_ovs
from kvmcompose.providers.ovs.transaction import project_mark

log = logging.getLogger(__name__)

#: How long a capture waits for the removal of its mirror, and how long that is tried while the host is lost,
#: in seconds.
_END_SECONDS, _END_TRIES_SECONDS = 15.0, 600.0
#: The pauses between two tries, in seconds.
_PAUSE, _LONGEST_PAUSE = 0.2, 10.0


class OvsMirrors:
    """See ``capture.interface.Mirrors``."""

    def __init__(self, runner: CommandRunner) -> None:
        self._runner = runner
        self._ports: set[str] = set()
        self._endings: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def open(self, project: str, bridge: str) -> AsyncGenerator[str]:
        """Create a mirror, and yield its port."""
        await self._remove(bridge, await self._leftovers(bridge))
        port = f"cap-{secrets.token_hex(4)}"
        self._ports.add(port)
        try:
            done = await run_ovs(self._runner, [*VSCTL, *mirror_arguments(project, bridge, port)])
            check_ports(done, self._runner.name)
            await self._set_up(port)
            yield port
        finally:
            await self._surely(self._end(bridge, port))

    async def _set_up(self, port: str) -> None:
        """Set the port up without an address: with one it would send packets to the guests."""
        link = ["ip", "link", "set", "dev", port]
        await self._runner.run([*link, "addrgenmode", "none"], privileged=True, check=False)  # without IPv6
        await self._runner.run([*link, "up"], privileged=True)

    async def _surely(self, work: Coroutine[Any, Any, None]) -> None:
        """Finish the work, even when the caller is cancelled or waits no longer for a lost host."""
        task = asyncio.create_task(work)
        self._endings.add(task)
        task.add_done_callback(self._endings.discard)
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(task), _END_SECONDS)

    async def _end(self, bridge: str, port: str) -> None:
        """Remove a mirror. What ended the capture may have been the loss of the host.

        Then the connection for commands is lost, too, which may show only now; the next try opens a new one.
        """
        pause, end = _PAUSE, time.monotonic() + _END_TRIES_SECONDS
        try:
            while True:
                try:
                    found = await self._mirrors(bridge)
                    await self._remove(bridge, {name: uuid for name, uuid in found.items() if name == port})
                except HostLostError:
                    if time.monotonic() > end:
                        raise
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE)
                else:
                    return
        except DriverError as error:
            log.warning("cannot remove the mirror port %s of %s: %s", port, bridge, error.message)
        finally:
            self._ports.discard(port)

    async def _leftovers(self, bridge: str) -> dict[str, str]:
        """Find mirrors of ended captures: not in use here, and not by any tcpdump."""
        found = await self._mirrors(bridge)
        unknown = {name: uuid for name, uuid in found.items() if name not in self._ports}
        if not unknown:
            return {}
        running = (await self._runner.run(["ps", "-C", "tcpdump", "-o", "args="], check=False)).text.split()
        return {name: uuid for name, uuid in unknown.items() if name not in running}

    async def _mirrors(self, bridge: str) -> dict[str, str]:
        """Return the capture mirrors of a bridge: their names, which are those of their ports, and UUIDs."""
        condition = f'external_ids:{CAPTURE_KEY}="{bridge}"'
        argv = [*VSCTL, "--format=json", "--columns=name,_uuid", "find", "Mirror", condition]
        done = await run_ovs(self._runner, argv)
        try:
            rows = msgspec.json.decode(done.stdout, type=OvsdbTable).rows()
            return {row["name"]: row["_uuid"][1] for row in rows}
        except (ValueError, LookupError, TypeError) as error:  # msgspec's errors are ValueErrors
            raise DriverError(f"ovs-vsctl printed invalid output: {error}") from error

    async def _remove(self, bridge: str, mirrors: dict[str, str]) -> None:
        words: list[str] = []
        for port, uuid in mirrors.items():
            words += ["--", "--if-exists", "remove", "Bridge", bridge, "mirrors", uuid]
            words += ["--", "--if-exists", "del-port", port]
        if words:
            await run_ovs(self._runner, [*VSCTL, *words])


def mirror_arguments(project: str, bridge: str, port: str) -> list[str]:
    """Return the arguments of ``ovs-vsctl`` that create a mirror port for a bridge."""
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
