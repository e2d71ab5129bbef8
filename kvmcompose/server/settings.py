"""How a server is to run: where it listens, whom it believes, what it drives."""

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
#: An embedded server ends when for so many seconds nothing ran and nobody asked.
IDLE_SECONDS = 3.0
_SHORTEST_TOKEN = 16
_LAST_PORT = 65535
#: sun_path of unix(7), less the closing zero.
_LONGEST_SOCKET = 107


class Simulation(msgspec.Struct, frozen=True, kw_only=True):
    """A host that is only pretended. ``failures`` are patterns of what fails there, ``delay`` in seconds."""

    failures: tuple[str, ...] = ()
    delay: float = 0.0


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """All that can be chosen.

    It always listens on ``socket``, and by TCP as well when ``host`` is given. Folders of projects must be
    in one of ``project_roots``, links resolved. Members of ``admin_group`` may do what root may. ``fake`` is
    None for the real host. An ``embedded`` server ends by itself after ``idle`` seconds.
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
        """Whether TCP is encrypted."""
        return self.tls_cert is not None

    @property
    def loopback(self) -> bool:
        """Whether TCP is for this machine alone."""
        return self.host is not None and is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches that address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check(settings: ServerSettings) -> None:
    """Raises RefusedError for what cannot be, or would not be safe."""
    if (settings.tls_cert is None) != (settings.tls_key is None):
        raise RefusedError("--tls-cert and --tls-key belong together")
    if not 0 <= settings.port <= _LAST_PORT:
        raise RefusedError(f"there is no port {settings.port}", hint=f"0 (any that is free) to {_LAST_PORT}")
    if settings.host is not None and not (settings.loopback or settings.tls or settings.insecure):
        raise RefusedError(
            f"{settings.host} can be reached from other machines, and without TLS whoever listens on the way"
            " learns the token",
            hint="give --tls-cert and --tls-key, or --insecure if the network is trusted",
        )
    for path in (settings.tls_cert, settings.tls_key):
        if path is not None and not os.access(path, os.R_OK):
            raise RefusedError(f"{path}: cannot be read")
    if len(os.fsencode(settings.socket)) > _LONGEST_SOCKET:
        raise RefusedError(
            f"{settings.socket}: too long for a socket, whose path has at most {_LONGEST_SOCKET} bytes",
            hint="give a shorter one with --socket",
        )
    _check_groups(settings)
    for root in settings.project_roots:
        if not root.is_dir():
            raise RefusedError(f"{root}: no such folder; projects cannot be in there")


def _check_groups(settings: ServerSettings) -> None:
    for group in (settings.socket_group, settings.admin_group):
        if group is not None:
            group_id(group)


def group_id(name: str) -> int:
    """The number of a group. Raises RefusedError."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError as error:
        raise RefusedError(f"there is no group {name!r}", hint="see `getent group`") from error


def read_token(path: Path) -> str:
    """The secret in the file; one is made, for the owner's eyes only, when there is none.

    Raises KvmComposeError, and RefusedError for one that others can read.
    """
    try:
        if not path.exists():
            write_atomic(path, f"{secrets.token_urlsafe(32)}\n".encode(), mode=0o600)
        with os.fdopen(open_regular(path), encoding="ascii") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise RefusedError(
                    f"{path}: others can read the token, or write one",
                    hint=f"chmod 600 {path}, and a new token: the old one may be known",
                )
            token = file.read(4096).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise KvmComposeError(f"cannot read the token from {path}: {error}") from error
    if len(token) < _SHORTEST_TOKEN or not token.isprintable() or " " in token:
        raise RefusedError(
            f"{path}: no token; one has {_SHORTEST_TOKEN} characters at least and no space",
            hint="remove the file, and a good one is made",
        )
    return token
