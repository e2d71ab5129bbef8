"""The way into a guest by SSH."""

from __future__ import annotations

from collections.abc import Sequence

from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.lines import OnLine, Pieces
from kvmcompose.providers.guest.interface import GuestShell, Login

#: The folder of the user who logged in is closed to others on many systems.
_AT_HOME = 'cd 2>/dev/null; exec "$@"'


class SshEntrance:
    """See ``Entrance``. What concerns host keys and connections is the shell's, with ``login``."""

    def __init__(self, shell: GuestShell, login: Login) -> None:
        self._shell = shell
        self.login = login

    @property
    def guest(self) -> str:
        """The name of the guest."""
        return self.login.guest

    @property
    def notes(self) -> str:
        """The name under which the guest records what has run in it."""
        return self.login.notes or self.login.guest

    @property
    def by_hand(self) -> str:
        """The command that opens a shell in the guest."""
        return f"kvm-compose ssh {self.login.guest}"

    async def run(
        self,
        argv: Sequence[str],
        on_line: OnLine,
        *,
        user: str | None = None,
        seconds: float | None = None,
        stdin: Pieces | None = None,
    ) -> int:
        """Run a command and return its exit status."""
        words = as_user(self.login, user, argv)
        return await self._shell.run(self.login, words, on_line, seconds=seconds, stdin=stdin)

    async def check_user(self, user: str | None) -> None:
        """Raise DriverError when commands cannot run as this user."""
        argv = as_user(self.login, user, ["true"])
        if argv == ["true"]:
            return
        printed: list[str] = []
        if await self._shell.run(self.login, argv, printed.append) != 0:
            why = printed[-1] if printed else "no reason given"
            raise DriverError(
                f"cannot run commands as {user} in {self.guest}: {why}",
                hint=f"its users: kvm-compose exec {self.guest} -- cut -d: -f1 /etc/passwd",
            )

    async def wait_ready(self, seconds: float) -> None:
        """Wait until we can log in and the first-boot set-up is complete."""
        await self._shell.wait_ready(self.login, seconds)


def as_user(login: Login, user: str | None, argv: Sequence[str]) -> list[str]:
    """The command for a guest that runs ``argv`` as a user, in that user's home folder.

    Without ``user`` as the one that logs in. A guest that root logs in to may have no sudo.
    """
    if user is None or user == login.user:
        return [*argv]
    if login.user == "root":
        return by_su(user, argv)
    if user == "root":
        return ["sudo", "-n", "--", *argv]
    return ["sudo", "-n", "-u", user, "--", "sh", "-c", _AT_HOME, "sh", *argv]


def by_su(user: str, argv: Sequence[str]) -> list[str]:
    """The command of root's that runs ``argv`` as a user, in that user's home folder."""
    return ["su", "-s", "/bin/sh", "-c", _AT_HOME, "--", user, "sh", *argv]
