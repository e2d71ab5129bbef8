"""Starting one guest and waiting for it."""

from __future__ import annotations

from kvmcompose.core.deployment import Level
from kvmcompose.effects.threads import in_thread
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.providers.guest.interface import Entrance
from kvmcompose.server.action_log import ActionLog, StepFailedError
from kvmcompose.server.orchestrator.context import Context
from kvmcompose.server.orchestrator.privileges import domain_xml
from kvmcompose.server.orchestrator.runtimes import runtime_of
from kvmcompose.server.orchestrator.stages import shielded
from kvmcompose.server.orchestrator.testbed import LoadedGuest, LoadedTestbed
from kvmcompose.server.store import SEED_MARK

#: So much of a guest's console is shown when it does not come up.
_CONSOLE_LINES = 30

#: What it means that a guest is in the shell of its firmware.
_NO_LOADER = "its disks have no loader for UEFI; take an image that has one, or firmware: bios"


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
                await runtime_of(guest).wait(self._context, self._testbed, guest)
        except StepFailedError:
            await self._show_console(guest, host, stage)
            raise

    async def entrance(self, guest: LoadedGuest) -> Entrance:
        """Return the way into a guest that runs."""
        return await runtime_of(guest).entrance(self._context, self._testbed, guest)

    async def _start(self, guest: LoadedGuest, host: HostDrivers, made: str) -> None:
        run = guest.run
        assert run is not None  # noqa: S101 (only guests that run are started)
        store, project = self._context.store, self._context.project
        login = self._testbed.login(guest, guest.address or "", self._context.gate(guest, self._testbed))
        seed = self._testbed.seed_digest(guest)
        booted = store.mark(project, SEED_MARK, guest.state.identity)
        disk = run.boot_disk
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
        if guest.domain is not None and guest.domain.nvram is not None:
            nvram = self._context.folder_on(host) / guest.domain.nvram
            await host.disks.ready_nvram(nvram, fresh=is_new)
        for path, size in guest.shared_disks.items():
            await host.disks.ready_raw(self._context.folder_on(host) / path, size)
        xml = await in_thread(domain_xml, self._context, self._testbed, guest)
        await host.hypervisor.domains.start(xml, made)
        for _name, xml in store.snapshots(project, guest.state.identity):
            await host.hypervisor.snapshots.redefine(guest.state.domain, xml)

    async def _show_console(self, guest: LoadedGuest, host: HostDrivers, stage: str) -> None:
        path, text = await runtime_of(guest).console_end(self._context, self._testbed, guest, _CONSOLE_LINES)
        if not path:
            return
        lines = [
            (f"the end of {guest.name}'s console ({path}):", Level.INFO),
            (text or "(it printed nothing)", Level.OUTPUT),
        ]
        if guest.domain is not None and guest.domain.nvram is not None and is_in_uefi_shell(text):
            lines.append((f"{guest.name} is in the shell of its UEFI: {_NO_LOADER}", Level.WARNING))
        for line, level in lines:
            self._log.say(
                line, level, stage=stage, step=f"wait:{guest.name}", guest=guest.name, host=host.name
            )


def is_in_uefi_shell(console: str) -> bool:
    """Return whether the end of a console is that of EDK II where it has found nothing to boot."""
    return "UEFI Interactive Shell" in console and console.rstrip().endswith("Shell>")
