"""Read files with the rights of one user: a program that root's server starts (``owner_files``).

It irrevocably drops root's rights before it reads anything. It imports only the standard library, as the user
may not be able to read our code. A request is a line of JSON on standard input. The answer is a line of JSON
on standard output, followed, for ``read``, by the content in pieces: offset and length (``>QI``), then the
bytes. An empty piece, whose offset is an errno, ends the content.
"""

from __future__ import annotations

import ctypes
import json
import os
import stat
import struct
import sys

PIECE = struct.Struct(">QI")
_CHUNK = 1 << 20
_PR_SET_NO_NEW_PRIVS = 38


def drop(uid: int, gid: int, groups: list[int]) -> None:
    """Become a user irrevocably (credentials(7)). Raises OSError."""
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    if uid == 0 or os.getresuid() != (uid, uid, uid) or os.getresgid() != (gid, gid, gid):
        raise PermissionError("root's rights were not dropped")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def _send(answer: object) -> None:
    sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
    sys.stdout.buffer.flush()


def _read(handle: int, limit: int) -> None:
    """Send the data in the first ``limit`` bytes of a file, without holes (lseek(2))."""
    out, offset, error = sys.stdout.buffer, 0, 0
    end = min(os.fstat(handle).st_size, limit)
    try:
        while offset < end:
            try:
                offset = os.lseek(handle, offset, os.SEEK_DATA)
            except OSError:  # ENXIO: the rest is a hole
                break
            until = min(os.lseek(handle, offset, os.SEEK_HOLE), end)
            while offset < until:
                data = os.pread(handle, min(_CHUNK, until - offset), offset)
                if not data:
                    end = offset
                    break
                out.write(PIECE.pack(offset, len(data)) + data)
                offset += len(data)
    except OSError as caught:
        error = caught.errno or 5
    out.write(PIECE.pack(error, 0))
    out.flush()


def answer(request: dict[str, object]) -> None:
    """Answer a request."""
    path = os.fsencode(str(request["path"]))
    try:
        linked = stat.S_ISLNK(os.lstat(path).st_mode)
        # O_NONBLOCK: opening a pipe would block
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        _send({"errno": error.errno})
        return
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            _send({"errno": 0, "kind": stat.filemode(status.st_mode)})
            return
        _send(
            {
                "size": status.st_size,
                "allocated": status.st_blocks * 512,
                "times": [status.st_mtime_ns, status.st_ctime_ns],
                "file": [status.st_dev, status.st_ino],
                "linked": linked,
            }
        )
        if request["do"] == "read":
            _read(handle, int(str(request["limit"])))
    finally:
        os.close(handle)


def main(words: list[str]) -> None:
    """Answer requests until standard input ends. Arguments: user, group, comma-separated further groups."""
    uid, gid, groups = words
    os.umask(0o077)
    os.chdir("/")
    drop(int(uid), int(gid), [int(group) for group in groups.split(",") if group])
    _send("ready")
    for line in sys.stdin.buffer:
        answer(json.loads(line))


if __name__ == "__main__":
    main(sys.argv[1:])
