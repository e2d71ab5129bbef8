"""A registry with one image, for engines of this machine (OCI distribution specification, pull)."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

_TYPES = "application/vnd.docker"
_MANIFEST = f"{_TYPES}.distribution.manifest.v2+json"


class Served(NamedTuple):
    """Where it listens, and the digest of the manifest of ``tiny:1``."""

    address: str
    digest: str


@contextlib.contextmanager
def serving(archive: bytes) -> Iterator[Served]:
    """Serve the image of an archive of `docker save` as ``tiny:1``."""
    blobs = {}

    def put(content: bytes) -> str:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        blobs[digest] = content
        return digest

    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        (entry,) = json.loads(_member(tar, "manifest.json"))
        config, layer = _member(tar, entry["Config"]), _member(tar, entry["Layers"][0])
    manifest = json.dumps({
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": {
            "mediaType": f"{_TYPES}.container.image.v1+json", "size": len(config), "digest": put(config),
        },
        "layers": [
            {"mediaType": f"{_TYPES}.image.rootfs.diff.tar", "size": len(layer), "digest": put(layer)}
        ],
    }).encode()  # fmt: skip
    digest = put(manifest)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            last = self.path.rpartition("/")[2]
            found = b"{}" if self.path == "/v2/" else blobs.get(digest if last == "1" else last)
            self.send_response(404 if found is None else 200)
            kind = _MANIFEST if "/manifests/" in self.path and found else "application/json"
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(found or b"")))
            if found is not None and "/manifests/" in self.path:
                self.send_header("Docker-Content-Digest", digest)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(found or b"")

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            """It says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield Served(f"127.0.0.1:{server.server_port}", digest)
        finally:
            server.shutdown()


def _member(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(name)
    assert file is not None
    return file.read()
