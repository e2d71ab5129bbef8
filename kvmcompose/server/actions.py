"""Runs actions, each as an asyncio task: one at a time per deployment, several deployments at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress

from kvmcompose.core.commands import ActionCommand, Exec, Reconnect, Test, command_name, spoken
from kvmcompose.core.deployment import Action, ActionState, Deployment, Fault, Level, LogLine, Phase
from kvmcompose.core.errors import KvmComposeError, RefusedError
from kvmcompose.server.action_counts import ActionCounts
from kvmcompose.server.action_input import ActionInput
from kvmcompose.server.action_log import ActionLog, Refusals, StepFailedError, ending, follow
from kvmcompose.server.audit import Audit, AuditRecord, short
from kvmcompose.server.clock import now
from kvmcompose.server.event_channel import Channel
from kvmcompose.server.orchestrator import Orchestrator
from kvmcompose.server.store import Store

#: How long a user's command waits for what the server does itself, in seconds.
_WAY_SECONDS = 5.0


class BusyError(RefusedError):
    """Another action runs in the deployment."""

    def __init__(self, action: Action) -> None:
        said = f"{action.asked_by} ({action.who})" if action.asked_by and action.who else None
        asker = said or action.asked_by or action.who
        by = f", requested by {asker}" if asker else ""
        super().__init__(
            f"{action.deployment}: {spoken(action.command, action.options)!r} has been running since"
            f" {action.started}{by} (action {action.uuid})",
            hint="wait until it ends (kvm-compose logs -f), or cancel it (kvm-compose cancel)",
        )
        self.action = action


class NotFoundError(KvmComposeError):
    """The deployment, action or guest does not exist."""


class _Running:
    """An action that is running."""

    def __init__(self, action: Action, action_log: ActionLog, owner: str | None, *, exclusive: bool) -> None:
        self.action = action
        self.owner = owner
        self.log = action_log
        self.exclusive = exclusive
        self.began = time.monotonic()
        self.started = False
        self.cancelled = False
        self.task: asyncio.Task[None] | None = None
        self.input: ActionInput | None = None

    def end(self) -> None:
        """Tell those who follow its log and send its input that it has ended."""
        if self.input is not None:
            self.input.end()
        self.log.end()


class Actions:
    """The actions of a server."""

    def __init__(self, store: Store, orchestrator: Orchestrator, audit: Audit | None = None) -> None:
        """``audit`` receives a record of each action's end."""
        self._audit = audit
        self._store = store
        self._orchestrator = orchestrator
        self._running: dict[str, _Running] = {}
        #: Those that have ended.
        self.counts = ActionCounts()
        #: Wakes those who wait for actions to end, of any deployment.
        self.endings = Channel()

    @property
    def busy(self) -> bool:
        """Whether any action is running."""
        return bool(self._running)

    def count(self, owner: str | None) -> int:
        """Return how many actions run in the deployments of a user."""
        return sum(each.owner == owner for each in self._running.values())

    def all_running(self, name: str) -> list[Action]:
        """Return the actions that run in a deployment."""
        return [each.action for each in self._of(name)]

    def running(self, name: str) -> Action | None:
        """Return the action that runs in a deployment (one of them, if several do), or None."""
        return next(iter(self.all_running(name)), None)

    def is_running(self, uuid: str) -> bool:
        """Return whether an action runs."""
        return uuid in self._running

    def begin(
        self,
        deployment: Deployment,
        command: ActionCommand,
        who: str | None = None,
        asked_by: str | None = None,
    ) -> Action:
        """Start an action for the user ``asked_by``, whose client calls itself ``who``. Raises BusyError.

        Several ``exec`` and ``test`` can run side by side, and beside what the server does itself; every
        other command excludes all others.
        """
        exclusive = not isinstance(command, Exec | Test | Reconnect)
        for each in self._running.values():
            if each.action.deployment == deployment.name and (exclusive or each.exclusive):
                raise BusyError(each.action)
        action = self._store.begin_action(
            deployment.name, command, who, exclusive=exclusive, asked_by=asked_by
        )
        running = _Running(action, ActionLog(self._store, action.uuid), deployment.owner, exclusive=exclusive)
        if isinstance(command, Exec) and command.stdin:
            running.input = ActionInput()
        self._running[action.uuid] = running
        running.task = asyncio.create_task(self._run(running, deployment, command), name=action.uuid)
        return action

    async def _run(self, running: _Running, deployment: Deployment, command: ActionCommand) -> None:
        action_log = running.log
        refused = False
        crash: Exception | None = None
        phase: Phase | None = None
        exit_status: int | None = None
        running.started = True
        try:
            if running.cancelled:
                refused = True  # nothing was changed
                raise asyncio.CancelledError  # noqa: TRY301 (it was cancelled before the task started)
            outcome = await self._orchestrator.run(deployment, command, action_log, running.input)
            phase, exit_status = outcome.phase, outcome.exit_status
        except asyncio.CancelledError:
            action_log.say("cancelled", Level.ERROR)
            running.cancelled = True
        except RefusedError as error:
            refused = True
            for message, hint in _reasons(error):
                action_log.fault(Fault(step="check", message=message, hint=hint), stage="check")
        except StepFailedError:
            pass
        except KvmComposeError as error:
            action_log.fault(Fault(step=command_name(command), message=error.message, hint=error.hint))
        except Exception as error:  # noqa: BLE001 (whatever it is, the action has to end and report it)
            crash = error
            if not action_log.faults:
                action_log.fault(
                    Fault(
                        step=command_name(command),
                        message=f"internal error: {type(error).__name__}: {error}",
                        hint="please report it, with the server's log",
                    )
                )
        action_log.conclude()
        state = ending(action_log.faults, cancelled=running.cancelled)
        try:
            self._store.end_action(
                running.action.uuid,
                state,
                faults=action_log.faults,
                refused=refused,
                exit_status=exit_status,
                phase=self._phase_after(running, deployment, state, phase, refused=refused),
            )
        finally:
            self._record_end(running, state, refused=refused)
            self.counts.add(
                deployment.name,
                running.action.command,
                "refused" if refused else state,
                time.monotonic() - running.began,
            )
            del self._running[running.action.uuid]
            running.end()
            self.endings.wake()
            self._store.channel(deployment.name).wake()  # where a disk is full, no event says that it ended
        if crash is not None:
            raise crash

    def _record_end(self, running: _Running, state: ActionState, *, refused: bool) -> None:
        """Write to the audit log how an action ended, and why it was refused."""
        if self._audit is None:
            return
        why = "; ".join(fault.message for fault in running.log.faults) if refused else None
        self._audit.write(
            AuditRecord(
                time=now(),
                event="action",
                outcome="refused" if refused else state,
                reason=short(why) if why else None,
                person=running.action.asked_by,
                deployment=running.action.deployment,
                action=running.action.uuid,
                command={"name": running.action.command},
            )
        )

    @staticmethod
    def _phase_after(
        running: _Running, before: Deployment, state: ActionState, phase: Phase | None, *, refused: bool
    ) -> tuple[Phase, str | None] | None:
        """Return the phase of the deployment after an action, and the command that failed."""
        if not running.exclusive:
            return None
        if refused or (state is ActionState.SUCCEEDED and phase is None):
            return before.state, before.failed_command
        if state is ActionState.SUCCEEDED and phase is not None:
            return phase, None
        if running.action.command == "snapshot":  # a failed one leaves the testbed up
            return before.state, before.failed_command
        return Phase.FAILED, spoken(running.action.command, running.action.options)

    def cancel(self, uuid: str) -> bool:
        """Stop an action. Returns False when it is not running."""
        running = self._running.get(uuid)
        if running is None or running.task is None:
            return False
        if not running.cancelled:
            running.cancelled = True
            running.log.say("cancelling: stopping at the next safe point", Level.WARNING)
            if running.started:  # a task that has not started would never report its end
                running.task.cancel()
        return True

    async def wait(self, uuid: str) -> None:
        """Return when the action has ended."""
        running = self._running.get(uuid)
        if running is not None and running.task is not None:
            with suppress(Exception):
                await asyncio.shield(running.task)

    async def wait_idle(self, name: str) -> None:
        """Return when no action runs in a deployment that excludes others."""
        while uuid := next((each.action.uuid for each in self._of(name) if each.exclusive), None):
            await self.wait(uuid)

    async def make_way(self, name: str) -> None:
        """Return when the server does nothing itself in a deployment; what takes long is cancelled."""
        for each in self._of(name):
            if each.action.command == "reconnect":
                with suppress(TimeoutError):
                    await asyncio.wait_for(self.wait(each.action.uuid), _WAY_SECONDS)
                self.cancel(each.action.uuid)
                await self.wait(each.action.uuid)

    def _of(self, name: str) -> list[_Running]:
        return [each for each in self._running.values() if each.action.deployment == name]

    async def stop(self) -> None:
        """Cancel all actions and wait until they have ended."""
        for uuid in list(self._running):
            self.cancel(uuid)
        for running in list(self._running.values()):
            if running.task is not None:
                with suppress(Exception, asyncio.CancelledError):
                    await running.task

    def input(self, uuid: str) -> ActionInput:
        """Return where the input of a running command goes. Raises RefusedError when it takes none."""
        running = self._running.get(uuid)
        if running is None or running.input is None:
            raise RefusedError("the action takes no input, or has ended")
        return running.input

    def follow(self, uuid: str, after: int = 0) -> AsyncIterator[LogLine]:
        """Yield an action's log after line ``after``, then new lines as they come, until the action ends."""
        running = self._running.get(uuid)
        return follow(self._store, running.log if running else None, uuid, after)


def _reasons(error: RefusedError) -> list[tuple[str, str | None]]:
    return error.reasons if isinstance(error, Refusals) else [(error.message, error.hint)]
