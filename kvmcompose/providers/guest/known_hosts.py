"""Host keys of guests, pinned at first contact, in a file that ssh(1) can read.

One line per guest: its alias, the key's type, the key, and as a comment the guest's ``Login.life`` at that
time (sshd(8), section "SSH_KNOWN_HOSTS FILE FORMAT"). ``ssh -o UserKnownHostsFile=FILE -o
HostKeyAlias=ALIAS`` accepts the same keys as the server.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from kvmcompose.effects import private
from kvmcompose.effects.locking import lock
from kvmcompose.effects.opening import DOCUMENT_LIMIT, open_below, open_folder, read_regular
from kvmcompose.providers.guest.interface import Login

_ALIAS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_LIFE = re.compile(r"[A-Za-z0-9]*")


def known_hosts(login: Login) -> KnownHosts:
    """Return the file for a guest's key. A member can read the one that root writes: keys are public."""
    return KnownHosts(login.known_hosts, 0o600 if login.identity is None else 0o644)


class KnownHosts:
    """The file. Its methods raise OSError."""

    def __init__(self, path: Path, mode: int = 0o600) -> None:
        self.path = path
        self._mode = mode

    def key(self, alias: str, life: str = "") -> str | None:
        """Return the key recorded for a guest: type and key, as in a public key file.

        A key that was recorded before the guest was re-provisioned does not count.
        """
        for line in self._lines():
            words = line.split()
            if len(words) >= 3 and alias in words[0].split(","):  # noqa: PLR2004
                other = life and words[3:] and words[3] != life
                return None if other else " ".join(words[1:3])
        return None

    def note(self, alias: str, key: str, life: str = "") -> None:
        """Record a guest's key, replacing any earlier one. Raises ValueError for an invalid alias or key."""
        if not _ALIAS.fullmatch(alias) or not key.isprintable() or not _LIFE.fullmatch(life):
            raise ValueError(f"invalid host key entry for {alias!r}")
        self._rewrite(lambda lines: [*_without(lines, alias), f"{alias} {key} {life}".rstrip()])

    def forget(self, alias: str) -> None:
        """Remove the guest's key, if there is one."""
        if self.key(alias) is not None:
            self._rewrite(lambda lines: _without(lines, alias))

    def _lines(self) -> list[str]:
        try:
            noted = read_regular(self.path, limit=DOCUMENT_LIMIT, follow=False)
            return noted.decode(errors="surrogateescape").splitlines()
        except FileNotFoundError:
            return []

    def _rewrite(self, change: Callable[[list[str]], list[str]]) -> None:
        """Change the file under a lock: several processes may record keys at the same time."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = open_folder(self.path.parent)
        try:
            handle = open_below(folder, f"{self.path.name}.lock", os.O_CREAT | os.O_RDWR | os.O_NONBLOCK)
        finally:
            os.close(folder)
        try:
            lock(handle, self.path)
            text = "".join(f"{line}\n" for line in change(self._lines()))
            private.write(self.path, text.encode(errors="surrogateescape"), mode=self._mode)
        finally:
            os.close(handle)


def _without(lines: list[str], alias: str) -> list[str]:
    return [line for line in lines if alias not in line.split(" ", 1)[0].split(",")]
