from __future__ import annotations

import asyncio

import pytest
from recorder import Recorder

from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.libvirt.neighbours import answers

MAC = "52:54:00:AA:00:01"
SHOWN = b'[{"dst":"10.1.0.9","dev":"br","lladdr":"52:54:00:aa:00:01","state":["%s"]}]'


@pytest.mark.parametrize(
    ("shown", "wanted"),
    [
        (SHOWN % b"REACHABLE", True),
        (SHOWN % b"STALE", True),
        (SHOWN % b"FAILED", False),
        (SHOWN.replace(b"aa", b"bb") % b"REACHABLE", False),
        (b'[{"dst":"10.1.0.9","dev":"br","state":["INCOMPLETE"]}]', False),
        (b"[]", False),
        (b"", False),
    ],
)
def test_only_the_machine_with_that_mac_address_counts(shown: bytes, wanted: bool) -> None:
    host = Recorder(("ping", 1, b"", b""), ("ip -json", 0, shown, b""))
    assert asyncio.run(answers(host, MAC, "10.1.0.9")) is wanted


def test_what_is_no_list_of_neighbours_is_an_error() -> None:
    host = Recorder(("ip -json", 0, b"what?", b""))
    with pytest.raises(DriverError, match="invalid output"):
        asyncio.run(answers(host, MAC, "10.1.0.9"))
