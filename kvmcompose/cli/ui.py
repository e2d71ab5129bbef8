"""``kvm-compose ui``: opens the page of a server in the browser."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from kvmcompose.cli._server import add_server_options, open_target, project_here, server_of, usage_error
from kvmcompose.core.errors import KvmComposeError, RefusedError

if TYPE_CHECKING:
    from kvmcompose.client.remote import RemoteServer
    from kvmcompose.monitor.console import Console

NAME = "ui"
HELP = "open the server's page in a browser: testbeds, live, and what can be done with them"
EXAMPLE = """\
examples:
  kvm-compose ui                 in a project folder: this testbed; elsewhere: all testbeds
  kvm-compose ui --no-browser    print the link instead
  kvm-compose ui --server https://lab.example:5040

The link signs one browser in, once, within a minute. Over SSH, or without a display, it
is printed. A server without a TCP port opens one on 127.0.0.1: 5040, or another if that
is in use. A server that was started for this command ends some minutes after the page.
"""

_WAIT_SECONDS = 20


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("--no-browser", action="store_true", help="print the link, do not open a browser")
    add_server_options(parser)


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Open the page, and wait until a browser is signed in. Raises KvmComposeError if none is."""
    from kvmcompose.effects.browser import open_browser

    server, name = _project(arguments, console)
    # the browser is that of the user who called sudo
    link = server.make_link(os.environ.get("SUDO_USER") if os.geteuid() == 0 else None)
    address = link.address + (f"&lab={quote(name, safe='')}" if name else "")
    if arguments.no_browser or not open_browser(address):
        _print(address, link.seconds, console)
    else:
        console.say("opening the page in your browser ...")
    while (state := server.link_use(link.uuid, _WAIT_SECONDS).state) == "open":
        pass
    if state == "expired":
        raise KvmComposeError(
            f"no browser has used the link within {link.seconds:.0f} s",
            hint="kvm-compose ui --no-browser prints a new one, for any browser",
        )
    console.say(f"signed in: the page is open at {link.address.partition('#')[0]}")
    return 0


def _project(arguments: argparse.Namespace, console: Console) -> tuple[RemoteServer, str | None]:
    """Return the server, and the deployment of this folder or ``--project-name`` if there is one."""
    if arguments.project_name is None and project_here(arguments) is None:
        if not arguments.directory.is_dir():
            raise usage_error(
                f"there is no folder {str(arguments.directory)!r}",
                hint="without -C, the page opens at the project of this folder, or at the list of testbeds",
            )
        return server_of(arguments), None
    try:
        target = open_target(arguments, register=True)
    except RefusedError as error:  # the page shows the others all the same
        console.warn(f"{error.message}; the page opens without this project")
        return server_of(arguments), None
    return target.server, target.name


def _print(address: str, seconds: float, console: Console) -> None:
    from kvmcompose.client.address import LOOPBACK
    from kvmcompose.effects.browser import is_ssh

    place = urlsplit(address)
    if is_ssh() and place.hostname in LOOPBACK:
        words = os.environ["SSH_CONNECTION"].split()
        host = words[2] if len(words) > 2 else "HOST"  # noqa: PLR2004 (the server's address is the third)
        forwarded = f"{place.port}:{place.hostname}:{place.port}"
        console.say(
            "your browser needs a tunnel to this port; in a terminal of the machine where it runs:\n"
            f"    ssh -N -L {forwarded} {os.environ.get('USER', 'USER')}@{host}"
        )
    console.say(f"open this link within {seconds:.0f} s:")
    console.verbatim(address)
    sys.stdout.flush()
