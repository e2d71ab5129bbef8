"""Keys of a guest's network interface that both network dialects have (libvirt, "Network interfaces")."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

#: The model of an interface that names none. Only it has several queues.
VIRTIO = "virtio"
#: Models that libvirt does not put into ports of PCI Express: they are devices of conventional PCI, but for
#: vmxnet3, which libvirt 9.0 takes for one.
CONVENTIONAL = frozenset({"e1000", "rtl8139", "pcnet", "ne2k_pci", "vmxnet3"})


class Rate(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A limit as libvirt has it: ``average`` and ``peak`` in KiB/s, ``burst`` in KiB."""

    average: int
    peak: int | None = None
    burst: int | None = None

    def __str__(self) -> str:
        """Return it in words, for a plan."""
        more = {"peak": self.peak, "burst": self.burst}
        return ", ".join([str(self.average), *(f"{key} {each}" for key, each in more.items() if each)])


class Bandwidth(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Limits of what a guest receives (``inbound``) and sends (``outbound``)."""

    inbound: Rate | None = None
    outbound: Rate | None = None

    def __str__(self) -> str:
        """Return it in words, for a plan."""
        parts = {"inbound": self.inbound, "outbound": self.outbound}
        return "; ".join(f"{key} {each}" for key, each in parts.items() if each is not None)

    @property
    def enforced(self) -> Bandwidth:
        """The limits as Open vSwitch needs them: of what a guest receives, it only limits the ``peak``."""
        inbound = self.inbound
        if inbound is None or inbound.peak is not None:
            return self
        return Bandwidth(Rate(inbound.average, inbound.average, inbound.burst), self.outbound)


class Trunk(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """The VLANs whose frames a port carries with their tags. ``native`` is that of frames without one."""

    trunk: tuple[int, ...]
    native: int | None = None

    def __str__(self) -> str:
        """Return it in words, for a plan."""
        native = f", native {self.native}" if self.native is not None else ""
        return f"trunk {' '.join(map(str, self.trunk))}{native}"


#: The VLAN of a port: a tag of an access port, or a trunk; None for a port of no VLAN.
Vlan = int | Trunk | None
#: The VLAN of frames without a tag on ports of no VLAN.
UNTAGGED = 0


class NicKeys(msgspec.Struct, frozen=True):
    """The keys as written, with their defaults. ``mtu`` is in bytes, None for that of the testbed."""

    model: str = VIRTIO
    queues: int = 1
    mtu: int | None = None
    link: Literal["up", "down"] = "up"
    bandwidth: Bandwidth | None = None
    vlan: Vlan = None
    port_security: bool = False

    @property
    def is_in_reach(self) -> bool:
        """Whether what is connected to the bridge itself, in no VLAN, reaches the interface."""
        return self.link == "up" and self.vlan is None


_USUAL = NicKeys()


def nic_keys(entry: Mapping[str, Any]) -> NicKeys:
    """Return the keys of an interface in the YAML, which has the shape of the schema.

    A default that is written down is as good as none: it is not in the state either.
    """
    keys = (key for key in NicKeys.__struct_fields__ if key in entry)
    given = {key: entry[key] for key in keys if entry[key] != getattr(_USUAL, key)}
    return msgspec.convert(given, NicKeys) if given else _USUAL


def as_written(keys: NicKeys) -> dict[str, Any]:
    """Return the keys of an interface as the YAML has them, without defaults."""
    given = {key: getattr(keys, key) for key in NicKeys.__struct_fields__}
    return msgspec.to_builtins({key: each for key, each in given.items() if each != getattr(_USUAL, key)})  # type: ignore[no-any-return]


def normal_vlan(vlan: Vlan) -> Vlan:
    """Return a VLAN such that those are equal that mean the same: the order of a trunk has no meaning."""
    return Trunk(tuple(sorted(vlan.trunk)), vlan.native) if isinstance(vlan, Trunk) else vlan


def vlan_of(vlan: Vlan) -> int | None:
    """Return the VLAN that frames without a tag belong to; None for a trunk that carries no such frames."""
    if isinstance(vlan, Trunk):
        return vlan.native
    return UNTAGGED if vlan is None else vlan
