"""What a lab does to the host, item by item: what needs the user's word before it happens."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from enum import StrEnum

import msgspec


class PrivilegeKind(StrEnum):
    """What is reached for."""

    TEMPLATE = "template"
    NIC = "network interface"
    CONTROLLER = "OpenFlow controller"
    LIBVIRT = "libvirt"
    PROGRAM = "program"
    DEVICE = "device"
    FILE = "file"
    XML = "XML"


_REASONS = {
    PrivilegeKind.TEMPLATE: "generates XML for libvirt",
    PrivilegeKind.NIC: "becomes part of the testbed: guests can reach its network",
    PrivilegeKind.CONTROLLER: "the host connects to it, and it controls the host's switch",
    PrivilegeKind.LIBVIRT: "is used instead of qemu:///system",
    PrivilegeKind.PROGRAM: "names a program or its arguments",
    PrivilegeKind.DEVICE: "gives a guest a device of the host",
    PrivilegeKind.FILE: "is a file outside the project",
    PrivilegeKind.XML: "is not known to be harmless",
}


class Privilege(msgspec.Struct, frozen=True, order=True):
    """One thing that a lab does to the host.

    ``where`` is what asks for it (an artefact, a key of the config), ``what`` is wanted, by name and value.
    ``digest`` stands for content that is too long to show, such as a template's.
    """

    kind: PrivilegeKind
    what: str
    where: str
    digest: str = ""

    @property
    def why(self) -> str:
        """Why it needs the user's word."""
        return _REASONS[self.kind]

    def __str__(self) -> str:
        """One line, fit for a terminal."""
        text = f"{self.where}: {self.kind} {self.what}: {self.why}"
        return "".join(each if each.isprintable() else f"\\u{ord(each):04x}" for each in text)


def privileges_digest(project: str, privileges: Iterable[Privilege]) -> str:
    """What stands for exactly this list of one project, in hexadecimal."""
    return hashlib.sha256(msgspec.json.encode([project, sorted(set(privileges))])).hexdigest()
