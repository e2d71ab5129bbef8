"""Who uses a server: by name, by what they may do, and by whose rights their files are used."""

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
    """What somebody may do. ``ADMIN``: everything, with every deployment. ``USER``: with their own.
    ``READ_ONLY``: look at their own.
    """

    ADMIN = "admin"
    USER = "user"
    READ_ONLY = "read-only"


class Person(msgspec.Struct, frozen=True, kw_only=True):
    """Whoever asks something of the server, or owns a deployment.

    ``name`` is a login name, or that of a token. ``uid`` is the user with whose rights files of their
    deployments are read, whoever the server runs as.
    """

    name: str
    role: Role
    uid: int

    @property
    def is_admin(self) -> bool:
        """Whether everything is allowed."""
        return self.role is Role.ADMIN


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """The process at the other end of a Unix socket, as it was when it connected."""

    pid: int
    uid: int


class AuditDetails(msgspec.Struct):
    """What the audit log is to say about a request, filled in on its way.

    ``foreign``: it is about a deployment of another user's. ``changed``: it can have changed something.
    """

    deployment: str | None = None
    owner: str | None = None
    foreign: bool = False
    changed: bool = True
    folder: str | None = None
    action: str | None = None
    command: dict[str, object] | None = None


class Asker(msgspec.Struct, frozen=True, kw_only=True):
    """A person who asks, and where from.

    ``peer`` is the process on the Unix socket, ``address`` the host of a TCP connection. ``token`` is the
    name of the token that they showed. ``remark`` is what they call themselves, which proves nothing.
    """

    person: Person
    peer: Peer | None = None
    address: str | None = None
    token: str | None = None
    remark: str | None = None
    note: AuditDetails = msgspec.field(default_factory=AuditDetails)

    @property
    def name(self) -> str:
        """The name for logs and messages: the user, with the token that stood for them."""
        return self.person.name if self.token is None else f"{self.person.name} (token {self.token})"


def login_name(uid: int) -> str:
    """The name of a user; the number where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def this_user() -> Person:
    """The user that the server runs as, who may do everything."""
    uid = os.geteuid()
    return Person(name=login_name(uid), role=Role.ADMIN, uid=uid)


def peer_of(connection: socket.socket) -> Peer | None:
    """Return the process at the other end of a connection; None for one that is not on a Unix socket."""
    if connection.family != socket.AF_UNIX:
        return None
    pid, uid = peer_credentials(connection)
    return Peer(pid=pid, uid=uid)


class People:
    """What the users of this machine may do on this server.

    Administrators are root, the server's own user, and the members of ``admin_group`` if one is named.
    Others may use a server that runs as root, which can act with their rights; on any other server they
    only see which deployments there are.
    """

    def __init__(self, admin_group: str | None = None) -> None:
        self._admin_group = admin_group

    def of(self, uid: int) -> Person:
        """A user as an asker. Looks the groups up now."""
        return Person(name=login_name(uid), role=self._role(uid), uid=uid)

    def owner(self, uid: int, name: str) -> Person:
        """A user as the owner of a deployment, under the name that was noted with it."""
        return Person(name=name, role=self._role(uid), uid=uid)

    def _role(self, uid: int) -> Role:
        if uid in (0, os.geteuid()) or self._is_admin(uid):
            return Role.ADMIN
        # users of another user namespace all look like this one: nobody is somebody
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
    """The number that stands for every user that this user namespace does not know (user_namespaces(7))."""
    try:
        return int(_OVERFLOW.read_text())
    except (OSError, ValueError):
        return 65534
