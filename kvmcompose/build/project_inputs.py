"""The inputs of a project: its two files, its name, and defaults for what they leave out."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import msgspec

from kvmcompose.core.errors import InputError, KvmComposeError, Location, Problem
from kvmcompose.core.model import Host
from kvmcompose.core.names import PROJECT_NAME, project_name_from
from kvmcompose.effects.capabilities import datapath_type, virt_type
from kvmcompose.effects.files import digest_bytes, expand
from kvmcompose.effects.keys import default_keys
from kvmcompose.effects.opening import NotRegularError, TooLargeError, read_regular
from kvmcompose.pipeline.logical import InputFile, Settings
from kvmcompose.pipeline.text import MAX_BYTES, refuse

YAML_NAME = "kvm-compose.yaml"
CONFIG_NAME = "kvm-compose-config.json"

#: 1980-01-01, the oldest time that every file system and archive format can hold.
_DEFAULT_EPOCH = 315532800


class Where(msgspec.Struct, frozen=True):
    """Which project: the folder and, when they are not the usual ones, its files and name."""

    directory: Path = Path()
    input: str | None = None
    config: str | None = None
    project_name: str | None = None
    allow_paths: tuple[str, ...] = ()


def read_inputs(folder: Path, where: Where, text: bytes | None = None) -> tuple[InputFile, InputFile | None]:
    """The YAML, or ``text`` under its name, and the config if there is one. Raises InputError."""
    name = where.input or YAML_NAME
    testbed = _read(folder, name) if text is None else InputFile(_shown(yaml_path(folder, where)), text)
    return testbed, read_config(folder, where)


def yaml_path(folder: Path, where: Where) -> Path:
    """Return the path of the YAML."""
    return folder / expand(where.input or YAML_NAME)


def read_config(folder: Path, where: Where) -> InputFile | None:
    """The config if there is one. Raises InputError."""
    if where.config is None and not (folder / CONFIG_NAME).exists():
        return None
    return _read(folder, where.config or CONFIG_NAME)


def hashed(folder: Path, where: Where, testbed: InputFile, config: InputFile | None) -> dict[str, str | None]:
    """Return the digests of the two input files as they were read, for the build stamp."""
    return {
        str(folder / (where.input or YAML_NAME)): digest_bytes(testbed.data),
        str(folder / (where.config or CONFIG_NAME)): digest_bytes(config.data)
        if config is not None
        else None,
    }


def beyond_environment(where: Where) -> dict[str, str]:
    """Return the options that differ from the environment: the build stamp depends on them, too."""
    allowed = [path for path in os.environ.get("KVM_COMPOSE_ALLOW_PATH", "").split(os.pathsep) if path]
    pairs = {
        "--input": (where.input, os.environ.get("KVM_COMPOSE_INPUT")),
        "--config": (where.config, os.environ.get("KVM_COMPOSE_CONFIG")),
        "--project-name": (where.project_name, os.environ.get("KVM_COMPOSE_PROJECT_NAME")),
        "--allow-path": (os.pathsep.join(where.allow_paths), os.pathsep.join(allowed)),
    }
    return {name: said or "" for name, (said, usual) in pairs.items() if (said or "") != (usual or "")}


def _read(folder: Path, name: str) -> InputFile:
    path = folder / expand(name)
    shown = _shown(path)
    try:
        return InputFile(shown, read_regular(path, limit=MAX_BYTES))
    except TooLargeError as error:
        raise refuse("too-large", f"the file is too large: {error.strerror}", Location(shown)) from error
    except OSError as error:
        hint = None
        if isinstance(error, NotRegularError):
            hint = f"put a file in its place: ls -l {shlex.quote(shown)} shows what is there"
        elif isinstance(error, FileNotFoundError) and name == YAML_NAME:
            hint = "kvm-compose init DIR writes a project to start from; -C DIR works in another folder"
            other = Path(YAML_NAME).with_suffix(".yml")
            if (folder / other).is_file():
                hint = f"rename {other}, or read it with --input {other}"
        problem = Problem(
            code="missing-file",
            message=f"cannot read it: {(error.strerror or str(error)).lower()}",
            location=Location(shown),
            hint=hint,
        )
        raise InputError([problem]) from error


def _shown(path: Path) -> str:
    """Return the name of a file for messages."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def _project_name(folder: Path, where: Where) -> str:
    if where.project_name is None:
        return project_name_from(folder.resolve().name)
    if PROJECT_NAME.fullmatch(where.project_name) is None:
        raise InputError(
            [
                Problem(
                    code="bad-name",
                    message=f"{where.project_name!r} cannot be a project's name",
                    location=Location("--project-name"),
                    wanted="lower-case letters, digits and '-', starting with a letter, at most 41 in all",
                    hint=f"for example {project_name_from(where.project_name)}",
                )
            ]
        )
    return where.project_name


def settings(folder: Path, where: Where) -> Settings:
    """What is not in the files. Raises InputError."""
    return Settings(_project_name(folder, where), (_this_machine(),), default_keys(), _resolve)


def _this_machine() -> Host:
    return Host(name="main", ip="127.0.0.1", is_main_host=True, virt_type="auto", datapath_type="auto")


def _resolve(host: Host) -> Host:
    """Resolve ``auto``: for this machine by probing, for others to the usual value."""
    virt, datapath = host.virt_type, host.datapath_type
    if virt == "auto":
        virt = virt_type()[0] if host.is_main_host else "kvm"
    if datapath == "auto":
        datapath = datapath_type() if host.is_main_host else "system"
    return msgspec.structs.replace(host, virt_type=virt, datapath_type=datapath)


def epoch() -> int:
    """The one point in time that artefacts may hold, in seconds since 1970. Raises KvmComposeError."""
    text = os.environ.get("SOURCE_DATE_EPOCH", "")
    if not text:
        return _DEFAULT_EPOCH
    try:
        found = int(text)
    except ValueError:
        found = -1
    if not 0 <= found < 2**32:
        raise KvmComposeError(
            f"SOURCE_DATE_EPOCH is {text!r}, not a number of seconds since 1970",
            hint="see the SOURCE_DATE_EPOCH specification of reproducible-builds.org",
        )
    return found
