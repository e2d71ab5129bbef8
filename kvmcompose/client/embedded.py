"""Starts a server in the background for a user who has none; it ends by itself."""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path
from shutil import disk_usage

from kvmcompose.client.address import Address
from kvmcompose.client.errors import RefusedByServerError, ServerError
from kvmcompose.effects.environment import is_on
from kvmcompose.effects.process import Detached
from kvmcompose.effects.server_places import embedded_log, lock_path, missing_modules

#: How long a server may take to start, in seconds.
START_SECONDS = 30.0
_POLL_SECONDS = 0.02
#: When a new process ended because another server was ending, it is started again after so many seconds.
_AGAIN_SECONDS = 1.0
_FAKE = "KVM_COMPOSE_SERVER_FAKE"
_LOG_BYTES = 1024 * 1024
_TAIL_LINES = 8
#: The space that a server needs to start, in bytes.
_LEAST = 1 << 17


def listens(address: Address) -> bool:
    """Return whether a server accepts connections."""
    try:
        address.connect(seconds=2.0).close()
    except OSError:
        return False
    return True


def ensure(state: Path, address: Address) -> None:
    """Start a server on this user's socket unless one runs, and return when it accepts connections.

    Several clients may do so at once: they all get the same server. Raises RefusedError when the server is
    not installed, ServerError when it does not start.
    """
    if listens(address):
        return
    _check_installed()
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        log, begun_at = _open_log(state)
        child = Detached(
            [
                sys.executable, "-P", "-m", "kvmcompose", "server", "--embedded",
                "--state-dir", str(state), "--socket", str(address.socket),
            ],
            log,
        )  # fmt: skip
        ended_at: float | None = None
        while time.monotonic() < deadline:
            if listens(address):
                return
            status = child.poll()
            if ended_at is None and status is not None:
                if status != 0:
                    raise ServerError(
                        f"the server did not start (status {status}):\n{_tail(log, begun_at)}",
                        hint=_room(state) or f"its log is {log}",
                    )
                ended_at = time.monotonic()
            if ended_at is not None and time.monotonic() - ended_at > _AGAIN_SECONDS:
                break
            time.sleep(_POLL_SECONDS)
    raise ServerError(
        f"no server listens on {address} after {START_SECONDS:g} s{_holder(state)}",
        hint=f"use a running server (KVM_COMPOSE_SERVER, --server), or see {embedded_log(state)}",
    )


def _room(state: Path) -> str | None:
    """Return a hint when the disk is too full for a server to start."""
    full = disk_usage(state).free < _LEAST
    return f"no space left for the database of the server in {state}" if full else None


def _check_installed() -> None:
    missing = missing_modules(fake=is_on(_FAKE))
    if missing:
        raise RefusedByServerError(
            f"no server is running, and this installation has none ({', '.join(missing)} is missing)",
            hint="pip install 'kvmcompose[server]', or use a server with KVM_COMPOSE_SERVER",
        )


def _open_log(state: Path) -> tuple[Path, int]:
    """Return the path of the log and its size; a large log is rotated first."""
    log = embedded_log(state)
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        size = log.stat().st_size if log.exists() else 0
        if size > _LOG_BYTES:
            log.rename(log.with_suffix(".log.old"))
            size = 0
    except OSError as error:
        raise ServerError(
            f"cannot use the state folder {state}: {error.strerror}",
            hint="use another one with KVM_COMPOSE_STATE_DIR",
        ) from error
    return log, size


def _tail(log: Path, begun_at: int) -> str:
    """Return the last lines of the log after the offset ``begun_at``."""
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(begun_at)
        lines = file.read().decode(errors="replace").splitlines()[-_TAIL_LINES:]
        return "\n".join(f"    {line}" for line in lines) or "    (no output)"
    return "    (no log)"


def _holder(state: Path) -> str:
    """Describe the server that holds the lock of the state folder."""
    with contextlib.suppress(OSError):
        words = lock_path(state).read_text(encoding="utf-8", errors="replace").split()
        if len(words) > 1:
            return f"; process {words[0]} uses this state folder, on {words[1]}"
    return ""
