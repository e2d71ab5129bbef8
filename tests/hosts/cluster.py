"""The config of test hosts for kvm-compose. The first one is the main host."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from hosts.testbed import TestHost

NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def names() -> Iterator[str]:
    """The names of the hosts in the config."""
    return itertools.chain(NUMBERS, (f"host-{number}" for number in itertools.count(len(NUMBERS) + 1)))


def host_config(hosts: Iterable[TestHost], identity_file: Path) -> dict[str, Any]:
    """Return ``testbed_host_ssh_config`` for hosts that were started with ``ssh`` and ``tunnels``."""
    found: dict[str, Any] = {}
    for name, host in zip(names(), hosts, strict=False):
        found[name] = {"ip": host.address, "virt_type": "qemu", "datapath_type": "netdev"}
        if len(found) == 1:
            found[name]["is_main_host"] = True
        else:
            found[name] |= {"user": "root", "identity_file": str(identity_file), "host_key": host.host_key}
    return found
