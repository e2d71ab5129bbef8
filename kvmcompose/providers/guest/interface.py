"""Guests, from inside, by SSH."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import msgspec


class Secret:
    """Bytes that are shown nowhere."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self.content == other.content

    def __hash__(self) -> int:
        return hash(self.content)

    def __repr__(self) -> str:
        return "Secret()"


class Login(msgspec.Struct, frozen=True, kw_only=True):
    """How to get into a guest. ``alias`` is what its host key is noted under.

    ``identity`` is the private key where the server must not read ``identity_file`` by itself.

    ``life`` is another one when the guest is set up anew by another seed, and makes itself other host keys.
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


#: Told each line that a command prints.
OnLine = Callable[[str], None]


class GuestShell(Protocol):
    """Guests, from inside, by SSH. A host key is noted at first contact and must stay the same then."""

    async def wait_ready(self, login: Login, seconds: float) -> None:
        """Wait until the guest lets us in and its first-boot set-up (``/etc/nocloud/ready``) has ended.

        Raises DriverError after ``seconds``, saying how far it came, and at once when the guest's
        host key is not the one noted, or it refuses our key for good.
        """

    async def run(
        self, login: Login, argv: Sequence[str], on_line: OnLine, *, seconds: float | None = None
    ) -> int:
        """Run a command; its exit status. Cancelling ends the command in the guest, too.

        Raises DriverError when the guest cannot be reached or ``seconds`` have passed.
        """

    async def forget(self, login: Login) -> None:
        """Forget the guest's host key: its disk is a new one."""
