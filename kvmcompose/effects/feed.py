"""A program that is fed by us and prints by itself."""

from __future__ import annotations

import logging
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO

from kvmcompose.effects.process import ProcessError, find_program

log = logging.getLogger(__name__)

#: What is read of standard error, in bytes: the last.
_COMPLAINTS = 1 << 16


@contextmanager
def fed(argv: Sequence[str]) -> Iterator[IO[bytes]]:
    """The standard input of a program whose output goes where ours does; it has ended when the block has.

    Ctrl-C is not for it: it ends with its input. Raises ProcessError when it fails, RefusedError when it is
    not installed, BrokenPipeError when nobody reads what it prints any more.
    """
    command = [find_program(argv[0]), *argv[1:]]
    log.debug("$ %s", shlex.join(argv))
    sys.stdout.flush()
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(command, stdin=subprocess.PIPE, stderr=said, start_new_session=True) as process,
    ):
        assert process.stdin is not None  # noqa: S101 (it is a pipe)
        broken: BrokenPipeError | None = None
        try:
            yield process.stdin
            process.stdin.close()
        except BrokenPipeError as error:
            broken = error
            with suppress(BrokenPipeError):
                process.stdin.close()
        status = process.wait()
        said.seek(max(0, said.seek(0, os.SEEK_END) - _COMPLAINTS))
        words = said.read().decode(errors="replace")
        if status > 0 and "Broken pipe" not in words:
            raise ProcessError(argv, f"{argv[0]} failed with status {status}", status=status, stderr=words)
        if broken is not None or status != 0:
            raise broken or BrokenPipeError
