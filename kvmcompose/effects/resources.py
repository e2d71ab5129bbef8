"""The files of kvmcompose itself: code, schemas and templates, and those of plug-in folders."""

from __future__ import annotations

import hashlib
import json
import os
from functools import cache
from pathlib import Path

import kvmcompose
import kvmcompose.guests
import kvmcompose.networks
import kvmcompose.placement
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.pipeline.schemas import Schemas

PLUGINS_VARIABLE = "KVM_COMPOSE_PLUGINS"


def shipped(name: str) -> Path:
    """Return a folder that ships with kvmcompose: in the package in a wheel, beside it in a checkout."""
    package = Path(kvmcompose.__file__).parent
    inside = package / name
    return inside if inside.is_dir() else package.parent / name


@cache
def plugin_folders() -> tuple[Path, ...]:
    """Return the folders in ``KVM_COMPOSE_PLUGINS`` (separated as in PATH), with their modules importable.

    Each may contain ``guests/``, ``networks/`` and ``placement/`` with modules, ``schemas/`` and
    ``templates/``. They are code, so only the environment names them, never a project.
    """
    folders = [
        Path(name).resolve() for name in os.environ.get(PLUGINS_VARIABLE, "").split(os.pathsep) if name
    ]
    for folder in folders:
        if not folder.is_dir():
            raise KvmComposeError(f"{PLUGINS_VARIABLE} names {str(folder)!r}, which is not a folder")
        for package in (kvmcompose.guests, kvmcompose.networks, kvmcompose.placement):
            extra = folder / package.__name__.rpartition(".")[2]
            if extra.is_dir() and str(extra) not in package.__path__:
                package.__path__.append(str(extra))
    return tuple(folders)


@cache
def schemas() -> Schemas:
    """Return all schema files, ours and those of plug-ins."""
    found = {}
    for folder in (shipped("schemas"), *(plugin / "schemas" for plugin in plugin_folders())):
        for path in sorted(folder.rglob("*.json")):
            found[path.relative_to(folder).as_posix()] = json.loads(path.read_bytes())
    return Schemas(found)


def own_files() -> set[str]:
    """Return the paths of all code, schemas and templates of kvmcompose and its plug-ins, and of folders."""
    folders = (
        Path(kvmcompose.__file__).parent,
        shipped("schemas"),
        shipped("templates"),
        *plugin_folders(),
    )
    found = {str(folder) for folder in folders}
    walked: set[str] = set()
    for folder in folders:
        for place, inside, files in os.walk(folder, followlinks=True):
            if os.path.realpath(place) in walked:
                inside.clear()  # a cycle of links
            walked.add(os.path.realpath(place))
            inside[:] = [name for name in inside if name != "__pycache__"]
            found.update(os.path.join(place, name) for name in (*inside, *files))  # noqa: PTH118
    return found


@cache
def code_digest(modules: tuple[str, ...]) -> str:
    """Return the SHA-256 of the source code of modules of kvmcompose."""
    package = Path(kvmcompose.__file__).parent.parent
    digest = hashlib.sha256()
    for module in modules:
        digest.update(package.joinpath(*module.split(".")).with_suffix(".py").read_bytes())
    return digest.hexdigest()
