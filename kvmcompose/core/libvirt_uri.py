"""URIs of libvirt: the few forms that only select a daemon.

A libvirt URI can do more than that: ``qemu+ssh://…?command=…``, ``qemu+ext:///…?command=…`` and ``netcat=``
run programs, ``keyfile=`` and ``pkipath=`` open files, other schemes select other drivers (libvirt,
"Connection URIs", "Remote support"), and a plain word is an alias that libvirt.conf resolves. So a URI from a
file or a server is parsed, and libvirt and virsh get a URI written from the parsed value, never the original
text.
"""

from __future__ import annotations

import re
from enum import StrEnum
from urllib.parse import quote, unquote

import msgspec

from kvmcompose.core.errors import KvmComposeError

#: The permitted forms, for messages.
WANTED = "qemu:///system, qemu:///session or qemu+unix:///system?socket=/absolute/path"
HINT = (
    "to use the libvirt of another machine, add that machine to the config as a testbed host; its "
    "libvirt_uri is as seen from there"
)

_URI = re.compile(r"qemu(?:\+unix)?:///(system|session)(?:\?socket=(/[A-Za-z0-9._~/+@:,=%-]*))?", re.ASCII)
#: The size of a socket's address (unix(7), sun_path), less the closing zero, in bytes.
_SOCKET_LIMIT = 107


class LibvirtInstance(StrEnum):
    """Which libvirt of a machine: that of the system, or that of one user."""

    SYSTEM = "system"
    SESSION = "session"


class LibvirtUri(msgspec.Struct, frozen=True):
    """A libvirt daemon on the machine that connects to it; ``socket`` is a path, None for the default."""

    instance: LibvirtInstance = LibvirtInstance.SYSTEM
    socket: str | None = None

    def __str__(self) -> str:
        """Return the URI in libvirt's syntax."""
        if self.socket is None:
            return f"qemu:///{self.instance}"
        return f"qemu+unix:///{self.instance}?socket={quote(self.socket, safe='/')}"

    @property
    def is_usual(self) -> bool:
        """Return whether this is the default of a host."""
        return self == LibvirtUri()


class LibvirtUriError(KvmComposeError):
    """A text is not a permitted libvirt URI."""

    def __init__(self, text: str) -> None:
        super().__init__(f"{text!r} is not a permitted libvirt URI (wanted {WANTED})", hint=HINT)


def parse_libvirt_uri(text: str) -> LibvirtUri:
    """Parse a libvirt URI. Raises LibvirtUriError when it is not one of the permitted forms."""
    found = _URI.fullmatch(text)
    if found is None:
        raise LibvirtUriError(text)
    socket = None
    if found[2] is not None:
        socket = unquote(found[2], errors="surrogateescape")
        if not socket.isprintable() or len(socket.encode(errors="surrogateescape")) > _SOCKET_LIMIT:
            raise LibvirtUriError(text)
        if {"", ".", ".."} & set(socket[1:].split("/")):
            raise LibvirtUriError(text)
    return LibvirtUri(LibvirtInstance(found[1]), socket)
