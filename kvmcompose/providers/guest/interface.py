"""Commands inside guests."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from kvmcompose.core.ready import HttpReady
from kvmcompose.hosts.lines import OnLine, Pieces


class Secret:
    """Bytes that no log and no message shows."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self.content == other.content

    def __hash__(self) -> int:
        return hash(self.content)

    def __repr__(self) -> str:
        return "Secret()"


class Gate(Protocol):
    """Connects to guests in another way than by the network of this machine."""

    async def connect(self, address: str, port: int) -> socket.socket:
        """Return a connection that does not block.

        Raises OSError when the guest does not answer, DriverError when there is no way to it.
        """


class Login(msgspec.Struct, frozen=True, kw_only=True):
    """How to log in to a guest. ``alias`` is the name under which its host key is recorded.

    ``notes`` is the name under which the guest's disk records what has run; None is for its own.

    ``identity`` is the private key where the server must not read ``identity_file`` itself.

    ``gate`` is the way to a guest that this machine's own network does not reach.

    ``life`` changes when the guest is re-provisioned with another seed, and so generates new host keys.
    """

    guest: str
    alias: str
    address: str
    user: str
    identity_file: Path
    known_hosts: Path
    identity: Secret | None = None
    life: str = ""
    port: int = 22
    notes: str | None = None
    gate: Gate | None = None


class Entrance(Protocol):
    """The way into one guest that runs, however its runtime enters it."""

    @property
    def guest(self) -> str:
        """The name of the guest, for messages."""

    @property
    def notes(self) -> str:
        """The name under which the guest records what has run in it."""

    @property
    def by_hand(self) -> str:
        """The command that opens a shell in the guest, for hints."""

    async def run(
        self,
        argv: Sequence[str],
        on_line: OnLine,
        *,
        user: str | None = None,
        seconds: float | None = None,
        stdin: Pieces | None = None,
    ) -> int:
        """Run a command and return its exit status. Cancelling ends the command in the guest, too.

        ``user`` runs it, in that user's home folder; ``root`` stays in the folder of the one that enters, who
        is the default. Raises DriverError when the guest cannot be entered or ``seconds`` have passed. What
        ``stdin`` raises ends the command, and is raised here.
        """

    async def check_user(self, user: str | None) -> None:
        """Raise DriverError when commands cannot run as this user."""

    async def wait_ready(self, seconds: float) -> None:
        """Wait until commands can run and the first-boot set-up is complete.

        Raises DriverError after ``seconds``, and at once when waiting is of no use.
        """


class GuestShell(Protocol):
    """Runs commands in guests over SSH. A host key is recorded at first contact, and must not change."""

    async def wait_ready(self, login: Login, seconds: float) -> None:
        """Wait until we can log in and the first-boot set-up (``/etc/nocloud/ready``) is complete.

        Raises DriverError after ``seconds``, with the progress so far, and at once when the guest's host key
        is not the recorded one, or the guest keeps refusing our key.
        """

    async def wait_answer(self, login: Login, seconds: float, http: HttpReady | None = None) -> None:
        """Wait until the port in ``login`` accepts a connection, or answers a request by HTTP.

        Raises DriverError after ``seconds``, with the last cause, or where there is no way to the guest.
        """

    async def run(
        self,
        login: Login,
        argv: Sequence[str],
        on_line: OnLine,
        *,
        seconds: float | None = None,
        stdin: Pieces | None = None,
    ) -> int:
        """Run a command and return its exit status. Cancelling ends the command in the guest, too.

        Raises DriverError when the guest cannot be reached or ``seconds`` have passed. What ``stdin`` raises
        ends the command, and is raised here.
        """

    async def reach(self, login: Login) -> socket.socket:
        """Return a connection to the guest's SSH server. Raises DriverError when it does not answer."""

    async def disconnect(self, alias: str) -> None:
        """Close the connections to a guest: it is no longer in the state in which they were opened."""

    async def host_key(self, login: Login) -> str | None:
        """Return the guest's host key as recorded: type and key; None if there was no contact in its life."""

    async def expect(self, login: Login, key: str) -> None:
        """Record this host key: the guest has the disk again that it had when the key was recorded."""

    async def forget(self, login: Login) -> None:
        """Remove the record of the guest's host key: its disk is a new one."""
