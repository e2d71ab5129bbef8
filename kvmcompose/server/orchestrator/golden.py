"""Golden images: booted once, set up, shut down, frozen; set up again when their inputs change."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import msgspec

from kvmcompose.core.deployment import Level
from kvmcompose.core.once import once
from kvmcompose.effects import private
from kvmcompose.effects.files import digest_bytes
from kvmcompose.effects.opening import DOCUMENT_LIMIT, read_regular
from kvmcompose.effects.threads import in_thread
from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.server.action_log import ActionLog
from kvmcompose.server.orchestrator.context import Context
from kvmcompose.server.orchestrator.distribute import Distribution
from kvmcompose.server.orchestrator.scripts import run_script, seal
from kvmcompose.server.orchestrator.stages import shielded
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

    def __init__(self, context: Context, testbed: LoadedTestbed, distribution: Distribution) -> None:
        self._context = context
        self._testbed = testbed
        self._distribution = distribution
        #: Their host.
        self.host = testbed.main_host.name

    @once
    def _record(self) -> dict[str, Frozen]:
        """Reads files: call it in a thread."""
        return read_record(self._testbed.folder)

    async def made(self) -> dict[str, str]:
        """Return those that are there, with what they were made from."""
        found = {}
        for golden in self._testbed.golden:
            noted = await in_thread(self._noted, golden.state.identity)
            if noted is not None and await self._is_unchanged(golden, noted):
                found[golden.name] = await in_thread(self._recipe, golden, noted)
        return found

    def _recipe(self, golden: LoadedGuest, made: Frozen) -> str:
        """Return what an image was made from, as this version would record it."""
        is_same = made.recipe == _recipe_of_seed(self._testbed, golden)
        return golden_recipe(self._testbed, golden) if is_same else made.recipe

    def settle(self, names: Collection[str]) -> None:
        """Record images that version 0.1 made, by name, as this version does. Writes a file."""
        before = dict(self._record)
        for golden in self._testbed.golden:
            made = self._noted(golden.state.identity)
            if made is not None and golden.name in names:
                recipe = self._recipe(golden, made)
                self._record[golden.state.identity] = msgspec.structs.replace(made, recipe=recipe)
        if self._record != before:
            self._write()

    def _noted(self, identity: str) -> Frozen | None:
        return self._record.get(identity)

    async def clones_in_the_way(self, golden: LoadedGuest) -> list[tuple[str, str | None]]:
        """Return why an image that has to be made cannot be: clones hold data that lies on the old one."""
        holding = [clone.name for clone in await self._clones_with_data(golden)]
        if not holding:
            return []
        why = f"the golden image {golden.name} has to be set up again, and clones have data"
        hint = "up --reset-clones recreates these clones: what they wrote is lost"
        return [(f"{why}: {', '.join(holding)}", hint)]

    async def _is_unchanged(self, golden: LoadedGuest, made: Frozen) -> bool:
        if self._distribution.is_to_be_put(golden):
            return False
        return made.signature == await self._signature(golden)

    async def _signature(self, golden: LoadedGuest) -> str:
        disks = self._host(golden).disks
        return "\n".join([await disks.signature(path) for path in self._distribution.paths(golden)])

    async def _clones_with_data(self, golden: LoadedGuest) -> list[LoadedGuest]:
        return [
            clone for clone in self._testbed.clones(golden.name) if await self._distribution.has_data(clone)
        ]

    async def make(self, golden: LoadedGuest, starter: Starter, log: ActionLog) -> None:
        """Boot an image, run its scripts, shut it down and freeze it. Raises StepFailedError."""
        host, domain = self._host(golden), golden.state.domain
        where = {"guest": golden.name, "host": host.name}
        with log.step(STAGE, f"prepare:{golden.name}", **where) as step:
            for clone in await self._clones_with_data(golden):
                step.say(f"{clone.name} is recreated, because its golden image changes", Level.WARNING)
                await shielded(self._distribution.renew(clone))
            await shielded(self._clear(golden, host))
        try:
            await starter.start(golden, STAGE)
            await starter.wait(golden, STAGE)
            entrance = await starter.entrance(golden)
            for script in golden.run.setup_scripts if golden.run else ():
                name = script.rpartition("/")[2]
                with log.step(STAGE, f"shared_setup:{golden.name}:{name}", **where) as step:
                    await run_script(entrance, script, step.output)
            with log.step(STAGE, f"freeze:{golden.name}", **where):
                await seal(entrance)
                if not await host.hypervisor.domains.shut_down(domain, _SHUT_DOWN_SECONDS):
                    raise DriverError(
                        f"{golden.name} did not shut down within {_SHUT_DOWN_SECONDS:.0f} s",
                        hint="what it was doing, its console shows: .kvm-compose/consoles",
                    )
                await shielded(self._freeze(golden, host))
        finally:
            # failed or cancelled: a golden image stays off, and the next `up` starts again
            await shielded(self._switch_off(domain, host))

    async def _clear(self, golden: LoadedGuest, host: HostDrivers) -> None:
        """Whatever an attempt before has left."""
        await self._switch_off(golden.state.domain, host)
        await in_thread(self._forget, golden)
        nvram = golden.domain.nvram if golden.domain is not None else None
        for disk in self._distribution.paths(golden):
            await host.disks.set_frozen(disk, frozen=False)
            if nvram is not None and disk.match(nvram):
                continue  # with a new disk, it begins with new variables
            if not await host.disks.pristine(disk):
                # copies of images are refused for golden images, so one without a backing file was empty
                await host.disks.reset_overlay(disk, blank=True)

    async def _switch_off(self, domain: str, host: HostDrivers) -> None:
        """Unless it has become another project's since hosts were looked at."""
        if await host.hypervisor.foreign(self._context.project, [domain], []):
            return
        await host.hypervisor.domains.destroy(domain)
        await host.hypervisor.domains.undefine(domain)

    async def _freeze(self, golden: LoadedGuest, host: HostDrivers) -> None:
        await host.hypervisor.domains.undefine(golden.state.domain)
        for disk in self._distribution.paths(golden):
            await host.disks.set_frozen(disk, frozen=True)
        await in_thread(self._remember, golden, await self._signature(golden))

    def _remember(self, golden: LoadedGuest, signature: str) -> None:
        self._record[golden.state.identity] = Frozen(golden_recipe(self._testbed, golden), signature)
        self._write()

    def _forget(self, golden: LoadedGuest) -> None:
        if self._record.pop(golden.state.identity, None) is not None:
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


def golden_recipe(testbed: LoadedTestbed, golden: LoadedGuest) -> str:
    """Return what a golden image is made from: user-data, scripts and context, and its base image.

    Its address is not part of that: clones have their own. Reads the seed at first.
    """
    contents = testbed.seed_contents(golden)
    if contents is None or not contents.archive:
        return _recipe_of_seed(testbed, golden)
    seen = (contents.user_data, contents.scripts, contents.context, contents.environment)
    return f"2:{digest_bytes(msgspec.json.encode((*seen, _base(testbed, golden)), order='deterministic'))}"


def _recipe_of_seed(testbed: LoadedTestbed, golden: LoadedGuest) -> str:
    """Return what version 0.1 recorded: all of the seed, and the base image."""
    return digest_bytes(f"{testbed.seed_digest(golden)}\n{_base(testbed, golden)}".encode())


def _base(testbed: LoadedTestbed, golden: LoadedGuest) -> str:
    """Return the base images, which are named by their content: links to images carry their digest."""
    return "\n".join(testbed.source.backing_file(path) or "" for path in golden.image_disks)
