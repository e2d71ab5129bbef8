"""Volumes of containers on hosts other than the main host: copies of what the project has, kept by ``down``.

A copy is changed while containers use it. What they have written to it stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

from kvmcompose.core.deployment import Level
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.core.resource import Change, Found, Reason, ReasonCode, Ref, Resource, Verb
from kvmcompose.hosts.volume_tree import VolumeTree, in_one_line
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.server.action_log import RunningStep
from kvmcompose.server.orchestrator import host_transfers
from kvmcompose.server.orchestrator.resources._view import View
from kvmcompose.server.orchestrator.resources._work import Refusal, Work
from kvmcompose.server.orchestrator.testbed import LoadedTestbed
from kvmcompose.server.orchestrator.volumes import HostVolumes, volumes_on

KINDS = ("container-volume",)
AFTER = ("files",)
STAGE = host_transfers.STAGE
LOOKS_AT_FILES = True
#: The most files of a volume that reasons and the log name.
_NAMED = 3


def wanted(testbed: LoadedTestbed) -> Iterator[Resource]:
    """Yield the volumes of each host but for the main host, each once."""
    for host in testbed.state.testbed_hosts:
        for volume in volumes_on(testbed, host):
            yield Resource(ref=Ref(KINDS[0], volume, host), spec=None)


async def observe(view: View, host: HostDrivers) -> Iterable[Found]:
    """Return those of the volumes that are wanted on a host that it has, with how they differ."""
    volumes = await view.volumes(host)
    return [
        Found(ref=Ref(KINDS[0], each, host.name), detail=tuple(_reasons(volumes, each)))
        for each in volumes.sent
        if each in volumes.wanted or each in volumes.flaws
    ]


def _reasons(volumes: HostVolumes, volume: str) -> list[Reason]:
    if volume in volumes.flaws:
        return [Reason(ReasonCode.EDITED, volume)]
    change, tree, sent = volumes.change(volume), volumes.wanted[volume], volumes.sent[volume]
    found = [
        Reason(ReasonCode.EDITED if path in sent else ReasonCode.ADDED, _shown(volume, path))
        for path in change.put
        if path not in sent or tree[path].kind != "folder"
    ]
    # the mode of a folder that is there is not changed
    found += [Reason(ReasonCode.REMOVED, _shown(volume, each)) for each in change.dropped if each not in tree]
    if len(found) > _NAMED:
        found[_NAMED:] = [Reason(ReasonCode.EDITED, f"the rest of {len(found)} files")]
    return found or ([Reason(ReasonCode.EDITED, volume)] if change.put or change.dropped else [])


def _shown(volume: str, path: str) -> str:
    return in_one_line(f"{volume}/{path}" if path else volume)


def compare(wanted: Resource, found: Found) -> Change | None:
    """What differs from the project's is sent, while guests run."""
    if not found.detail:
        return None
    return Change(verb=Verb.UPDATE, ref=wanted.ref, reasons=found.detail, wanted=wanted, found=found)


async def refusals(work: Work, changes: Sequence[Change]) -> Sequence[Refusal]:
    """Return what cannot be sent, and where there is too little room."""
    found: list[Refusal] = []
    for name in dict.fromkeys(change.ref.host for change in changes):
        host = work.view.hosts[name]
        volumes = await work.view.volumes(host)
        found += [(f"{name}: {text}", hint) for text, hint in volumes.flaws.values()]
        room, needed = (await work.view.inventory(host)).room, volumes.lacking_bytes
        if needed > room:
            text = (
                f"{name}: not enough free space for volumes: {needed >> 20} MiB needed, {room >> 20} MiB free"
            )
            found.append((text, None))
    return found


async def apply(work: Work, host: HostDrivers, changes: Sequence[Change]) -> None:
    """Send what has changed."""
    (change,) = changes
    volume, context = change.ref.name, work.context
    volumes = await work.view.volumes(host)
    assert host.volumes is not None  # noqa: S101 (only other hosts have volumes)
    tree, difference = volumes.wanted[volume], volumes.change(volume)
    with work.step(STAGE, f"volume:{volume}", host=host.name) as step:
        if change.found is None:
            await _name_other_copies(work, host, volume, step)
        sent: list[int] = []
        kept = await host.volumes.put(
            context.project, volume, context.location, tree, difference, sent.append
        )
        for each in kept[:_NAMED]:
            path, beside = in_one_line(each.path), in_one_line(each.name)
            text = f"{path} was changed on {host.name}, too: that one is beside it, as {beside}"
            step.say(text, Level.WARNING)
        if len(kept) > _NAMED:
            step.say(f"so are {len(kept) - _NAMED} others", Level.WARNING)
        files = sum(tree[path].kind != "folder" for path in difference.put)
        sent_files = "1 file" if files == 1 else f"{files} files"
        step.say(f"{volume}: {sent_files} sent to {host.name}, {sum(sent)} bytes{_removed(volumes, volume)}")


def _removed(volumes: HostVolumes, volume: str) -> str:
    tree: VolumeTree = volumes.wanted[volume]
    removed = [path for path in volumes.change(volume).dropped if path not in tree]
    return f", {len(removed)} removed" if removed else ""


async def _name_other_copies(work: Work, host: HostDrivers, volume: str, step: RunningStep) -> None:
    """Say where else a copy is that no guest uses any more: guests may have written to it."""
    for name, other in work.view.hosts.items():
        if name == host.name or volume in volumes_on(work.testbed, name):
            continue
        with suppress(KvmComposeError):  # a host that has left the testbed, and does not answer
            if volume in await work.view.sent_volumes(other):
                text = f"{volume} on {name} stays there, with what guests have written to it"
                step.say(text, Level.WARNING)


async def remove(work: Work, host: HostDrivers, changes: Sequence[Change]) -> None:
    """Nothing: what guests have written stays, until ``down --purge``."""
