"""The settings of a server: where it listens, who may use it, and which hosts it drives."""

from __future__ import annotations

import grp
import ipaddress
import os
import secrets
from pathlib import Path

import msgspec

from kvmcompose.core.errors import KvmComposeError, RefusedError
from kvmcompose.effects.files import write_atomic
from kvmcompose.effects.opening import open_regular

DEFAULT_PORT = 5040
#: An embedded server ends after so many seconds without actions and requests.
IDLE_SECONDS = 3.0
_SHORTEST_TOKEN = 16
_LAST_PORT = 65535
#: sun_path of unix(7), less the closing zero.
_LONGEST_SOCKET = 107


class Simulation(msgspec.Struct, frozen=True, kw_only=True):
    """Simulated hosts. ``failures`` are patterns of calls that fail; each call takes ``delay`` seconds."""

    failures: tuple[str, ...] = ()
    delay: float = 0.0


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """All settings.

    The server always listens on ``socket``, and on TCP as well when ``host`` is given. Project folders must
    be in one of ``project_roots``, with links resolved. Members of ``admin_group`` have the rights of root.
    ``fake`` is None for real hosts. An ``embedded`` server ends after ``idle`` seconds without work.
    """

    state_dir: Path
    socket: Path
    socket_group: str | None = None
    admin_group: str | None = None
    host: str | None = None
    port: int = DEFAULT_PORT
    tls_cert: Path | None = None
    tls_key: Path | None = None
    token_file: Path | None = None
    project_roots: tuple[Path, ...]
    insecure: bool = False
    fake: Simulation | None = None
    embedded: bool = False
    idle: float = IDLE_SECONDS
    access_log: bool = False

    @property
    def tls(self) -> bool:
        """Whether TCP connections use TLS."""
        return self.tls_cert is not None

    @property
    def loopback(self) -> bool:
        """Whether the TCP address is reachable from this machine only."""
        return self.host is not None and is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Return whether an address is reachable from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check(settings: ServerSettings) -> None:
    """Raise RefusedError for settings that are impossible or unsafe."""
    if (settings.tls_cert is None) != (settings.tls_key is None):
        raise RefusedError("--tls-cert and --tls-key must be given together")
    if not 0 <= settings.port <= _LAST_PORT:
        raise RefusedError(f"invalid port {settings.port}", hint=f"0 (any free port) to {_LAST_PORT}")
    if settings.host is not None and not (settings.loopback or settings.tls or settings.insecure):
        raise RefusedError(
            f"{settings.host} can be reached from other machines: without TLS they could read the token",
            hint="use --tls-cert and --tls-key, or --insecure if the network is trusted",
        )
    for path in (settings.tls_cert, settings.tls_key):
        if path is not None and not os.access(path, os.R_OK):
            raise RefusedError(f"cannot read {path}")
    if len(os.fsencode(settings.socket)) > _LONGEST_SOCKET:
        raise RefusedError(
            f"{settings.socket}: the path of a socket must not exceed {_LONGEST_SOCKET} bytes",
            hint="choose a shorter one with --socket",
        )
    _check_groups(settings)
    for root in settings.project_roots:
        if not root.is_dir():
            raise RefusedError(f"--project-root: no such folder: {root}")


def _check_groups(settings: ServerSettings) -> None:
    for group in (settings.socket_group, settings.admin_group):
        if group is not None:
            group_id(group)


def group_id(name: str) -> int:
    """Return the ID of a group. Raises RefusedError."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError as error:
        raise RefusedError(f"no such group: {name!r}", hint="`getent group` lists all groups") from error


def read_token(path: Path) -> str:
    """Return the secret in a file, which is created, readable by its owner only, if it does not exist.

    Raises KvmComposeError, and RefusedError for a file that others can read.
    """
    try:
        if not path.exists():
            write_atomic(path, f"{secrets.token_urlsafe(32)}\n".encode(), mode=0o600)
        with os.fdopen(open_regular(path), encoding="ascii") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise RefusedError(
                    f"{path}: other users can read or replace the token",
                    hint=f"chmod 600 {path}, and use a new token: the old one may be known",
                )
            token = file.read(4096).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise KvmComposeError(f"cannot read the token from {path}: {error}") from error
    if len(token) < _SHORTEST_TOKEN or not token.isprintable() or " " in token:
        raise RefusedError(
            f"{path}: invalid token: it needs at least {_SHORTEST_TOKEN} characters and no spaces",
            hint="remove the file to have one generated",
        )
    return token
