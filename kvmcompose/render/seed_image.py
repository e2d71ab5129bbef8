"""The bytes of a cloud-init seed: an ISO 9660 image labelled CIDATA, the same for the same recipe.

For Windows with cloudbase-init there is no archive, which nothing would unpack, and the image may be a config
drive of OpenStack in place of NoCloud's.
"""

from __future__ import annotations

import hashlib
import io
import shlex
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, BinaryIO, cast

import msgspec

from kvmcompose.core.artefact import Rendered
from kvmcompose.core.environment import parse_environment
from kvmcompose.core.errors import InputError
from kvmcompose.core.public_keys import parse_public_keys
from kvmcompose.render.archive import PackedContext, end, pack_context, packed_files
from kvmcompose.render.cloud_init import PREFIX, network_config, user_data, vendor_data
from kvmcompose.render.inputs import Sources
from kvmcompose.render.iso_image import write_iso
from kvmcompose.render.seed import ENVIRONMENT_FILE, KEY_FILE, LABELS, SeedValues
from kvmcompose.render.windows_seed import instance_id, windows_files

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
    windows = values.windows
    if windows is not None:
        files = {name: (io.BytesIO(data), len(data)) for name, data in cloud_files(content, sources).items()}
        write_iso(files, LABELS[windows.datasource], sources.epoch, out)
        return
    context = sources.context or _no_context(sources.epoch)
    rest = _rest(values, content, sources, context)
    found = _linux_files(content, sources, _digest_of(context, rest))
    members = {name: (cast(BinaryIO, io.BytesIO(data)), len(data)) for name, data in found.items()}
    with context.open() as start:
        joined = cast(BinaryIO, _Joined(start, context.size, rest))
        write_iso(
            {**members, "context.tar": (joined, context.size + len(rest))},
            LABELS["nocloud"],
            sources.epoch,
            out,
        )


def cloud_files(content: Rendered, sources: Sources) -> dict[str, bytes]:
    """Return the files that cloud-init or cloudbase-init reads, by their paths in the image."""
    values: SeedValues = content.values
    if values.windows is not None:
        known = _known(values, content, sources)
        network = sources.templates.yaml("network-config.j2", known).encode()
        return windows_files(values, values.windows, sources.files, known["ssh_authorized_keys"], network)
    context = sources.context or _no_context(sources.epoch)
    return _linux_files(content, sources, _digest_of(context, _rest(values, content, sources, context)))


def _digest_of(context: PackedContext, rest: bytes) -> bytes:
    archive = context.sha256.copy()
    archive.update(rest)
    return archive.digest()


def _rest(values: SeedValues, content: Rendered, sources: Sources, context: PackedContext) -> bytes:
    """Return the part of the archive behind the context."""
    scripts = {
        name: data
        for name, data in sources.files.items()
        if name not in _NOT_CARRIED and not name.startswith(PREFIX)
    }
    pack = _shared_files if sum(map(len, scripts.values())) < _SHARED_LIMIT else _packed_files
    environment = _variables(values, content, sources)
    return pack(tuple(environment.items()), tuple(scripts.items()), sources.epoch, context.size)


def _known(values: SeedValues, content: Rendered, sources: Sources) -> dict[str, Any]:
    """Return what templates see."""
    keys = public_keys(sources.files[KEY_FILE], content.files[KEY_FILE])
    environment = _variables(values, content, sources)
    return {**msgspec.to_builtins(values), "ssh_authorized_keys": keys, "environment": environment}


def _linux_files(content: Rendered, sources: Sources, archive: bytes) -> dict[str, bytes]:
    """Return the files that cloud-init reads. ``archive`` is the digest of what else is in the seed."""
    values: SeedValues = content.values
    known = _known(values, content, sources)
    found = _cloud_init(values, known, sources)
    digest = hashlib.sha256()
    for part in (found if values.domain is None else _as_before(values, known, sources)).values():
        digest.update(hashlib.sha256(part).digest())
    digest.update(archive)
    # a new id makes cloud-init apply changed data at the next boot
    known["instance_id"] = instance_id(values, digest)
    return {"meta-data": sources.templates.yaml("meta-data.j2", known).encode(), **found}


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
