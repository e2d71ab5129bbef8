"""Images of containers in files: archives of ``docker save``, OCI image layouts, and archives of these.

What is sent to an engine is an archive of our own, with one image and no tag. Tags in an archive would become
those of its host, where they may be another image's. It has the same configuration, whose digest is the ID of
the image, and the same layers, which engines compare with the digests in the configuration.

Formats: Docker image specification v1.2, "Combined Image JSON + Filesystem Changeset Format"; OCI image
layout specification v1.0. An archive may come from anywhere: what is read of it is bounded and checked.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import posixpath
import re
import tarfile
import zlib
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Protocol, Self, cast

import msgspec

from kvmcompose.core.errors import KvmComposeError
from kvmcompose.core.image_source import ImageFile
from kvmcompose.effects.opening import open_folder, open_regular, open_regular_below
from kvmcompose.effects.threads import in_thread

#: The largest document in an archive, in bytes, and the most entries that it may have.
_LARGEST, _MOST_ENTRIES = 4 << 20, 10_000
#: The most that all headers of an archive may take, in bytes: tarfile keeps what they say.
_MOST_HEADERS = 32 << 20
#: The most that a compressed archive may become, in bytes.
_MOST_EXPANDED = 8 << 30
#: How deep lists of manifests may be nested.
_DEPTH = 4
_CHUNK = 1 << 20
#: The longest name in messages, in characters.
_LONGEST = 100
#: The file of a layout that names its images.
INDEX = "index.json"
_GZIP = b"\x1f\x8b"
#: Of other compressions: what they begin with, and the program that undoes them.
_OTHERS = {b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz"}
_DIGEST = re.compile(r"sha256:(?P<number>[0-9a-f]{64})")
_REF_NAME = "org.opencontainers.image.ref.name"
_PLATFORM = ("linux", "amd64")
_WRITE = "docker save IMAGE:TAG -o FILE, or skopeo copy docker://IMAGE oci-archive:FILE"
#: Raised by tarfile, decompression and decoding for content that is not what it should be. RecursionError:
#: headers that extend headers, or JSON, a thousand levels deep.
_MALFORMED = (
    tarfile.TarError,
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    RecursionError,
    EOFError,
    zlib.error,
    gzip.BadGzipFile,
)


class _Contents(Protocol):
    """The files of an archive or a folder, by their names."""

    def document(self, name: str) -> bytes:
        """Return the content of a small file. Raises KeyError, ValueError, OSError."""

    def size(self, name: str) -> int:
        """Return the size of a layer in bytes. Raises KeyError, ValueError, OSError."""

    def place(self, name: str) -> int:
        """Return what to sort layers by, so that they are read in the order in which they are stored."""

    def pieces(self, name: str) -> Iterator[bytes]:
        """Yield the content of a layer. Raises OSError, EOFError."""


class ArchivedImage:
    """One image of a file that is open.

    ``image_id`` is the digest of its configuration, as engines have it; ``size`` how much is sent, in bytes.
    ``read`` are the files of a folder that it consists of.
    """

    def __init__(self, contents: _Contents, config: bytes, layers: Iterable[str], name: str) -> None:
        self._contents = contents
        self._name = name
        digest = hashlib.sha256(config).hexdigest()
        self.image_id = f"sha256:{digest}"
        given = list(layers)
        _check_layers(config, len(given))
        # one that occurs twice is sent once
        names = {layer: f"{number}/layer.tar" for number, layer in enumerate(dict.fromkeys(given))}
        manifest = {"Config": f"{digest}.json", "RepoTags": None, "Layers": [names[each] for each in given]}
        self._documents = {f"{digest}.json": config, "manifest.json": msgspec.json.encode([manifest])}
        self._layers = {
            layer: _header(names[layer], contents.size(layer)) for layer in sorted(names, key=contents.place)
        }
        self._sizes = {layer: contents.size(layer) for layer in names}
        sizes = [*map(len, self._documents.values()), *self._sizes.values()]
        self.size = sum(tarfile.BLOCKSIZE + _padded(each) for each in sizes) + 2 * tarfile.BLOCKSIZE

    def _archive(self) -> Iterator[bytes]:
        for name, content in self._documents.items():
            yield _header(name, len(content)) + content + bytes(_padded(len(content)) - len(content))
        for layer, header in self._layers.items():
            yield header
            yield from self._contents.pieces(layer)
            yield bytes(_padded(self._sizes[layer]) - self._sizes[layer])
        yield bytes(2 * tarfile.BLOCKSIZE)

    async def pieces(self) -> AsyncGenerator[bytes]:
        """Yield an archive of this image as engines load it. Raises KvmComposeError."""
        archive = self._archive()
        try:
            while (piece := await in_thread(next, archive, None)) is not None:
                yield piece
        except (*_MALFORMED, OSError) as error:
            raise KvmComposeError(f"cannot read {self._name}: {error}") from error


def _header(name: str, size: int) -> bytes:
    """Return the header of an entry."""
    entry = tarfile.TarInfo(name)
    entry.size = size
    return entry.tobuf(tarfile.GNU_FORMAT)  # ustar has no sizes above 8 GiB


def _padded(size: int) -> int:
    return -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _check_layers(config: bytes, count: int) -> None:
    """Raise ValueError for a configuration that does not say what each layer contains."""
    listed = _decoded(config)["rootfs"]["diff_ids"]
    if len(listed) != count or not all(_DIGEST.fullmatch(each) for each in listed):
        raise ValueError(f"its configuration has {len(listed)} layers, and it has {count}")


@contextmanager
def opened_image(source: ImageFile, path: Path) -> Iterator[ArchivedImage]:
    """Open the image in a file, which is at ``path``. Raises KvmComposeError for what is none.

    A member of a folder that is a link is refused; so is a file that is no regular one.
    """
    name = str(source)
    with ExitStack() as stack:
        try:
            contents: _Contents
            if source.is_folder:
                contents = stack.enter_context(_Folder(path))
            else:
                file = stack.enter_context(os.fdopen(open_regular(path), "rb"))
                contents = _Tar(file, name)
            image = ArchivedImage(contents, *_found(contents, source), name)
        except _MALFORMED as error:
            what = f"there is no {error}" if isinstance(error, KeyError) else str(error)
            what = what if len(what) <= 6 * _LONGEST else f"{what[: 6 * _LONGEST]}…"
            kind = "a layout" if source.is_folder else "an archive"
            raise KvmComposeError(f"{name} is not {kind} with one image: {what}", hint=_WRITE) from error
        except OSError as error:
            raise KvmComposeError(f"cannot read {name}: {error.strerror}") from error
        yield image


def _found(contents: _Contents, source: ImageFile) -> tuple[bytes, list[str]]:
    """Return the configuration of an image, and the names of its layers."""
    if source.transport == "docker-archive":
        listed = _decoded(contents.document("manifest.json"))
        chosen = _only(listed, source, lambda each: each.get("RepoTags") or ())
        return contents.document(chosen["Config"]), [posixpath.normpath(each) for each in chosen["Layers"]]
    manifest = _manifest(contents, source)
    config = _blob(contents, manifest["config"]["digest"])
    return config, [_blob_name(layer["digest"]) for layer in manifest["layers"]]


def _manifest(contents: _Contents, source: ImageFile) -> Any:
    """Return the manifest of an image in a layout, by way of lists of manifests for several platforms."""
    listed = _decoded(contents.document(INDEX))["manifests"]
    chosen = _only(_for_platform(listed), source, lambda each: [(each.get("annotations") or {})[_REF_NAME]])
    for _ in range(_DEPTH):
        manifest = _decoded(_blob(contents, chosen["digest"]))
        if "manifests" not in manifest:
            return manifest
        (chosen,) = _for_platform(manifest["manifests"])
    raise ValueError("lists of manifests are nested too deep")


def _for_platform(listed: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the images for guests of this architecture, or for any."""
    return [
        each
        for each in listed
        if (known := each.get("platform")) is None or (known["os"], known["architecture"]) == _PLATFORM
    ]


def _only(listed: Any, source: ImageFile, names_of: Any) -> Any:
    """Return the image that is meant. Raises ValueError, with the names that there are."""
    named: dict[str, Any] = {}
    for each in listed:
        try:
            named |= dict.fromkeys(names_of(each), each)
        except LookupError:
            continue
    if source.name is not None:
        if source.name not in named:
            raise ValueError(f"it has no {source.name!r}, but {_shown(named)}")
        return named[source.name]
    if len(listed) == 1:
        return listed[0]
    if not listed:
        raise ValueError("it has no image for linux/amd64")
    where = f"{source.transport}:{source.path}"
    raise ValueError(f"it has {len(listed)}, {_shown(named)}: name one, as in {where}:NAME")


def _shown(names: Iterable[str]) -> str:
    listed = [repr(each)[:_LONGEST] for each in islice(names, 5)]
    return ", ".join(listed) or "none with a name"


def _blob(contents: _Contents, digest: str) -> bytes:
    """Return a document of a layout. Raises ValueError where its content is another."""
    content = contents.document(_blob_name(digest))
    if f"sha256:{hashlib.sha256(content).hexdigest()}" != digest:
        raise ValueError(f"the content of {digest} has another digest")
    return content


def _blob_name(digest: str) -> str:
    match = _DIGEST.fullmatch(digest)
    if match is None:
        raise ValueError(f"invalid digest {digest!r}")
    return f"blobs/sha256/{match['number']}"


def _decoded(content: bytes) -> Any:
    return msgspec.json.decode(content)


class BoundedFile:
    """A file that is read in pieces of a bounded size: tarfile reads extended headers whole, of any size."""

    def __init__(self, file: BinaryIO, *, most: int | None = None, headers: int | None = None) -> None:
        """``most`` is the size that it may have in bytes, ``headers`` how much may be read of it."""
        self._file = file
        self._most = most
        self._headers = self._left = headers
        self.tell = file.tell

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to an offset. Raises tarfile.ReadError beyond the limit."""
        if self._most is not None and offset > self._most:
            raise tarfile.ReadError(f"it is larger than {self._most >> 30} GiB when it is decompressed")
        return self._file.seek(offset, whence)

    def read(self, size: int = -1) -> bytes:
        """Read so many bytes. Raises tarfile.ReadError when they are too many, or all."""
        if not 0 <= size <= _LARGEST:
            raise tarfile.ReadError(f"a header is larger than {_LARGEST >> 20} MiB")
        if self._left is not None and self._headers is not None:
            self._left -= size
            if self._left < 0:
                raise tarfile.ReadError(f"its headers are larger than {self._headers >> 20} MiB")
        return self._file.read(size)


class _Tar:
    """See ``_Contents``. Nothing but headers is read before it is asked for."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        start = file.read(8)
        file.seek(0)
        for mark, program in _OTHERS.items():
            if start.startswith(mark):
                raise KvmComposeError(
                    f"{name} is compressed by {program}", hint=f"decompress it: {program} -d FILE"
                )
        is_compressed = start.startswith(_GZIP)
        self._file = cast("BinaryIO", gzip.GzipFile(fileobj=file)) if is_compressed else file
        self._entries: dict[str, tarfile.TarInfo] = {}
        most = _MOST_EXPANDED if is_compressed else None
        bounded = BoundedFile(self._file, most=most, headers=_MOST_HEADERS)
        with tarfile.open(fileobj=cast("BinaryIO", bounded), mode="r:") as tar:
            for count, entry in enumerate(tar):
                if count >= _MOST_ENTRIES:
                    raise ValueError(f"it has more than {_MOST_ENTRIES} entries")
                self._entries[posixpath.normpath(entry.name)] = entry

    def document(self, name: str) -> bytes:
        entry = self._entries[name]
        if not entry.isfile() or entry.issparse() or entry.size > _LARGEST:
            raise ValueError(f"{name} is not a document of up to {_LARGEST >> 20} MiB")
        return b"".join(self._content(entry))

    def size(self, name: str) -> int:
        return self._layer(name).size

    def place(self, name: str) -> int:
        return self._layer(name).offset_data

    def pieces(self, name: str) -> Iterator[bytes]:
        return self._content(self._layer(name))

    def _layer(self, name: str) -> tarfile.TarInfo:
        """Return the entry of a layer; engines write a link to one that another image has, too."""
        entry = self._entries[name]
        if entry.issym():
            entry = self._entries[posixpath.normpath(posixpath.join(posixpath.dirname(name), entry.linkname))]
        elif entry.islnk():
            entry = self._entries[posixpath.normpath(entry.linkname)]
        if not entry.isfile() or entry.issparse() or entry.size < 0:
            raise ValueError(f"{name} is no file")
        return entry

    def _content(self, entry: tarfile.TarInfo) -> Iterator[bytes]:
        self._file.seek(entry.offset_data)
        return _pieces(self._file, entry.size, entry.name)


class _Folder:
    """See ``_Contents``. No link is followed in it."""

    def __init__(self, path: Path) -> None:
        self._folder = open_folder(path, follow=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._folder)

    def document(self, name: str) -> bytes:
        size = self.size(name)
        if size > _LARGEST:
            raise ValueError(f"{name} is not a document of up to {_LARGEST >> 20} MiB")
        return b"".join(self._read(name, size))

    def size(self, name: str) -> int:
        with self._opened(name) as file:
            return os.fstat(file.fileno()).st_size

    def place(self, name: str) -> int:  # noqa: ARG002 (see _Contents)
        return 0

    def pieces(self, name: str) -> Iterator[bytes]:
        return self._read(name, self.size(name))

    def _read(self, name: str, size: int) -> Iterator[bytes]:
        with self._opened(name) as file:
            yield from _pieces(file, size, name)

    def _opened(self, name: str) -> BinaryIO:
        try:
            return os.fdopen(open_regular_below(self._folder, name), "rb")
        except FileNotFoundError:
            raise KeyError(name) from None


def _pieces(file: BinaryIO, size: int, name: str) -> Iterator[bytes]:
    """Yield so many bytes of a file. Raises EOFError when it has fewer."""
    left = size
    while left > 0:
        piece = file.read(min(_CHUNK, left))
        if not piece:
            raise EOFError(f"{name} is cut off")
        left -= len(piece)
        yield piece
