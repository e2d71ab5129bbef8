"""The users of a server: their names, their roles, and whose rights apply to their files."""

from __future__ import annotations

import grp
import os
import pwd
import socket
from enum import StrEnum
from pathlib import Path

import msgspec

from kvmcompose.effects.credentials import peer_credentials

_OVERFLOW = Path("/proc/sys/kernel/overflowuid")


class Role(StrEnum):
    """What a user may do. ``ADMIN``: everything, with every deployment. ``USER``: everything with their own.
    ``READ_ONLY``: inspect their own.
    """

    ADMIN = "admin"
    USER = "user"
    READ_ONLY = "read-only"


class Person(msgspec.Struct, frozen=True, kw_only=True):
    """A user who sends requests to the server, or owns a deployment.

    ``name`` is a login name, or the name of a token. Files of the user's deployments are read with the rights
    of ``uid``, whichever user the server runs as.
    """

    name: str
    role: Role
    uid: int

    @property
    def is_admin(self) -> bool:
        """Whether the user is an administrator."""
        return self.role is Role.ADMIN


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """The process at the other end of a Unix socket, at the time of its connect(2)."""

    pid: int
    uid: int


class AuditDetails(msgspec.Struct):
    """What the audit log will record about a request, filled in while it is served.

    ``foreign``: it concerns a deployment of another user. ``changed``: it may have changed something.
    ``entered``: it opens a shell in a guest.
    """

    deployment: str | None = None
    owner: str | None = None
    foreign: bool = False
    changed: bool = True
    entered: bool = False
    folder: str | None = None
    action: str | None = None
    command: dict[str, object] | None = None


class Asker(msgspec.Struct, frozen=True, kw_only=True):
    """The user who sent a request, and where from.

    ``peer`` is the process on the Unix socket, ``address`` the host of a TCP connection. ``token`` is the
    name of the token that was presented, ``session`` that of a browser's session. ``source`` is the same for
    requests that are counted together. ``remark`` is what the client calls itself, which proves nothing.
    ``behalf`` is the user for whom the server itself runs the client, with the rights of ``person``.
    """

    person: Person
    source: str = ""
    peer: Peer | None = None
    address: str | None = None
    token: str | None = None
    session: str | None = None
    remark: str | None = None
    behalf: str | None = None
    note: AuditDetails = msgspec.field(default_factory=AuditDetails)

    @property
    def name(self) -> str:
        """The name for logs and messages: the user, and the token if one was used."""
        if self.behalf is not None:
            return self.behalf
        return self.person.name if self.token is None else f"{self.person.name} (token {self.token})"


def login_name(uid: int) -> str:
    """Return the login name of a user, or ``uid N`` if there is none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def this_user() -> Person:
    """Return the user that the server runs as, an administrator."""
    uid = os.geteuid()
    return Person(name=login_name(uid), role=Role.ADMIN, uid=uid)


def peer_of(connection: socket.socket) -> Peer | None:
    """Return the process at the other end of a connection; None for one that is not on a Unix socket."""
    if connection.family != socket.AF_UNIX:
        return None
    pid, uid = peer_credentials(connection)
    return Peer(pid=pid, uid=uid)


class People:
    """Determines what the users of this machine may do on this server.

    Administrators are root, the server's own user, and the members of ``admin_group`` if one is named.
    Others may use a server that runs as root, which can act with their rights; on any other server they
    can only list the deployments.
    """

    def __init__(self, admin_group: str | None = None) -> None:
        self._admin_group = admin_group

    def of(self, uid: int) -> Person:
        """Return a user who sends a request. Group membership is looked up each time."""
        return Person(name=login_name(uid), role=self._role(uid), uid=uid)

    def owner(self, uid: int, name: str) -> Person:
        """Return a user as the owner of a deployment, under the name that was stored with it."""
        return Person(name=name, role=self._role(uid), uid=uid)

    def _role(self, uid: int) -> Role:
        if uid in (0, os.geteuid()) or self._is_admin(uid):
            return Role.ADMIN
        # all users of other user namespaces have this ID: it identifies nobody
        return Role.USER if os.geteuid() == 0 and uid != _overflow_uid() else Role.READ_ONLY

    def _is_admin(self, uid: int) -> bool:
        if self._admin_group is None:
            return False
        try:
            group = grp.getgrnam(self._admin_group).gr_gid
            entry = pwd.getpwuid(uid)
        except KeyError:
            return False
        return group in os.getgrouplist(entry.pw_name, entry.pw_gid)


def _overflow_uid() -> int:
    """Return the user ID for users who are not mapped in this user namespace (user_namespaces(7))."""
    try:
        return int(_OVERFLOW.read_text())
    except (OSError, ValueError):
        return 65534
