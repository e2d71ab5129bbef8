"""What an image of files alone is made of; its renderer takes its time to import."""

from __future__ import annotations

import msgspec


class IsoValues(msgspec.Struct, frozen=True):
    """An image of the files of the recipe. ``empty`` are names of files without content."""

    label: str
    empty: tuple[str, ...] = ()
