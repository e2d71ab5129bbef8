"""The build stamp: everything that a build depended on, so that the next can end at once.

After a build that left nothing to do, the signatures of all inputs and outputs are recorded. While they are
unchanged there is nothing to do, and neither the YAML nor the ledger has to be read. In any doubt there is no
stamp, and the build checks everything: the stamp is a shortcut to an answer, never a second opinion.
This module imports next to nothing: imports take longer than the check.
"""

from __future__ import annotations

import array
import errno
import fcntl
import hashlib
import io
import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence

from kvmcompose.effects.opening import DOCUMENT_LIMIT, read_regular

VERSION = 5
FILE_NAME = "standing"
#: From so many artefacts on it pays to start a process.
_MANY = 6000
#: Linux stamps files with a clock that ticks every 1 to 10 ms; see ``stat_cache``.
_TICK_NS = 20_000_000

#: The environment variables that a build depends on, besides all of KVM_COMPOSE_*.
_ENVIRONMENT = ("HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "SOURCE_DATE_EPOCH", "PATH")
#: Those of them that name folders, as seen from the current one.
_PLACES = ("KVM_COMPOSE_STORE", "KVM_COMPOSE_PLUGINS", "XDG_DATA_HOME", "XDG_CACHE_HOME")


def surroundings(package: str, root: str) -> dict[str, str]:
    """Return what a build depends on besides files, and which project it is.

    ``package`` is the folder kvmcompose was imported from, ``root`` the project's. Raises OSError when there
    is no current folder.
    """
    found = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    found.update((name, value) for name, value in os.environ.items() if name.startswith("KVM_COMPOSE_"))
    places = [place for name in _PLACES for place in os.environ.get(name, "").split(os.pathsep)]
    if any(place and place[0] not in "/~" for place in places):
        found["from"] = os.getcwd()  # noqa: PTH109
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:  # noqa: PTH123
            found["boot"] = file.read()
    except OSError:
        pass
    found["openvswitch"] = str(os.path.exists("/sys/module/openvswitch"))  # noqa: PTH110
    found.update(_behind_links(root))
    ledger = _signature(os.path.join(root, ".kvm-compose", "ledger.sqlite"))  # noqa: PTH118
    # another one that is put in its place may say something else; its inode stays while builds write to it
    found["ledger"] = str(ledger and ledger[3])
    return {**found, "package": package, "root": os.path.realpath(root)}


def _behind_links(root: str) -> Iterator[tuple[str, str]]:
    """Yield where folders really are whose content is not all that counts of them: a link may be switched."""
    for place in os.environ.get("KVM_COMPOSE_PLUGINS", "").split(os.pathsep):
        if place:
            yield f"plug-in {place}", os.path.realpath(place)
    for place in os.environ.get("KVM_COMPOSE_ALLOW_PATH", "").split(os.pathsep):
        if place:
            yield f"allowed {place}", os.path.realpath(os.path.join(root, os.path.expanduser(place)))  # noqa: PTH111, PTH118


def _signature(path: str) -> list[int] | None:
    try:
        status = os.stat(path)  # noqa: PTH116
    except (OSError, ValueError):
        return None
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_mode]


def _opened(path: str, flags: int) -> int:
    """Open a file; does not block on a named pipe."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW)


def _is_ours(path: str) -> bool:
    """Return whether a file is regular and has one name, as builds make it; that of a lab may be a link."""
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_nlink == 1


def _written(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)


def _content(path: str) -> str | None:
    """The digest of a file, None when it is not there. Raises OSError when it cannot be read."""
    try:
        return hashlib.sha256(read_regular(path, limit=DOCUMENT_LIMIT)).hexdigest()
    except FileNotFoundError:
        return None


class BuildStamp:
    """What a build depended on.

    ``hashed`` are the contents' SHA-256 (None: not there) of files that are read each time, ``inputs`` the
    signatures of all others. ``outputs`` are the paths of all artefacts, and ``numbers`` their signatures in
    that order. ``overview`` is what ``list`` says of the project.
    """

    __slots__ = ("around", "hashed", "inputs", "numbers", "outputs", "overview", "summary")

    def __init__(
        self,
        *,
        around: Mapping[str, str],
        hashed: Mapping[str, str | None],
        inputs: Mapping[str, list[int] | None],
        outputs: list[str],
        numbers: array.array[int],
        summary: str,
        overview: str,
    ) -> None:
        self.around = around
        self.hashed = hashed
        self.inputs = inputs
        self.outputs = outputs
        self.numbers = numbers
        self.summary = summary
        self.overview = overview


def output_signatures(root: str, paths: Iterable[str]) -> array.array[int]:
    """Return the signatures of artefacts. Raises OSError."""
    numbers = array.array("q")
    for path in paths:
        status = os.lstat(f"{root}/{path}")
        numbers.extend((status.st_ctime_ns, status.st_mtime_ns, status.st_size, status.st_ino))
    return numbers


def input_signatures(watched: Iterable[str], began_ns: int) -> dict[str, list[int] | None] | None:
    """Return the signatures of inputs, or None if one may have changed since the build began."""
    inputs = {path: _signature(path) for path in sorted(set(watched))}
    for signature in inputs.values():
        if signature is not None and max(signature[1], signature[2]) + _TICK_NS >= began_ns:
            return None
    return inputs


def write_stamp(private: str, stamp: BuildStamp) -> None:
    """Write the stamp, what is always read first. Raises OSError."""
    sections = [_lines(stamp.outputs), stamp.numbers.tobytes()]
    head = json.dumps(
        {
            "version": VERSION,
            "around": stamp.around,
            "hashed": stamp.hashed,
            "inputs": stamp.inputs,
            "summary": stamp.summary,
            "overview": stamp.overview,
            "sizes": [len(section) for section in sections],
        }
    ).encode()
    path = os.path.join(private, FILE_NAME)  # noqa: PTH118
    for place in (path, f"{path}.new"):
        if os.path.lexists(place) and not _is_ours(place):
            raise OSError(errno.EEXIST, "it is not what a build has made", place)
    try:
        with open(f"{path}.new", "wb", opener=_written) as file:
            file.write(b"%d\n" % len(head))
            file.writelines((head, *sections))
        os.replace(f"{path}.new", path)  # noqa: PTH105
    except OSError:
        if _is_ours(f"{path}.new"):
            os.unlink(f"{path}.new")  # noqa: PTH108
        raise


def read_stamp(private: str, *, outputs: bool = True) -> BuildStamp | None:
    """Read the stamp of the last build; None if it is missing, damaged or of another version.

    Without ``outputs`` they are left out, as it takes long to read those of a large project.
    """
    try:
        with open(os.path.join(private, FILE_NAME), "rb", opener=_opened) as file:  # noqa: PTH118
            head = json.loads(_read(file, int(file.readline(20))))
            if head["version"] != VERSION:
                return None
            paths, numbers = (_read(file, size) if outputs else b"" for size in head["sizes"])
        found = BuildStamp(
            around=head["around"],
            hashed=head["hashed"],
            inputs=head["inputs"],
            outputs=paths.decode().split("\n") if paths else [],
            numbers=array.array("q", numbers),
            summary=head["summary"],
            overview=head["overview"],
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None  # not there, cut off, or of another version: the build checks everything
    return found if len(found.outputs) == len(found.numbers) / 4 else None


def _lines(names: list[str]) -> bytes:
    """Names, each of which is a line. Raises OSError for one that is not."""
    text = "\n".join(names)
    if text.count("\n") + 1 != len(names):
        raise OSError(errno.EINVAL, "a name that is more than a line, or none at all")
    return text.encode()


def _read(file: io.BufferedReader, size: int) -> bytes:
    """So many bytes. Raises ValueError when there are not so many."""
    if not 0 <= size <= min(os.fstat(file.fileno()).st_size, DOCUMENT_LIMIT):
        raise ValueError
    return file.read(size)


def drop_stamp(private: str) -> None:
    """Remove the stamp: the next build has to check everything."""
    path = os.path.join(private, FILE_NAME)  # noqa: PTH118
    if _is_ours(path):
        os.unlink(path)  # noqa: PTH108


def summary_if_unchanged(root: str, private: str, around: Mapping[str, str]) -> str | None:
    """Return the summary of the last build if nothing has changed since, else None."""
    try:
        if not _may_be_current(private, read_stamp(private, outputs=False)):
            return None
        stamp = read_stamp(private)
        return stamp.summary if stamp is not None and _rests(stamp, root, around) else None
    except (OSError, ValueError, TypeError):
        return None


def overview_if_unchanged(private: str, around: Mapping[str, str]) -> str | None:
    """Return the overview of the tasks if no input has changed, else None."""
    try:
        stamp = read_stamp(private, outputs=False)
        if stamp is None or not _may_be_current(private, stamp) or not _inputs_rest(stamp, around):
            return None
    except (OSError, ValueError, TypeError):
        return None
    return stamp.overview or None


def _may_be_current(private: str, stamp: BuildStamp | None) -> bool:
    """Return whether no build runs, and the files that are read each time are unchanged. Raises OSError."""
    return (
        stamp is not None
        and _idle(private)
        and _has_ledger(private)
        and all(_content(path) == digest for path, digest in stamp.hashed.items())
    )


def _rests(stamp: BuildStamp, root: str, around: Mapping[str, str]) -> bool:
    """Return whether all that a build rested on is as it was, but perhaps for what is ``hashed``."""
    return _inputs_rest(stamp, around) and _same(root, stamp.outputs, stamp.numbers)


def _inputs_rest(stamp: BuildStamp, around: Mapping[str, str]) -> bool:
    """Return whether that is so of all but the artefacts."""
    return stamp.around == around and all(
        _signature(path) == signature for path, signature in stamp.inputs.items()
    )


def _has_ledger(private: str) -> bool:
    """Return whether the ledger exists, by its first bytes: a build needs it to know what to remove."""
    with open(os.path.join(private, "ledger.sqlite"), "rb", opener=_opened) as file:  # noqa: PTH118
        return file.read(16) == b"SQLite format 3\0"


def _idle(private: str) -> bool:
    """Return whether no build is at work in the project."""
    handle = _opened(os.path.join(private, "lock"), os.O_RDONLY)  # noqa: PTH118
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(handle)
    return True


def _same(root: str, outputs: Sequence[str], numbers: array.array[int]) -> bool:
    """Return whether no artefact was changed; of many, another process checks half."""
    half = len(outputs) // 2 if len(outputs) >= _MANY and len(os.sched_getaffinity(0)) > 1 else 0
    other = os.fork() if half else None
    if other == 0:
        same = False
        try:
            same = _looks_same(root, outputs[:half], numbers)
        finally:  # whatever happens, nothing else may go on in a copy of this process
            os._exit(0 if same else 1)
    mine = _looks_same(root, outputs[half:], numbers[4 * half :])
    theirs = other is None or os.waitpid(other, 0)[1] == 0
    return mine and theirs


def _looks_same(root: str, outputs: Sequence[str], numbers: array.array[int]) -> bool:
    """Paths are short from within the folder, which saves a third."""
    try:
        here = os.open(".", os.O_RDONLY)
    except OSError:
        return False
    try:
        os.chdir(root)
        lstat = os.lstat
        position = 0
        for path in outputs:
            status = lstat(path)
            if (
                status.st_ctime_ns != numbers[position]
                or status.st_mtime_ns != numbers[position + 1]
                or status.st_size != numbers[position + 2]
                or status.st_ino != numbers[position + 3]
            ):
                return False
            position += 4
    except OSError:
        return False
    else:
        return True
    finally:
        os.fchdir(here)
        os.close(here)
