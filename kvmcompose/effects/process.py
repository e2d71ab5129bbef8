"""Start programs; no other module does so, except ``hosts.local``, which is asynchronous.

Commands are argv lists, never shell strings.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, NoReturn

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
    "ovn-northd": "ovn-central",
    "ovn-trace": "ovn-central",
    "ovsdb-server": "ovn-central",
    "ovsdb-tool": "ovn-central",
}


#: What a program may print, in bytes; as on the server.
MOST_OUTPUT = 1 << 26
#: What is kept of standard error, in bytes: the end.
_COMPLAINTS = 1 << 16
_CHUNK = 1 << 16


class ProcessError(KvmComposeError):
    """A program ended with a status other than 0, or exceeded its time or output limit."""

    def __init__(self, argv: Sequence[str], message: str, *, status: int | None, stderr: str) -> None:
        last = stderr.strip().splitlines()[-1:] or ["(it printed nothing)"]
        super().__init__(f"{message}: {last[0]}", hint=f"to see it yourself, run: {shlex.join(argv)}")
        self.argv = tuple(argv)
        self.status = status
        self.stderr = stderr


def find_program(name: str) -> str:
    """Return the full path of a program.

    Raises RefusedError, with the Debian package that has it, when it is not installed.
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
    """Run a program to its end and return its output; of standard error only the last ``_COMPLAINTS`` bytes.

    ``env`` adds to the environment. After ``timeout`` seconds the program and its children are killed. Raises
    RefusedError when the program is not installed, ProcessError when it exceeds the timeout, prints more than
    ``MOST_OUTPUT`` or, unless ``check=False``, fails.
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


@contextlib.contextmanager
def feed(argv: Sequence[str]) -> Iterator[IO[bytes]]:
    """Run a program that prints to our standard output, and yield its standard input.

    At its end the block waits for the program, which Ctrl-C does not reach. Raises RefusedError when
    it is not installed, ProcessError when it fails, BrokenPipeError when its output is no longer read.
    """
    command = [find_program(argv[0]), *argv[1:]]
    log.debug("$ %s", shlex.join(argv))
    sys.stdout.flush()
    with (
        tempfile.TemporaryFile() as complaints,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stderr=complaints, start_new_session=True
        ) as process,
    ):
        assert process.stdin is not None  # noqa: S101 (it is a pipe)
        broken: BrokenPipeError | None = None
        try:
            yield process.stdin
            process.stdin.close()
        except BrokenPipeError as error:
            broken = error
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        status = process.wait()
        complaints.seek(max(0, complaints.seek(0, os.SEEK_END) - _COMPLAINTS))
        stderr = complaints.read().decode(errors="replace")
        if status > 0 and "Broken pipe" not in stderr:
            raise ProcessError(argv, f"{argv[0]} failed with status {status}", status=status, stderr=stderr)
        if broken is not None or status != 0:
            raise broken or BrokenPipeError


def become(argv: Sequence[str]) -> NoReturn:
    """Replace this process by a program, which takes over the terminal, signals and the exit status.

    Raises RefusedError when it is not installed.
    """
    program = find_program(argv[0])
    sys.stdout.flush()
    sys.stderr.flush()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and the program would inherit that
    os.execv(program, [*argv])  # noqa: S606 (an argv list, as everywhere)


def restart(options: Sequence[str]) -> NoReturn:
    """Replace this process by the same program with more options of Python."""
    os.execv(sys.executable, [sys.executable, *options, *sys.orig_argv[1:]])  # noqa: S606 (as above)


class Coprocess:
    """A child process that reads requests from ``stdin`` and answers on ``stdout``; stderr is discarded."""

    def __init__(
        self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: str | None = None
    ) -> None:
        """Start it. ``env`` replaces the environment. Raises OSError."""
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=env,
            cwd=cwd,
            start_new_session=True,  # Ctrl-C is for us to handle
        )
        assert self._process.stdin is not None  # noqa: S101 (a pipe, as is the next)
        assert self._process.stdout is not None  # noqa: S101
        self.stdin, self.stdout = self._process.stdin, self._process.stdout

    @property
    def pid(self) -> int:
        """The process number."""
        return self._process.pid

    def has_ended(self) -> bool:
        """Return whether the program has ended."""
        return self._process.poll() is not None

    def finish(self, seconds: float) -> None:
        """Close its standard input, and wait until it has ended; after ``seconds`` it is killed."""
        with contextlib.suppress(OSError):
            self.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        self.end()

    def end(self, seconds: float | None = None) -> int | None:
        """Kill the program and close its pipes.

        Returns its exit status (negative: the signal that ended it), or None if after ``seconds`` it has not
        ended, as happens while the kernel waits for a file system.
        """
        self._process.kill()
        for pipe in (self.stdin, self.stdout):
            with contextlib.suppress(OSError):  # unsent data
                pipe.close()
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None


class Detached:
    """A program in a session of its own, which outlives us: neither Ctrl-C nor a closed terminal ends it.

    Unlike a ``subprocess.Popen`` it may be abandoned.
    """

    def __init__(self, argv: Sequence[str], output: Path) -> None:
        """Start it, its output appended to ``output``, which only its owner can read. Raises OSError."""
        handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            self.pid = os.posix_spawn(
                argv[0],
                list(argv),
                os.environ,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, handle, 1),
                    (os.POSIX_SPAWN_DUP2, handle, 2),
                ],
                setsid=True,
            )
        finally:
            os.close(handle)
        self._status: int | None = None

    def poll(self) -> int | None:
        """Return the exit status (negative: the signal that ended it), or None while the program runs."""
        if self._status is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:  # already waited for elsewhere
                self._status = 0
            else:
                self._status = os.waitstatus_to_exitcode(status) if pid else None
        return self._status


class _TooMuchError(Exception):
    """A program printed more than MOST_OUTPUT."""


def _communicate(
    process: subprocess.Popen[bytes], stdin: bytes | None, timeout: float | None
) -> tuple[bytes, bytes]:
    """Like ``Popen.communicate``, but limited: raises _TooMuchError for more than MOST_OUTPUT."""
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
    """Write to a program. Returns how many bytes it took: all if it has closed its standard input."""
    try:
        return os.write(pipe, given[:_CHUNK])
    except BlockingIOError:
        return 0
    except BrokenPipeError:
        return len(given)


def _left(process: subprocess.Popen[bytes], end: float | None) -> float | None:
    """Return the remaining seconds. Raises TimeoutExpired when there are none."""
    if end is None:
        return None
    left = end - time.monotonic()
    if left <= 0:
        raise subprocess.TimeoutExpired(process.args, 0)
    return left
