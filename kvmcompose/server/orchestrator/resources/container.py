"""Containers of guests, with their NICs and the ports of these.

A container is replaced when the request that creates it changes; NICs and their ports change while it runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from kvmcompose.core.commands import Up
from kvmcompose.core.deployable import ContainerGuest
from kvmcompose.core.instance import GONE, ON
from kvmcompose.core.names import first_few
from kvmcompose.core.resource import STOPPING, Change, Found, Loss, Ref, Resource, Verb
from kvmcompose.effects.threads import in_thread
from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.containers.interface.containers import HalfStartedError, ObservedContainer
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.providers.netns.container_nics import ContainerPlace, FoundNic
from kvmcompose.reconcile.difference import Asked
from kvmcompose.server.action_log import RunningStep
from kvmcompose.server.orchestrator.privileges import container_request
from kvmcompose.server.orchestrator.resources import _container_difference, _marks
from kvmcompose.server.orchestrator.resources._container_spec import (
    ContainerDetail,
    ContainerSpec,
    spec_of,
)
from kvmcompose.server.orchestrator.resources._image_builds import known_build
from kvmcompose.server.orchestrator.resources._images import known_image, main_host
from kvmcompose.server.orchestrator.resources._member_mounts import member_mounts
from kvmcompose.server.orchestrator.resources._plugs import PlugChange, Plugs
from kvmcompose.server.orchestrator.resources._view import View
from kvmcompose.server.orchestrator.resources._work import Refusal, Work
from kvmcompose.server.orchestrator.runtimes import containers as runtime
from kvmcompose.server.orchestrator.stages import shielded
from kvmcompose.server.orchestrator.testbed import LoadedGuest, LoadedTestbed
from kvmcompose.server.orchestrator.volumes import volumes_of

KINDS = (runtime.KIND,)
AFTER = ("container-image", "container-volume", "ovs-port")
STAGE = "guests"
RUNS = True
RECONNECTS = True
#: Containers that are created, or stopped, at a time on one host.
CREATIONS, STOPS = 8, 16
#: The most that a container may take to stop, in seconds, as with ``docker stop``.
STOP_SECONDS = 10

compare = _container_difference.compare

_plugs: WeakKeyDictionary[Work, dict[str, Plugs]] = WeakKeyDictionary()


def _guests(testbed: LoadedTestbed) -> Iterator[tuple[LoadedGuest, ContainerGuest]]:
    for guest in testbed.runnable:
        if isinstance(guest.run, ContainerGuest):
            yield guest, guest.run


def wanted(testbed: LoadedTestbed) -> Iterator[Resource]:
    """Yield the containers of all guests that have one."""
    for guest, run in _guests(testbed):
        host = guest.state.testbed_host
        volumes = (Ref("container-volume", each, host) for each in volumes_of(testbed, guest))
        needs = (Ref("files", host, host), Ref("container-image", run.image_name, host), *volumes)
        spec = spec_of(testbed, guest)
        yield Resource(ref=runtime.instance(guest), spec=spec, needs=needs, guest=guest.name)


async def observe(view: View, host: HostDrivers) -> Iterable[Found]:
    """Return the project's containers on a host with their NICs, and ports that others have left."""
    instances = await view.instances_of("containers", host)
    there = {name: each for name, each in instances.items() if isinstance(each, runtime.ContainerInstance)}
    known = {
        guest.state.domain: guest.name
        for testbed in reversed(view.testbeds)
        for guest, _ in _guests(testbed)
        if guest.state.testbed_host == host.name
    }
    if not there and not known:
        return ()
    places = {
        name: ContainerPlace(id=each.container.id, pid=each.container.pid)
        for name, each in there.items()
        if each.container.pid
    }
    nics = await host.nics.observe(places)
    ports = {
        port.name: (bridge.name, port)
        for bridge in (await view.switches(host)).values()
        for port in bridge.ports
    }
    ends = _ends(view, host.name)
    found = []
    for name in sorted(there.keys() | known.keys()):
        instance = there.get(name)
        container = instance.container if instance is not None else None
        mine = {each.end: each for each in nics.get(name, ()) if each.end}
        of_guest = {end: ports[end] for end in {*mine, *ends.get(name, ())} if end in ports}
        if container is None and not of_guest:
            continue
        detail = ContainerDetail(
            name=name,
            id=container.id if container is not None else "",
            pid=container.pid if container is not None else 0,
            reason=container.reason if container is not None else None,
            earlier=_earlier(view, name),
            nics=_ours(mine, ends.get(name, ())),
            bridges={end: bridge for end, (bridge, _) in of_guest.items()},
            logical_ports={end: port.interface_id for end, (_, port) in of_guest.items()},
            vlans={end: port.vlan for end, (_, port) in of_guest.items()},
        )
        found.append(
            Found(
                ref=Ref(KINDS[0], name, host.name),
                spec=instance.made if instance is not None else None,
                state=instance.state if instance is not None else GONE,
                guest=instance.guest if instance is not None else known[name],
                detail=detail,
            )
        )
    return found


def _ends(view: View, host: str) -> Mapping[str, set[str]]:
    """Return the ends of NICs that containers on a host have, or had, by their names."""
    ends: dict[str, set[str]] = {}
    for testbed in view.testbeds:
        for guest, _ in _guests(testbed):
            if guest.state.testbed_host == host:
                targets = ends.setdefault(guest.state.domain, set())
                targets.update(nic.target for nic in guest.state.interfaces)
    return ends


def _ours(nics: Mapping[str, FoundNic], ends: Iterable[str]) -> dict[str, FoundNic]:
    """Leave out what others have plugged in. Where nothing is known of a container, all is ours."""
    return {end: each for end, each in nics.items() if not ends or end in ends}


def _earlier(view: View, name: str) -> ContainerSpec | None:
    """Return what a container was brought up as."""
    guest = view.deployed.by_domain.get(name) if view.deployed is not None else None
    if view.deployed is None or guest is None or not isinstance(guest.run, ContainerGuest):
        return None
    return spec_of(view.deployed, guest)


def asked(options: Up, wanted: Resource) -> Asked | None:
    """Containers can be recreated."""
    return (Verb.REPLACE, "up --recreate") if wanted.guest in options.recreate else None


async def refusals(work: Work, changes: Sequence[Change]) -> Sequence[Refusal]:  # noqa: ARG001
    """Return names that others use, volumes of members, and guests to be recreated that are stopped."""
    stopped: list[Refusal] = [
        (f"{guest.name} is {work.testbed.intents[guest.name]}, as was asked for", _start(guest))
        for guest, _ in _guests(work.testbed)
        if guest.name in work.up.recreate and guest.name in work.testbed.intents
    ]
    volumes = member_mounts(work, "volume", (guest for guest, _ in _guests(work.testbed)))
    return [*stopped, *volumes, *await work.on_hosts(lambda host: _check_names(work, host))]


def _start(guest: LoadedGuest) -> str:
    return f"kvm-compose start {guest.name}"


async def _check_names(work: Work, host: HostDrivers) -> None:
    guests = work.testbed.by_host.get(host.name, ())
    names = [guest.state.domain for guest in guests if isinstance(guest.run, ContainerGuest)]
    if not names:
        return
    foreign = await host.engine.containers.foreign(work.context.project, names)
    if foreign:
        raise DriverError(
            f"names are taken by other containers: {first_few(foreign)}",
            hint="rename or remove these, or give the project another name: --project-name",
        )


async def apply(work: Work, host: HostDrivers, changes: Sequence[Change]) -> None:
    """Create and start a container with its NICs; or change one that runs."""
    (change,) = changes
    guest = work.testbed.guests[change.guest or ""]
    assert change.wanted is not None  # noqa: S101 (removals are the other function's)
    spec: ContainerSpec = change.wanted.spec
    found = change.found
    is_on = found is not None and found.state in ON
    if found is not None and is_on and spec.state == "shut off":
        await remove(work, host, changes)
        return
    if found is not None and is_on and change.verb in (Verb.UPDATE, Verb.REPAIR):
        name = _step_name(found, spec)
        with work.step(STAGE, f"{name}:{guest.name}", guest=guest.name, host=host.name) as step:
            await _update(work, host, spec, found, step)
        return
    if spec.state == "shut off":
        if found is None or found.state == GONE or change.verb is not Verb.REPAIR:
            # what the user switched off is still a guest of its host, which 'start' finds there
            with work.step(STAGE, f"create:{guest.name}", guest=guest.name, host=host.name):
                await shielded(_created(work, host, guest, change))
        return
    with work.step(STAGE, f"start:{guest.name}", guest=guest.name, host=host.name):
        await shielded(_start_container(work, host, guest, change))
    work.running.add(guest.name)
    project, name = work.context.project, guest.state.domain
    if spec.state == "paused":
        await shielded(host.engine.containers.pause(project, name))


def _step_name(found: Found, spec: ContainerSpec) -> str:
    if found.state == spec.state:
        return "update"
    return "pause" if spec.state == "paused" else "resume"


async def _created(work: Work, host: HostDrivers, guest: LoadedGuest, change: Change) -> str:
    """Return the ID of a container, which is created unless it is there."""
    assert change.wanted is not None  # noqa: S101 (see apply)
    context, store, found = work.context, work.context.store, change.found
    project, name, identity = context.project, guest.state.domain, guest.state.identity
    spec: ContainerSpec = change.wanted.spec
    is_there = found is not None and found.state != GONE and change.verb not in (Verb.REPLACE, Verb.MOVE)
    known = found.detail.id if found is not None and is_there else ""
    restored = runtime.being_restored(context, guest, spec.made) if change.verb not in STOPPING else None
    with store.in_one():
        if not is_there:
            # a life of the guest begins
            store.forget_marks(project, identity)
            runtime.note_restoring(context, guest, spec.made, restored)
        _marks.begin(work, guest.name)
    if not is_there:
        request = await in_thread(container_request, context, work.testbed, guest)
        if restored is not None and await host.engine.images.image(restored) is not None:
            request = {**request, "Image": restored}
            work.log.say(f"{guest.name} is restored from its snapshot, which was begun", guest=guest.name)
        else:
            request = await _named_as_there(work, host, guest, request)
        known = await host.engine.containers.create(project, identity, name, request, spec.made)
    runtime.note_restoring(context, guest, spec.made, None)
    return known


async def _start_container(work: Work, host: HostDrivers, guest: LoadedGuest, change: Change) -> None:
    """Start a container, which is created before unless it is there; then connect it."""
    assert change.wanted is not None  # noqa: S101 (see apply)
    project, name = work.context.project, guest.state.domain
    spec: ContainerSpec = change.wanted.spec
    known = await _created(work, host, guest, change)
    try:
        container = await host.engine.containers.start(project, name, known)
    except HalfStartedError as error:
        container = await _made_again(work, host, guest, error)
    runtime.check_runs(guest, container)
    if not spec.nics:
        return
    try:
        await _plug(work, host, spec, ContainerPlace(id=container.id, pid=container.pid))
    except DriverError:
        runtime.check_runs(guest, await host.engine.containers.container(project, name))  # why it has ended
        raise


async def _named_as_there(
    work: Work, host: HostDrivers, guest: LoadedGuest, request: dict[str, Any]
) -> dict[str, Any]:
    """Return a request with the image as a host knows it: by its ID, where it was built or sent there."""
    reference, main, run = str(request.get("Image", "")), main_host(work), guest.run
    found = None
    if isinstance(run, ContainerGuest) and run.build is not None and reference == run.image:
        found = await known_build(host, main, run.build, work.context.project)
    elif host.name != main.name and await host.engine.images.image(reference) is None:
        found = await known_image(host, main, reference)
    return request if found is None else {**request, "Image": found.id}


async def _made_again(
    work: Work, host: HostDrivers, guest: LoadedGuest, error: HalfStartedError
) -> ObservedContainer:
    """Start another container instead of one that cannot be started any more, and has never run.

    It is of the same image, which may be a snapshot. Raises DriverError.
    """
    project, name = work.context.project, guest.state.domain
    there = await host.engine.containers.container(project, name)
    if there.started is not None:
        hint = f"kvm-compose up --recreate {guest.name} makes another one, without what it has written"
        raise DriverError(error.message, hint=hint) from error
    request = await in_thread(container_request, work.context, work.testbed, guest)
    await host.engine.containers.remove(project, name)
    request |= {"Image": there.image}
    known = await host.engine.containers.create(project, guest.state.identity, name, request, there.made)
    return await host.engine.containers.start(project, name, known)


async def _plug(
    work: Work,
    host: HostDrivers,
    spec: ContainerSpec,
    place: ContainerPlace,
    removed: Sequence[str] = (),
    ends: Iterable[str] | None = None,
) -> None:
    """Connect the NICs of a container; only those with these ``ends``, if given."""
    chosen = [each for each in spec.nics if ends is None or each.nic.end in ends]
    change = PlugChange(
        nics=tuple((place, each.nic) for each in chosen),
        ports=tuple(each.port for each in chosen),
        removed=tuple(removed),
    )
    await _plugs_of(work, host).change(change)


async def _update(
    work: Work, host: HostDrivers, spec: ContainerSpec, found: Found, step: RunningStep
) -> None:
    """Change a container that runs."""
    detail: ContainerDetail = found.detail
    project, place = work.context.project, ContainerPlace(id=detail.id, pid=detail.pid)
    removed = _container_difference.removed_ends(spec, detail)
    ends = {each.nic.end for each in spec.nics if any(_container_difference.of_nic(each, detail))}
    if removed or ends:
        await shielded(_plug(work, host, spec, place, removed, ends))
        names = [each.nic.name for each in spec.nics if each.nic.end in ends]
        step.say(f"connected: {first_few(names)}" if names else f"removed: {first_few(removed)}")
    if found.state == "paused" and spec.state == "running":
        await shielded(host.engine.containers.unpause(project, detail.name))
        step.say("resumed")
    elif found.state == "running" and spec.state == "paused":
        await shielded(host.engine.containers.pause(project, detail.name))
        step.say("paused")


async def remove(work: Work, host: HostDrivers, changes: Sequence[Change]) -> None:
    """Stop a container, and remove it unless it is started again here."""
    (change,) = changes
    found, name = change.found, change.guest or change.ref.name
    assert found is not None  # noqa: S101 (what is removed was found)
    detail: ContainerDetail = found.detail
    project = work.context.project
    with work.step(STAGE, f"stop:{name}", guest=name, host=host.name):
        if found.state in ON:
            seconds = min(STOP_SECONDS, int(work.timeout))
            await shielded(host.engine.containers.stop(project, detail.name, seconds))
        if not work.is_second(change):
            work.running.discard(name)
        if found.state != GONE and change.verb in (Verb.REMOVE, Verb.MOVE, Verb.REPLACE):
            await shielded(host.engine.containers.remove(project, detail.name))
        if change.verb not in (Verb.RESTART, Verb.REPLACE):
            ends = tuple(sorted(detail.nics.keys() | detail.bridges.keys()))
            await shielded(_plugs_of(work, host).change(PlugChange(removed=ends)))


def boots(change: Change) -> bool:
    """Return whether the container starts: it is not only changed while it runs."""
    if change.verb in (Verb.UPDATE, Verb.REPAIR):
        return change.found is None or change.found.state not in ON
    return change.verb is not Verb.REMOVE


def loses(change: Change) -> Loss | None:
    """Return whether a container that is there is removed."""
    there = change.found is not None and change.found.state != GONE
    return Loss.OWN_FILES if there and change.verb in STOPPING - {Verb.RESTART} else None


def limit(work: Work, host: str, *, removing: bool) -> int:  # noqa: ARG001
    """Return how many may be started, or stopped, at a time."""
    return STOPS if removing else CREATIONS


def _plugs_of(work: Work, host: HostDrivers) -> Plugs:
    """Return what changes the NICs on a host, for one action."""
    of_hosts = _plugs.setdefault(work, {})
    if host.name not in of_hosts:
        of_hosts[host.name] = Plugs(work.context.project, host)
    return of_hosts[host.name]
