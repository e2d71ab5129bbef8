"""``up --watch``: brings the testbed up again whenever one of its files has changed."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from kvmcompose.cli._project import find_project, where
from kvmcompose.cli._reports import report
from kvmcompose.cli._server import INTERRUPTED, usage_error
from kvmcompose.cli._watched import Signatures, input_files, library, named_files, signatures, wait_for_edit
from kvmcompose.core.errors import InputError, KvmComposeError
from kvmcompose.core.names import first_few
from kvmcompose.effects.signals import on_signals

if TYPE_CHECKING:
    import argparse

    from kvmcompose.monitor.console import Console

#: Options that leave nothing to wait for, read no files, or lose data each time.
_EXCLUDED = ("detach", "no_generate", "provision")


def watch(arguments: argparse.Namespace, console: Console, up: Callable[[], int]) -> int:
    """Call ``up`` now and after each edit, until SIGINT or SIGTERM. Return the exit status.

    What is wrong is reported, and the next edit waited for. Raises InputError for options that exclude this.
    """
    for name in _EXCLUDED:
        if getattr(arguments, name):
            raise usage_error(f"--watch and --{name.replace('_', '-')} exclude each other")
    library()
    with suppress(KeyboardInterrupt):
        _follow(arguments, console, up)
    console.say(
        "watching has ended; the testbed stays as it is"
        "\n    hint: kvm-compose status shows it, kvm-compose down takes it down"
    )
    return INTERRUPTED


def _follow(arguments: argparse.Namespace, console: Console, up: Callable[[], int]) -> None:
    stop = threading.Event()
    known: set[str] = set()

    def end() -> None:
        stop.set()  # an exception that is raised in a finaliser is lost
        raise KeyboardInterrupt

    with on_signals(end, signal.SIGINT, signal.SIGTERM):
        while not stop.is_set():
            # taken before anything is read, so that an edit meanwhile is seen afterwards
            before, known = _files(arguments, known)
            try:
                if up() == INTERRUPTED:
                    return
            except KvmComposeError as error:
                report(error, console)
            count = sum(1 for signature in before.values() if signature is not None)
            console.say(f"watching {count} files; Ctrl-C ends this")
            edited = wait_for_edit(before, stop)
            if not edited:
                return
            folder = str(arguments.directory.absolute())
            console.say(f"changed: {first_few([os.path.relpath(path, folder) for path in edited])}")


def _files(arguments: argparse.Namespace, known: set[str]) -> tuple[Signatures, set[str]]:
    """Return the signatures of the project's files, and the files that its YAML names.

    While that is not valid, those of before are among them.
    """
    inputs = signatures(input_files(where(arguments)))
    try:
        project = find_project(arguments)
    except InputError:
        return inputs | signatures(known - inputs.keys()), known
    try:
        project.compiled  # noqa: B018 (what it asks for is recorded)
    except KvmComposeError:
        named = known | named_files(project)
    else:
        named = named_files(project)
    return inputs | signatures(named - inputs.keys()), named
