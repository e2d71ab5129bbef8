"""An image for containers, made from the machine's static busybox alone: no registry is asked."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from typing import TYPE_CHECKING

from hosts import image_cache

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

BUSYBOX = "/bin/busybox"
NAME = "tiny:1"
#: Why an archive and not `docker import`: its content, and so its digest, is the same everywhere.
CONFIG = {"Cmd": ["sh"], "Env": ["PATH=/bin"], "WorkingDir": "/"}


def tiny_image() -> Path:
    """Return the archive of the image ``NAME``, as `docker save` writes it; made once per machine."""
    path = image_cache.cache_directory() / f"tiny-{image_cache.digest(['tiny_image.py'])}.tar"
    if not path.exists():
        with image_cache.locked(path.with_suffix(".lock")):
            partial = path.with_suffix(".partial")
            partial.write_bytes(archive(NAME, {}))
            partial.rename(path)
    return path


def image_id() -> str:
    """Return the ID of the image: the digest of its configuration."""
    with tarfile.open(tiny_image()) as tar:
        file = tar.extractfile("manifest.json")
        assert file is not None
        return f"sha256:{json.load(file)[0]['Config'].removesuffix('.json')}"


def archive(name: str, more: dict[str, bytes], settings: Mapping[str, object] = CONFIG) -> bytes:
    """Return an image with busybox and ``more`` files (docker image specification v1.2)."""
    layer = _layer(more)
    diff = hashlib.sha256(layer).hexdigest()
    config = json.dumps({
        "architecture": "amd64",
        "os": "linux",
        "config": dict(settings),
        "created": "1970-01-01T00:00:00Z",
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{diff}"]},
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "kvm-compose's tests"}],
    }).encode()  # fmt: skip
    config_name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = [{"Config": config_name, "RepoTags": [name], "Layers": [f"{diff}/layer.tar"]}]
    return _tar({
        config_name: config,
        f"{diff}/layer.tar": layer,
        "manifest.json": json.dumps(manifest).encode(),
    })  # fmt: skip


def _layer(more: dict[str, bytes]) -> bytes:
    with open(BUSYBOX, "rb") as file:  # noqa: PTH123
        busybox = file.read()
    applets = subprocess.run([BUSYBOX, "--list"], check=True, capture_output=True, text=True).stdout.split()
    links = {f"bin/{name}": "busybox" for name in applets if name != "busybox"}
    files = {
        "bin/busybox": busybox,
        "etc/passwd": b"root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/tmp:/bin/sh\n",
        "etc/group": b"root:x:0:\nuser:x:1000:\n",
        **more,
    }
    return _tar(files, links, folders=("root", "tmp"))


def _tar(
    files: dict[str, bytes], links: dict[str, str] | None = None, folders: tuple[str, ...] = ()
) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in folders:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            tar.addfile(entry)
        for name, content in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755 if name.startswith(("bin/", "lib")) else 0o644
            tar.addfile(entry, io.BytesIO(content))
        for name, target in sorted((links or {}).items()):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)
    return buffer.getvalue()
