"""The standing of a project: everything a build rested on, so that the next can end at once.

After a build that left nothing to do, the signatures of all inputs and outputs are written down. While
they are the same, nothing can have changed, and neither the YAML nor the ledger has to be read. Where
there is any doubt there is no standing, and the build looks at everything: this file is a short cut to
an answer, never a second opinion. It imports next to nothing, as importing would take longer than looking.
"""

from __future__ import annotations

import array
import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence

VERSION = 1
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


def write_standing(
    private: str,
    *,
    around: Mapping[str, str],
    hashed: Mapping[str, str | None],
    watched: Iterable[str],
    outputs: Sequence[str],
    root: str,
    began_ns: int,
    summary: str,
) -> bool:
    """Write the standing down, unless an input may have changed since the build began. Raises OSError.

    ``hashed`` are the contents' SHA-256 (None: not there) of files that are read each time, ``watched``
    all other inputs, ``outputs`` the artefacts relative to ``root``. False when nothing was written.
    """
    inputs = {path: _signature(path) for path in sorted(set(watched))}
    for signature in inputs.values():
        if signature is not None and max(signature[1], signature[2]) + _TICK_NS >= began_ns:
            return False
    numbers = array.array("q")
    for path in outputs:
        status = os.lstat(os.path.join(root, path))  # noqa: PTH118
        numbers.extend((status.st_ctime_ns, status.st_mtime_ns, status.st_size, status.st_ino))
    head = json.dumps(
        {
            "version": VERSION,
            "around": dict(around),
            "hashed": dict(hashed),
            "inputs": inputs,
            "outputs": "\n".join(outputs),
            "summary": summary,
        }
    ).encode()
    path = os.path.join(private, FILE_NAME)  # noqa: PTH118
    with open(f"{path}.new", "wb") as file:  # noqa: PTH123
        file.write(b"%d\n" % len(head))
        file.write(head)
        numbers.tofile(file)
    os.replace(f"{path}.new", path)  # noqa: PTH105
    return True


def drop_standing(private: str) -> None:
    """There is something to look at again."""
    path = os.path.join(private, FILE_NAME)  # noqa: PTH118
    if os.path.exists(path):  # noqa: PTH110
        os.unlink(path)  # noqa: PTH108


def still_standing(root: str, private: str, around: Mapping[str, str]) -> str | None:
    """The summary of the last build if a new one would find nothing to do, else None."""
    try:
        with open(os.path.join(private, FILE_NAME), "rb") as file:  # noqa: PTH118, PTH123
            head = json.loads(file.read(int(file.readline(20))))
            numbers = array.array("q")
            numbers.frombytes(file.read())
        if head["version"] != VERSION or head["around"] != around:
            return None
        outputs = head["outputs"].split("\n")
        if len(numbers) != 4 * len(outputs) or not _idle(private):
            return None
        if any(_content(path) != digest for path, digest in head["hashed"].items()):
            return None
        if any(_signature(path) != signature for path, signature in head["inputs"].items()):
            return None
        if not _same(root, outputs, numbers):
            return None
        return str(head["summary"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # not there, cut off, or of another version: the build will look itself


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
        return True
    finally:
        os.fchdir(here)
        os.close(here)
