"""Golden images: booted once, set up, shut down, frozen; set up again when their inputs change."""

from __future__ import annotations

from pathlib import Path

import msgspec

from kvmcompose.core.deployment import Level
from kvmcompose.core.once import once
from kvmcompose.effects import private
from kvmcompose.effects.opening import DOCUMENT_LIMIT, read_regular
from kvmcompose.effects.threads import in_thread
from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.server.action_log import ActionLog
from kvmcompose.server.orchestrator.context import Context
from kvmcompose.server.orchestrator.distribute import Distribution
from kvmcompose.server.orchestrator.scripts import run_script, seal
from kvmcompose.server.orchestrator.stages import Job, shielded, together
from kvmcompose.server.orchestrator.start import Starter
from kvmcompose.server.orchestrator.testbed import PRIVATE, LoadedGuest, LoadedTestbed

STAGE = "golden"
RECORD = f"{PRIVATE}/golden.json"
_SHUT_DOWN_SECONDS = 120.0


class Frozen(msgspec.Struct, frozen=True):
    """A golden image that was made: from what, and what its file looked like then."""

    recipe: str
    signature: str


class GoldenImages:
    """The golden images of a testbed."""

    def __init__(
        self,
        context: Context,
        testbed: LoadedTestbed,
        log: ActionLog,
        starter: Starter,
        distribution: Distribution,
    ) -> None:
        self._context = context
        self._testbed = testbed
        self._log = log
        self._starter = starter
        self._distribution = distribution

    @once
    def _record(self) -> dict[str, Frozen]:
        """Reads files: call it in a thread."""
        return read_record(self._testbed.folder)

    async def check(self, *, reset: bool) -> list[tuple[str, str | None]]:
        """Why images that have to be made cannot be: clones hold data that lies on the old ones."""
        if reset:
            return []
        reasons: list[tuple[str, str | None]] = []
        for golden in self._testbed.golden:
            if await self._is_made(golden):
                continue
            holding = [clone.name for clone in await self._clones_with_data(golden)]
            if holding:
                why = f"the golden image {golden.name} has to be set up again, and clones have data"
                hint = "up --reset-clones recreates these clones: what they wrote is lost"
                reasons.append((f"{why}: {', '.join(holding)}", hint))
        return reasons

    async def _is_made(self, golden: LoadedGuest) -> bool:
        if self._distribution.is_to_be_put(golden):
            return False
        made = await in_thread(self._record_of, golden)
        if made is None:
            return False
        return made.signature == await self._host(golden).disks.signature(self._distribution.path(golden))

    def _record_of(self, golden: LoadedGuest) -> Frozen | None:
        """What is noted of an image, if it is made from what it would be made from now."""
        made = self._record.get(golden.name)
        return made if made is not None and made.recipe == self._testbed.golden_recipe(golden) else None

    async def _clones_with_data(self, golden: LoadedGuest) -> list[LoadedGuest]:
        return [
            clone for clone in self._testbed.clones(golden.name) if await self._distribution.has_data(clone)
        ]

    async def provide(self, limits: dict[str, int]) -> set[str]:
        """Make those that are not there; the names of those that could not be made."""
        images = [golden for golden in self._testbed.golden if not await self._is_made(golden)]

        def job(golden: LoadedGuest) -> Job:
            return lambda: self._make(golden)

        results = await together([job(golden) for golden in images], limit=min(limits.values(), default=1))
        return {golden.name for golden, good in zip(images, results, strict=True) if not good}

    async def _make(self, golden: LoadedGuest) -> None:
        host, disk = self._host(golden), self._distribution.path(golden)
        domain = golden.state.hostname
        where = {"guest": golden.name, "host": host.name}
        with self._log.step(STAGE, f"prepare:{golden.name}", **where) as step:
            for clone in await self._clones_with_data(golden):
                step.say(f"{clone.name} is recreated, because its golden image changes", Level.WARNING)
                await shielded(self._distribution.renew(clone))
            await shielded(self._clear(golden, host))
        try:
            await self._starter.start(golden, None, STAGE)
            login = await self._starter.login(golden)
            for script in golden.run.setup_scripts if golden.run else ():
                name = script.rpartition("/")[2]
                with self._log.step(STAGE, f"shared_setup:{golden.name}:{name}", **where) as step:
                    await run_script(self._context.shell, login, script, step.output)
            with self._log.step(STAGE, f"freeze:{golden.name}", **where):
                await seal(self._context.shell, login)
                if not await host.hypervisor.shut_down_domain(domain, _SHUT_DOWN_SECONDS):
                    raise DriverError(
                        f"{golden.name} did not shut down within {_SHUT_DOWN_SECONDS:.0f} s",
                        hint="what it was doing, its console shows: .kvm-compose/consoles",
                    )
                await shielded(self._freeze(golden, host, disk))
        finally:
            # failed or cancelled: a golden image stays off, and the next `up` starts again
            await shielded(self._switch_off(domain, host))

    async def _clear(self, golden: LoadedGuest, host: HostDrivers) -> None:
        """Whatever an attempt before has left."""
        disk = self._distribution.path(golden)
        await self._switch_off(golden.state.hostname, host)
        await in_thread(self._forget, golden)
        await host.disks.set_frozen(disk, frozen=False)
        if not await host.disks.pristine(disk):
            await host.disks.reset_overlay(disk)

    async def _switch_off(self, domain: str, host: HostDrivers) -> None:
        """Unless it has become another project's since hosts were looked at."""
        if await host.hypervisor.foreign(self._context.project, [domain], []):
            return
        await host.hypervisor.destroy_domain(domain)
        await host.hypervisor.undefine_domain(domain)

    async def _freeze(self, golden: LoadedGuest, host: HostDrivers, disk: Path) -> None:
        await host.hypervisor.undefine_domain(golden.state.hostname)
        await host.disks.set_frozen(disk, frozen=True)
        await in_thread(self._remember, golden, await host.disks.signature(disk))

    def _remember(self, golden: LoadedGuest, signature: str) -> None:
        self._record[golden.name] = Frozen(self._testbed.golden_recipe(golden), signature)
        self._write()

    def _forget(self, golden: LoadedGuest) -> None:
        if self._record.pop(golden.name, None) is not None:
            self._write()

    def _write(self) -> None:
        private.write(self._testbed.folder / RECORD, msgspec.json.encode(self._record))

    def _host(self, guest: LoadedGuest) -> HostDrivers:
        return self._context.host_of(guest, self._testbed)


def read_record(folder: Path) -> dict[str, Frozen]:
    """The golden images that were made in a project; none when that cannot be read."""
    try:
        noted = read_regular(folder / RECORD, limit=DOCUMENT_LIMIT, follow=False)
        return msgspec.json.decode(noted, type=dict[str, Frozen])
    except (OSError, msgspec.MsgspecError):
        return {}
