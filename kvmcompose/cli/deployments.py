"""``kvm-compose deployments``: lists the deployments of a server, and removes them."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from kvmcompose.cli._server import add_server_options, server_of

if TYPE_CHECKING:
    from kvmcompose.client.remote import RemoteServer
    from kvmcompose.core.deployment import Deployment
    from kvmcompose.monitor.console import Console

NAME = "deployments"
ALIASES = ("deployment",)
HELP = "list the testbeds that the server knows, or remove one from its list"
EXAMPLE = """\
examples:
  kvm-compose deployments                list them
  kvm-compose deployments info lab
  kvm-compose deployments remove lab     remove it and its history; it must be down

kvm-compose up registers a project with the server. After a crash no reset is necessary:
the running action counts as interrupted, and both up and down continue from there.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    from kvmcompose.cli.main import add_global_options

    parser.add_argument("--json", action="store_true", help="print JSON")
    add_server_options(parser)
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", title="verbs (without one: list)")
    for verb, alias, text in (
        ("list", (), "list deployments"),
        ("info", (), "show the given deployments"),
        ("remove", ("destroy",), "remove deployments from the server; their folders stay"),
    ):
        child = verbs.add_parser(verb, aliases=alias, help=text, allow_abbrev=False)
        if verb != "list":
            child.add_argument("names", metavar="NAME", nargs="+")
        child.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")
        add_global_options(child, top=False)


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Run a verb."""
    from kvmcompose.client.formatting import state_text

    server = server_of(arguments)
    if arguments.verb in ("remove", "destroy"):
        for name in arguments.names:
            server.remove(name)
            console.say(f"removed {name}; its folder is kept")
        return 0
    found = _found(server, arguments)
    if arguments.json:
        console.json(found)
    elif found:
        rows = [
            [each.name, state_text(each), each.owner or "-", each.project_location or "-"] for each in found
        ]
        console.table(rows, ["NAME", "STATE", "OWNER", "FOLDER"])
    else:
        console.say("no deployments")
    return 0


def _found(server: RemoteServer, arguments: argparse.Namespace) -> list[Deployment]:
    from kvmcompose.core.deployment import Phase

    if arguments.verb != "info":
        return server.deployments(look=True)
    found = [server.deployment(name) for name in arguments.names]
    if all(each.state is not Phase.UP for each in found):
        return found
    looked = {each.name: each for each in server.deployments(look=True)}
    return [looked.get(each.name, each) for each in found]
