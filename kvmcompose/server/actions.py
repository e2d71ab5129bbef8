"""Actions: one at a time per deployment, several deployments at once; each in a task of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

from kvmcompose.core.deployment import (
    Action,
    ActionState,
    Command,
    Deployment,
    Exec,
    Fault,
    Level,
    LogLine,
    Phase,
    command_name,
)
from kvmcompose.core.errors import KvmComposeError, RefusedError
from kvmcompose.server.action_log import ActionLog, Refusals, StepFailedError, ending, follow
from kvmcompose.server.audit import Audit, AuditRecord, now, short
from kvmcompose.server.orchestrator import Orchestrator
from kvmcompose.server.store import Store


class BusyError(RefusedError):
    """Something else runs in the deployment."""

    def __init__(self, action: Action) -> None:
        said = f"{action.asked_by} ({action.who})" if action.asked_by and action.who else None
        asker = said or action.asked_by or action.who
        by = f", asked for by {asker}" if asker else ""
        super().__init__(
            f"{action.deployment}: {action.command!r} is running since {action.started}{by}"
            f" (action {action.uuid})",
            hint="wait for its end (kvm-compose logs -f), or cancel it (kvm-compose cancel)",
        )
        self.action = action


class NotFoundError(KvmComposeError):
    """There is no such deployment, action or guest."""


class _Running:
    """An action that runs."""

    def __init__(self, action: Action, journal: ActionLog, owner: str | None, *, exclusive: bool) -> None:
        self.action = action
        self.owner = owner
        self.journal = journal
        self.exclusive = exclusive
        self.started = False
        self.cancelled = False
        self.task: asyncio.Task[None] | None = None


class Actions:
    """The actions of a server."""

    def __init__(self, store: Store, orchestrator: Orchestrator, audit: Audit | None = None) -> None:
        """``audit`` records how actions end."""
        self._audit = audit
        self._store = store
        self._orchestrator = orchestrator
        self._running: dict[str, _Running] = {}

    @property
    def busy(self) -> bool:
        """Whether anything runs."""
        return bool(self._running)

    def count(self, owner: str | None) -> int:
        """How many run in the deployments of a user."""
        return sum(each.owner == owner for each in self._running.values())

    def running(self, name: str) -> Action | None:
        """What runs in a deployment; one of them, where several do."""
        return next((each.action for each in self._running.values() if each.action.deployment == name), None)

    def begin(
        self, deployment: Deployment, command: Command, who: str | None = None, asked_by: str | None = None
    ) -> Action:
        """Start an action for ``asked_by``, who calls themselves ``who``. Raises BusyError.

        An ``exec`` goes along with others; everything else has the deployment to itself.
        """
        exclusive = not isinstance(command, Exec)
        for each in self._running.values():
            if each.action.deployment == deployment.name and (exclusive or each.exclusive):
                raise BusyError(each.action)
        action = self._store.begin_action(
            deployment.name, command, who, exclusive=exclusive, asked_by=asked_by
        )
        running = _Running(action, ActionLog(self._store, action.uuid), deployment.owner, exclusive=exclusive)
        self._running[action.uuid] = running
        running.task = asyncio.create_task(self._run(running, deployment, command), name=action.uuid)
        return action

    async def _run(self, running: _Running, deployment: Deployment, command: Command) -> None:
        journal = running.journal
        refused = False
        crash: Exception | None = None
        phase: Phase | None = None
        exit_status: int | None = None
        running.started = True
        try:
            if running.cancelled:
                refused = True  # nothing was changed
                raise asyncio.CancelledError  # noqa: TRY301 (it was cancelled before it came to its turn)
            outcome = await self._orchestrator.run(deployment, command, journal)
            phase, exit_status = outcome.phase, outcome.exit_status
        except asyncio.CancelledError:
            journal.say("cancelled", Level.ERROR)
            running.cancelled = True
        except RefusedError as error:
            refused = True
            for message, hint in _reasons(error):
                journal.fault(Fault(step="check", message=message, hint=hint), stage="check")
        except StepFailedError:
            pass
        except KvmComposeError as error:
            journal.fault(Fault(step=command_name(command), message=error.message, hint=error.hint))
        except Exception as error:  # noqa: BLE001 (whatever it is, the action has to end and say so)
            crash = error
            if not journal.faults:
                journal.fault(
                    Fault(
                        step=command_name(command),
                        message=f"a fault of kvm-compose itself: {type(error).__name__}: {error}",
                        hint="please report it, with the server's log",
                    )
                )
        state = ending(journal.faults, cancelled=running.cancelled)
        try:
            self._store.end_action(
                running.action.uuid,
                state,
                faults=journal.faults,
                refused=refused,
                exit_status=exit_status,
                phase=self._phase_after(running, deployment, state, phase, refused=refused),
            )
        finally:
            self._tell(running, state, refused=refused)
            del self._running[running.action.uuid]
            journal.end()
        if crash is not None:
            raise crash

    def _tell(self, running: _Running, state: ActionState, *, refused: bool) -> None:
        """Have the audit log say how an action ended, and why one was refused."""
        if self._audit is None:
            return
        why = "; ".join(fault.message for fault in running.journal.faults) if refused else None
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
        """Where an action leaves its deployment; the only place that says so."""
        if not running.exclusive:
            return None
        if refused or (state is ActionState.SUCCEEDED and phase is None):
            return before.state, before.failed_command
        if state is ActionState.SUCCEEDED and phase is not None:
            return phase, None
        if running.action.command == "snapshot":  # what it failed to do changes nothing about what is up
            return before.state, before.failed_command
        return Phase.FAILED, running.action.command

    def cancel(self, uuid: str) -> bool:
        """Stop an action where it is; False when it does not run (any more)."""
        running = self._running.get(uuid)
        if running is None or running.task is None:
            return False
        if not running.cancelled:
            running.cancelled = True
            running.journal.say("cancelling: what is being done is brought to a safe point", Level.WARNING)
            if running.started:  # a task that has not would never come to say how it ended
                running.task.cancel()
        return True

    async def wait(self, uuid: str) -> None:
        """Return when the action has ended."""
        running = self._running.get(uuid)
        if running is not None and running.task is not None:
            with suppress(Exception):
                await asyncio.shield(running.task)

    async def stop(self) -> None:
        """Cancel everything and wait for it."""
        for uuid in list(self._running):
            self.cancel(uuid)
        for running in list(self._running.values()):
            if running.task is not None:
                with suppress(Exception, asyncio.CancelledError):
                    await running.task

    def follow(self, uuid: str, after: int = 0) -> AsyncIterator[LogLine]:
        """An action's log: what there is, then as it comes, until the action ends."""
        running = self._running.get(uuid)
        return follow(self._store, running.journal if running else None, uuid, after)


def _reasons(error: RefusedError) -> list[tuple[str, str | None]]:
    return error.reasons if isinstance(error, Refusals) else [(error.message, error.hint)]
