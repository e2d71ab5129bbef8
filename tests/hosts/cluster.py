"""Test hosts as kvm-compose is told of them: the first one is the main host."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from hosts.testbed import TestHost

NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def names() -> Iterator[str]:
    """What the hosts are called in the configuration."""
    return itertools.chain(NUMBERS, (f"host-{number}" for number in itertools.count(len(NUMBERS) + 1)))


def host_config(hosts: Iterable[TestHost], identity_file: Path) -> dict[str, Any]:
    """``testbed_host_ssh_config`` of hosts that were started with ``ssh`` and ``tunnels``."""
    found: dict[str, Any] = {}
    for name, host in zip(names(), hosts, strict=False):
        found[name] = {"ip": host.address, "virt_type": "qemu", "datapath_type": "netdev"}
        if len(found) == 1:
            found[name]["is_main_host"] = True
        else:
            found[name] |= {"user": "root", "identity_file": str(identity_file), "host_key": host.host_key}
    return found
