"""The bytes of a cloud-init seed: an ISO 9660 image labelled CIDATA, the same for the same recipe.

Format: ECMA-119 with Joliet (what cloudbase-init reads) and Rock Ridge (what Linux reads).
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import shlex
import threading
import time as clock
from collections.abc import Iterator, Mapping
from functools import lru_cache
from types import SimpleNamespace
from typing import Any, BinaryIO, cast

import msgspec
import pycdlib
from pycdlib import dates, headervd, utils

from kvmcompose.core.artefact import Rendered
from kvmcompose.core.environment import parse_environment
from kvmcompose.core.errors import InputError
from kvmcompose.core.public_keys import parse_public_keys
from kvmcompose.render.archive import PackedContext, end, pack_context, packed_files
from kvmcompose.render.cloud_init import PREFIX, network_config, user_data, vendor_data
from kvmcompose.render.inputs import Sources
from kvmcompose.render.seed import ENVIRONMENT_FILE, KEY_FILE, SeedValues

#: Prints one variable, or sources them all: ``. /etc/nocloud/env.sh``.
_ENV_SCRIPT = b"""\
#!/bin/sh
# env.sh NAME prints the value of NAME; `. /etc/nocloud/env.sh` sets all of them.
set -a
. /etc/nocloud/environment
set +a
[ $# -eq 0 ] || printenv "$1"
"""

#: Up to this size (bytes) scripts are packed once for all guests that share them.
_SHARED_LIMIT = 2**20

#: What the renderer reads itself.
_NOT_CARRIED = frozenset({KEY_FILE, ENVIRONMENT_FILE})


def public_keys(data: bytes, name: str) -> list[str]:
    """Return the lines of a file of public keys called ``name``. Raises InputError."""
    keys, problems = parse_public_keys(data, name)
    if problems:
        raise InputError(problems)
    return keys


def write(content: Rendered, sources: Sources, out: BinaryIO) -> None:
    """Write the whole image."""
    values: SeedValues = content.values
    known: dict[str, Any] = msgspec.to_builtins(values)
    keys = sources.files[KEY_FILE]
    known["ssh_authorized_keys"] = public_keys(keys, content.files[KEY_FILE])
    known["environment"] = environment = _variables(values, content, sources)
    cloud_init = _cloud_init(values, known, sources)
    context = sources.context or _no_context(sources.epoch)
    scripts = {
        name: data
        for name, data in sources.files.items()
        if name not in _NOT_CARRIED and not name.startswith(PREFIX)
    }
    pack = _shared_files if sum(map(len, scripts.values())) < _SHARED_LIMIT else _packed_files
    rest = pack(tuple(environment.items()), tuple(scripts.items()), sources.epoch, context.size)
    archive = context.sha256.copy()
    archive.update(rest)
    digest = hashlib.sha256()
    for part in (cloud_init if values.domain is None else _as_before(values, known, sources)).values():
        digest.update(hashlib.sha256(part).digest())
    digest.update(archive.digest())
    # a new id makes cloud-init apply changed data at the next boot
    known["instance_id"] = f"{values.domain or values.hostname}-{digest.hexdigest()[:16]}"
    meta_data = sources.templates.yaml("meta-data.j2", known).encode()
    with context.open() as start:
        joined = cast(BinaryIO, _Joined(start, context.size, rest))
        _write_iso(
            {
                "meta-data": (io.BytesIO(meta_data), len(meta_data)),
                **{name: (io.BytesIO(data), len(data)) for name, data in cloud_init.items()},
                "context.tar": (joined, context.size + len(rest)),
            },
            sources.epoch,
            out,
        )


def _cloud_init(values: SeedValues, known: Mapping[str, Any], sources: Sources) -> dict[str, bytes]:
    """Return what cloud-init reads beside meta-data: ours, and what the user has of it."""
    ours = sources.templates.yaml("user-data.j2", known)
    network = sources.templates.yaml("network-config.j2", known).encode()
    given = values.cloud_init
    if given is None:
        return {"user-data": ours.encode(), "network-config": network}
    vendor = vendor_data(given, sources.files)
    return {
        "user-data": user_data(given, sources.files, ours),
        "network-config": network_config(given, sources.files) or network,
        **({"vendor-data": vendor} if vendor is not None else {}),
    }


def _as_before(values: SeedValues, known: Mapping[str, Any], sources: Sources) -> dict[str, bytes]:
    """Return the same as it would be if the guest still had its first name."""
    return _cloud_init(values, {**known, "guest": known["identity"], "hostname": known["domain"]}, sources)


class _Joined(io.RawIOBase):
    """A file and bytes behind it as one file, as far as pycdlib reads it."""

    def __init__(self, start: BinaryIO, size: int, rest: bytes) -> None:
        self._start = start
        self._size = size
        self._rest = rest
        self._position = 0

    def seek(self, offset: int, _whence: int = io.SEEK_SET) -> int:
        self._position = offset
        return offset

    def read(self, size: int = -1) -> bytes:
        """Read exactly ``size`` bytes: pycdlib takes fewer for the end."""
        data = b""
        if self._position < self._size:
            self._start.seek(self._position)
            data = self._start.read(min(size, self._size - self._position))
        begin = self._position + len(data) - self._size
        if len(data) < size and begin >= 0:
            data += self._rest[begin : begin + size - len(data)]
        self._position += len(data)
        return data


@lru_cache(maxsize=1)
def _no_context(epoch: int) -> PackedContext:
    """The first part of the archive of guests without a context."""
    out = io.BytesIO()
    sha256, _ = pack_context((), epoch, out)
    data = out.getvalue()
    return PackedContext(lambda: io.BytesIO(data), len(data), sha256)


def _variables(values: SeedValues, content: Rendered, sources: Sources) -> dict[str, str]:
    """Those of the YAML and of the environment file. Raises InputError."""
    if ENVIRONMENT_FILE not in sources.files:
        return values.environment
    data = sources.files[ENVIRONMENT_FILE]
    variables, problems = parse_environment(data, content.files[ENVIRONMENT_FILE])
    if problems:
        raise InputError(problems)
    return dict(sorted((values.environment | variables).items()))


def _packed_files(
    environment: tuple[tuple[str, str], ...], scripts: tuple[tuple[str, bytes], ...], epoch: int, start: int
) -> bytes:
    """The part of the archive behind the ``start`` bytes of the context: the environment and scripts."""
    files = {
        "env.sh": (_ENV_SCRIPT, True),
        "environment": (_environment(environment), False),
        **{name: (data, True) for name, data in scripts},  # setup/00-name or run/00-name
    }
    data = packed_files(files, epoch)
    return data + end(start + len(data))


#: Many guests have the same scripts and environment.
_shared_files = lru_cache(maxsize=16)(_packed_files)


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


def _write_iso(files: Mapping[str, tuple[BinaryIO, int]], epoch: int, out: BinaryIO) -> None:
    """Write an image of files, each with its size in bytes."""
    with _stopped_clock(epoch):
        iso = pycdlib.PyCdlib()
        iso.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident="CIDATA")
        for number, (name, (file, size)) in enumerate(files.items()):
            iso.add_fp(
                file,
                size,
                iso_path=f"/SEED{number}.;1",
                rr_name=name,
                joliet_path=f"/{name}",
                file_mode=0o100644,
            )
        iso.write_fp(out)
        iso.close()
