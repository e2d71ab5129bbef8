"""Find kernel modules and their dependencies, in the order in which they can be loaded."""

from __future__ import annotations

import lzma
import re
from typing import TYPE_CHECKING

from kvmcompose.core.errors import KvmComposeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

_DEPENDS = re.compile(rb"(?<![^\0])depends=([^\0]*)\0")
#: Ends a signed module. Before it are the signature and 12 bytes of facts, the last 4 of which are the
#: length of the signature (Linux, include/linux/module_signature.h).
_SIGNED = b"~Module signature appended~\n"
_SIGNATURE_FACTS = 12  # bytes


def unsigned(module: bytes) -> bytes:
    """Return a module without its signature, which takes an emulated processor some 10 ms to verify."""
    if not module.endswith(_SIGNED):
        return module
    end = len(module) - len(_SIGNED)
    length = int.from_bytes(module[end - 4 : end], "big")
    return module[: end - _SIGNATURE_FACTS - length]


def needs(module: bytes) -> tuple[str, ...]:
    """Return the names of the modules that a module depends on."""
    found = _DEPENDS.search(module)
    return tuple(name.replace("-", "_") for name in found[1].decode().split(",") if name) if found else ()


def loading_order(wanted: Iterable[str], read: Callable[[str], bytes | None]) -> dict[str, bytes]:
    """Return modules by name, each after those it depends on.

    ``read`` returns the content of a module, or None for one that is built into the kernel.
    """
    found: dict[str, bytes] = {}

    def add(name: str) -> None:
        data = read(name)
        if name in found or data is None:
            return
        for other in needs(data):
            add(other)
        found[name] = data

    for name in wanted:
        add(name)
    return found


def module_reader(tree: Path) -> Callable[[str], bytes | None]:
    """Return a function that reads modules by name, without signature, from an unpacked kernel package."""
    files = {path.name.partition(".")[0].replace("-", "_"): path for path in tree.rglob("*.ko*")}

    def read(name: str) -> bytes | None:
        path = files.get(name)
        if path is None:
            return None
        data = path.read_bytes()
        if path.suffix == ".xz":
            data = lzma.decompress(data)
        elif path.suffix != ".ko":
            raise KvmComposeError(f"the kernel module {path.name} has an unknown compression")
        return unsigned(data)

    return read
