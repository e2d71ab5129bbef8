"""Copies between this machine and a guest that is not entered by SSH, through the server."""

from __future__ import annotations

import posixpath
from pathlib import Path
from typing import TYPE_CHECKING

from kvmcompose.core.errors import KvmComposeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kvmcompose.cli._server import Target
    from kvmcompose.monitor.console import Console

_NOT_FOUND = 404
#: The answer of a server of an earlier version.
_NO_SUCH_ROUTE = "no such resource"
#: How many symbolic links are followed, as by Linux (path_resolution(7)).
_MOST_LINKS = 40


def fetch(
    target: Target, guest: str, paths: Sequence[str], to: str, console: Console, *, recursive: bool
) -> None:
    """Copy files and folders of a guest to this machine. Raises KvmComposeError."""
    folder = Path(to or ".")
    if len(paths) > 1 and not folder.is_dir():
        raise KvmComposeError(f"several files need a folder to be copied to: {to} is none")
    for path in paths:
        name = posixpath.basename(posixpath.normpath(f"/{path}")) or guest
        _fetch(target, guest, path, folder / name if folder.is_dir() else folder, console, recursive)


def _fetch(target: Target, guest: str, path: str, place: Path, console: Console, recursive: bool) -> None:
    from kvmcompose.client.unpacking import LinkError, unpack

    if not place.parent.is_dir():
        raise KvmComposeError(f"no such folder: {place.parent}")
    at = path or "/"
    for _ in range(_MOST_LINKS):
        try:
            with (
                console.progress(f"{guest}:{path} -> {place}") as bar,
                target.server.get_files(target.name, guest, at) as stream,
            ):
                found = unpack(stream, place, recursive=recursive, advance=lambda done: bar(done, None))
        except LinkError as link:
            at = _followed(at, link.target)
            continue
        except KvmComposeError as error:
            raise _about(error, f"{guest}:{path}") from error
        for each in found.left_out:
            # names of a guest, which do not begin lines of ours
            console.warn("left out: " + each.replace("\n", "\\n"))
        return
    raise KvmComposeError(f"{guest}:{path}: too many symbolic links")


def send(
    target: Target, guest: str, sources: Sequence[str], to: str, console: Console, *, recursive: bool
) -> None:
    """Copy files and folders of this machine to a guest. Raises KvmComposeError."""
    from kvmcompose.client.packing import collect, packed

    path = to or "/"
    folder = _folder_at(target, guest, path)
    names = [Path(each).name or Path(each).resolve().name for each in sources]
    if folder is None and len(sources) > 1:
        raise KvmComposeError(f"several files need a folder to be copied to: {guest}:{to} is none")
    if folder is None:
        parent, name = posixpath.split(path)
        folder = _folder_at(target, guest, parent or "/") if name else None
        if folder is None:
            raise KvmComposeError(f"no such folder in {guest}: {parent or '/'}")
        names = [name]
    what = collect(
        [(Path(each), name) for each, name in zip(sources, names, strict=True)], recursive=recursive
    )
    for each in what.left_out:
        console.warn(f"left out: {each} is neither a file nor a folder nor a link")
    shown = sources[0] if len(sources) == 1 else f"{len(sources)} sources"
    with console.progress(f"{shown} -> {guest}:{to}") as bar:
        archive = packed(what, lambda done: bar(done, what.size))
        target.server.put_files(target.name, guest, folder, archive)


def _folder_at(target: Target, guest: str, path: str) -> str | None:
    """Return the path of the folder that a path of a guest is, or refers to; None for a file, or nothing."""
    from kvmcompose.client.errors import ServerError
    from kvmcompose.client.unpacking import first_entry

    for _ in range(_MOST_LINKS):
        try:
            with target.server.get_files(target.name, guest, path) as stream:
                entry = first_entry(stream)
        except ServerError as error:
            if error.status == _NOT_FOUND and error.message != _NO_SUCH_ROUTE:
                return None
            raise _about(error, guest) from error
        if not entry.issym():
            return path if entry.isdir() else None
        path = _followed(path, entry.linkname)
    return None


def _followed(path: str, link: str) -> str:
    """Return the path that a symbolic link at a path refers to; the guest itself resolves the rest."""
    return posixpath.join(posixpath.dirname(f"/{path}".rstrip("/")), link)


def _about(error: KvmComposeError, what: str) -> KvmComposeError:
    """Return an error that says which file it is about."""
    from kvmcompose.client.errors import ServerError

    if not isinstance(error, ServerError):
        return KvmComposeError(f"{what}: {error.message}", hint=error.hint)
    if error.message == _NO_SUCH_ROUTE:
        return KvmComposeError(
            "the server is older than this client: it copies no files", hint="restart the server"
        )
    return error
