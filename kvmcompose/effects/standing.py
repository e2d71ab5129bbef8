"""The standing of a project: everything a build rested on, so that the next can end at once.

After a build that left nothing to do, the signatures of all inputs and outputs are written down. While
they are the same, nothing can have changed, and neither the YAML nor the ledger has to be read. When only
the YAML has changed, the digest of each guest's slice of the state tells whose artefacts to look at.
Where there is any doubt there is no standing, and the build looks at everything: this file is a short cut
to an answer, never a second opinion. It imports next to nothing: importing takes longer than looking.
"""

from __future__ import annotations

import array
import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence

VERSION = 2
FILE_NAME = "standing"
#: Linux stamps files with a clock that ticks every 1 to 10 ms; see ``stat_cache``.
_TICK_NS = 20_000_000

#: What of the environment a build depends on, beside all of KVM_COMPOSE_*.
_ENVIRONMENT = ("HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "SOURCE_DATE_EPOCH", "PATH")


def surroundings(package: str) -> dict[str, str]:
    """What a build depends on beside files; ``package`` is the folder kvmcompose was imported from."""
    found = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    found.update((name, value) for name, value in os.environ.items() if name.startswith("KVM_COMPOSE_"))
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:  # noqa: PTH123
            found["boot"] = file.read()
    except OSError:
        pass
    found["openvswitch"] = str(os.path.exists("/sys/module/openvswitch"))  # noqa: PTH110
    return {**found, "package": package}


def _signature(path: str) -> list[int] | None:
    try:
        status = os.stat(path)  # noqa: PTH116
    except (OSError, ValueError):
        return None
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_mode]


def _content(path: str) -> str | None:
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            return hashlib.sha256(file.read()).hexdigest()
    except OSError:
        return None


class Standing:
    """What a build rested on.

    ``hashed`` are the contents' SHA-256 (None: not there) of files that are read each time, ``inputs`` the
    signatures of all others. ``groups`` are the outputs: for each guest (and "" for what belongs to none)
    the digest of its slice and its artefacts' paths; ``numbers`` are the signatures of all of them in order.
    """

    __slots__ = ("around", "groups", "hashed", "inputs", "numbers", "summary")

    def __init__(
        self,
        around: Mapping[str, str],
        hashed: Mapping[str, str | None],
        inputs: Mapping[str, list[int] | None],
        groups: Mapping[str, tuple[str, list[str]]],
        numbers: array.array[int],
        summary: str,
    ) -> None:
        self.around = around
        self.hashed = hashed
        self.inputs = inputs
        self.groups = groups
        self.numbers = numbers
        self.summary = summary

    def outputs(self) -> list[str]:
        """The paths of all artefacts, in the order of ``numbers``."""
        return [path for _, paths in self.groups.values() for path in paths]

    def numbers_of(self) -> dict[str, array.array[int]]:
        """The signatures by group."""
        found = {}
        start = 0
        for name, (_, paths) in self.groups.items():
            end = start + 4 * len(paths)
            found[name] = self.numbers[start:end]
            start = end
        return found


def sign_outputs(root: str, paths: Iterable[str]) -> array.array[int]:
    """The signatures of artefacts as they are now. Raises OSError."""
    numbers = array.array("q")
    for path in paths:
        status = os.lstat(f"{root}/{path}")
        numbers.extend((status.st_ctime_ns, status.st_mtime_ns, status.st_size, status.st_ino))
    return numbers


def sign_inputs(watched: Iterable[str], began_ns: int) -> dict[str, list[int] | None] | None:
    """The signatures of inputs, or None when one may have changed since the build began."""
    inputs = {path: _signature(path) for path in sorted(set(watched))}
    for signature in inputs.values():
        if signature is not None and max(signature[1], signature[2]) + _TICK_NS >= began_ns:
            return None
    return inputs


def write_standing(private: str, standing: Standing) -> None:
    """Write it down. Raises OSError."""
    head = json.dumps(
        {
            "version": VERSION,
            "around": standing.around,
            "hashed": standing.hashed,
            "inputs": standing.inputs,
            "groups": standing.groups,
            "summary": standing.summary,
        }
    ).encode()
    path = os.path.join(private, FILE_NAME)  # noqa: PTH118
    with open(f"{path}.new", "wb") as file:  # noqa: PTH123
        file.write(b"%d\n" % len(head))
        file.write(head)
        standing.numbers.tofile(file)
    os.replace(f"{path}.new", path)  # noqa: PTH105


def read_standing(private: str) -> Standing | None:
    """What the last build rested on, or None when there is nothing (whole) to be read."""
    try:
        with open(os.path.join(private, FILE_NAME), "rb") as file:  # noqa: PTH118, PTH123
            length, _, body = file.read().partition(b"\n")
        size = int(length)
        head = json.loads(body[:size])
        numbers = array.array("q", body[size:])
        if head["version"] != VERSION:
            return None
        groups = {name: (digest, paths) for name, (digest, paths) in head["groups"].items()}
        found = Standing(head["around"], head["hashed"], head["inputs"], groups, numbers, head["summary"])
        return found if len(numbers) == 4 * len(found.outputs()) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # not there, cut off, or of another version: the build will look itself


def drop_standing(private: str) -> None:
    """There is something to look at again."""
    path = os.path.join(private, FILE_NAME)  # noqa: PTH118
    if os.path.isfile(path):  # noqa: PTH113
        os.unlink(path)  # noqa: PTH108


def still_standing(root: str, private: str, around: Mapping[str, str]) -> str | None:
    """The summary of the last build if a new one would find nothing to do, else None."""
    standing = read_standing(private)
    try:
        if standing is None or not _idle(private) or not _has_ledger(private):
            return None
        if any(_content(path) != digest for path, digest in standing.hashed.items()):
            return None
        return standing.summary if rests(standing, root, around) else None
    except (OSError, ValueError, TypeError):
        return None


def rests(standing: Standing, root: str, around: Mapping[str, str]) -> bool:
    """Whether all that a build rested on is as it was, but perhaps for what is ``hashed``."""
    return (
        standing.around == around
        and all(_signature(path) == signature for path, signature in standing.inputs.items())
        and _same(root, standing.outputs(), standing.numbers)
    )


def _has_ledger(private: str) -> bool:
    """Whether the ledger is there, by its first bytes: without it nobody would know what to remove later."""
    with open(os.path.join(private, "ledger.sqlite"), "rb") as file:  # noqa: PTH118, PTH123
        return file.read(16) == b"SQLite format 3\0"


def _idle(private: str) -> bool:
    """Whether no build is at work in the project."""
    handle = os.open(os.path.join(private, "lock"), os.O_RDONLY)  # noqa: PTH118
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(handle)
    return True


def _same(root: str, outputs: Sequence[str], numbers: array.array[int]) -> bool:
    """Whether no artefact was touched. Paths are short from within the folder, which saves a third."""
    here = os.open(".", os.O_RDONLY)
    try:
        os.chdir(root)
        look = os.lstat
        position = 0
        for path in outputs:
            status = look(path)
            if (
                status.st_ctime_ns != numbers[position]
                or status.st_mtime_ns != numbers[position + 1]
                or status.st_size != numbers[position + 2]
                or status.st_ino != numbers[position + 3]
            ):
                return False
            position += 4
    except FileNotFoundError:
        return False
    else:
        return True
    finally:
        os.fchdir(here)
        os.close(here)
