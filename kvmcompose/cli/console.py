"""``kvm-compose console``: opens the serial console of a guest."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from kvmcompose.cli._server import access_to, add_guest, add_server_options, open_target

if TYPE_CHECKING:
    from typing import NoReturn

    from kvmcompose.core.access import GuestAccess
    from kvmcompose.monitor.console import Console

NAME = "console"
HELP = "open the serial console of a guest"
EXAMPLE = """\
examples:
  kvm-compose console server
  kvm-compose console --force server    disconnect another user of the console

Ctrl-] closes it. It works without a network, for example to see why a guest does not boot.
Of a guest that is no virtual machine it shows what is printed there, until Ctrl-C.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("--force", action="store_true", help="disconnect another user of the console")
    add_server_options(parser)
    add_guest(parser)


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Replace this process by virsh, or show what a guest prints that libvirt does not run."""
    from kvmcompose.cli._consoles import follow_console

    target = open_target(arguments)
    guest = access_to(target, arguments.guest)
    if guest.by_ssh:
        _become_virsh(arguments, guest, console)
    console.say(f"console of {guest.domain}, without input; Ctrl-C to leave")
    return follow_console(target, guest.name, console)


def _become_virsh(arguments: argparse.Namespace, guest: GuestAccess, console: Console) -> NoReturn:
    """Replace this process by virsh, or by an ssh that runs it on another host."""
    from kvmcompose.cli._access import become, through
    from kvmcompose.core.libvirt_uri import parse_libvirt_uri

    uri = str(parse_libvirt_uri(guest.libvirt_uri))  # from the server: a URI can make virsh run a program
    console.say(f"console of {guest.domain}; Ctrl-] to leave")
    force = ["--force"] if arguments.force else []
    argv = ["virsh", "--quiet", "--connect", uri, "console", *force, guest.domain]
    become(through(guest.via, argv) if guest.via is not None else argv, console)
