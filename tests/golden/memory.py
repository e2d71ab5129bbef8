"""A project in memory, for tests of the pure pipeline."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import kvmcompose
from kvmcompose.core.image_source import ImageFile
from kvmcompose.core.model import Host, SshKeys
from kvmcompose.core.project import FileKind, Flaw
from kvmcompose.pipeline.compile import Compiled, InputFile, compile_project
from kvmcompose.pipeline.logical import Settings
from kvmcompose.pipeline.schemas import Schemas

_PACKAGE = Path(kvmcompose.__file__).parent
ROOT = _PACKAGE if (_PACKAGE / "schemas").is_dir() else _PACKAGE.parent

SCHEMAS = Schemas(
    {
        path.relative_to(ROOT / "schemas").as_posix(): json.loads(path.read_text(encoding="utf-8"))
        for path in sorted((ROOT / "schemas").rglob("*.json"))
    }
)
TEMPLATES = {
    path.name: path.read_text(encoding="utf-8") for path in sorted((ROOT / "templates").glob("*.j2"))
}


PUBLIC_KEY = b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f me@here\n"


@dataclass
class MemoryFiles:
    """Implements ``ProjectFiles`` with files that a test names."""

    files: set[str] = field(default_factory=set)
    folders: set[str] = field(default_factory=set)
    outside: set[str] = field(default_factory=set)
    bad_images: dict[str, str] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)
    images: tuple[str, ...] = ("debian_12",)

    def kind(self, path: str) -> FileKind:
        name = str(PurePosixPath(path))
        if name in self.files:
            return FileKind.FILE
        return FileKind.FOLDER if name in self.folders else FileKind.MISSING

    def is_inside(self, path: str) -> bool:
        return path not in self.outside

    def flaws(self, path: str, modes: Mapping[str, str]) -> tuple[Flaw, ...]:
        stray = next((stray for stray in sorted(self.outside) if stray.startswith(f"{path}/")), None)
        return () if stray is None else (Flaw("outside-project", f"{stray!r} is a link out of the project"),)

    def exposed_keys(self, path: str, modes: Mapping[str, str]) -> tuple[str, ...]:
        return ()

    def build_flaws(self, context: str, dockerfile: str) -> tuple[Flaw, ...]:
        path = f"{context}/{dockerfile}"
        return () if path in self.files else (Flaw("missing-file", f"there is no {path!r}"),)

    def build_digest(self, context: str, dockerfile: str) -> str:
        content = self.contents.get(f"{context}/{dockerfile}", b"FROM scratch\n")
        return hashlib.sha256(content).hexdigest()

    def content(self, path: str, limit: int) -> bytes | None:
        if self.kind(path) is not FileKind.FILE:
            return None
        usual = PUBLIC_KEY if path.endswith(".pub") else b"#!/bin/sh\n"
        return self.contents.get(str(PurePosixPath(path)), usual)[: limit + 1]

    def image_flaw(self, path: str, wanted_format: str | None, *, is_said: bool) -> Flaw | None:
        return Flaw(code="bad-image", message=self.bad_images[path]) if path in self.bad_images else None

    def image_id(self, source: ImageFile) -> str | Flaw:
        return f"sha256:{hashlib.sha256(str(source).encode()).hexdigest()}"

    def image_arch(self, name: str) -> str | None:
        return "x86_64" if name in self.images else None

    def cloud_config_errors(self, data: bytes) -> tuple[tuple[tuple[str | int, ...], str], ...]:
        return ()

    def image_names(self) -> tuple[str, ...]:
        return self.images


def host(name: str = "main", ip: str = "192.0.2.1", *, main: bool = True, **more: object) -> Host:
    return Host(name=name, ip=ip, is_main_host=main, **more)  # type: ignore[arg-type]


def hosts(count: int) -> tuple[Host, ...]:
    """Return ``count`` hosts, the first of which is the main host."""
    return tuple(host(f"h{n}", f"192.0.2.{n + 1}", main=n == 0) for n in range(count))


def compile_text(
    text: str,
    *,
    on: Iterable[Host] = (),
    config: str | None = None,
    files: MemoryFiles | None = None,
    project: str = "lab",
) -> Compiled:
    """Compile a YAML text."""
    settings = Settings(project, tuple(on) or (host(),), SshKeys("key.pub", "key"), lambda each: each)
    return compile_project(
        InputFile("kvm-compose.yaml", text.encode()),
        InputFile("kvm-compose-config.json", config.encode()) if config is not None else None,
        SCHEMAS,
        settings,
        files or MemoryFiles({"key.pub", "key"}),
    )
