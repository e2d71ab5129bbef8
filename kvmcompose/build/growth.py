"""Disks with data whose size alone has changed: they grow in place, keep what they have, and never shrink.

A disk's recipe says how large it is to be, its header how large it is. So the build after one that was killed
records that a disk has grown, and a disk that a snapshot has made smaller again grows again.
"""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path

import msgspec

from kvmcompose.build.decision import Disposition, Making
from kvmcompose.build.ledger import LedgerEntry
from kvmcompose.build.recipes import GIB, Recipes
from kvmcompose.core.artefact import Artefact, Blank, Content
from kvmcompose.effects import process
from kvmcompose.hosts.transfer_plan import read_sent
from kvmcompose.images.qcow2 import IN_USE, ImageHeader, resize_command


class Sizes:
    """Decides on the sizes of one project's disks."""

    def __init__(self, folder: Path, recipes: Recipes) -> None:
        self._folder = folder
        self._recipes = recipes
        self._earlier: dict[tuple[Content, str], int | None] = {}

    @cached_property
    def _below(self) -> frozenset[str]:
        return self._recipes.golden_paths()

    def earlier(self, known: Making, record: LedgerEntry) -> int | None:
        """Return the GiB in a disk's recipe when it was built; None if more than that has changed."""
        # most guests have the same disk
        key = known.artefact.content, record.recipe
        if key not in self._earlier:
            self._earlier[key] = self._recipes.gigabytes_of(*key)
        return self._earlier[key]

    @cached_property
    def _sent(self) -> dict[str, str]:
        """The host that each disk was sent to, as far as that was recorded."""
        return {path: host for host, sent in read_sent(self._folder).items() for path in sent.files}

    def elsewhere(self, known: Making, record: LedgerEntry) -> str | None:
        """Say what becomes of a larger disk on the host that has it, None if it was sent to none."""
        before, after = self.earlier(known, record), self._recipes.gigabytes(known.artefact.content)
        host = self._sent.get(known.path)
        if host is None or before is None or after is None or before >= after:
            return None
        return f"the one on {host} grows by {after - before} GiB at the next up, data kept"

    def of_used(self, known: Making, record: LedgerEntry, header: ImageHeader | None) -> Making | None:
        """Decide on a disk with data, None if there is nothing to say of its size.

        ``header`` is None for a disk that cannot be read at present.
        """
        content = known.artefact.content
        before, after = self.earlier(known, record), self._recipes.gigabytes(content)
        wanted = self._recipes.size(content)
        if before is None or after is None or wanted is None:
            return None
        found = header.virtual_size if header is not None else wanted - (after - before) * GIB
        if found > wanted and before != after:
            return msgspec.structs.replace(
                known,
                action=Disposition.IN_USE,
                reasons=(f"disks with data do not shrink: {in_gib(found)} -> {in_gib(wanted)}",),
                hint=f"{_key(known.artefact)}: {before} keeps it; --provision makes a new disk: the data is"
                " lost",
            )
        if before == after and (found >= wanted or known.path in self._below):
            return None
        return self._grown(known, header, found, wanted)

    def of_unknown(self, known: Making, header: ImageHeader | None) -> Making | None:
        """Decide on a disk that the ledger does not know, and that is smaller than it is to be."""
        wanted = self._recipes.size(known.artefact.content)
        if header is None or wanted is None or header.virtual_size >= wanted:
            return None
        return self._grown(known, header, header.virtual_size, wanted)

    def _grown(self, known: Making, header: ImageHeader | None, found: int, wanted: int) -> Making | None:
        if header is not None and (header.data_file is not None or header.encryption is not None):
            return None
        change = f"from {in_gib(found)} to {in_gib(wanted)}"
        if known.path in self._below:
            # the clones' data refers to what is in it, and a host that has it would be sent it again
            reason = f"its clones grow to {in_gib(wanted)}, data kept; their golden image stays as it is"
            return msgspec.structs.replace(known, action=Disposition.GROW, reasons=(reason,))
        reason = f"grows {change}, data kept" if found < wanted else f"has {in_gib(wanted)} already"
        # one that has grown while its guest runs cannot be opened now, and need not
        size = wanted if found < wanted else None
        return msgspec.structs.replace(known, action=Disposition.GROW, reasons=(reason,), size=size)


def enlarge(path: Path, size: int) -> str | None:
    """Enlarge a qcow2 disk to ``size`` bytes in place. Returns when it can be done if that is not now.

    QEMU locks the disks that it uses, and qemu-img changes none of them. Raises KvmComposeError.
    """
    if not os.access(path, os.W_OK):
        return "when you may write to it, as its owner can"
    try:
        process.run(resize_command(str(path), size))
    except process.ProcessError as error:
        if IN_USE in error.stderr:
            return "while its guest runs: kvm-compose up"
        raise
    return None


def _key(artefact: Artefact) -> str:
    """Return the key of the YAML that a disk's size follows from."""
    is_further = artefact.task.count(":") > 1
    return "size_gigabytes" if is_further and isinstance(artefact.content, Blank) else "expand_gigabytes"


def in_gib(size: int) -> str:
    """Return a size in bytes as ``1.5 GiB``."""
    return f"{round(size / GIB, 2):g} GiB"
