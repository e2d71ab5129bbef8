"""What would have to change for a testbed to be what is wanted. Looks at hosts, and changes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from kvmcompose.core.deployment import Up
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.core.resource import Change, Found, Ref, Resource, Verb
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.reconcile.difference import difference
from kvmcompose.server.orchestrator.resources import providers
from kvmcompose.server.orchestrator.resources._view import View
from kvmcompose.server.orchestrator.stages import side_by_side
from kvmcompose.server.orchestrator.testbed import LoadedTestbed


class Differences(msgspec.Struct, frozen=True, kw_only=True):
    """What differs, and why hosts did not answer."""

    found: Sequence[Found]
    changes: Sequence[Change]
    silent: Mapping[str, KvmComposeError]


async def plan(view: View, testbed: LoadedTestbed | None, options: Up | None = None) -> Differences:
    """Compare a testbed (None: nothing at all) with what exists.

    What ``options`` repeat counts as missing. Resources on silent hosts are left out; so are files, where the
    view does not look at them.
    """
    found, silent = await _look(view)
    again = {
        kind for kind, each in providers().items() if each.REPEATED and getattr(options, each.AGAIN, False)
    }
    found = [each for each in found if each.ref.kind not in again]
    wanted = [] if testbed is None else wanted_by(testbed)
    seen = {kind for kind, provider in providers().items() if view.files or not provider.LOOKS_AT_FILES}
    wanted = [each for each in wanted if each.ref.host not in silent and each.ref.kind in seen]
    changes = difference(
        wanted,
        found,
        {kind: provider.compare for kind, provider in providers().items()},
        earlier=_earlier(view.deployed),
        lost_with_needs=[kind for kind, provider in providers().items() if provider.LOST_WITH_NEEDS],
    )
    return Differences(found=found, changes=changes, silent=silent)


def wanted_by(testbed: LoadedTestbed) -> list[Resource]:
    """Return the resources that a testbed needs."""
    found = [each for provider in dict.fromkeys(providers().values()) for each in provider.wanted(testbed)]
    return [*found, *testbed.resources]


async def _look(view: View) -> tuple[list[Found], dict[str, KvmComposeError]]:
    """Return all resources of the project, and why there are none of hosts that do not answer."""
    answers = await side_by_side(_of_host(view, host) for host in view.hosts.values())
    found: list[Found] = []
    silent: dict[str, KvmComposeError] = {}
    for name, answer in zip(view.hosts, answers, strict=True):
        if isinstance(answer, KvmComposeError):
            silent[name] = answer
        else:
            found += answer
    return found, silent


async def _of_host(view: View, host: HostDrivers) -> list[Found] | KvmComposeError:
    found: list[Found] = []
    try:
        for provider in dict.fromkeys(providers().values()):
            found += await provider.observe(view, host)
    except KvmComposeError as error:
        return error
    return found


def _earlier(deployed: LoadedTestbed | None) -> dict[Ref, Any]:
    wanted: list[Resource] = wanted_by(deployed) if deployed is not None else []
    return {each.ref: each.spec for each in wanted}


def due(changes: Sequence[Change], options: Up) -> list[Change]:
    """Return the changes that an ``up`` with these options carries out."""
    kinds = providers()
    chosen = []
    for change in changes:
        again = kinds[change.ref.kind].AGAIN
        if change.pending:
            if again and getattr(options, again, False):
                chosen.append(msgspec.structs.replace(change, pending=False))
        elif not (options.no_repair and change.verb is Verb.REPAIR):
            chosen.append(change)
    return chosen
