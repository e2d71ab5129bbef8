"""Who uses a server: by name, by what they may do, and by whose rights their files are used."""

from __future__ import annotations

import os
import pwd
from enum import StrEnum

import msgspec


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
