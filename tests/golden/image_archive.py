"""Small images of containers in files, for tests that run no engine."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

LAYER = b"a layer"


def write_archive(path: Path, *more: str, tag: str = "debian:12") -> str:
    """Write an archive as of `docker save`, and return the ID of its image, which depends on ``more``."""
    diff = hashlib.sha256(LAYER).hexdigest()
    config = json.dumps({"rootfs": {"diff_ids": [f"sha256:{diff}"]}, "more": more}).encode()
    manifest = [{"Config": "c.json", "RepoTags": [tag], "Layers": ["l.tar"]}]
    files = {"c.json": config, "l.tar": LAYER, "manifest.json": json.dumps(manifest).encode()}
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return f"sha256:{hashlib.sha256(config).hexdigest()}"
