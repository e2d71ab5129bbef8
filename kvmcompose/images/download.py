"""Downloads that survive broken connections and are checked before they count.

Bytes are gathered in ``<target>.part``; beside it ``<target>.part.json`` remembers which content they
belong to. A later attempt, or a later process, asks for the rest with ``Range`` and ``If-Range``
(RFC 9110, sections 13.1.5 and 14.2), so a file that changed meanwhile is sent whole again. Only when
size and checksum are right does the part get the target's name.

One process at a time may download to a target: the caller holds a lock. Nothing is printed here.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import msgspec

from kvmcompose.core.errors import KvmComposeError, RefusedError
from kvmcompose.effects.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Iterable

    import requests

    from kvmcompose.images.catalogue import Checksum

log = logging.getLogger(__name__)

#: Called with the bytes that are there and how many there will be (None: the server does not say).
Progress = Callable[[int, int | None], None]

_CHUNK = 16 * 1024  # bytes: what is lost of each connection that breaks
_TIMEOUT = (10.0, 60.0)  # seconds: to connect, and of silence
_LARGEST_IMAGE = 64 * 2**30
_LARGEST_TEXT = 2**20
_LONGEST_PAUSE = 30.0  # seconds
_TRY_AGAIN = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}
_CONTENT_RANGE = re.compile(r"bytes (?:(?P<start>\d+)-\d+|\*)/(?:(?P<total>\d+)|\*)")


class Downloaded(msgspec.Struct, frozen=True):
    """A finished download: ``size`` in bytes, and the SHA-256 of what really lies there."""

    path: Path
    size: int
    sha256: str


class _BrokenError(Exception):
    """An attempt failed that may be repeated."""

    def __init__(self, why: str, retry_after: float = 0.0) -> None:
        super().__init__(why)
        self.retry_after = retry_after


class _Notes(msgspec.Struct, frozen=True):
    """What the bytes of a part belong to: the URL, and the ETag or date that named the content."""

    url: str
    validator: str


class _Part:
    """The bytes received so far."""

    def __init__(self, target: Path) -> None:
        self.path = target.with_name(f"{target.name}.part")
        self._notes = target.with_name(f"{target.name}.part.json")

    def size(self) -> int:
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def validator(self, url: str) -> str | None:
        """What names the content the bytes are of; None when they can only be thrown away."""
        try:
            notes = msgspec.json.decode(self._notes.read_bytes(), type=_Notes)
        except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
            return None
        return notes.validator if notes.url == url else None

    def restart(self, url: str, validator: str | None) -> None:
        """Empty the part; first the bytes, then the notes, so that no notes ever speak of other bytes."""
        self.path.write_bytes(b"")
        if validator:
            write_atomic(self._notes, msgspec.json.encode(_Notes(url, validator)))
        else:
            self._notes.unlink(missing_ok=True)

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self._notes.unlink(missing_ok=True)

    def become(self, target: Path) -> None:
        """Take the target's name, on the disk for good."""
        with self.path.open("rb+") as file:
            os.fsync(file.fileno())
        self.path.replace(target)
        self._notes.unlink(missing_ok=True)
        sync_folder(target.parent)


class _Job(msgspec.Struct, frozen=True, kw_only=True):
    """One download and its limits."""

    url: str
    part: _Part
    progress: Progress
    max_bytes: int
    timeout: tuple[float, float]
    plain: bool

    def admit(self, present: int, total: int | None) -> None:
        """Raise before a byte is written if the whole is too large, or the disk too small."""
        if total is None:
            return
        if total > self.max_bytes:
            self.refuse_size(total)
        free = shutil.disk_usage(self.part.path.parent).free
        if total - present > free:
            raise RefusedError(
                f"{self.url} needs {total - present} more bytes in {self.part.path.parent}, {free} are free",
                hint="make room, or set KVM_COMPOSE_STORE to a folder on a larger disk",
            )

    def refuse_size(self, size: int) -> None:
        self.part.discard()
        raise KvmComposeError(f"{self.url} is too large: {size} bytes, {self.max_bytes} are allowed")


def download(
    url: str,
    target: Path,
    *,
    checksum: Checksum | None = None,
    progress: Progress | None = None,
    max_bytes: int = _LARGEST_IMAGE,
    timeout: tuple[float, float] = _TIMEOUT,
    attempts: int = 5,
    sleep: Callable[[float], None] = time.sleep,
    plain: bool = True,
) -> Downloaded:
    """Fetch an http, https or file URL to ``target``, whose folder must exist.

    ``timeout`` is in seconds, to connect and of silence; ``attempts`` counts failures in a row without
    a new byte. Without ``plain``, a redirection from https to http is refused. Raises KvmComposeError when it
    cannot be had or is not what ``checksum`` says (the part is removed then), RefusedError when the disk is
    too small.
    """
    job = _Job(
        url=url,
        part=_Part(target),
        progress=progress or (lambda _done, _total: None),
        max_bytes=max_bytes,
        timeout=timeout,
        plain=plain,
    )
    try:
        receive = _receive_by_scheme(url)
        continued = receive(job, attempts, sleep)
        try:
            found = _check(job, checksum)
        except KvmComposeError:
            if not continued:
                raise
            # the bytes of the earlier attempt may be what is wrong: once more, from the start
            log.warning("%s: the continued download has a wrong checksum; starting over", url)
            receive(job, attempts, sleep)
            found = _check(job, checksum)
        job.part.become(target)
    except OSError as error:
        raise KvmComposeError(f"cannot write {target}: {error.strerror or error}") from error
    return Downloaded(path=target, size=target.stat().st_size, sha256=found)


def fetch_small(url: str, *, attempts: int = 5, sleep: Callable[[float], None] = time.sleep) -> bytes:
    """Fetch a small file, a checksum list for one, of at most 1 MiB. Raises KvmComposeError.

    Nothing else vouches for it, so an https URL must not lead to one without encryption.
    """
    with tempfile.TemporaryDirectory(prefix="kvm-compose-") as folder:
        target = Path(folder, "text")
        download(url, target, max_bytes=_LARGEST_TEXT, attempts=attempts, sleep=sleep, plain=False)
        return target.read_bytes()


def sync_folder(folder: Path) -> None:
    """Put a folder's names on the disk for good. Raises OSError."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _check(job: _Job, checksum: Checksum | None) -> str:
    """The SHA-256 of the part, after it was found to be what was wanted; else the part goes."""
    digests = {"sha256": hashlib.sha256()}
    if checksum is not None and checksum.algorithm != "sha256":
        digests[checksum.algorithm] = hashlib.new(checksum.algorithm, usedforsecurity=False)
    with job.part.path.open("rb") as file:
        while chunk := file.read(2**20):
            for digest in digests.values():
                digest.update(chunk)
    if checksum is not None and (actual := digests[checksum.algorithm].hexdigest()) != checksum.digest:
        job.part.discard()
        raise KvmComposeError(
            f"{job.url} is not what was published: its {checksum.algorithm} is {actual}, "
            f"expected was {checksum.digest}",
            hint="a proxy or mirror may have sent something else, or a new version is just being "
            "published: try again later, or another mirror (KVM_COMPOSE_MIRROR)",
        )
    return digests["sha256"].hexdigest()


_Receive = Callable[[_Job, int, Callable[[float], None]], bool]


def _receive_by_scheme(url: str) -> _Receive:
    scheme = urlsplit(url).scheme
    if scheme in ("http", "https"):
        return _receive_http
    if scheme == "file":
        return _receive_file
    raise KvmComposeError(f"cannot fetch {url!r}: only http, https and file URLs can be")


def _receive_file(job: _Job, _attempts: int, _sleep: Callable[[float], None]) -> bool:
    """Copy a local file into the part."""
    parts = urlsplit(job.url)
    source = Path(unquote(parts.path))
    if parts.netloc not in ("", "localhost"):
        raise KvmComposeError(f"cannot fetch {job.url!r}: a file URL of another machine")
    try:
        reader = source.open("rb")
    except OSError as error:
        raise KvmComposeError(f"cannot read {source}: {error.strerror}") from error
    with reader:
        total = os.fstat(reader.fileno()).st_size
        job.admit(0, total)
        job.part.restart(job.url, None)
        _append(job, iter(lambda: reader.read(_CHUNK), b""), 0, total)
    return False


def _receive_http(job: _Job, attempts: int, sleep: Callable[[float], None]) -> bool:
    """Gather the whole content in the part; True if bytes of an earlier response are in it."""
    # loading requests takes longer than most runs of kvm-compose, which fetch nothing
    import requests  # noqa: PLC0415

    most = job.part.size()
    failures = 0
    with requests.Session() as session:
        while True:
            try:
                return _attempt(job, session)
            except _BrokenError as broken:
                size = job.part.size()
                failures = 1 if size > most else failures + 1
                most = max(most, size)
                if failures >= attempts:
                    raise KvmComposeError(
                        f"cannot fetch {job.url}: {broken} (tried {failures} times)",
                        hint="what has arrived is kept: the next try goes on from there"
                        if size
                        else "check the network, or set KVM_COMPOSE_MIRROR to a mirror that can be reached",
                    ) from broken
                pause = max(min(2.0 ** (failures - 1), _LONGEST_PAUSE), broken.retry_after)
                log.warning("%s: %s; trying again in %g s", job.url, broken, pause)
                sleep(pause)


def _attempt(job: _Job, session: requests.Session) -> bool:
    """One request; True if it went on from bytes that were there. _BrokenError means: may be repeated."""
    import requests  # noqa: PLC0415 (as above)

    headers = {"Accept-Encoding": "identity"}  # lengths and ranges count the file's own bytes
    offset = job.part.size()
    validator = job.part.validator(job.url)
    if offset and validator:
        headers |= {"Range": f"bytes={offset}-", "If-Range": validator}
    else:
        offset = 0
    try:
        with session.get(job.url, headers=headers, stream=True, timeout=job.timeout) as response:
            _refuse_plain(job, [each.url for each in (*response.history, response)])
            return _take(job, response, offset)
    except requests.exceptions.SSLError as error:
        raise KvmComposeError(
            f"cannot fetch {job.url}: its certificate is not trusted: {error}",
            hint="sudo apt-get install ca-certificates; behind a proxy that decrypts, set REQUESTS_CA_BUNDLE",
        ) from error
    except (
        requests.ConnectionError,
        requests.Timeout,
        requests.exceptions.ChunkedEncodingError,
    ) as error:
        raise _BrokenError(_innermost(error)) from error
    except requests.RequestException as error:
        raise KvmComposeError(f"cannot fetch {job.url}: {error}") from error


def _refuse_plain(job: _Job, urls: list[str]) -> None:
    """Raise when what vouches for other files was to come over https, and a redirection left that."""
    plain = next((url for url in urls if urlsplit(url).scheme != "https"), None)
    if not job.plain and urlsplit(job.url).scheme == "https" and plain is not None:
        raise KvmComposeError(
            f"{job.url} leads to {plain}, where anybody on the way can change it",
            hint="set KVM_COMPOSE_MIRROR to a mirror that you trust",
        )


def _take(job: _Job, response: requests.Response, offset: int) -> bool:
    """Write a response's body where it belongs; True if it went on from ``offset``."""
    status = response.status_code
    content_range = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    total = int(content_range["total"]) if content_range and content_range["total"] else None
    if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and offset:
        if total == offset:
            return True  # everything was there already
        job.part.discard()
        raise _BrokenError("the file has become shorter than what was received")
    if status in _TRY_AGAIN or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise _BrokenError(f"HTTP status {status} {response.reason}", _retry_after(response))
    if status == HTTPStatus.PARTIAL_CONTENT:
        if content_range is None or content_range["start"] != str(offset):
            job.part.discard()
            raise _BrokenError("the server sent another part than it was asked for")
    elif status == HTTPStatus.OK:
        offset = 0
        length = response.headers.get("Content-Length", "")
        total = int(length) if length.isascii() and length.isdigit() else None
        job.part.restart(job.url, _validator(response))
    else:
        raise KvmComposeError(
            f"cannot fetch {job.url}: HTTP status {status} {response.reason}",
            hint="the file may have been moved or withdrawn, or the mirror does not have it",
        )
    job.admit(offset, total)
    received = _append(job, response.iter_content(_CHUNK), offset, total)
    if total is not None and received != total:
        if received > total:
            job.part.discard()
        raise _BrokenError(f"{received} bytes came, the server had spoken of {total}")
    return offset > 0


def _append(job: _Job, chunks: Iterable[bytes], offset: int, total: int | None) -> int:
    """Write chunks to the end of the part; how many bytes it then has."""
    job.progress(offset, total)
    with job.part.path.open("ab") as file:
        for chunk in chunks:
            file.write(chunk)
            offset += len(chunk)
            if offset > job.max_bytes:
                job.refuse_size(offset)
            job.progress(offset, total)
    return offset


def _validator(response: requests.Response) -> str | None:
    """What ``If-Range`` may be asked with: a strong ETag, else the date of the last change."""
    etag = response.headers.get("ETag", "")
    if etag and not etag.startswith("W/"):
        return etag
    return response.headers.get("Last-Modified") or None


def _retry_after(response: requests.Response) -> float:
    """The pause a server asks for, in seconds; its other form, a date, is passed over."""
    asked = response.headers.get("Retry-After", "")
    return min(float(asked), 2 * _LONGEST_PAUSE) if asked.isascii() and asked.isdigit() else 0.0


def _innermost(error: BaseException) -> str:
    """The error at the bottom: the layers above it repeat it in their own long words."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return str(error) or type(error).__name__
