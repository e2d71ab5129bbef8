"""The one door to other programs. Commands are argv lists, never shell strings."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import signal
import subprocess
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
    Raises ProcessError when it fails (unless ``check=False``), RefusedError when it is not installed.
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
            stdout, stderr = process.communicate(stdin, timeout=timeout)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                message = f"{argv[0]} did not end within {timeout:g} s"
                raise ProcessError(argv, message, status=None, stderr="") from None
            raise
    if check and process.returncode != 0:
        message = f"{argv[0]} failed with status {process.returncode}"
        raise ProcessError(argv, message, status=process.returncode, stderr=stderr.decode(errors="replace"))
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)
