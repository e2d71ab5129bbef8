"""Writes ISO 9660 images: the same bytes for the same files.

Format: ECMA-119 with Joliet (what Windows reads) and Rock Ridge (what Linux reads).
"""

from __future__ import annotations

import contextlib
import io
import posixpath
import threading
import time as clock
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any, BinaryIO

import pycdlib
from pycdlib import dates, headervd, utils

from kvmcompose.core.artefact import Rendered
from kvmcompose.render.inputs import Sources
from kvmcompose.render.iso_values import IsoValues

_pycdlib_lock = threading.Lock()


def write(content: Rendered, sources: Sources, out: BinaryIO) -> None:
    """Write an image of the recipe's files by their names there."""
    values: IsoValues = content.values
    files = dict.fromkeys(values.empty, b"") | dict(sources.files)
    members = {name: (io.BytesIO(data), len(data)) for name, data in sorted(files.items())}
    write_iso(members, values.label, sources.epoch, out)


def write_iso(files: Mapping[str, tuple[BinaryIO, int]], label: str, epoch: int, out: BinaryIO) -> None:
    """Write an image called ``label`` of files by their paths, each with its size in bytes.

    ``epoch`` is the time of all of them, in seconds since 1970.
    """
    with _stopped_clock(epoch):
        iso = pycdlib.PyCdlib()
        iso.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident=label)
        folders = {"": ""}
        for number, (path, (file, size)) in enumerate(files.items()):
            folder, name = posixpath.split(path)
            iso.add_fp(
                file,
                size,
                iso_path=f"{_add_folder(iso, folder, folders)}/SEED{number}.;1",
                rr_name=name,
                joliet_path=f"/{path}",
                file_mode=0o100644,
            )
        iso.write_fp(out)
        iso.close()


def _add_folder(iso: Any, path: str, known: dict[str, str]) -> str:
    """Return the ISO 9660 path of a folder, which is added with those above it if it is not there."""
    if path not in known:
        above, name = posixpath.split(path)
        inside = f"{_add_folder(iso, above, known)}/DIR{len(known)}"
        iso.add_directory(iso_path=inside, rr_name=name, joliet_path=f"/{path}", file_mode=0o040755)
        known[path] = inside
    return known[path]


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
