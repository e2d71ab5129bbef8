"""Download files, resume broken transfers, and verify checksums.

Bytes are collected in ``<target>.part``, which gets the target's name once its size and checksum are right.
A later attempt, or a later process, requests the rest of a file whose checksum is known (``Range``, RFC 9110,
section 14.2). Should the file have changed meanwhile, the checksum is wrong and the transfer starts over.
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
from kvmcompose.effects.files import sync_folder
from kvmcompose.images.catalogue import Checksum

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import requests

log = logging.getLogger(__name__)

#: Called with the number of bytes received and the total (None if the server does not send it).
Progress = Callable[[int, int | None], None]

_CHUNK = 16 * 1024  # bytes: what a broken connection loses at most
_LARGEST_TEXT = 2**20
_LONGEST_PAUSE = 30.0  # seconds
_TRY_AGAIN = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}
_CONTENT_RANGE = re.compile(r"bytes (?:(?P<start>\d+)-\d+|\*)/(?:(?P<total>\d+)|\*)")


class Downloaded(msgspec.Struct, frozen=True):
    """A finished download: ``size`` in bytes, and the SHA-256 of the file."""

    path: Path
    size: int
    sha256: str


class _RetryError(Exception):
    """An attempt failed in a way that another attempt may not."""

    def __init__(self, why: str, retry_after: float = 0.0) -> None:
        super().__init__(why)
        self.retry_after = retry_after


def fetch_small(url: str) -> bytes:
    """Fetch a file of at most 1 MiB, such as a checksum list. Raises KvmComposeError."""
    with tempfile.TemporaryDirectory(prefix="kvm-compose-") as folder:
        target = Path(folder, "text")
        Download(url, target, max_bytes=_LARGEST_TEXT).run()
        return target.read_bytes()


class Download(msgspec.Struct, frozen=True):
    """An http, https or file URL to fetch to ``target``, whose folder must exist.

    ``timeout`` is in seconds, to connect and without data. ``attempts`` limits the failures in a row without
    a new byte. Without a checksum nothing is resumed, and a redirection from https to http is refused.
    One process at a time may download to a target: the caller holds a lock.
    """

    url: str
    target: Path
    checksum: Checksum | None = None
    progress: Progress | None = None
    max_bytes: int = 64 * 2**30
    timeout: tuple[float, float] = (10.0, 60.0)
    attempts: int = 5
    sleep: Callable[[float], None] = time.sleep

    def run(self) -> Downloaded:
        """Fetch the file. Raises RefusedError when the disk is too small.

        Raises KvmComposeError when the file cannot be fetched or does not have the checksum.
        """
        try:
            resumed = self._receive()
            try:
                sha256 = self._verify()
            except KvmComposeError:
                if not resumed:
                    raise
                log.warning("%s: the resumed download has a wrong checksum; starting over", self.url)
                self._receive()
                sha256 = self._verify()
            with self._part.open("rb+") as file:
                os.fsync(file.fileno())
            self._part.replace(self.target)
            sync_folder(self.target.parent)
        except OSError as error:
            raise KvmComposeError(f"cannot write {self.target}: {error.strerror or error}") from error
        return Downloaded(self.target, self.target.stat().st_size, sha256)

    @property
    def _part(self) -> Path:
        return self.target.with_name(f"{self.target.name}.part")

    def _verify(self) -> str:
        """Return the SHA-256 of the part. Removes it and raises KvmComposeError if its checksum is wrong."""
        if (wanted := self.checksum) is None:
            return _digest(self._part, "sha256")
        if (found := _digest(self._part, wanted.algorithm)) != wanted.digest:
            self._part.unlink()
            raise KvmComposeError(
                f"{self.url} is not what was published: its {wanted.algorithm} is {found}, "
                f"expected was {wanted.digest}",
                hint="a proxy or mirror may have sent something else, or a new version is just being "
                "published: try again later, or another mirror (KVM_COMPOSE_MIRROR)",
            )
        return found if wanted.algorithm == "sha256" else _digest(self._part, "sha256")

    def _receive(self) -> bool:
        """Collect the whole file in the part. Returns whether bytes of an earlier response are in it."""
        scheme = urlsplit(self.url).scheme
        if scheme == "file":
            return self._copy()
        if scheme not in ("http", "https"):
            raise KvmComposeError(f"cannot fetch {self.url!r}: only http, https and file URLs are supported")
        # importing requests takes longer than most runs of kvm-compose, which fetch nothing
        import requests  # noqa: PLC0415

        most = self._received()
        failures = 0
        with requests.Session() as session:
            while True:
                try:
                    return self._request(session)
                except _RetryError as error:
                    size = self._received()
                    failures = 1 if size > most else failures + 1
                    most = max(most, size)
                    if failures >= self.attempts:
                        raise KvmComposeError(
                            f"cannot fetch {self.url}: {error} (tried {failures} times)",
                            hint="the next attempt resumes the download"
                            if size
                            else "check the network, or set KVM_COMPOSE_MIRROR to a reachable mirror",
                        ) from error
                    pause = max(min(2.0 ** (failures - 1), _LONGEST_PAUSE), error.retry_after)
                    log.warning("%s: %s; trying again in %g s", self.url, error, pause)
                    self.sleep(pause)

    def _received(self) -> int:
        """The size to resume at, in bytes: 0 without a checksum, which would reveal a mixture."""
        return self._part.stat().st_size if self.checksum is not None and self._part.exists() else 0

    def _copy(self) -> bool:
        """Copy a local file to the part."""
        parts = urlsplit(self.url)
        source = Path(unquote(parts.path))
        if parts.netloc not in ("", "localhost"):
            raise KvmComposeError(f"cannot fetch {self.url!r}: a file URL of another machine")
        try:
            reader = source.open("rb")
        except OSError as error:
            raise KvmComposeError(f"cannot read {source}: {error.strerror}") from error
        with reader:
            self._write(iter(lambda: reader.read(_CHUNK), b""), 0, os.fstat(reader.fileno()).st_size)
        return False

    def _request(self, session: requests.Session) -> bool:
        """Send one request. Returns whether it resumed a transfer; raises _RetryError to have it repeated."""
        import requests  # noqa: PLC0415 (as above)

        headers = {"Accept-Encoding": "identity"}  # lengths and ranges are those of the file itself
        if offset := self._received():
            headers["Range"] = f"bytes={offset}-"
        try:
            with session.get(self.url, headers=headers, stream=True, timeout=self.timeout) as response:
                if self.checksum is None:
                    refuse_downgrade(self.url, [each.url for each in (*response.history, response)])
                return self._take(response, offset)
        except requests.exceptions.SSLError as error:
            raise KvmComposeError(
                f"cannot fetch {self.url}: its certificate is not trusted: {error}",
                hint="sudo apt-get install ca-certificates; intercepting proxy: set REQUESTS_CA_BUNDLE",
            ) from error
        except (
            requests.ConnectionError,
            requests.Timeout,
            requests.exceptions.ChunkedEncodingError,
        ) as error:
            raise _RetryError(_innermost(error)) from error
        except requests.RequestException as error:
            raise KvmComposeError(f"cannot fetch {self.url}: {error}") from error

    def _take(self, response: requests.Response, offset: int) -> bool:
        """Write the body of a response to the part. Returns whether it continues at ``offset``, not at 0."""
        status = response.status_code
        content_range = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        total = int(content_range["total"]) if content_range and content_range["total"] else None
        if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and offset:
            if total == offset:
                return True  # the part is complete
            self._part.unlink()
            raise _RetryError("the file has become shorter than what was received")
        if status in _TRY_AGAIN or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise _RetryError(f"HTTP status {status} {response.reason}", _retry_after(response))
        if status == HTTPStatus.OK:
            offset = 0
            length = response.headers.get("Content-Length", "")
            total = int(length) if length.isascii() and length.isdigit() else None
        elif status != HTTPStatus.PARTIAL_CONTENT:
            raise KvmComposeError(
                f"cannot fetch {self.url}: HTTP status {status} {response.reason}",
                hint="the file may have been moved or withdrawn, or the mirror does not have it",
            )
        elif content_range is None or content_range["start"] != str(offset):
            self._part.unlink(missing_ok=True)
            raise _RetryError("the server sent a range that was not requested")
        received = self._write(response.iter_content(_CHUNK), offset, total)
        if total is not None and received != total:
            raise _RetryError(f"received {received} bytes, the server announced {total}")
        return offset > 0

    def _write(self, chunks: Iterable[bytes], offset: int, total: int | None) -> int:
        """Write chunks to the part from ``offset``, which is its end or 0. Returns its size in bytes."""
        if total is not None:
            self._refuse_size(total)
            free = shutil.disk_usage(self._part.parent).free
            if total - offset > free:
                raise RefusedError(
                    f"{self.url} needs {total - offset} more bytes in {self._part.parent}, {free} are free",
                    hint="make room, or set KVM_COMPOSE_STORE to a folder on a larger disk",
                )
        progress = self.progress or (lambda _received, _total: None)
        progress(offset, total)
        with self._part.open("ab" if offset else "wb") as file:
            for chunk in chunks:
                file.write(chunk)
                offset += len(chunk)
                self._refuse_size(offset)
                progress(offset, total)
        return offset

    def _refuse_size(self, size: int) -> None:
        if size > self.max_bytes:
            self._part.unlink(missing_ok=True)
            raise KvmComposeError(f"{self.url} is too large: {size} bytes, {self.max_bytes} are allowed")


def refuse_downgrade(url: str, hops: Sequence[str]) -> None:
    """Raise KvmComposeError when ``url`` is https and one of the URLs that it was redirected to is not."""
    plain = next((hop for hop in hops if urlsplit(hop).scheme != "https"), None)
    if urlsplit(url).scheme == "https" and plain is not None:
        raise KvmComposeError(
            f"{url} redirects to {plain}, which is not encrypted: anybody on the way can change it",
            hint="set KVM_COMPOSE_MIRROR to a mirror that you trust",
        )


def _digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


def _retry_after(response: requests.Response) -> float:
    """The pause that the server asks for, in seconds; a date, the other form, is ignored."""
    asked = response.headers.get("Retry-After", "")
    return min(float(asked), 2 * _LONGEST_PAUSE) if asked.isascii() and asked.isdigit() else 0.0


def _innermost(error: BaseException) -> str:
    """The message of the first cause, which the layers above it repeat at length."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return str(error) or type(error).__name__
