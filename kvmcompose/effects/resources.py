"""The files kvmcompose itself is made of: schemas, templates, and plug-in folders that add to them."""

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
    """A folder of ours: in an installed wheel inside the package, in a checkout beside it."""
    package = Path(kvmcompose.__file__).parent
    inside = package / name
    return inside if inside.is_dir() else package.parent / name


@cache
def plugin_folders() -> tuple[Path, ...]:
    """The folders named by ``KVM_COMPOSE_PLUGINS`` (separated as in PATH).

    Each may hold ``guests/``, ``networks/`` and ``placement/`` with modules, ``schemas/`` and
    ``templates/``. They are code and come from the environment only: a project cannot name any.
    """
    folders = [
        Path(name).resolve() for name in os.environ.get(PLUGINS_VARIABLE, "").split(os.pathsep) if name
    ]
    for folder in folders:
        if not folder.is_dir():
            raise KvmComposeError(f"{PLUGINS_VARIABLE} names {str(folder)!r}, which is no folder")
        for package in (kvmcompose.guests, kvmcompose.networks, kvmcompose.placement):
            extra = folder / package.__name__.rpartition(".")[2]
            if extra.is_dir() and str(extra) not in package.__path__:
                package.__path__.append(str(extra))
    return tuple(folders)


@cache
def schemas() -> Schemas:
    """All schema files, ours and those of plug-ins."""
    found = {}
    for folder in (shipped("schemas"), *(plugin / "schemas" for plugin in plugin_folders())):
        for path in sorted(folder.rglob("*.json")):
            found[path.relative_to(folder).as_posix()] = json.loads(path.read_bytes())
    return Schemas(found)


def own_files() -> set[str]:
    """The code, schemas and templates of kvmcompose and its plug-ins, folders included."""
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
                inside.clear()  # a link that leads round
            walked.add(os.path.realpath(place))
            inside[:] = [name for name in inside if name != "__pycache__"]
            found.update(os.path.join(place, name) for name in (*inside, *files))  # noqa: PTH118
    return found


@cache
def code_digest(modules: tuple[str, ...]) -> str:
    """The SHA-256 of the source code of some modules of ours."""
    package = Path(kvmcompose.__file__).parent.parent
    digest = hashlib.sha256()
    for module in modules:
        digest.update(package.joinpath(*module.split(".")).with_suffix(".py").read_bytes())
    return digest.hexdigest()
