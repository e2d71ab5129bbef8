"""``kvm-compose config``: prints the resolved testbed, or guests of it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from kvmcompose.cli._project import open_project
from kvmcompose.cli._server import complete_guests, unknown_name
from kvmcompose.core.names import near_names
from kvmcompose.core.plain import plain
from kvmcompose.monitor.console import Console

if TYPE_CHECKING:
    from kvmcompose.pipeline.compile import Compiled

NAME = "config"
HELP = "print the resolved testbed: every name, address and host, with all defaults"
EXAMPLE = """\
examples:
  kvm-compose config                         as YAML
  kvm-compose config server                  only this guest; of a machine with clones, all of them
  kvm-compose config --json | jq .testbed_guests.server.interfaces

This is what generate would write to state.json, with what guests have from the
defaults. Nothing is built. Values of an environment are digests, because they
may be secrets.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    names = parser.add_argument(
        "names", metavar="NAME", nargs="*", help="guests or machines (default: the whole testbed)"
    )
    names.completer = complete_guests  # type: ignore[attr-defined] # argcomplete looks for it
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Print it."""
    import json

    import yaml

    from kvmcompose.core.state import encode_state

    compiled = open_project(arguments, console).compiled
    document = encode_state(compiled.state)
    if arguments.names:
        guests = json.loads(document)["testbed_guests"]
        found = {name: guests[name] for name in _guests(compiled, arguments.names)}
        document = json.dumps(found, indent=2, ensure_ascii=False).encode() + b"\n"
    if arguments.json:
        console.raw(document)
        return 0
    readable = plain(document.decode(), lines=True) == document.decode()  # otherwise escaped, as YAML has it
    text = yaml.safe_dump(json.loads(document), sort_keys=False, allow_unicode=readable, width=1000)
    console.raw(text.encode())
    return 0


def _guests(compiled: Compiled, names: list[str]) -> list[str]:
    """Return the guests of these names or machines, in file order. Raises InputError for an unknown name."""
    machines: dict[str, list[str]] = {}
    for guest in compiled.placed.logical.guests:
        machines.setdefault(guest.machine.name, []).append(guest.name)
    known = {guest: [guest] for guest in compiled.state.testbed_guests} | machines
    for name in names:
        if name not in known:
            raise unknown_name(f"there is no guest {name!r}", near_names(name, known))
    wanted = {guest for name in names for guest in known[name]}
    return [guest for guest in compiled.state.testbed_guests if guest in wanted]
