"""Snapshots of containers: images of their files, which stay on the host when the container goes.

Such an image is named ``kvm-compose-snapshots/<container>:<snapshot>``. When it was made, and what the
container was doing then, is in the server's database, as is what is known of the snapshots while the guest is
down.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import msgspec

from kvmcompose.core.commands import Snapshot, SnapshotVerb
from kvmcompose.core.deployable import SNAPSHOT_REPOSITORY
from kvmcompose.core.deployment import SnapshotStatus
from kvmcompose.core.errors import RefusedError
from kvmcompose.effects.threads import in_thread
from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.containers.interface.images import FoundImage
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.providers.netns.container_nics import ContainerPlace
from kvmcompose.server.action_log import RunningStep
from kvmcompose.server.orchestrator.context import Context
from kvmcompose.server.orchestrator.privileges import container_request
from kvmcompose.server.orchestrator.resources._container_spec import spec_of
from kvmcompose.server.orchestrator.resources._plugs import PlugChange, Plugs
from kvmcompose.server.orchestrator.stages import shielded
from kvmcompose.server.orchestrator.testbed import LoadedGuest, LoadedTestbed

#: A tag of an image; at most 63 characters, as all names of snapshots (Distribution's "reference" grammar).
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}")
#: The mark of a guest whose container is being replaced by one with the files of a snapshot: what that is
#: made from, and the ID of the image.
_RESTORING = "restoring"
#: How long a container may take to stop before it is replaced, in seconds, as with ``docker stop``.
_STOP_SECONDS = 10


class _Then(msgspec.Struct, frozen=True):
    """A container at the time of a snapshot."""

    created: str
    state: str


def is_in_snapshots(_guest: LoadedGuest) -> bool:
    """Return True: every container has files of its own."""
    return True


def check_snapshot(_guest: LoadedGuest, command: Snapshot, _state: str) -> None:
    """Raise RefusedError for a name that no image can have."""
    if command.verb is SnapshotVerb.CREATE and not _TAG.fullmatch(command.name):
        raise RefusedError(
            f"a snapshot of a container cannot be named {command.name!r}: it is the tag of an image",
            hint="use letters, digits, dots, hyphens and underscores",
        )


async def snapshot(
    context: Context, testbed: LoadedTestbed, guest: LoadedGuest, command: Snapshot, step: RunningStep
) -> None:
    """Make a snapshot, restore it or delete it."""
    host = context.host_of(guest, testbed)
    project, name, identity = context.project, guest.state.domain, guest.state.identity
    noted = _noted(context, guest)
    if command.verb is SnapshotVerb.RESTORE:
        await shielded(_restore(context, testbed, guest, command.name))
        step.say(f"{guest.name} has its files of then and its settings of now")
        return
    if command.verb is SnapshotVerb.CREATE:
        state = (await host.engine.containers.container(project, name)).state
        now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        await shielded(host.engine.images.commit(project, name, _tag(guest, command.name)))
        noted |= {command.name: _Then(created=now, state=state)}
    else:
        tag = next(tag for known, _, tag in await _images(context, host, guest) if known == command.name)
        await shielded(host.engine.images.remove_image(project, tag))
        noted.pop(command.name, None)
    notes = [(known, msgspec.json.encode(then).decode()) for known, then in noted.items()]
    context.store.keep_snapshots(project, identity, notes)


async def _restore(context: Context, testbed: LoadedTestbed, guest: LoadedGuest, wanted: str) -> None:
    """Replace a container by one with the files of an image, and connect it as it was."""
    host = context.host_of(guest, testbed)
    project, name = context.project, guest.state.domain
    image = next(image for known, image, _ in await _images(context, host, guest) if known == wanted)
    request = await in_thread(container_request, context, testbed, guest)
    before = await host.engine.containers.container(project, name)
    await host.engine.containers.stop(project, name, _STOP_SECONDS)
    store, identity = context.store, guest.state.identity
    with store.in_one():
        # what was done in it later is unknown to it; what is noted in its files, is read again
        store.forget_marks(project, identity)
        # if this server ends now, the next up continues
        note_restoring(context, guest, before.made, image.id)
    await host.engine.containers.remove(project, name)
    created = await host.engine.containers.create(
        project, identity, name, {**request, "Image": image.id}, before.made
    )
    note_restoring(context, guest, before.made, None)
    if not before.pid:
        return
    now = await host.engine.containers.start(project, name, created)
    if not now.pid:
        raise DriverError(
            f"{guest.name} has ended" + (f": {now.reason}" if now.reason else ""),
            hint=f"what it printed: kvm-compose logs {guest.name}",
        )
    place, nics = ContainerPlace(id=now.id, pid=now.pid), spec_of(testbed, guest).nics
    change = PlugChange(
        nics=tuple((place, each.nic) for each in nics), ports=tuple(each.port for each in nics)
    )
    await Plugs(project, host).change(change)
    if before.state == "paused":
        await host.engine.containers.pause(project, name)


def being_restored(context: Context, guest: LoadedGuest, made: str) -> str | None:
    """Return the ID of the image that a container made from ``made`` was to be restored from; None for none.

    That is known from before the old container was removed until there is another one.
    """
    mark = context.store.marks(context.project, _RESTORING).get(guest.state.identity, "")
    before, _, image = mark.partition(" ")
    return image if image and before == made else None


def note_restoring(context: Context, guest: LoadedGuest, made: str, image: str | None) -> None:
    """Remember what ``being_restored`` returns; None when it is done."""
    mark = None if image is None else f"{made} {image}"
    context.store.put_mark(context.project, _RESTORING, guest.state.identity, mark)


async def snapshots(context: Context, testbed: LoadedTestbed, guest: LoadedGuest) -> Sequence[SnapshotStatus]:
    """Return the snapshots of a container that is there."""
    host, noted = context.host_of(guest, testbed), _noted(context, guest)
    images = await _images(context, host, guest)
    if not images:
        return ()
    current = (await host.engine.containers.container(context.project, guest.state.domain)).image
    return sorted(
        (_status(guest, name, noted.get(name), current=image.id == current) for name, image, _ in images),
        key=lambda each: (each.created, each.name),
    )


def kept_snapshots(context: Context, guest: LoadedGuest) -> Sequence[SnapshotStatus]:
    """Return those of a guest that is down."""
    return [_status(guest, name, then) for name, then in _noted(context, guest).items()]


async def purge(context: Context, host: HostDrivers) -> None:
    """Remove the snapshots of the project's containers from a host, if it has an engine."""
    for image in await host.engine.images.of_project(context.project):
        for tag in image.tags:
            if f"{SNAPSHOT_REPOSITORY}/" in tag:
                await shielded(host.engine.images.remove_image(context.project, tag))


def _tag(guest: LoadedGuest, name: str) -> str:
    return f"{SNAPSHOT_REPOSITORY}/{guest.state.domain}:{name}"


async def _images(
    context: Context, host: HostDrivers, guest: LoadedGuest
) -> Sequence[tuple[str, FoundImage, str]]:
    """Return the names of snapshots with their images and tags. Podman puts ``localhost/`` before a tag."""
    prefix = _tag(guest, "")
    return [
        (tag.rpartition(":")[2], image, tag)
        for image in await host.engine.images.of_project(context.project)
        for tag in image.tags
        if tag.removeprefix("localhost/").startswith(prefix)
    ]


def _noted(context: Context, guest: LoadedGuest) -> dict[str, _Then]:
    kept: Sequence[tuple[str, str]] = context.store.snapshots(context.project, guest.state.identity)
    return {name: msgspec.json.decode(then, type=_Then) for name, then in kept}


def _status(guest: LoadedGuest, name: str, then: _Then | None, *, current: bool = False) -> SnapshotStatus:
    known: Mapping[str, str] = msgspec.structs.asdict(then) if then else {"created": "", "state": "running"}
    return SnapshotStatus(guest=guest.name, name=name, current=current, **known)
