"""``kvm-compose bundle``: packs what is needed to understand a failure into one file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from kvmcompose.cli._server import add_server_options

if TYPE_CHECKING:
    from kvmcompose.monitor.console import Console

NAME = "bundle"
HELP = "pack state, plan, logs, consoles and versions into one file, without secrets"
EXAMPLE = """\
examples:
  kvm-compose bundle                      kvm-compose-bundle.tar.gz in the current folder
  kvm-compose bundle --output /tmp/failed.tar.gz

What cannot be had (no server, a guest that is down) is listed in contents.txt. Values of
environment variables, environment files, private keys and tokens are left out, wherever
they occur. Only you can read the file: look through it before you publish it.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=Path, default=Path("kvm-compose-bundle.tar.gz"),
        help="the file to write (default: %(default)s)",
    )  # fmt: skip
    add_server_options(parser)


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Write the bundle; what is missing from it does not make it fail."""
    import gzip

    from kvmcompose.cli._bundle_parts import collect
    from kvmcompose.cli._bundle_secrets import find_secrets
    from kvmcompose.core.errors import KvmComposeError
    from kvmcompose.effects.files import write_atomic
    from kvmcompose.render.archive import end, packed_files

    secrets = find_secrets(arguments)
    parts = collect(arguments, console)
    top = "kvm-compose-bundle"
    lines = [f"{part.name}: {part.said}" for part in parts]
    files = {f"{top}/{part.name}": (secrets.remove(part.data), False) for part in parts if part.data}
    files[f"{top}/contents.txt"] = (secrets.remove("\n".join([*lines, ""]).encode()), False)
    archive = packed_files(files, 0)
    try:
        write_atomic(arguments.output, gzip.compress(archive + end(len(archive)), mtime=0), mode=0o600)
    except OSError as error:
        raise KvmComposeError(f"cannot write {arguments.output}: {error.strerror or error}") from error
    for part in parts:
        if not part.good:
            console.talk(f"without {part.name}: {part.said}")
    console.say(f"{arguments.output}: {len(files)} files; secrets that are known are left out")
    return 0
