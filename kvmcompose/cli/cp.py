"""``kvm-compose cp``: copies files to and from guests."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, NamedTuple

from kvmcompose.cli._server import add_server_options, complete_guests, guest_named, open_target, usage_error

if TYPE_CHECKING:
    from kvmcompose.monitor.console import Console

NAME = "cp"
HELP = "copy files to or from a guest"
EXAMPLE = """\
examples:
  kvm-compose cp config.json server:          to the home folder
  kvm-compose cp -r site server:/var/www
  kvm-compose cp server:/var/log/syslog .
  kvm-compose cp ./a:b server:                local file with a colon in its name

Runs the system's scp with the guest's key and host key. Files of containers are copied
through the server, as by docker cp: relative paths in them are below /, and files that
are copied to them belong to root. What comes from a container stays in the target: links
out of it, devices and the like are left out. So are files of guests without a way for SSH
that have the QEMU guest agent.
"""


class _End(NamedTuple):
    """One side of a copy: a path, in a guest or here."""

    guest: str | None
    path: str


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("-r", "--recursive", action="store_true", help="copy folders recursively")
    parser.add_argument(
        "-O", "--legacy", action="store_true", help="use the old protocol, for a guest without an SFTP server"
    )
    add_server_options(parser)
    for name, nargs in (("source", "+"), ("target", None)):
        word = parser.add_argument(name, metavar=name.upper(), nargs=nargs, help="a path, or GUEST:PATH")
        word.completer = _complete  # type: ignore[attr-defined] # argcomplete looks for it


def _complete(parsed_args: argparse.Namespace, **_rest: object) -> list[str]:
    """Return the guests; the shell itself completes files."""
    return [f"{name}:" for name in complete_guests(parsed_args)]


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Copy through the server, or replace this process by scp."""
    from kvmcompose.cli._access import become, destination, ssh_options, stdio_command

    ends = [_end(word) for word in (*arguments.source, arguments.target)]
    guests = {end.guest for end in ends if end.guest is not None}
    if not guests:
        raise usage_error("no guest given", "kvm-compose cp FILE GUEST:PATH, or GUEST:PATH FILE")
    sources = {end.guest for end in ends[:-1]}
    if len(guests) > 1 or len(sources) > 1 or ends[-1].guest in sources:
        raise usage_error("one side must be in one guest, the other local", "copy in two steps")
    deployment = open_target(arguments)
    known = {guest.name: guest for guest in deployment.server.access(deployment.name)}
    guest = known[guest_named(deployment, known, guests.pop())]
    if not guest.by_ssh or guest.by_agent:
        from kvmcompose.cli import _guest_files

        copy = _guest_files.fetch if sources != {None} else _guest_files.send
        words = [end.path for end in ends]
        copy(deployment, guest.name, words[:-1], words[-1], console, recursive=arguments.recursive)
        return 0
    options = [*(["-r"] if arguments.recursive else []), *(["-O"] if arguments.legacy else [])]
    paths = [_word(end, destination(guest)) for end in ends]
    return become(["scp", *options, *ssh_options(guest, stdio_command(arguments)), "--", *paths], console)


def _end(word: str) -> _End:
    """Parse ``GUEST:PATH`` or a local path; as in scp, a path with a slash before the colon is local."""
    guest, colon, path = word.partition(":")
    return _End(guest, path) if colon and guest and "/" not in guest else _End(None, word)


def _word(end: _End, to: str) -> str:
    if end.guest is None:
        return f"./{end.path}" if ":" in end.path.partition("/")[0] else end.path
    return f"{to}:{end.path}"
