"""How guests are reached: types of the API, checked strictly, as the server may be hostile."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from kvmcompose.core.commands import GuestName, HostName, UserName

#: A path in a guest: no part of a command, but it is shown.
GUEST_PATH_PATTERN = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]{1,4095}$(?!\n)"

#: The most of a guest's console in one response, in bytes.
CONSOLE_BYTES = 1 << 18
#: The most columns, and rows, of a terminal, and its type (terminfo(5)): all that show one know that.
MOST_CHARACTERS, TERM = 1000, "xterm-256color"


#: The runtime of guests that are entered by SSH, and have a serial console.
LIBVIRT = "libvirt"

#: These values become arguments of ssh, scp and virsh, and lines of files that they read, and the server may
#: be hostile. Every path begins with ``/``, no value begins with ``-``, and none contains a line break.
ADDRESS_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9.:_-]{0,254}$(?!\n)"
PATH_PATTERN = r"^/[^\x00-\x1f\x7f-\x9f\u2028\u2029]{0,4095}$(?!\n)"
KEY_PATTERN = r"^(ssh-(ed25519|rsa)|ecdsa-sha2-nistp(256|384|521)) [A-Za-z0-9+/]+={0,2}$(?!\n)"
RUNTIME_PATTERN = r"^[a-z][a-z0-9_]{0,62}$(?!\n)"
URI_PATTERN = r"^[a-z][!-~]{0,1023}$(?!\n)"

Address = Annotated[str, msgspec.Meta(pattern=ADDRESS_PATTERN)]
ServerPath = Annotated[str, msgspec.Meta(pattern=PATH_PATTERN)]
HostKey = Annotated[str, msgspec.Meta(pattern=KEY_PATTERN, max_length=4096)]
Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]


class HostAccess(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach a testbed host from the main host by SSH. Paths are on the server's machine."""

    address: Address
    user: UserName | None = None
    port: Port | None = None
    identity_file: ServerPath | None = None
    host_key: HostKey | None = None


class EngineAccess(msgspec.Struct, frozen=True, kw_only=True):
    """The container engine of a guest's host. ``socket`` is a path on that host, None for the usual one."""

    program: Literal["docker", "podman"]
    socket: ServerPath | None = None


class GuestAccess(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach a guest from the main host: by SSH and through libvirt.

    A guest of another ``runtime`` than libvirt has neither: commands run in it through the server. ``engine``
    is set for a container, whose name is ``domain``.

    Paths are on the server's machine. ``hostname`` is what the guest calls itself; None, as from an earlier
    server, stands for ``domain``. ``address`` is None for a guest that has no connection to the main host.
    With ``through_server`` only the server reaches it: a client connects by the server's WebSocket ``ssh``.
    ``by_agent``: the server enters it by its guest agent, as SSH has no way to it, or ``ready`` says so.
    ``via`` is set for a guest on another host than the main host: ``libvirt_uri`` is then a URI on that host.
    """

    name: GuestName
    host: HostName
    domain: GuestName
    libvirt_uri: Annotated[str, msgspec.Meta(pattern=URI_PATTERN)]
    user: UserName | None
    address: Address | None
    port: Port = 22
    identity_file: ServerPath | None = None
    known_hosts: ServerPath | None = None
    host_key_alias: GuestName | None = None
    groups: tuple[GuestName, ...] = ()
    hostname: GuestName | None = None
    via: HostAccess | None = None
    through_server: bool = False
    runtime: Annotated[str, msgspec.Meta(pattern=RUNTIME_PATTERN)] = LIBVIRT
    engine: EngineAccess | None = None
    by_agent: bool = False

    @property
    def by_ssh(self) -> bool:
        """Whether it is entered by SSH, and has a serial console."""
        return self.runtime == LIBVIRT


class ConsolePart(msgspec.Struct, frozen=True, kw_only=True):
    """A part of what a guest's serial console has printed since its last start: base64 in JSON.

    ``start`` is the offset of its first byte. It is less than what was asked for when the guest was started
    since.
    """

    start: int
    data: bytes


class GuestTerminals(msgspec.Struct, frozen=True, kw_only=True):
    """What of a guest can be seen in a terminal and on a screen.

    ``console`` is ``input`` where its console takes input, ``output`` where there is only what it prints.
    ``screen`` is its kind, of which ``vnc`` can be shown; None for a guest without one, and while it is not
    defined on its host. ``shell``: the server opens a shell in it while it runs.
    """

    console: Literal["input", "output"] | None = None
    screen: str | None = None
    shell: bool = False


class ConsoleOpened(msgspec.Struct, frozen=True, kw_only=True):
    """The first message of a console: what it does for this client.

    ``input``: it takes input. Without it, ``reason`` says why and ``hint`` what to do; ``taken``: another
    user has the console, and ``force`` takes it from them. ``history`` is how many of the bytes that follow
    were printed before: a terminal must not answer what they ask.
    """

    input: bool
    history: int
    reason: str | None = None
    hint: str | None = None
    taken: bool = False


class TerminalSize(msgspec.Struct, frozen=True, kw_only=True):
    """How large the terminal of a shell is, in characters: a message from its client, at each change."""

    columns: Annotated[int, msgspec.Meta(ge=1, le=MOST_CHARACTERS)]
    rows: Annotated[int, msgspec.Meta(ge=1, le=MOST_CHARACTERS)]


class ShellEnded(msgspec.Struct, frozen=True, kw_only=True):
    """The last message of a shell that has ended.

    ``exit_status`` is None where it is not known, as where its container was removed.
    """

    exit_status: int | None
