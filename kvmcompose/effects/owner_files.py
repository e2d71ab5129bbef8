"""Read files with the rights of their owner, for a server that could read everything.

Root's server reads the files of a member's project; a link, a hard link or ``..`` must not make it read what
the member cannot. The kernel decides: a program with that user's rights (``_reader``) opens and reads the
files, and sends their bytes. The server gets no descriptor of a member's file, so a file system of theirs
(FUSE) cannot block it; a reader that sends nothing for some time is killed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pwd
import select
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from kvmcompose.core.errors import RefusedError
from kvmcompose.effects import _reader
from kvmcompose.effects.files import LARGEST_HOLES, too_many_holes
from kvmcompose.effects.process import Coprocess

#: How long the reader may take to send the next piece, in seconds.
_SECONDS = 10.0
#: With so many killed readers of one user that have not ended no other one is started.
_MOST_STUCK = 3
_LONGEST_LINE = 1 << 16
#: The largest document that is read, in bytes.
DOCUMENT = 64 << 20


class Seen(msgspec.Struct, frozen=True):
    """A regular file's status. ``allocated`` is its disk usage in bytes; ``linked``: the path is a link."""

    size: int
    allocated: int
    times: tuple[int, int]
    file: tuple[int, int]
    linked: bool


class OwnerFiles:
    """The files that one user can read. The methods block, and may be called from any thread."""

    def __init__(self, uid: int) -> None:
        """Look up the user. Raises RefusedError for root."""
        if uid == 0:
            raise RefusedError("root is an administrator, and cannot be the owner of a member's files")
        try:
            entry = pwd.getpwuid(uid)
        except KeyError:
            self.home = Path("/nonexistent")
            self.name = str(uid)
            gid, groups = 65534, [65534]
        else:
            self.home = Path(entry.pw_dir)
            self.name = entry.pw_name
            gid, groups = entry.pw_gid, os.getgrouplist(entry.pw_name, entry.pw_gid)
        self.uid = uid
        self._words = [str(uid), str(gid), ",".join(map(str, groups))]
        self._guard = threading.Lock()
        self._process: Coprocess | None = None
        self._stuck: list[Coprocess] = []
        self._rest = b""
        self._digests: dict[str, tuple[Seen, str]] = {}

    def expand(self, path: str | Path) -> Path:
        """Return a path with ``~`` expanded to the owner's home folder."""
        text = str(path)
        return self.home / text[2:] if text.startswith("~/") else Path(text)

    def see(self, path: Path) -> Seen:
        """Return the status of a regular file. Raises OSError for another type, or without permission."""
        with self._guard:
            return self._ask("see", path, 0)

    def read(self, path: Path, limit: int = DOCUMENT) -> bytes:
        """Read at most ``limit`` bytes of a file. Raises OSError."""
        data = bytearray()
        for offset, piece in self.pieces(path, limit):
            data.extend(bytes(offset - len(data)))
            data.extend(piece)
        return bytes(data)

    def pieces(self, path: Path, limit: int = 1 << 62) -> Iterator[tuple[int, bytes]]:
        """Yield the data of a file without its holes, as offset and bytes; a last empty one marks the end.

        Raises OSError.
        """
        with self._guard:
            seen = self._ask("read", path, limit)
            done = False
            try:
                end = min(seen.size, limit)
                last = 0
                while True:
                    offset, length = _reader.PIECE.unpack(self._take(_reader.PIECE.size))
                    if length == 0:
                        break
                    if offset < last or offset + length > end:
                        raise OSError(errno.EPROTO, "the reader sent data that was not requested", str(path))
                    last = offset + length
                    yield offset, self._take(length)
                done = True
                if offset:
                    raise OSError(offset, os.strerror(offset), str(path))
                if last < end:
                    yield end, b""
            finally:
                if not done:  # the rest of the answer must not be taken for the next one
                    self._give_up()

    def digest(self, path: Path) -> str:
        """Return the SHA-256 of the content, cached while the file is unchanged. Raises OSError.

        A file with too many holes would keep the reader, and us, for hours.
        """
        seen = self.see(path)
        if seen.size - seen.allocated > LARGEST_HOLES:
            raise too_many_holes(path)
        known = self._digests.get(str(path))
        if known is not None and known[0] == seen:
            return known[1]
        started = time.time_ns()
        found = hashlib.sha256()
        at = 0
        for offset, data in self.pieces(path):
            while at < offset:
                step = min(offset - at, 1 << 20)
                found.update(bytes(step))
                at += step
            found.update(data)
            at += len(data)
        if max(seen.times) + 20_000_000 < started and self.see(path) == seen:
            self._digests[str(path)] = seen, found.hexdigest()
        return found.hexdigest()

    def close(self) -> None:
        """End the reader."""
        with self._guard:
            self._give_up()

    # -- the reader; callers hold the guard

    def _ask(self, what: str, path: Path, limit: int) -> Seen:
        process = self._started()
        line = json.dumps({"do": what, "path": str(path), "limit": limit}).encode() + b"\n"
        try:
            process.stdin.write(line)
            process.stdin.flush()
        except OSError as error:
            self._give_up()
            raise OSError(errno.EIO, "the reader has ended", str(path)) from error
        try:
            answer = json.loads(self._line())
            number = answer.get("errno")
            if number is None:
                return msgspec.convert(answer, Seen)
        except (ValueError, AttributeError, msgspec.ValidationError) as error:
            self._give_up()
            raise OSError(errno.EPROTO, "the reader sent an invalid answer", str(path)) from error
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error
        if number == 0:
            raise OSError(errno.EINVAL, f"it is not a regular file ({answer.get('kind')})", str(path))
        raise OSError(number, os.strerror(number), str(path))

    def _started(self) -> Coprocess:
        if self._process is not None and not self._process.has_ended():
            return self._process
        self._give_up()
        self._stuck = [each for each in self._stuck if not each.has_ended()]
        if len(self._stuck) >= _MOST_STUCK:
            raise OSError(errno.EBUSY, f"earlier reads of files of {self.name} still hang")
        self._process = Coprocess(
            [sys.executable, "-I", "-S", str(Path(_reader.__file__)), *self._words],
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
            cwd="/",
        )
        if json.loads(self._line()) != "ready":
            self._give_up()
            raise OSError(errno.EPROTO, "the reader did not start")
        return self._process

    def _line(self) -> bytes:
        while b"\n" not in self._rest:
            if len(self._rest) > _LONGEST_LINE:
                raise ValueError("a line is too long")
            self._rest += self._more()
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def _take(self, count: int) -> bytes:
        parts, have = [self._rest], len(self._rest)
        while have < count:
            more = self._more()
            parts.append(more)
            have += len(more)
        data = b"".join(parts)
        self._rest = data[count:]
        return data[:count]

    def _more(self) -> bytes:
        process = self._process
        if process is None:
            raise OSError(errno.EIO, "the reader has ended")
        handle = process.stdout.fileno()
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        if not poll.poll(_SECONDS * 1000):
            self._give_up()
            raise OSError(errno.ETIMEDOUT, f"no data for {_SECONDS:g} s")
        data = os.read(handle, 1 << 20)
        if not data:
            self._give_up()
            raise OSError(errno.EIO, "the reader has ended")
        return data

    def _give_up(self) -> None:
        process, self._process, self._rest = self._process, None, b""
        if process is not None and process.end(0.5) is None:
            self._stuck.append(process)
