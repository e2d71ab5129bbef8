"""``kvm-compose ssh``: opens a shell in a guest."""

from __future__ import annotations

import argparse
import shlex
import sys
from typing import TYPE_CHECKING

from kvmcompose.cli._server import access_to, add_guest, add_server_options, open_target
from kvmcompose.core.errors import KvmComposeError

if TYPE_CHECKING:
    from typing import NoReturn

    from kvmcompose.cli._server import Target
    from kvmcompose.core.access import GuestAccess
    from kvmcompose.monitor.console import Console

NAME = "ssh"
HELP = "open a shell in a guest, or run ssh with other arguments"
EXAMPLE = """\
examples:
  kvm-compose ssh server
  kvm-compose ssh server -- uname -a                   run a command in the guest's shell
  kvm-compose ssh server -- -L 8080:localhost:80 -N    options of ssh
  tar c files | kvm-compose ssh server -- tar x

Runs the system's ssh with the guest's key and host key, through the server where only
that reaches the guest (testbed_options.management). ~/.ssh/config is ignored;
kvm-compose inventory --format ssh_config prints entries for it.
In a container it opens a shell through the server: bash, or sh where there is none. As
in ssh, Enter ~ . leaves a shell that does not answer.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    add_server_options(parser)
    parser.add_argument(
        "--stdio",
        action="store_true",
        help="connect standard input and output to the guest's SSH server, for ProxyCommand of ssh",
    )
    add_guest(parser)
    parser.add_argument("words", metavar="-- ARGUMENT", nargs=argparse.REMAINDER, help="arguments for ssh")


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Replace this process by ssh, connect one to a guest, or open a shell in a container."""
    target = open_target(arguments)
    guest = access_to(target, arguments.guest)
    if arguments.stdio:
        target.server.connect_guest(target.name, guest.name, sys.stdin.fileno(), sys.stdout.fileno())
        return 0
    words = arguments.words[1:] if arguments.words[:1] == ["--"] else arguments.words
    if guest.by_ssh:
        _become_ssh(arguments, words, guest, console)
    return _open_shell(target, guest, words)


def _open_shell(target: Target, guest: GuestAccess, words: list[str]) -> int:
    """Open a shell in a guest that has no SSH server, and return its exit status."""
    from kvmcompose.cli._shells import shell_in

    if words:
        raise KvmComposeError(
            f"{guest.name} is not entered by SSH: it takes no arguments of ssh",
            hint=f"a command in it: kvm-compose exec {guest.name} -- {shlex.join(words)}",
        )
    return shell_in(target, guest.name)


def _become_ssh(
    arguments: argparse.Namespace, words: list[str], guest: GuestAccess, console: Console
) -> NoReturn:
    from kvmcompose.cli._access import become, destination, ssh_options, stdio_command

    # ssh would take options after it for a command
    end = [] if words[:1] and words[0].startswith("-") else ["--"]
    become(["ssh", *ssh_options(guest, stdio_command(arguments)), *end, destination(guest), *words], console)
