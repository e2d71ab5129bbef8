"""Starting one guest and waiting for it."""

from __future__ import annotations

import asyncio

from kvmcompose.core.deployment import Level
from kvmcompose.effects.threads import in_thread
from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.providers.guest.entrance import SshEntrance
from kvmcompose.providers.guest.interface import Login
from kvmcompose.render.domain import console_log
from kvmcompose.server.action_log import ActionLog, StepFailedError
from kvmcompose.server.orchestrator.context import Context
from kvmcompose.server.orchestrator.privileges import domain_xml
from kvmcompose.server.orchestrator.stages import shielded
from kvmcompose.server.orchestrator.testbed import LoadedGuest, LoadedTestbed
from kvmcompose.server.store import SEED_MARK

#: How long a guest may take to be reachable, in seconds, where its YAML does not say.
READY_SECONDS = {"kvm": 300.0, "qemu": 900.0}
#: So much of a guest's console is shown when it does not come up.
_CONSOLE_LINES = 30
_LEASE_SECONDS = 0.5


class Starter:
    """Starts guests."""

    def __init__(self, context: Context, testbed: LoadedTestbed, log: ActionLog) -> None:
        self._context = context
        self._testbed = testbed
        self._log = log

    async def start(self, guest: LoadedGuest, stage: str, made: str = "") -> None:
        """Start a guest. ``made`` is stored in its domain's metadata. Raises StepFailedError."""
        host = self._context.host_of(guest, self._testbed)
        where = {"guest": guest.name, "host": host.name}
        with self._log.step(stage, f"start:{guest.name}", **where):
            await shielded(self._start(guest, host, made))

    async def wait(self, guest: LoadedGuest, stage: str) -> None:
        """Wait until a guest can be worked with. Raises StepFailedError."""
        host = self._context.host_of(guest, self._testbed)
        where = {"guest": guest.name, "host": host.name}
        try:
            with self._log.step(stage, f"wait:{guest.name}", **where):
                await self._wait(guest, host)
        except StepFailedError:
            await self._show_console(guest, host, stage)
            raise

    async def _start(self, guest: LoadedGuest, host: HostDrivers, made: str) -> None:
        run = guest.run
        assert run is not None  # noqa: S101 (only guests that run are started)
        store, project = self._context.store, self._context.project
        login = self._login(guest, guest.address or "")
        seed = self._testbed.seed_digest(guest)
        booted = store.mark(project, SEED_MARK, guest.state.identity)
        disk = run.disk
        is_new = disk is not None and await host.disks.pristine(self._context.folder_on(host) / disk)
        if is_new or booted not in (None, seed):
            # to cloud-init another seed is a new instance, which makes new host keys
            await self._context.shell.forget(login)
        with store.in_one():
            if is_new:
                # the disk is new: with it a life of the guest begins
                store.forget_snapshots(project, guest.state.identity)
                store.forget_marks(project, guest.state.identity)
            store.put_mark(project, SEED_MARK, guest.state.identity, seed or None)
            for kind in ("boot", "reachable", "run-scripts", *(() if run.setup_scripts else ("set-up",))):
                store.put_mark(project, kind, guest.state.identity, None)
        xml = await in_thread(domain_xml, self._context, self._testbed, guest)
        await host.hypervisor.start_domain(xml, made)
        for _name, xml in store.snapshots(project, guest.state.identity):
            await host.hypervisor.know_snapshot(guest.state.domain, xml)

    async def _wait(self, guest: LoadedGuest, host: HostDrivers) -> None:
        run = guest.run
        assert run is not None  # noqa: S101 (see above)
        limit = run.ready_timeout or READY_SECONDS.get(guest.state.virt_type, READY_SECONDS["qemu"])
        ready = asyncio.create_task(self._wait_ready(guest, limit))
        off = asyncio.create_task(host.hypervisor.wait_off(guest.state.domain))
        try:
            await asyncio.wait([ready, off], return_when=asyncio.FIRST_COMPLETED)
            if ready.done():
                ready.result()
                return
            off.result()
            raise DriverError(
                f"{guest.name} went off while it was being waited for",
                hint=f"its console: {console_log(guest.state.identity)} in the project folder",
            )
        finally:
            for task in (ready, off):
                task.cancel()
            await asyncio.gather(ready, off, return_exceptions=True)

    async def _wait_ready(self, guest: LoadedGuest, limit: float) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + limit
        entrance = await self.entrance(guest, end)
        await entrance.wait_ready(max(1.0, end - loop.time()))

    def _login(self, guest: LoadedGuest, address: str) -> Login:
        return self._testbed.login(guest, address, self._context.gate(guest, self._testbed))

    async def entrance(self, guest: LoadedGuest, end: float = 0) -> SshEntrance:
        """The way into a guest, waiting for its address until the loop's clock says ``end``.

        Raises DriverError when it has none by then.
        """
        while True:
            address = await self._context.address(guest, self._testbed)
            if address is not None:
                return SshEntrance(self._context.shell, self._login(guest, address))
            if asyncio.get_running_loop().time() >= end:
                raise DriverError(
                    f"{guest.name} has not asked for an address by DHCP",
                    hint="whether it has booted, its console shows: kvm-compose console",
                )
            await asyncio.sleep(_LEASE_SECONDS)

    async def _show_console(self, guest: LoadedGuest, host: HostDrivers, stage: str) -> None:
        path = console_log(guest.state.identity)
        text = await host.disks.read_tail(self._context.folder_on(host) / path, _CONSOLE_LINES)
        for line, level in (
            (f"the end of {guest.name}'s console ({path}):", Level.INFO),
            (text or "(it printed nothing)", Level.OUTPUT),
        ):
            self._log.say(
                line, level, stage=stage, step=f"wait:{guest.name}", guest=guest.name, host=host.name
            )
