"""What the config says about OVN: its part on each host, and databases that exist already."""

from __future__ import annotations

import msgspec

#: The provider network of a host without a config of its own, as in TestbedOS: network, bridge, its address.
USUAL_MAPPINGS = (("public", "br-ex", "172.16.1.1/24"),)


class ChassisConfig(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The ``ovn`` section of a host. None is for what follows from the host's own name and address.

    ``bridge`` is the integration bridge. ``bridge_mappings`` are provider networks: the network's name, its
    bridge, and the address of the host on that bridge, with its prefix length.
    """

    chassis_name: str | None = None
    bridge: str = "br-int"
    encap_type: str = "geneve"
    encap_ip: str | None = None
    bridge_mappings: tuple[tuple[str, str, str], ...] = USUAL_MAPPINGS


class Remotes(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Databases of an OVN that kvm-compose does not run itself, in the syntax of ovn-nbctl(8), ``--db``.

    Each is the list of the members of a cluster; empty, they are those on the main host. The keys are paths
    of PEM files, for ``ssl``.
    """

    ovn_northbound: tuple[str, ...] = ()
    ovn_southbound: tuple[str, ...] = ()
    ovn_private_key: str | None = None
    ovn_certificate: str | None = None
    ovn_ca_certificate: str | None = None
