"""A folder of the host that a domain sees (libvirt, "Domain XML format", Filesystems)."""

from __future__ import annotations

import msgspec


class Filesystem(msgspec.Struct, frozen=True, kw_only=True):
    """A folder ``source`` of the host, which the guest mounts by its ``tag``, by virtiofs or else 9p."""

    source: str
    tag: str
    virtiofs: bool
    readonly: bool
