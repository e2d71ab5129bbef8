"""What the guests of deployments use, for metrics: one look at each host, and none into guests.

Looks are shared by all who want one at the same time, whatever deployment they want it for. A host that does
not answer in time is left alone until it has.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable, Mapping

import msgspec

from kvmcompose.core.errors import KvmComposeError
from kvmcompose.core.instance import HostMeasures, HostSize, Measured
from kvmcompose.core.model import Host
from kvmcompose.effects.threads import in_thread
from kvmcompose.server.orchestrator.context import Context
from kvmcompose.server.orchestrator.runtimes import runtimes
from kvmcompose.server.orchestrator.stages import side_by_side
from kvmcompose.server.orchestrator.testbed import LoadedGuest, LoadedTestbed

log = logging.getLogger(__name__)

#: How long a host may take, in seconds: less than Prometheus waits for a scrape (scrape_timeout: 10 s).
LOOK_SECONDS = 5.0


class GuestFigures(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A guest. ``state`` and ``health`` as in ``GuestStatus``; ``memory_mb`` is what it has been given."""

    name: str
    kind: str
    host: str
    state: str
    health: str
    memory_mb: int | None
    measured: Measured | None


class HostFigures(msgspec.Struct, frozen=True, kw_only=True):
    """A host on which guests are placed; ``size`` is None where nothing that answered knows it."""

    name: str
    responds: bool
    size: HostSize | None


class TestbedFigures(msgspec.Struct, frozen=True, kw_only=True):
    """The hosts and guests of a deployment."""

    __test__ = False  # not a test, whatever its name

    hosts: tuple[HostFigures, ...]
    guests: tuple[GuestFigures, ...]


class HostLooks:
    """The looks at hosts that are under way."""

    def __init__(self) -> None:
        self._looks: dict[Hashable, asyncio.Task[HostMeasures | None]] = {}

    async def share(
        self, key: Hashable, measure: Callable[[], Awaitable[HostMeasures | None]]
    ) -> HostMeasures | KvmComposeError | None:
        """Return what ``measure`` finds, or why it fails, within ``LOOK_SECONDS``; shared by ``key``.

        One that takes longer goes on, and no other one begins meanwhile: it may hang.
        """
        if key not in self._looks:

            async def look() -> HostMeasures | None:
                return await measure()

            task = self._looks[key] = asyncio.create_task(look(), name=f"measure {key}")
            task.add_done_callback(lambda ended: self._end(key, ended))
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                return await asyncio.shield(self._looks[key])
        except TimeoutError:
            return KvmComposeError(f"the host has not answered within {LOOK_SECONDS:g} s")
        except KvmComposeError as error:
            return error
        except Exception as error:  # an answer that nobody expected, of one host of many
            log.exception("metrics: %s", key)
            return KvmComposeError(f"internal error ({type(error).__name__})")

    def _end(self, key: Hashable, task: asyncio.Task[HostMeasures | None]) -> None:
        del self._looks[key]
        if not task.cancelled():
            task.exception()  # mark it as retrieved: all who waited may have gone


async def measure(context: Context, looks: HostLooks) -> TestbedFigures:
    """Return what the guests of a deployment that is up use. Raises RefusedError for one that is refused."""
    testbed = await context.read_current()
    asked = [(host, name) for host, names in testbed.runtimes.items() for name in sorted(names)]
    answers = await side_by_side(
        _ask(context, looks, testbed.state.testbed_hosts[host], name) for host, name in asked
    )
    found = dict(zip(asked, answers, strict=True))
    return await in_thread(_figures, context, testbed, found)


async def _ask(
    context: Context, looks: HostLooks, host: Host, runtime: str
) -> HostMeasures | KvmComposeError | None:
    known = runtimes().get(runtime)
    if known is None:
        return None
    try:
        drivers = context.host(host)
    except KvmComposeError as error:
        return error
    # this machine is the same for all users; another host, which its user names, is only known to that user
    where: Hashable = (host.libvirt_uri, host.container_engine) if host.is_main_host else id(drivers)
    return await looks.share((runtime, where), lambda: known.measure(drivers))


def _figures(
    context: Context,
    testbed: LoadedTestbed,
    answers: Mapping[tuple[str, str], HostMeasures | KvmComposeError | None],
) -> TestbedFigures:
    found = {
        (host, each.name): each
        for (host, _), answer in answers.items()
        if isinstance(answer, HostMeasures)
        for each in answer.instances
        if each.project == context.project
    }
    guests = []
    for guest in testbed.guests.values():
        host = guest.state.testbed_host
        answer = answers.get((host, guest.run.runtime)) if guest.run is not None else None
        if answer is not None:  # otherwise nothing measures it
            known = not isinstance(answer, KvmComposeError)
            guests.append(_guest(context, guest, found.get((host, guest.state.domain)), known=known))
    hosts = []
    for name in dict.fromkeys(host for host, _ in answers):
        those = [answer for (host, _), answer in answers.items() if host == name]
        sizes = [each.size for each in those if isinstance(each, HostMeasures)]
        responds = not any(isinstance(each, KvmComposeError) for each in those)
        hosts.append(HostFigures(name=name, responds=responds, size=sizes[-1] if sizes else None))
    return TestbedFigures(hosts=tuple(hosts), guests=tuple(guests))


def _guest(context: Context, guest: LoadedGuest, measured: Measured | None, *, known: bool) -> GuestFigures:
    if measured is not None:
        state = measured.state
    elif not known:
        state = "unknown"
    else:
        state = "golden" if guest.state.is_golden_image else "absent"
    health = measured.health if measured is not None else ""
    if state == "running" and not health and guest.state.healthcheck is not None:
        seen = context.health.seen.get((context.project, guest.state.identity))
        health = seen.state if seen is not None and seen.check == guest.state.healthcheck else ""
    return GuestFigures(
        name=guest.name,
        kind=guest.state.kind,
        host=guest.state.testbed_host,
        state=state,
        health=health,
        memory_mb=(guest.run.memory_mb or None) if guest.run is not None else None,
        measured=measured,
    )
