"""``kvm-compose bundle``: packs what is needed to understand a failure into one file."""

from __future__ import annotations

import argparse
import os
import stat
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
An earlier bundle is replaced; another file that exists is not.
"""

_TOP = "kvm-compose-bundle"
#: A block of a tar archive, in bytes (POSIX.1, pax). The first one begins with the name of the first file.
_BLOCK = 512


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=Path, default=Path(f"{_TOP}.tar.gz"),
        help=f"the file to write (default: {_TOP}.tar.gz)",
    )  # fmt: skip
    add_server_options(parser)


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Write the bundle; what is missing from it does not make it fail."""
    import gzip

    from kvmcompose.cli._bundle_parts import collect
    from kvmcompose.cli._bundle_secrets import find_secrets
    from kvmcompose.effects.files import write_atomic
    from kvmcompose.render.archive import end, packed_files

    _refuse_to_replace(arguments.output)
    _check_folder(arguments.output)
    secrets = find_secrets(arguments)
    parts = collect(arguments, console)
    lines = [f"{part.name}: {part.said}" for part in parts]
    files = {f"{_TOP}/{part.name}": (secrets.remove(part.data), False) for part in parts if part.data}
    files[f"{_TOP}/contents.txt"] = (secrets.remove("\n".join([*lines, ""]).encode()), False)
    archive = packed_files(files, 0)
    try:
        write_atomic(arguments.output, gzip.compress(archive + end(len(archive)), mtime=0), mode=0o600)
    except OSError as error:
        raise _unwritable(arguments.output, error) from error
    for part in parts:
        if not part.good:
            console.talk(f"without {part.name}: {part.said}")
    console.say(f"{arguments.output}: {len(files)} files; secrets that are known are left out")
    return 0


def _check_folder(path: Path) -> None:
    """Raise KvmComposeError if no file can be made there, before all that goes into it is collected."""
    import tempfile

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> Exception:
    from kvmcompose.core.errors import KvmComposeError

    return KvmComposeError(f"cannot write {path}: {error.strerror or error}")


def _refuse_to_replace(path: Path) -> None:
    """Raise RefusedError if the path exists and is not a bundle, KvmComposeError if that is unknown."""
    import gzip
    import zlib

    from kvmcompose.core.errors import KvmComposeError, RefusedError
    from kvmcompose.effects.opening import open_regular

    hint = "choose another file with --output"
    try:
        status = path.lstat()
        if stat.S_ISREG(status.st_mode) and not status.st_size:  # as mktemp(1) makes one
            return
        if not stat.S_ISREG(status.st_mode):
            raise RefusedError(f"{path} is not a regular file, and is not replaced", hint=hint)
        with os.fdopen(open_regular(path), "rb") as file, gzip.GzipFile(fileobj=file) as packed:
            begins = packed.read(_BLOCK)
    except FileNotFoundError:
        return
    except (EOFError, gzip.BadGzipFile, zlib.error):
        begins = b""
    except OSError as error:
        raise KvmComposeError(f"cannot replace {path}: {error.strerror or error}", hint=hint) from error
    if not begins.startswith(f"{_TOP}/".encode()):
        raise RefusedError(f"{path} exists and is not a bundle, and is not replaced", hint=hint)
