"""The libvirt driver on libvirt's test driver, which keeps its state in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import libvirt
from recorder import Recorder

from kvmcompose.core.libvirt_uri import LibvirtUri
from kvmcompose.hosts.command import Completed
from kvmcompose.providers.libvirt.driver import Libvirt

_DISK = """\
<disk type="file" device="disk"><driver name="qemu" type="{format}"/><source file="/p/{target}"/>
<target dev="{target}" bus="virtio"/>{more}</disk>"""
THEIRS = "their-guest"
THEIR_NETWORK = "<network><name>default</name><bridge name='virbr0'/></network>"
really_open = libvirt.open


def domain_xml(
    name: str = "p-web", *, project: str | None = "p", vcpus: int = 1, kind: str = "qcow2", more: str = ""
) -> str:
    mark = f'<kc:guest xmlns:kc="urn:kvmcompose:guest:1" project="{project}" name="{name[2:]}" host="main"/>'
    return (
        f"<domain type='test'><name>{name}</name>"
        f"<metadata>{mark if project else ''}</metadata>"
        f"<memory>1024</memory><vcpu>{vcpus}</vcpu><os><type>hvm</type></os>"
        f"<devices>{_DISK.format(format=kind, target='vda', more=more)}"
        f"{_DISK.format(format='raw', target='vdb', more='<readonly/>')}</devices></domain>"
    )


def network_xml(name: str = "p-network", *, project: str | None = "p", address: str = "10.1.0.1") -> str:
    mark = f'<kcn:network xmlns:kcn="urn:kvmcompose:network:1" project="{project}"/>' if project else ""
    return (
        f"<network><name>{name}</name><metadata>{mark}</metadata><bridge name='{name[:10]}'/>"
        f"<ip address='{address}' netmask='255.255.255.0'/></network>"
    )


class Machine(Recorder):
    ran: Callable[[Sequence[str]], None] = staticmethod(lambda _argv: None)

    async def reach(self) -> None:
        pass

    async def run(self, argv: Sequence[str], **options: Any) -> Completed:
        self.ran(argv)
        return await super().run(argv, **options)


class Bench:
    """The driver of a host. Its libvirt (``connection``) also has a domain and a network of others."""

    connection: libvirt.virConnect

    def __init__(self) -> None:
        self.machine = Machine(("qemu-img info", 0, b'{"snapshots": []}', b""))
        self.driver = Libvirt(LibvirtUri(), self.machine)

    def run(self, *calls: Callable[[], Awaitable[Any]]) -> Any:
        """The result of the last call."""

        async def every() -> Any:
            found = None
            for call in calls:
                found = await asyncio.wait_for(call(), 20)
            return found

        return asyncio.run(every())

    def start(self, **options: Any) -> None:
        self.run(lambda: self.driver.domains.start(domain_xml(**options)))

    def domain(self, name: str = "p-web") -> libvirt.virDomain:
        return self.connection.lookupByName(name)

    @property
    def states(self) -> dict[str, str]:
        found = self.run(lambda: self.driver.domains.states("p"))
        return {name: state.state for name, state in found.items()}

    @property
    def removed(self) -> list[str]:
        return [word for each in self.machine.commands if each[0] == "rm" for word in each[3:]]


def fails_with(code: int, message: str, domain: int = libvirt.VIR_FROM_NETWORK) -> Callable[..., Any]:
    def fail(*_: object) -> Any:
        error = libvirt.libvirtError("it failed")
        error.err = (code, domain, message, 2, None, None, None, -1, -1)
        raise error

    return fail
