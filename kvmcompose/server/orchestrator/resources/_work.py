"""What an action changes hosts with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from kvmcompose.core.commands import Down, Power, Up
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.core.instance import HostSize
from kvmcompose.core.resource import Change, Ref, Verb
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.server.action_log import ActionLog, RunningStep
from kvmcompose.server.orchestrator.context import Context
from kvmcompose.server.orchestrator.resources._view import View
from kvmcompose.server.orchestrator.stages import side_by_side
from kvmcompose.server.orchestrator.start import Starter
from kvmcompose.server.orchestrator.testbed import LoadedTestbed

#: Why an action is refused, and a hint.
Refusal = tuple[str, str | None]
#: Guests that boot at a time, for each CPU of their host.
BOOTS_PER_CPU = {"kvm": 4, "qemu": 2}


class Work:
    """One action at work on hosts. ``testbed`` is the one that is wanted, None when nothing is.

    ``facts`` are those of the hosts, by name. ``running`` are the guests that are on now,
    ``waited_for`` those that were seen to be ready after their start, ``current`` those that
    have the scripts of now in them, ``failed`` what could not be done.
    """

    def __init__(
        self,
        view: View,
        testbed: LoadedTestbed | None,
        command: Up | Down | Power,
        log: ActionLog,
        facts: Mapping[str, HostSize],
    ) -> None:
        self.view = view
        self.context: Context = view.context
        self.command = command
        self.log = log
        self.facts = facts
        self.running: set[str] = set()
        #: The hosts that do not answer.
        self.silent: frozenset[str] = frozenset()
        self.waited_for: set[str] = set()
        self.current: set[str] = set()
        self.failed: set[Ref] = set()
        self._testbed = testbed
        if testbed is not None:
            self.starter = Starter(self.context, testbed, log)

    @property
    def testbed(self) -> LoadedTestbed:
        """The testbed that is wanted. Only removals work without one."""
        assert self._testbed is not None  # noqa: S101 (see above)
        return self._testbed

    @property
    def up(self) -> Up:
        """The options of an ``up``; the defaults for other commands."""
        return self.command if isinstance(self.command, Up) else Up()

    @property
    def timeout(self) -> float:
        """How long a guest may take to shut down, in seconds."""
        return self.command.timeout if isinstance(self.command, Down | Power) else Down().timeout

    async def on_hosts(self, check: Callable[[HostDrivers], Awaitable[None]]) -> list[Refusal]:
        """Run a check on all hosts of the testbed that answer, side by side, and return what they raise."""

        async def on_host(name: str, host: HostDrivers) -> list[Refusal]:
            try:
                await check(host)
            except KvmComposeError as error:
                return [(f"{name}: {error.message}", error.hint)]
            return []

        names = [name for name in self.testbed.state.testbed_hosts if name not in self.silent]
        hosts = {name: self.view.hosts[name] for name in names}
        found = await side_by_side(on_host(name, host) for name, host in hosts.items())
        return [each for refusals in found for each in refusals]

    def boots(self, host: str) -> int:
        """Return how many guests may boot at a time on a host: a boot under emulation keeps a CPU busy."""
        virt_type = self.testbed.state.testbed_hosts[host].virt_type
        size = self.facts.get(host)
        return max(2, size.cpus * BOOTS_PER_CPU.get(virt_type, 2)) if size is not None else 2

    def is_second(self, change: Change) -> bool:
        """Return whether a change removes what a guest also has on the host that it is placed on.

        A host that was given up may come back, with the guests that ran on it.
        """
        guest = self._testbed.guests.get(change.guest or "") if self._testbed is not None else None
        return (
            change.verb is Verb.REMOVE and guest is not None and guest.state.testbed_host != change.ref.host
        )

    @property
    def failed_guests(self) -> set[str]:
        """The guests whose golden image could not be made: nothing is done for them."""
        golden = {ref.name for ref in self.failed if ref.kind == "golden-image"}
        return {clone.name for name in golden for clone in self.testbed.clones(name)}

    def step(
        self, stage: str, name: str, *, guest: str | None = None, host: str | None = None
    ) -> RunningStep:
        """Return a step of the log, as a context manager."""
        return self.log.step(stage, name, guest=guest, host=host)
