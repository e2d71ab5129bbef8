"""What runs of a project on its hosts, whatever runs it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial

from kvmcompose.core.errors import KvmComposeError
from kvmcompose.core.instance import HostSize, Instance
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.server.orchestrator.context import Context
from kvmcompose.server.orchestrator.runtimes import answer_of, runtimes_of
from kvmcompose.server.orchestrator.stages import side_by_side
from kvmcompose.server.orchestrator.testbed import LoadedGuest, LoadedTestbed

_NONE: Mapping[str, Instance] = {}


async def instances(context: Context, testbed: LoadedTestbed, *guests: LoadedGuest) -> dict[str, Instance]:
    """Return the project's instances by the guest's name: those of all hosts, or of the hosts of some guests.

    Raises DriverError when one of these hosts cannot be asked.
    """
    asked = {guest.state.testbed_host for guest in guests} or testbed.state.testbed_hosts.keys()
    found, silent = await instances_of_hosts(context, testbed, asked)
    for error in silent.values():
        raise error
    return found


async def instances_of_hosts(
    context: Context, testbed: LoadedTestbed, hosts: Collection[str]
) -> tuple[dict[str, Instance], dict[str, KvmComposeError]]:
    """Return the project's instances on these hosts, and why there are none of hosts that do not answer."""
    used = runtimes_of([testbed]).items()

    async def ask(host: HostDrivers) -> list[Instance] | KvmComposeError:
        try:
            answers: list[Mapping[str, Instance]] = [
                await answer_of(name, [testbed], host.name, partial(runtime.instances, context, host), _NONE)
                for name, runtime in used
            ]
        except KvmComposeError as error:
            return error
        return [each for answer in answers for each in answer.values()]

    names = [name for name in testbed.state.testbed_hosts if name in hosts]
    answers = await side_by_side(ask(context.host(testbed.state.testbed_hosts[name])) for name in names)
    found: dict[str, Instance] = {}
    silent: dict[str, KvmComposeError] = {}
    for name, answer in zip(names, answers, strict=True):
        if isinstance(answer, KvmComposeError):
            silent[name] = answer
        else:
            found |= {testbed.names.get(each.guest, each.guest): each for each in answer}
    return found, silent


def why_not_on(guest: str, instance: Instance | None) -> tuple[str, str]:
    """Return why nothing can be done in a guest, and the command that changes this.

    `up` leaves a guest that was stopped or paused, so it is not the one.
    """
    if instance is None:
        return f"{guest} is not up", "kvm-compose up"
    commands = {"shut off": f"kvm-compose start {guest}", "paused": f"kvm-compose resume {guest}"}
    return f"{guest} is {instance.state}", commands.get(instance.state, "kvm-compose up")


async def host_size(context: Context, testbed: LoadedTestbed, host: HostDrivers) -> dict[str, HostSize]:
    """Return the size of a host by its name, where something that runs guests there knows it.

    Raises DriverError when what is to run guests there does not answer.
    """
    found = {}
    for name, runtime in runtimes_of([testbed]).items():
        size = await answer_of(name, [testbed], host.name, partial(runtime.size, context, host), None)
        if size is not None:
            found[host.name] = size
    return found
