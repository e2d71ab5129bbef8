"""What a lab may reach on the host, item by item. Each item requires the user's consent."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from enum import StrEnum

import msgspec


class PrivilegeKind(StrEnum):
    """What a lab reaches on the host."""

    TEMPLATE = "template"
    NIC = "network interface"
    CONTROLLER = "OpenFlow controller"
    LIBVIRT = "libvirt"
    PROGRAM = "program"
    DEVICE = "device"
    HOST_DEVICE = "host device"
    FILE = "file"
    XML = "XML"
    PROVIDER = "provider network"
    HOST_PORT = "interface of the host"
    DATABASE = "OVN database"
    INTEGRATION = "integration bridge"
    ENGINE = "container engine"
    RIGHT = "right"
    SETTING = "container setting"
    BUILD = "image build"


_REASONS = {
    PrivilegeKind.TEMPLATE: "generates XML for libvirt",
    PrivilegeKind.NIC: "becomes part of the testbed: guests can reach its network",
    PrivilegeKind.CONTROLLER: "the host connects to it, and it controls the host's switch",
    PrivilegeKind.LIBVIRT: "is used instead of qemu:///system",
    PrivilegeKind.PROGRAM: "names a program or its arguments",
    PrivilegeKind.DEVICE: "gives a guest a device of the host",
    PrivilegeKind.HOST_DEVICE: "the host loses it to the guest, which can change all that it stores",
    PrivilegeKind.FILE: "is a file outside the project",
    PrivilegeKind.XML: "is not known to be harmless",
    PrivilegeKind.PROVIDER: "guests can reach what is connected to that bridge",
    PrivilegeKind.HOST_PORT: "guests can reach the host at it",
    PrivilegeKind.DATABASE: "the hosts connect to it, and it controls their integration bridges",
    PrivilegeKind.INTEGRATION: "OVN replaces its flows: what else is connected to it loses its network",
    PrivilegeKind.ENGINE: "is used instead of the host's own",
    PrivilegeKind.RIGHT: "lets a container do more than others on the host",
    PrivilegeKind.SETTING: "is not known to be harmless",
    PrivilegeKind.BUILD: "runs commands in containers of the main host, whose engine fetches what it names",
}


class Privilege(msgspec.Struct, frozen=True, order=True):
    """Something on the host that a lab reaches.

    ``where`` is what requests it (an artefact, a key of the config), ``what`` is its name and value.
    ``digest`` represents content that is too long to show, such as a template's.
    """

    kind: PrivilegeKind
    what: str
    where: str
    digest: str = ""

    @property
    def why(self) -> str:
        """Why it requires the user's consent."""
        return _REASONS[self.kind]

    def __str__(self) -> str:
        """Return one line that is safe to show on a terminal."""
        text = f"{self.where}: {self.kind} {self.what}: {self.why}"
        return "".join(each if each.isprintable() else f"\\u{ord(each):04x}" for each in text)


def privileges_digest(project: str, privileges: Iterable[Privilege]) -> str:
    """Return the SHA-256 of a project's list of privileges, in hexadecimal. The order does not matter."""
    return hashlib.sha256(msgspec.json.encode([project, sorted(set(privileges))])).hexdigest()
