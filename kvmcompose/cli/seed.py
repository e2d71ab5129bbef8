"""``kvm-compose seed``: prints what a guest reads when it is set up."""

from __future__ import annotations

import argparse

from kvmcompose.cli._project import open_project
from kvmcompose.cli._server import complete_guests
from kvmcompose.core.errors import RefusedError
from kvmcompose.monitor.console import Console

NAME = "seed"
HELP = "print what a guest's cloud-init (or cloudbase-init) will read"
EXAMPLE = """\
examples:
  kvm-compose seed server                      all files
  kvm-compose seed server --file user-data
  kvm-compose seed server --file network-config >network-config.yaml

This is what generate would write into the guest's seed; nothing is built.
Passwords, hashes of them, private keys, values of environment files and files
that not all users of the guest may read are left out, and parts of a MIME
archive are decoded. --show-secrets prints the files as they are. Scripts, the
context and the environment are in an archive of the seed, which is not shown.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    guest = parser.add_argument("guest", metavar="GUEST", help="a guest with a cloud_image")
    guest.completer = complete_guests  # type: ignore[attr-defined] # argcomplete looks for it
    parser.add_argument(
        "--file",
        metavar="FILE",
        help="only this one: user-data, meta-data, network-config or vendor-data",
    )
    parser.add_argument(
        "--show-secrets", action="store_true", help="print the files as they are, with all secrets"
    )
    parser.add_argument("--json", action="store_true", help="print JSON: texts by the names of the files")


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Print it."""
    from kvmcompose.build.seed_files import seed_files
    from kvmcompose.cli._bundle_secrets import find_secrets
    from kvmcompose.cli._seed_text import readable, without_secrets

    found = seed_files(open_project(arguments, console), arguments.guest)
    if arguments.file is not None:
        names = [name for name in found if arguments.file in (name, name.rpartition("/")[2])]
        if not names:
            there = ", ".join(found)
            raise RefusedError(
                f"there is no {arguments.file} in the seed of {arguments.guest}: it has {there}"
            )
        found = {name: found[name] for name in names}
    if not arguments.show_secrets:
        secrets = find_secrets(arguments)
        found = {
            name: secrets.remove(without_secrets(readable(data)).encode()) for name, data in found.items()
        }
    if arguments.json:
        console.json({name: data.decode(errors="replace") for name, data in found.items()})
        return 0
    for number, (name, data) in enumerate(found.items()):
        if arguments.file is None:
            start = "\n" if number else ""
            console.raw(f"{start}==> {name} <==\n".encode())
        console.raw(data)
    return 0
