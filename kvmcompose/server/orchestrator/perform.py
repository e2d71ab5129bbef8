"""Carries out changes with the providers of their kinds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from kvmcompose.core.deployment import Fault, Level
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.core.names import first_few
from kvmcompose.core.resource import Change
from kvmcompose.reconcile.walk import Walk, needing
from kvmcompose.server.action_log import StepFailedError
from kvmcompose.server.orchestrator.resources import Provider, providers
from kvmcompose.server.orchestrator.resources._work import Work
from kvmcompose.server.orchestrator.stages import together


async def prepare(work: Work, changes: Sequence[Change]) -> bool:
    """Make what is made before anything is taken away (``BEFOREHAND``). Return whether all of it was."""
    first = [each for each in changes if each.wanted is not None and _is_beforehand(each)]
    return await _walk(work, first, keep_going=True).run()


async def perform(work: Work, changes: Sequence[Change], *, keep_going: bool = False) -> set[str]:
    """Carry out changes; return the names of guests and other resources that did not become as wanted.

    What needs something that could not be prepared stays as it is.
    """
    by_ref = {change.ref: change for change in changes}
    work.failed |= needing(changes, work.failed)
    left = [each for each in changes if each.ref not in work.failed and not _is_beforehand(each)]
    walk = _walk(work, left, keep_going=keep_going)
    await walk.run()
    names = dict.fromkeys(change.guest or change.ref.name for change in left if change.ref in walk.left_out)
    if names:
        text = f"not begun, as something that it needs has failed: {first_few([*names])}"
        work.log.say(text, Level.ERROR)
    return {by_ref[ref].guest or ref.name for ref in work.failed}


def _is_beforehand(change: Change) -> bool:
    return providers()[change.ref.kind].BEFOREHAND


def _walk(work: Work, changes: Sequence[Change], *, keep_going: bool) -> Walk:
    bound = {kind: _Bound(provider, work) for kind, provider in providers().items()}
    stages = {kind: provider.STAGE for kind, provider in providers().items()}
    return Walk(changes, bound, stages, _side_by_side, keep_going=keep_going, failed=work.failed)


async def _side_by_side(jobs: Sequence[Callable[[], Awaitable[None]]], limit: int) -> list[bool]:
    return await together(jobs, limit=limit)


class _Bound:
    """A provider at work for one action."""

    def __init__(self, provider: Provider, work: Work) -> None:
        self.BATCH = provider.BATCH
        self.AT_ONCE = provider.AT_ONCE
        self._provider = provider
        self._work = work

    def limit(self, host: str, *, removing: bool) -> int:
        return self._provider.limit(self._work, host, removing=removing)

    async def apply(self, changes: Sequence[Change]) -> None:
        host = self._work.view.hosts[changes[0].ref.host]
        await self._run(changes, self._provider.apply(self._work, host, changes))
        self._report(changes)

    async def remove(self, changes: Sequence[Change]) -> None:
        found = changes[0].found
        host = self._work.view.hosts[found.ref.host if found is not None else changes[0].ref.host]
        await self._run(changes, self._provider.remove(self._work, host, changes))
        self._report([each for each in changes if each.wanted is None])  # others are not done yet

    def _report(self, changes: Sequence[Change]) -> None:
        """Publish what was done."""
        for each in changes:
            ref = each.ref
            self._work.log.resource(each.verb, ref.kind, ref.name, host=ref.host or None, guest=each.guest)

    async def _run(self, changes: Sequence[Change], call: Awaitable[None]) -> None:
        """What fails outside of a step is a fault all the same."""
        change = changes[0]
        try:
            await call
        except StepFailedError:
            raise
        except KvmComposeError as error:
            fault = Fault(
                step=f"{change.ref.kind}:{change.ref.name}",
                guest=change.guest,
                host=change.ref.host,
                message=error.message,
                hint=error.hint,
            )
            self._work.log.fault(fault, stage=self._provider.STAGE)
            raise StepFailedError(error.message, hint=error.hint) from error
