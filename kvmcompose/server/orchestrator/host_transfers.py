"""Sending one host the images, seeds and disks that its guests need, and nothing that it has."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import msgspec

from kvmcompose.core.artefact import is_shared_disk
from kvmcompose.effects.files import digest_bytes
from kvmcompose.effects.owner_files import OwnerFiles
from kvmcompose.effects.threads import in_thread
from kvmcompose.hosts.blob_store import Blob, BlobStore, Inventory
from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.transfer_plan import (
    Digests,
    NeededFile,
    Sent,
    needed_files,
    note_file,
    note_sent,
    read_sent,
)
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.server.action_log import ActionLog, RunningStep
from kvmcompose.server.orchestrator.context import Context
from kvmcompose.server.orchestrator.growth import GrowingDisk, HostedDisks, WantedFile
from kvmcompose.server.orchestrator.sending import Progress, mib
from kvmcompose.server.orchestrator.stages import shielded
from kvmcompose.server.orchestrator.testbed import LoadedGuest, LoadedTestbed

STAGE = "distribute"
#: The digest of a disk that guests share, as the build makes it.
_EMPTY = digest_bytes(b"")
#: What is in the way, and a hint.
Reason = tuple[str, str | None]


class TransferTask(msgspec.Struct, frozen=True, kw_only=True):
    """What all transfers of one ``up`` have in common. ``provision``: new disks replace those with data."""

    context: Context
    testbed: LoadedTestbed
    digests: Digests
    provision: bool


class HostTransfers:
    """Transfers to a host that is not the main host."""

    def __init__(self, task: TransferTask, drivers: HostDrivers, blobs: BlobStore) -> None:
        self.name = drivers.name
        self._project = task.context.project
        self._context = task.context
        self._digests = task.digests
        self._provision = task.provision
        self._folder = task.testbed.folder
        self._to_be_made = task.testbed.source.to_be_made
        self._folder_there = task.context.folder_on(drivers)
        self._testbed = task.testbed
        self._guests = [each for each in task.testbed.by_host.get(self.name, ()) if each.is_started]
        self._disks = drivers.disks
        self._blobs = blobs
        self._delivered: dict[str, str] = {}
        #: Disks that move here: they are not sent as they were built.
        self._incoming: frozenset[str] = frozenset()
        self._stored: frozenset[str] = frozenset()
        self._growing: dict[str, GrowingDisk] = {}
        self._golden: frozenset[str] = frozenset()  # on other hosts they are images
        #: Disks of the golden images that the host's guests are clones of, with the names of these.
        self.golden = {
            path: golden.name
            for golden in task.testbed.golden
            for path in golden.disks
            if any(guest.golden == golden.name for guest in self._guests)
        }
        self._reader: OwnerFiles | None = None
        #: How much ``look`` found that the host lacks, in bytes.
        self.lacking_bytes = 0
        #: What is in the way of the transfers, found by ``look``.
        self.refusals: list[Reason] = []

    # -- before anything is changed

    def expect(self, disks: frozenset[str]) -> None:
        """Leave out disks that move here from another host."""
        self._incoming = disks

    async def look(self, running: Collection[str], held: Inventory) -> list[str]:
        """Return the paths of what the host lacks; disks of ``running`` guests stay as they are.

        ``held`` is what it has. Raises DriverError when the host cannot be used.
        """
        self._delivered = await in_thread(self._usable, held)
        self._stored = held.stored
        # before a member's main host was sent anything
        wanted = await self._wanted(first=True)
        self._growing = await self._find_growing(wanted, self._context.member)
        self.refusals = [*self._check_room(held, wanted)]
        if not self._provision:
            self.refusals += await self._check_disks(wanted)
        return self._lacking(wanted, running)

    def _usable(self, held: Inventory) -> dict[str, str]:
        """Return what was delivered, without copies of disks that are not to be used."""
        stale = read_sent(self._folder).get(self.name, Sent()).stale
        return {path: digest for path, digest in held.delivered.items() if path not in stale}

    def _lacking(self, wanted: Mapping[str, WantedFile], running: Collection[str]) -> list[str]:
        in_use = self._in_use(running)
        return [
            path
            for path, each in wanted.items()
            if path not in in_use
            and (
                path in self._growing
                or self._is_to_be_put(path, each)
                or (each.file.shared and self._delivered.get(path) != each.digest)
            )
        ]

    def _in_use(self, running: Collection[str]) -> set[str]:
        return {
            path
            for guest in self._guests
            if guest.name in running
            for path in guest.disks
            # a guest that runs can get another disk
            if path == guest.disks[0] or path in self._delivered
        }

    def _check_room(self, held: Inventory, wanted: Mapping[str, WantedFile]) -> Iterator[Reason]:
        needed = sum(
            max(0, file.size - held.parts.get(digest, 0))
            for digest, file in _shared(wanted).items()
            if digest not in self._stored
        )
        needed += sum(each.file.size for path, each in wanted.items() if self._is_to_be_put(path, each))
        self.lacking_bytes = needed
        if needed > held.room:
            yield (
                f"not enough free space: {mib(needed)} needed, {mib(held.room)} free",
                "images of all testbeds are in /var/lib/kvm-compose/.store there",
            )

    async def _check_disks(self, wanted: Mapping[str, WantedFile]) -> list[Reason]:
        """Find disks with data that would be lost."""
        lost = [
            guest.name
            for guest in self._guests
            for disk in guest.disks
            if disk in self._delivered
            and self._is_to_be_put(disk, wanted[disk])
            and await self.has_data(disk)
        ]
        reasons: list[Reason] = []
        if lost:
            named = ", ".join(dict.fromkeys(lost))
            reasons.append(
                (
                    f"the disks of {named} were rebuilt, and those on the host have data",
                    "kvm-compose up --provision replaces them: what the guests wrote is lost",
                )
            )
        return reasons

    # -- disks

    def has(self, disk: str) -> bool:
        """Whether the host has a disk."""
        return disk in self._delivered

    async def has_data(self, disk: str) -> bool:
        """Whether the host has a disk that a guest has written to."""
        if disk not in self._delivered:
            return False
        there = self._folder_there / disk
        if is_shared_disk(disk):
            return await self._disks.length(there) > 0  # raw: whatever is in it is no header
        return not await self._disks.pristine(there)

    async def _find_growing(
        self, wanted: Mapping[str, WantedFile], files: OwnerFiles | None = None
    ) -> dict[str, GrowingDisk]:
        if self._provision:
            return {}
        disks = HostedDisks(
            delivered=self._delivered,
            header=lambda path: self._disks.header(self._folder_there / path),
            pristine=lambda path: self._disks.pristine(self._folder_there / path),
            golden=self._golden,
            files=files or self._reader,
        )
        there = {path: each for path, each in wanted.items() if path not in self._to_be_made}
        return {**await disks.growing(there), **await self._to_grow(wanted)}

    async def _to_grow(self, wanted: Mapping[str, WantedFile]) -> dict[str, GrowingDisk]:
        """Return the disks with data that grow once the build has made larger ones."""
        found = {}
        for path, made in self._to_be_made.items():
            if (
                made.grows_to is None
                or path not in wanted
                or not wanted[path].file.disk
                or wanted[path].file.raw
            ):
                continue  # a golden image is a link there
            if not await self.has_data(path):
                continue
            size = (await self._disks.header(self._folder_there / path)).virtual_size
            if size <= made.grows_to:
                found[path] = GrowingDisk(size, made.grows_to)
        return found

    async def _grow(
        self, wanted: Mapping[str, WantedFile], in_use: Collection[str], step: RunningStep
    ) -> None:
        for path, each in self._growing.items():
            if path in in_use:
                step.say(f"{path} {each}, while its guest runs")
                continue
            if each.before != each.after:
                await shielded(self._disks.grow(self._folder_there / path, each.after))
                step.say(f"{path} {each}")
            await shielded(self._blobs.note(self._project, path, wanted[path].digest))

    async def drop(self, disk: str) -> None:
        """Remove a disk."""
        await self._disks.remove(self._folder_there / disk)
        self._delivered.pop(disk, None)

    # -- sending

    async def send(self, running: Collection[str], failed: Collection[str], log: ActionLog) -> None:
        """Send what the host lacks. Raises StepFailedError.

        Disks of ``running`` guests stay as they are; what ``failed`` guests need is left out.
        """
        with log.step(STAGE, "look", host=self.name) as step:
            wanted = await self._wanted(failed)
            step.skip()
        sent = 0
        for digest, file in _shared(wanted).items():
            if digest not in self._stored:
                sent += await self._send_image(digest, file, log)
        with log.step(STAGE, "files", host=self.name) as step:
            sent += await self._send_files(wanted, running, step)
            await self._finish(wanted)
            if sent:
                step.say(f"{mib(sent)} sent to {self.name}")
            else:
                step.skip()

    async def _finish(self, wanted: Mapping[str, WantedFile]) -> None:
        """Record what was sent, beside disks that stay here."""
        here = {path: each for path, each in wanted.items() if path not in self._incoming}
        files = {path: each.digest for path, each in here.items() if not each.file.shared}

        def note() -> None:
            before = read_sent(self._folder).get(self.name, Sent())
            kept = {path: each for path, each in before.files.items() if path in self._delivered}
            after = Sent(frozenset(_shared(wanted)), kept | files, before.stale - files.keys())
            note_sent(self._folder, self.name, after)

        await in_thread(note)

    async def take_in(self, guest: LoadedGuest, path: str, digest: str, step: RunningStep) -> None:
        """Record a disk of a guest that has moved here as what would be sent. It grows, if that is larger.

        ``digest`` is that of its content.
        """
        held = await self._blobs.inspect(self._project, await self._context.read_home())
        self._delivered = await in_thread(self._usable, held) | {path: digest}
        self._incoming -= {path}
        wanted = await self._wanted(only=guest.name)
        self._growing = await self._find_growing({path: wanted[path]} | _below(path, wanted))
        await self._grow(wanted, (), step)
        if path not in self._growing:
            await shielded(self._blobs.note(self._project, path, wanted[path].digest))
        await in_thread(note_file, self._folder, self.name, path, wanted[path].digest)

    async def _send_image(self, digest: str, file: NeededFile, log: ActionLog) -> int:
        name = Path(file.path).name
        with log.step(STAGE, f"send:{name}", host=self.name) as step:
            progress = Progress(step, file.size)
            await self._blobs.store(digest, Path(file.source), progress)
            progress.end(name)
        return progress.sent

    async def _send_files(
        self, wanted: Mapping[str, WantedFile], running: Collection[str], step: RunningStep
    ) -> int:
        # before links change: they say what is there
        self._growing = await self._find_growing(wanted)
        in_use = self._in_use(running)
        await self._grow(wanted, in_use, step)
        links = {
            path: each.digest
            for path, each in wanted.items()
            if each.file.shared and self._delivered.get(path) != each.digest
        }
        if links:
            await self._blobs.link(self._project, links)
        if self._provision:
            for guest in self._elsewhere():
                for disk in guest.disks:
                    if disk in self._delivered:
                        await self.drop(disk)
        files = {
            path: Blob(each.digest, Path(each.file.source))
            for path, each in wanted.items()
            if path not in in_use and self._is_to_be_put(path, each)
        }
        for path in files:
            if wanted[path].file.disk and not self._provision and await self.has_data(path):
                raise DriverError(f"{path} was rebuilt, and the one on {self.name} has data")
        sent: list[int] = []
        if files:
            await self._blobs.put(self._project, files, sent.append)
        return sum(sent)

    def _elsewhere(self) -> list[LoadedGuest]:
        """The guests that are on other hosts."""
        return [each for each in self._testbed.runnable if each.state.testbed_host != self.name]

    async def _wanted(
        self, but: Collection[str] = (), *, first: bool = False, only: str | None = None
    ) -> dict[str, WantedFile]:
        """Return what the host's guests need, by path, except guests ``but``, or what one of them needs.

        ``first``: of a member's project, as it is in the member's folder.
        """
        member = self._context.member if first else None
        folder = self._folder if member is None else self._context.location
        runs = [
            guest.run
            for guest in self._guests
            if guest.run is not None and guest.name not in but and only in (None, guest.name)
        ]

        def digest_of(file: NeededFile) -> str:
            if is_shared_disk(file.path):
                return _EMPTY  # it is sent as the build makes it: one with data here does not move
            if member is None:
                return self._digests.of(file.source)
            made = self._folder / file.path
            if file.path in self.golden and made.is_file():
                return self._digests.of(str(made))  # set up here: the member's is as it was built
            return member.digest(Path(file.source))

        def find() -> dict[str, WantedFile]:
            try:
                made = self._to_be_made
                found = needed_files(folder, runs, member, made)
                return {
                    path: WantedFile(each, digest_of(each) if path not in made else made[path].digest or "")
                    for path, each in found.items()
                }
            except OSError as error:
                raise DriverError(
                    f"cannot read {error.filename}, which guests of {self.name} need: {error.strerror}",
                    hint="kvm-compose generate links images again",
                ) from error

        return await in_thread(find)

    def _is_to_be_put(self, path: str, wanted: WantedFile) -> bool:
        if wanted.file.shared or path in self._growing or path in self._incoming:
            return False
        there = self._delivered.get(path)
        return there != wanted.digest or (wanted.file.disk and self._provision)


def _shared(wanted: Mapping[str, WantedFile]) -> dict[str, NeededFile]:
    """Return what is sent as a blob, by digest."""
    return {each.digest: each.file for each in wanted.values() if each.file.shared}


def _below(path: str, wanted: Mapping[str, WantedFile]) -> dict[str, WantedFile]:
    """Return the backing files of a disk."""
    return {each: wanted[each] for each in wanted[path].file.below}
