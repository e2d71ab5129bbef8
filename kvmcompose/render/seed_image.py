"""The bytes of a cloud-init seed: an ISO 9660 image labelled CIDATA, the same for the same recipe.

Formats: ECMA-119 with Joliet (what cloudbase-init reads) and Rock Ridge (what Linux reads); POSIX
ustar/pax for the tar.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import shlex
import tarfile
import threading
import time as clock
from collections.abc import Iterator
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import msgspec
import pycdlib
from pycdlib import dates, headervd, utils

from kvmcompose.core.artefact import Rendered
from kvmcompose.core.environment import parse_environment
from kvmcompose.core.errors import InputError, KvmComposeError
from kvmcompose.render.inputs import CarriedFile, Sources
from kvmcompose.render.seed import CONTEXT, ENVIRONMENT_FILE, KEY_FILE, SeedValues

#: Prints one variable, or sources them all: ``. /etc/nocloud/env.sh``.
_ENV_SCRIPT = b"""\
#!/bin/sh
# env.sh NAME prints the value of NAME; `. /etc/nocloud/env.sh` sets all of them.
set -a
. /etc/nocloud/environment
set +a
[ $# -eq 0 ] || printenv "$1"
"""

#: Up to this size (bytes) what is carried is packed once for all guests that share it.
_SHARED_LIMIT = 2**20

#: What the renderer reads itself.
_NOT_CARRIED = frozenset({KEY_FILE, ENVIRONMENT_FILE})

_KEY_TYPES = ("ssh-", "ecdsa-", "sk-ssh-", "sk-ecdsa-")


def public_keys(data: bytes) -> list[str]:
    """The keys of an OpenSSH public key file, a line each. Raises KvmComposeError when there is none."""
    if b"PRIVATE KEY" in data:
        raise KvmComposeError(
            "ssh_public_key_location names a private key, which must not leave this machine",
            hint="name the file that ends in .pub",
        )
    lines = [line.strip() for line in data.decode(errors="replace").splitlines()]
    keys = [line for line in lines if line.startswith(_KEY_TYPES)]
    if not keys:
        raise KvmComposeError("the file at ssh_public_key_location has no OpenSSH public key in it")
    return keys


def build(content: Rendered, sources: Sources) -> bytes:
    """The whole image."""
    values: SeedValues = content.values
    known: dict[str, Any] = msgspec.to_builtins(values)
    keys = sources.files[KEY_FILE][0].data
    known["ssh_authorized_keys"] = public_keys(keys)
    known["environment"] = environment = _variables(values, content, sources)
    user_data = sources.templates.yaml("user-data.j2", known).encode()
    network_config = sources.templates.yaml("network-config.j2", known).encode()
    carried = {name: files for name, files in sources.files.items() if name not in _NOT_CARRIED}
    small = sum(len(file.data) for files in carried.values() for file in files) < _SHARED_LIMIT
    pack = _shared_archive if small else _archive
    archive = pack(tuple(environment.items()), tuple(carried.items()), sources.epoch)
    digest = hashlib.sha256()
    for part in (user_data, network_config, archive):
        digest.update(hashlib.sha256(part).digest())
    # a new id makes cloud-init apply changed data at the next boot
    known["instance_id"] = f"{values.hostname}-{digest.hexdigest()[:16]}"
    files = {
        "meta-data": sources.templates.yaml("meta-data.j2", known).encode(),
        "user-data": user_data,
        "network-config": network_config,
        "context.tar": archive,
    }
    return _iso(files, sources.epoch)


def _variables(values: SeedValues, content: Rendered, sources: Sources) -> dict[str, str]:
    """Those of the YAML and of the environment file. Raises InputError."""
    if ENVIRONMENT_FILE not in sources.files:
        return values.environment
    data = sources.files[ENVIRONMENT_FILE][0].data
    variables, problems = parse_environment(data, content.files[ENVIRONMENT_FILE])
    if problems:
        raise InputError(problems)
    return dict(sorted((values.environment | variables).items()))


def _archive(
    environment: tuple[tuple[str, str], ...],
    carried: tuple[tuple[str, tuple[CarriedFile, ...]], ...],
    epoch: int,
) -> bytes:
    """What lands below /etc/nocloud: sorted, owned by root, all of one time."""
    members = {
        "env.sh": CarriedFile("env.sh", _ENV_SCRIPT, executable=True),
        "environment": CarriedFile("environment", _environment(environment)),
    }
    for name, files in carried:
        for file in files:
            if name == CONTEXT:
                members[f"{CONTEXT}/{file.path}"] = file
            else:  # a script: setup/00-name or run/00-name
                members[name] = msgspec.structs.replace(file, executable=True)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for folder in ("context", "run", "setup"):
            tar.addfile(_member(folder, tarfile.DIRTYPE, 0o755, epoch))
        for name, file in sorted(members.items()):
            if file.link_target is not None:
                info = _member(name, tarfile.SYMTYPE, 0o777, epoch)
                info.linkname = file.link_target
                tar.addfile(info)
            elif file.is_folder:
                tar.addfile(_member(name, tarfile.DIRTYPE, 0o755, epoch))
            else:
                info = _member(name, tarfile.REGTYPE, 0o755 if file.executable else 0o644, epoch)
                info.size = len(file.data)
                tar.addfile(info, io.BytesIO(file.data))
    return buffer.getvalue()


#: Many guests have the same scripts and contexts.
_shared_archive = lru_cache(maxsize=16)(_archive)


def _member(name: str, kind: bytes, mode: int, epoch: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.mode = mode
    info.mtime = epoch
    info.uname = info.gname = "root"
    return info


def _environment(environment: tuple[tuple[str, str], ...]) -> bytes:
    """Lines that a shell can source, whatever the values hold."""
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in environment).encode()


_pycdlib_lock = threading.Lock()


@contextlib.contextmanager
def _stopped_clock(epoch: int) -> Iterator[None]:
    """Pycdlib writes the time of day into every record and offers no way to give another."""
    stopped = SimpleNamespace(
        time=lambda: float(epoch), localtime=clock.gmtime, gmtime=clock.gmtime,
        strftime=clock.strftime, strptime=clock.strptime, struct_time=clock.struct_time,
    )  # fmt: skip
    modules: tuple[Any, ...] = (pycdlib.pycdlib, headervd, dates, utils)
    with _pycdlib_lock:
        for module in modules:
            module.time = stopped
        try:
            yield
        finally:
            for module in modules:
                module.time = clock


def _iso(files: dict[str, bytes], epoch: int) -> bytes:
    with _stopped_clock(epoch):
        iso = pycdlib.PyCdlib()
        iso.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident="CIDATA")
        for number, (name, data) in enumerate(files.items()):
            iso.add_fp(
                io.BytesIO(data),
                len(data),
                iso_path=f"/SEED{number}.;1",
                rr_name=name,
                joliet_path=f"/{name}",
                file_mode=0o100644,
            )
        buffer = io.BytesIO()
        iso.write_fp(buffer)
        iso.close()
    return buffer.getvalue()
