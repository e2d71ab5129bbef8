"""Serves the page: ``index.html`` and what it loads, the same for everybody, without a session.

The files are those that ``make`` builds into ``kvmcompose/web``. They are kept in memory, so that a request
names nothing on a disk.
"""

from __future__ import annotations

import hashlib
import os
from http import HTTPStatus
from pathlib import Path

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

import kvmcompose
from kvmcompose.effects.opening import open_regular, read_descriptor
from kvmcompose.effects.threads import in_thread
from kvmcompose.server.api.headers import matches
from kvmcompose.server.api.problems import problem

_FOLDER = Path(kvmcompose.__file__).parent / "web"
_INDEX, _ASSETS = "index.html", "assets"
_LARGEST = 16 * 1024 * 1024  # bytes
_GZIP = ".gz"
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".map": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".woff2": "font/woff2",
}
_POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "connect-src": "'self'",
    "img-src": "'self' data:",
    "font-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}
_NOT_NEEDED = ("camera", "display-capture", "geolocation", "microphone", "payment", "serial", "usb")
_HEADERS = {
    "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in _POLICY.items()),
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": ", ".join(f"{name}=()" for name in _NOT_NEEDED),
    "Vary": "Accept-Encoding",
}
#: The name of an asset contains the digest of its content; that of the page does not.
_FOR_EVER, _ASK_AGAIN = "public, max-age=31536000, immutable", "no-cache"

router = APIRouter(include_in_schema=False)


class _File(msgspec.Struct, frozen=True):
    content: bytes
    compressed: bytes | None
    media_type: str
    digest: str


class Page:
    """The files of the page, by name, as they were when ``index.html`` last changed."""

    def __init__(self, folder: Path = _FOLDER) -> None:
        self._folder = folder
        self._seen: tuple[int, int, int] | None = None
        self._files: dict[str, _File] = {}

    def file(self, name: str) -> _File | None:
        """Return a file; None when there is none. A page that was built meanwhile is read. Raises OSError."""
        try:
            found = (self._folder / _INDEX).stat()
        except FileNotFoundError:
            return None
        seen = (found.st_ino, found.st_mtime_ns, found.st_size)
        if seen != self._seen:
            names = [_INDEX]
            if (self._folder / _ASSETS).is_dir():
                found_assets = (self._folder / _ASSETS).iterdir()
                names += [f"{_ASSETS}/{each.name}" for each in found_assets if each.is_file()]
            self._files = {each: self._read(each) for each in names if not each.endswith(_GZIP)}
            self._seen = seen
        return self._files.get(name)

    def _read(self, name: str) -> _File:
        path = self._folder / name
        content = _content(path)
        packed = path.with_name(path.name + _GZIP)
        return _File(
            content=content,
            compressed=_content(packed) if packed.exists() else None,
            media_type=_TYPES.get(path.suffix, "application/octet-stream"),
            digest=hashlib.sha256(content).hexdigest()[:32],
        )


def _content(path: Path) -> bytes:
    handle = open_regular(path)
    try:
        return read_descriptor(handle, _LARGEST, path.name)
    finally:
        os.close(handle)


_page = Page()


@router.api_route("/", methods=["GET", "HEAD"])
async def get_page(request: Request) -> Response:
    """Return the page."""
    found = await in_thread(_page.file, _INDEX)
    if found is None:
        return Response(
            "The page of kvm-compose is not part of this installation.\n"
            "In a checkout of its sources, `make page` builds it. The API is described in /openapi.json.\n",
            HTTPStatus.NOT_FOUND,
            media_type="text/plain",
        )
    return _answer(request, found, _ASK_AGAIN)


@router.api_route("/assets/{name}", methods=["GET", "HEAD"])
async def get_asset(request: Request, name: str) -> Response:
    """Return a file that the page loads."""
    found = await in_thread(_page.file, f"{_ASSETS}/{name}")
    if found is None:
        return problem(HTTPStatus.NOT_FOUND, "no such resource")
    return _answer(request, found, _FOR_EVER)


def _answer(request: Request, file: _File, caching: str) -> Response:
    packed = file.compressed is not None and _takes_gzip(request.headers.get("accept-encoding", ""))
    tag = f'"{file.digest}{"-gzip" if packed else ""}"'
    headers = {**_HEADERS, "Cache-Control": caching, "ETag": tag}
    if matches(request.headers.get("if-none-match"), tag):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    if packed:
        headers["Content-Encoding"] = "gzip"
    content = file.compressed if packed else file.content
    return Response(content, headers=headers, media_type=file.media_type)


def _takes_gzip(accepted: str) -> bool:
    """Return whether a client accepts gzip (RFC 9110, section 12.5.3)."""
    for each in accepted.lower().split(","):
        coding, _, weight = each.partition(";")
        if coding.strip() in ("gzip", "*"):
            return weight.replace(" ", "").rstrip("0").rstrip(".") != "q=0" and weight.strip() != "q=0"
    return False
