"""Scripts inside guests. They came with the seed; here they are run, and it is noted that they were.

What has run is noted in the guest itself: it stays true whatever becomes of the server, and goes with the
disk when that is recreated or reverted to a snapshot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import PurePosixPath

from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.guest.interface import GuestShell, Login

#: Where it is noted, by guest: a clone has its golden image's disk below its own.
_DONE = "/etc/nocloud/done"

#: A script without ``#!`` is one for sh. It finds the context in its working directory and the environment
#: of the YAML in its own.
_RUN = """\
mkdir -p /etc/nocloud/context && cd /etc/nocloud/context || exit
if [ -e ../environment ]; then set -a; . ../environment; set +a; fi
if [ "$(head -c 2 "$1")" = "#!" ]; then exec "$1"; else exec sh "$1"; fi
"""

#: The folder of the user who logged in is closed to others on many systems.
_AT_HOME = 'cd 2>/dev/null; exec "$@"'

#: Before a golden image is shut down: what must not be the same in all clones, or not be theirs already.
_SEAL = """\
rm -f /etc/nocloud/ready
if [ -s /etc/machine-id ]; then : >/etc/machine-id; fi
sync
"""


def as_root(login: Login, argv: Sequence[str]) -> list[str]:
    """The command for a guest that runs ``argv`` as root."""
    return [*argv] if login.user == "root" else ["sudo", "-n", "--", *argv]


def as_user(login: Login, user: str | None, argv: Sequence[str]) -> list[str]:
    """The command for a guest that runs ``argv`` as a user, in that user's home folder.

    Without ``user`` as the one that logs in. A guest that root logs in to may have no sudo.
    """
    if user is None or user == login.user:
        return [*argv]
    if login.user == "root":
        return ["su", "-s", "/bin/sh", "-c", _AT_HOME, "--", user, "sh", *argv]
    if user == "root":
        return as_root(login, argv)
    return ["sudo", "-n", "-u", user, "--", "sh", "-c", _AT_HOME, "sh", *argv]


async def check_user(shell: GuestShell, login: Login, user: str | None) -> None:
    """Raise DriverError when commands cannot run as this user: its status would look like the command's."""
    argv = as_user(login, user, ["true"])
    if argv == ["true"]:
        return
    printed: list[str] = []
    if await shell.run(login, argv, printed.append) != 0:
        why = printed[-1] if printed else "no reason given"
        raise DriverError(
            f"cannot run commands as {user} in {login.guest}: {why}",
            hint=f"its users: kvm-compose exec {login.guest} -- cut -d: -f1 /etc/passwd",
        )


def marker(guest: str, script: str) -> str:
    """The file in the guest that tells that a set-up script has run in this guest's life."""
    return f"{_DONE}/{guest}/{PurePosixPath(script).name}"


async def run_script(shell: GuestShell, login: Login, script: str, output: Callable[[str], None]) -> None:
    """Run a script of the seed as root. Raises DriverError when it fails."""
    status = await shell.run(login, as_root(login, ["sh", "-c", _RUN, "kvm-compose", script]), output)
    if status != 0:
        name = PurePosixPath(script).name.partition("-")[2]
        raise DriverError(
            f"{name} ended with status {status}",
            hint=f"to inspect the guest: kvm-compose ssh {login.guest}; the script is {script}",
        )


async def has_run(shell: GuestShell, login: Login, script: str) -> bool:
    """Whether a set-up script has run in this guest's life."""
    argv = as_root(login, ["test", "-e", marker(login.notes or login.guest, script)])
    return await shell.run(login, argv, _ignore) == 0


async def note_run(shell: GuestShell, login: Login, script: str) -> None:
    """Note that it has."""
    path = marker(login.notes or login.guest, script)
    note = 'mkdir -p "${1%/*}" && : >"$1"'
    await _must(shell, login, ["sh", "-c", note, "kvm-compose", path])


async def seal(shell: GuestShell, login: Login) -> None:
    """Make a golden image ready to be cloned; to be shut down next."""
    await _must(shell, login, ["sh", "-c", _SEAL])


async def _must(shell: GuestShell, login: Login, argv: list[str]) -> None:
    printed: list[str] = []
    status = await shell.run(login, as_root(login, argv), printed.append)
    if status != 0:
        said = printed[-1] if printed else f"status {status}"
        raise DriverError(f"a command of kvm-compose's own failed in {login.guest}: {said}")


def _ignore(_line: str) -> None:
    pass
