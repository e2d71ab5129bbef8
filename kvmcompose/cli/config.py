"""``kvm-compose config``: prints the resolved testbed."""

from __future__ import annotations

import argparse

from kvmcompose.cli._project import open_project
from kvmcompose.core.plain import plain
from kvmcompose.monitor.console import Console

NAME = "config"
HELP = "print the resolved testbed: every name, address and host, with all defaults"
EXAMPLE = """\
examples:
  kvm-compose config                         as YAML
  kvm-compose config --json | jq .testbed_guests.server.interfaces

This is what generate would write to state.json. Nothing is built. Values of an
environment are digests, because they may be secrets.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Print it."""
    import json

    import yaml

    from kvmcompose.core.state import encode_state

    document = encode_state(open_project(arguments, console).compiled.state)
    if arguments.json:
        console.raw(document)
        return 0
    readable = plain(document.decode(), lines=True) == document.decode()  # otherwise escaped, as YAML has it
    text = yaml.safe_dump(json.loads(document), sort_keys=False, allow_unicode=readable, width=1000)
    console.raw(text.encode())
    return 0
