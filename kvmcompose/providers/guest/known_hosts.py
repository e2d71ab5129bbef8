"""Host keys of guests, pinned at first contact, in a file that ssh(1) reads, too.

One line per guest: its alias, the key's type, the key, and as a comment the life of the guest in which it was
met (sshd(8), section "SSH_KNOWN_HOSTS FILE FORMAT"), so that ``ssh -o UserKnownHostsFile=FILE -o
HostKeyAlias=ALIAS`` agrees with what the server noted.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Callable
from pathlib import Path

from kvmcompose.effects import private
from kvmcompose.effects.opening import DOCUMENT_LIMIT, open_below, open_folder, read_regular
from kvmcompose.providers.guest.interface import Login

_ALIAS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_LIFE = re.compile(r"[A-Za-z0-9]*")


def known_hosts(login: Login) -> KnownHosts:
    """Where a guest's key is noted. A member's ssh reads what root keeps: they are public keys."""
    return KnownHosts(login.known_hosts, 0o600 if login.identity is None else 0o644)


class KnownHosts:
    """The file. Its methods raise OSError."""

    def __init__(self, path: Path, mode: int = 0o600) -> None:
        self.path = path
        self._mode = mode

    def key(self, alias: str, life: str = "") -> str | None:
        """The key noted for a guest: its type and itself, as in a public key's file.

        One that was noted in another life of the guest does not count.
        """
        for line in self._lines():
            words = line.split()
            if len(words) >= 3 and alias in words[0].split(","):  # noqa: PLR2004
                other = life and words[3:] and words[3] != life
                return None if other else " ".join(words[1:3])
        return None

    def note(self, alias: str, key: str, life: str = "") -> None:
        """Note a guest's key, in place of any that was noted before. Raises ValueError for no name."""
        if not _ALIAS.fullmatch(alias) or not key.isprintable() or not _LIFE.fullmatch(life):
            raise ValueError(f"{alias!r} is no name for a host key")
        self._rewrite(lambda lines: [*_without(lines, alias), f"{alias} {key} {life}".rstrip()])

    def forget(self, alias: str) -> None:
        """Nothing is known of the guest any more; no error if nothing was."""
        if self.key(alias) is not None:
            self._rewrite(lambda lines: _without(lines, alias))

    def _lines(self) -> list[str]:
        try:
            noted = read_regular(self.path, limit=DOCUMENT_LIMIT, follow=False)
            return noted.decode(errors="surrogateescape").splitlines()
        except FileNotFoundError:
            return []

    def _rewrite(self, change: Callable[[list[str]], list[str]]) -> None:
        """Several guests may be met in the same moment, and by more than one process."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = open_folder(self.path.parent)
        try:
            lock = open_below(folder, f"{self.path.name}.lock", os.O_CREAT | os.O_RDWR | os.O_NONBLOCK)
        finally:
            os.close(folder)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            text = "".join(f"{line}\n" for line in change(self._lines()))
            private.write(self.path, text.encode(errors="surrogateescape"), mode=self._mode)
        finally:
            os.close(lock)


def _without(lines: list[str], alias: str) -> list[str]:
    return [line for line in lines if alias not in line.split(" ", 1)[0].split(",")]
