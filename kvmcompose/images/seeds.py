"""What scripts of guests see, by content: read from the seeds that the build made.

Two seeds with the same scripts, context and environment are the same here, whatever else is in them. A seed
may be edited, or a user's own, so that reading one is bounded; of one that cannot be read only the digest of
the whole counts.
"""

from __future__ import annotations

import hashlib
import io
import shlex
import tarfile
import threading
from collections.abc import Callable, Iterator
from typing import IO, BinaryIO

import msgspec

from kvmcompose.core.environment import value_digest
from kvmcompose.core.seed import SeedContents
from kvmcompose.images.iso9660 import find_file

#: The name of the archive in a seed.
ARCHIVE = "context.tar"
USER_DATA = "user-data"
#: Where tar archives have what (POSIX.1, pax, "ustar Interchange Format"). The beginning of a seed is empty.
_MAGIC_AT, _MAGIC = 257, b"ustar"
#: What takes the place of digests that are not known.
UNKNOWN = "?"

_CHUNK = 1 << 18
#: An archive up to this size, in bytes, is known by its digest: many guests have the same.
_SMALL = 1 << 20
#: No header, no environment is longer, in bytes; no context has more members.
_LONGEST = 1 << 20
_MOST_MEMBERS = 100_000
#: So many variables are known by name; of more, only all together.
_MOST_VARIABLES = 500
#: What can be wrong with an archive that is not ours.
_ERRORS = (tarfile.TarError, ValueError, OverflowError, RecursionError, EOFError)

_known: dict[str, SeedContents] = {}
_guard = threading.Lock()
_MOST_KNOWN = 100_000


def known_contents(digest: str) -> SeedContents | None:
    """Return what is in the seed with this digest, if it was read before."""
    with _guard:
        return _known.get(digest)


def seed_contents(digest: str, opened: Callable[[], BinaryIO]) -> SeedContents | None:
    """Return what is in the seed with this digest; it is opened only if that is not known.

    None if it has another digest by now. Raises OSError.
    """
    found = known_contents(digest)
    if found is not None:
        return found
    with opened() as image:
        if _digest_of(image) != digest:
            return None
        try:
            found = _read(image)
        except _ERRORS:
            found = SeedContents(context=digest)
    _remember(digest, found)
    return found


def _remember(digest: str, contents: SeedContents) -> None:
    with _guard:
        _known[digest] = contents
        while len(_known) > _MOST_KNOWN:
            del _known[next(iter(_known))]


def _read(image: BinaryIO) -> SeedContents:
    start, size = _archive_in(image)
    whole = hashlib.sha256()
    pieces = []
    for data in _pieces(image, start, size):
        whole.update(data)
        if size <= _SMALL:
            pieces.append(data)
    digest = whole.hexdigest()
    found = known_contents(digest)
    if found is None:
        source = io.BytesIO(b"".join(pieces)) if pieces else image
        found = _unpack(_Bounded(source, 0 if pieces else start, size), digest)
        if pieces:
            _remember(digest, found)
    return msgspec.structs.replace(found, user_data=_digest_of_file(image, USER_DATA))


def _digest_of_file(image: BinaryIO, name: str) -> str:
    try:
        start, size = find_file(image, name)
    except ValueError:
        return ""
    digest = hashlib.sha256()
    for data in _pieces(image, start, size):
        digest.update(data)
    return digest.hexdigest()


def archive_pieces(image: BinaryIO) -> Iterator[bytes]:
    """Yield the archive of a seed. Raises ValueError when there is none."""
    yield from _pieces(image, *_archive_in(image))


def _archive_in(image: BinaryIO) -> tuple[int, int]:
    """Return where an archive begins, and its size: in a seed, or alone. Raises ValueError."""
    image.seek(_MAGIC_AT)
    if image.read(len(_MAGIC)) == _MAGIC:
        return 0, image.seek(0, io.SEEK_END)
    return find_file(image, ARCHIVE)


def _pieces(image: BinaryIO, start: int, size: int) -> Iterator[bytes]:
    image.seek(start)
    left = size
    while left:
        data = image.read(min(left, _CHUNK))
        if not data:
            raise ValueError("the image is shorter than it says")
        yield data
        left -= len(data)


class _Bounded(io.RawIOBase):
    """A part of a file, for tarfile: no header may make it read more than a little at a time."""

    def __init__(self, source: BinaryIO, start: int, size: int) -> None:
        self._source = source
        self._start = start
        self._size = size
        self._position = 0

    def seek(self, offset: int, _whence: int = io.SEEK_SET) -> int:
        self._position = offset
        return offset

    def tell(self) -> int:
        return self._position

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _LONGEST:
            raise tarfile.ReadError("a header is too long")
        self._source.seek(self._start + self._position)
        data = self._source.read(max(0, min(size, self._size - self._position)))
        self._position += len(data)
        return data


def _unpack(file: _Bounded, digest: str) -> SeedContents:
    scripts: dict[str, str] = {}
    environment: dict[str, str] = {}
    context = hashlib.sha256()
    has_context = False
    with tarfile.open(fileobj=file, mode="r:") as archive:
        for member in _members(archive):
            folder, _, name = member.name.partition("/")
            if folder in ("setup", "run") and name and member.isreg():
                scripts[member.name] = _digest(archive, member)
            elif member.name == "environment":
                environment = _variables(archive, member)
            elif folder == "context" and name:
                has_context = True
                kept = (name, member.type.decode("latin-1"), member.mode, member.linkname, member.size)
                context.update(msgspec.json.encode([str(each) for each in kept]))
                if member.isreg():
                    context.update(_digest(archive, member).encode())
    return SeedContents(
        scripts=scripts,
        context=context.hexdigest()[:32] if has_context else "",
        environment=dict(sorted(environment.items())),
        archive=digest,
    )


def _members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    count = 0
    while (member := archive.next()) is not None:
        count += 1
        if count > _MOST_MEMBERS or member.sparse is not None:
            raise tarfile.ReadError("no archive of ours")
        yield member
        archive.members.clear()  # type: ignore[attr-defined]  # they are not looked for again


def _digest(archive: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    file = archive.extractfile(member)
    if file is None:
        raise tarfile.ReadError("no file")
    return _digest_of(file)[:32]


def _digest_of(file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while data := file.read(_CHUNK):
        digest.update(data)
    return digest.hexdigest()


def _variables(archive: tarfile.TarFile, member: tarfile.TarInfo) -> dict[str, str]:
    """Return digests of the values: each line is a name and a value that is quoted for a shell."""
    file = archive.extractfile(member) if member.size <= _LONGEST else None
    if file is None:
        raise tarfile.ReadError("no environment of ours")
    found = {}
    text = file.read().decode()
    for word in shlex.split(text):
        name, _, value = word.partition("=")
        found[name] = value_digest(name, value)
    if len(found) > _MOST_VARIABLES:
        return {"": value_digest("", text)}
    return found
