"""Records in a project which of its files are in use, so that builds keep them."""

from __future__ import annotations

from collections.abc import Callable

from kvmcompose.core.deployment import Level
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.hosts.in_use import forget_in_use, read_in_use, write_in_use
from kvmcompose.server.action_log import ActionLog
from kvmcompose.server.orchestrator.context import Context
from kvmcompose.server.orchestrator.testbed import LoadedTestbed


def keep_files(context: Context, testbed: LoadedTestbed, log: ActionLog, *, added: bool) -> None:
    """Record the files of a testbed; ``added`` to those that are recorded already."""
    if context.member is not None:
        return  # what runs are copies
    used = {path for guest in testbed.guests.values() if guest.run is not None for path in guest.run.files}
    if added:
        used |= read_in_use(context.folder)
    _attempt(lambda: write_in_use(context.folder, used), log)


def release_files(context: Context, log: ActionLog) -> None:
    """Record that nothing is up."""
    if context.member is None:
        _attempt(lambda: forget_in_use(context.folder), log)


def _attempt(write: Callable[[], None], log: ActionLog) -> None:
    """A full disk, or something else in the record's place, must not keep a guest from starting."""
    try:
        write()
    except (OSError, KvmComposeError) as error:
        log.say(f"cannot record which files are in use: {error}", Level.WARNING)
