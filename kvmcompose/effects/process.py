"""The one door to other programs. Commands are argv lists, never shell strings."""

from __future__ import annotations

import logging
import os
import selectors
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from kvmcompose.core.errors import KvmComposeError, RefusedError

log = logging.getLogger(__name__)

_PACKAGES = {
    "qemu-img": "qemu-utils",
    "qemu-system-x86_64": "qemu-system-x86",
    "virsh": "libvirt-clients",
    "ovs-vsctl": "openvswitch-switch",
    "dot": "graphviz",
    "tcpdump": "tcpdump",
    "gpgv": "gpgv",
}


#: What a program may print, in bytes; as on the server.
MOST_OUTPUT = 1 << 26
#: What is kept of standard error, in bytes: the last.
_COMPLAINTS = 1 << 16
_CHUNK = 1 << 16


class ProcessError(KvmComposeError):
    """A program ended with a status other than 0, or ran out of time."""

    def __init__(self, argv: Sequence[str], message: str, *, status: int | None, stderr: str) -> None:
        last = stderr.strip().splitlines()[-1:] or ["(it printed nothing)"]
        super().__init__(f"{message}: {last[0]}", hint=f"to see it yourself, run: {shlex.join(argv)}")
        self.argv = tuple(argv)
        self.status = status
        self.stderr = stderr


def find_program(name: str) -> str:
    """The full path of a program.

    Raises RefusedError when it is not installed, with the Debian package that has it.
    """
    found = shutil.which(name)
    if found is None:
        package = _PACKAGES.get(name)
        hint = f"sudo apt-get install {package}" if package else None
        raise RefusedError(f"the program {name!r} is not installed (or not in PATH)", hint=hint)
    return found


def run(
    argv: Sequence[str],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float | None = 600,
    stdin: bytes | None = None,
    check: bool = True,
) -> subprocess.CompletedProcess[bytes]:
    """Run a program to its end and return what it printed.

    ``timeout`` is in seconds; the program and its children are killed when it has passed.
    Of standard error the last is kept. Raises ProcessError when it fails (unless ``check=False``) or prints
    more than ``MOST_OUTPUT``, RefusedError when it is not installed.
    """
    command = [find_program(argv[0]), *argv[1:]]
    log.debug("$ %s", shlex.join(argv))
    with subprocess.Popen(
        command,
        cwd=cwd,
        env={**os.environ, **env} if env else None,
        stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        try:
            stdout, stderr = _communicate(process, stdin, timeout)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                message = f"{argv[0]} did not end within {timeout:g} s"
                raise ProcessError(argv, message, status=None, stderr="") from None
            if isinstance(error, _TooMuchError):
                said = f"it printed more than {MOST_OUTPUT >> 20} MiB"
                raise ProcessError(argv, f"{argv[0]} was ended", status=None, stderr=said) from None
            raise
    if check and process.returncode != 0:
        message = f"{argv[0]} failed with status {process.returncode}"
        raise ProcessError(argv, message, status=process.returncode, stderr=stderr.decode(errors="replace"))
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


class _TooMuchError(Exception):
    """A program prints without end."""


def _communicate(
    process: subprocess.Popen[bytes], stdin: bytes | None, timeout: float | None
) -> tuple[bytes, bytes]:
    """As ``Popen.communicate``, which collects all that is printed: raises _TooMuchError instead."""
    end = None if timeout is None else time.monotonic() + timeout
    given = memoryview(stdin or b"")
    printed, complaints = bytearray(), bytearray()
    with selectors.DefaultSelector() as selector:
        for pipe, event in (
            (process.stdout, selectors.EVENT_READ),
            (process.stderr, selectors.EVENT_READ),
            (process.stdin, selectors.EVENT_WRITE),
        ):
            if pipe is not None:
                os.set_blocking(pipe.fileno(), False)
                selector.register(pipe, event, pipe)
        while selector.get_map():
            ready = selector.select(_left(process, end))
            for key, _ in ready:
                if key.fileobj is process.stdin:
                    given = given[_write(key.fd, given) :]
                    ended = not given
                else:
                    into = printed if key.fileobj is process.stdout else complaints
                    ended = not (chunk := os.read(key.fd, _CHUNK))
                    into += chunk
                if ended:
                    selector.unregister(key.fileobj)
                    key.data.close()
            del complaints[:-_COMPLAINTS]
            if len(printed) > MOST_OUTPUT:
                raise _TooMuchError
    process.wait(_left(process, end))
    return bytes(printed), bytes(complaints)


def _write(pipe: int, given: memoryview) -> int:
    """How much of its input a program took; all of it, if it does not want any more."""
    try:
        return os.write(pipe, given[:_CHUNK])
    except BlockingIOError:
        return 0
    except BrokenPipeError:
        return len(given)


def _left(process: subprocess.Popen[bytes], end: float | None) -> float | None:
    """The seconds that are left. Raises TimeoutExpired when none are."""
    if end is None:
        return None
    left = end - time.monotonic()
    if left <= 0:
        raise subprocess.TimeoutExpired(process.args, 0)
    return left
