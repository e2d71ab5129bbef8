"""What scripts of guests see of a seed, by content."""

from __future__ import annotations

import msgspec


class SeedContents(msgspec.Struct, frozen=True, kw_only=True):
    """What is in a seed. ``scripts`` are digests by path below ``/etc/nocloud``, ``environment`` by name.

    ``user_data`` is the digest of cloud-init's; ``context`` is empty without one. ``archive`` is the digest
    of all that scripts see, empty when the seed cannot be read.
    """

    scripts: dict[str, str] = {}
    context: str = ""
    user_data: str = ""
    environment: dict[str, str] = {}
    archive: str = ""
