"""The files that a project is made from, watched for edits: what ``up --watch`` follows."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from kvmcompose.core.errors import KvmComposeError, RefusedError

if TYPE_CHECKING:
    from kvmcompose.build.project import Project
    from kvmcompose.build.project_inputs import Where

#: Milliseconds without another change after which an edit counts as finished, and the most to wait for that:
#: editors write in several steps, version control many files.
_QUIET_MS, _MOST_MS = 300, 3000
#: Milliseconds after which files are compared for the first time, for edits from before they were watched.
_FIRST_MS = 100

#: What tells two versions of a file apart; of a folder, the names in it. None where there is nothing.
Signatures = Mapping[str, object]


def input_files(where: Where) -> set[str]:
    """Return the paths of the YAML, the config and the project's own templates."""
    from kvmcompose.build.project_inputs import CONFIG_NAME, YAML_NAME

    folder = where.directory.absolute()
    paths = [folder / each for each in (where.input or YAML_NAME, where.config or CONFIG_NAME, "templates")]
    paths += (folder / "templates").glob("*")
    return {*map(str, paths), *(str(each.resolve()) for each in paths)}


def named_files(project: Project) -> set[str]:
    """Return the paths of all files that the YAML and the config name, with those that contexts contain.

    As far as they are known: where the YAML is not valid, some are not.
    """
    made: set[str] = set()
    with suppress(KvmComposeError):
        made.update(str(project.folder / path) for path in project.artefacts)
    return project.files.seen() - made


def signatures(paths: Iterable[str]) -> dict[str, object]:
    """Return the signatures of files and folders."""
    return {path: _signature(path) for path in paths}


def _signature(path: str) -> object:
    try:
        status = os.stat(path)  # noqa: PTH116
        if stat.S_ISDIR(status.st_mode):
            return (*sorted(os.listdir(path)), status.st_mode)  # noqa: PTH208
    except (OSError, ValueError):
        return None
    return (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_mode)


def library() -> ModuleType:
    """Return the package that watches. Raises RefusedError where it is not installed."""
    try:
        import watchfiles
    except ImportError:
        raise RefusedError(
            "up --watch requires the Python package watchfiles", hint="pip install watchfiles"
        ) from None
    return watchfiles


def wait_for_edit(before: Signatures, stop: threading.Event) -> list[str]:
    """Return the paths whose signatures differ from ``before``, once some do; none if ``stop`` was set.

    Folders are watched, not files: editors put another file in the place of an edited one. Raises
    KvmComposeError when the system can watch no more.
    """
    watchfiles = library()
    while not stop.is_set():
        try:
            changes = watchfiles.watch(
                *_folders(before),
                watch_filter=None,
                debounce=_MOST_MS,
                step=_QUIET_MS,
                rust_timeout=_FIRST_MS,
                yield_on_timeout=True,
                stop_event=stop,
                raise_interrupt=True,
                recursive=False,
            )
            for count, events in enumerate(changes):
                edited = _differing(before) if events or not count else []
                if edited:
                    return edited
        except FileNotFoundError:  # a folder that vanished before it was watched
            edited = _differing(before)
            if edited:
                return edited
        except OSError as error:
            raise KvmComposeError(
                f"cannot watch the files of the project: {error}",
                hint="if there are too many, raise the sysctl fs.inotify.max_user_watches,"
                " or set WATCHFILES_FORCE_POLLING=1",
            ) from error
    return []


def _differing(before: Signatures) -> list[str]:
    return sorted(path for path, signature in before.items() if _signature(path) != signature)


def _folders(paths: Iterable[str]) -> list[str]:
    """Return the folders in which something happens when one of these files changes, appears or vanishes."""
    return sorted(set(_nearest(paths)))


def _nearest(paths: Iterable[str]) -> Iterator[str]:
    for path in paths:
        if os.path.isdir(path):  # noqa: PTH112
            yield path
        yield next(str(each) for each in Path(path).parents if each.is_dir())
