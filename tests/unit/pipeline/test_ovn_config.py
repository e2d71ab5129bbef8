"""The config of OVN: the hosts' sections, as files of the existing system have them, and databases."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the golden projects are a package there

from golden.memory import PUBLIC_KEY, SCHEMAS, MemoryFiles
from kvmcompose.core.chassis import ChassisConfig, Remotes
from kvmcompose.core.errors import InputError
from kvmcompose.core.model import LogicalTestbed, SshKeys
from kvmcompose.pipeline.compile import InputFile, understand
from kvmcompose.pipeline.logical import Settings

LAB = b"""\
machines:
  - name: a
    network: {switch: sw0}
    libvirt: {cpus: 1, memory_mb: 64, libvirt_type: {cloud_image: {name: debian_12}}}
network: {ovn: {switches: {sw0: {subnet: 10.0.0.0/24}}}}
"""
#: As the existing system's server writes it.
OVN = {
    "chassis_name": "main",
    "bridge": "br-int",
    "encap_type": "geneve",
    "encap_ip": "127.0.0.1",
    "main_ovn_remote": "unix:/usr/local/var/run/ovn/ovnsb_db.sock",
    "client_ovn_remote": None,
    "bridge_mappings": [["public", "br-ex", "172.16.1.1/24"]],
}


def understood(*hosts: Any, **more: Any) -> tuple[LogicalTestbed, list[tuple[str, str]]]:
    """Return the testbed, and code and path of each warning."""
    entries = {
        f"h{number}": {"ip": f"192.0.2.{number + 1}", "is_main_host": number == 0, "ovn": ovn}
        for number, ovn in enumerate(hosts)
    }
    config = json.dumps({"testbed_host_ssh_config": entries, **more}).encode()
    files = MemoryFiles(files={"key.pub", "key"}, contents={"key.pub": PUBLIC_KEY})
    settings = Settings("lab", (), SshKeys("key.pub", "key"), lambda host: host)
    _, logical, warnings = understand(
        InputFile("kvm-compose.yaml", LAB), InputFile("config.json", config), SCHEMAS, settings, files
    )
    return logical, [(each.code, each.path) for each in warnings]


def refused(*hosts: Any, **more: Any) -> list[tuple[str, str]]:
    with pytest.raises(InputError) as caught:
        understood(*hosts, **more)
    assert all(each.location.file == "config.json" for each in caught.value.problems)
    return [(each.code, each.path.removeprefix("testbed_host_ssh_config.")) for each in caught.value.problems]


def test_a_host_of_the_existing_system_is_understood_as_it_is_written() -> None:
    logical, warnings = understood(OVN)
    assert logical.hosts[0].ovn == ChassisConfig(chassis_name="main", encap_ip="127.0.0.1")
    assert warnings == [("ignored-key", "testbed_host_ssh_config.h0.ovn.main_ovn_remote")]


def test_what_a_host_leaves_out_follows_from_its_name_and_address() -> None:
    logical, warnings = understood(None, {})
    assert warnings == []
    chassis = [host.chassis for host in logical.hosts]
    assert [(each.chassis_name, each.encap_ip, each.bridge) for each in chassis] == [
        ("h0", "192.0.2.1", "br-int"),
        ("h1", "192.0.2.2", "br-int"),
    ]


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"chassis_name": "h0"}, ("duplicate-name", "h1.ovn.chassis_name")),
        ({"encap_ip": "127.0.0.1"}, ("loopback-address", "h1.ovn.encap_ip")),
        ({"encap_ip": "far"}, ("bad-address", "h1.ovn.encap_ip")),
        ({"encap_ip": "fd00::1%eth0"}, ("bad-address", "h1.ovn.encap_ip")),
        ({"encap_type": "vxlan"}, ("bad-value", "h1.ovn.encap_type")),
        ({"encap_type": "gre"}, ("bad-value", "h1.ovn.encap_type")),
        ({"bridge": "a-bridge-with-a-long-name"}, ("bad-value", "h1.ovn.bridge")),
        ({"bridge_mappings": [["public", "br-ex"]]}, ("too-few", "h1.ovn.bridge_mappings[0]")),
        (
            {"bridge_mappings": [["public", "br-ex", "172.16.1.1"]]},
            ("bad-address", "h1.ovn.bridge_mappings[0][2]"),
        ),
        (
            {"bridge_mappings": [["public", "br-ex", "fd00::1%x/64"]]},
            ("bad-address", "h1.ovn.bridge_mappings[0][2]"),
        ),
        (
            {"bridge_mappings": [["public:br0,a", "br-ex", "172.16.1.1/24"]]},
            ("bad-name", "h1.ovn.bridge_mappings[0][0]"),
        ),
        (
            {"bridge_mappings": [["public", "br,a:br0", "172.16.1.1/24"]]},
            ("bad-name", "h1.ovn.bridge_mappings[0][1]"),
        ),
        (
            {"bridge_mappings": [["public", "b;include'x'", "172.16.1.1/24"]]},
            ("bad-name", "h1.ovn.bridge_mappings[0][1]"),
        ),
        (
            {"bridge_mappings": [["public", "br-int", "172.16.1.1/24"]]},
            ("bad-name", "h1.ovn.bridge_mappings[0][1]"),
        ),
        (
            {"bridge_mappings": [["a", "b0", "172.16.1.1/24"], ["a", "b1", "172.16.2.1/24"]]},
            ("duplicate-name", "h1.ovn.bridge_mappings[1][0]"),
        ),
        ({"remote": "tcp:192.0.2.1:6642"}, ("unknown-key", "h1.ovn.remote")),
    ],
)
def test_wrong_values_are_located(changes: dict[str, Any], wanted: tuple[str, str]) -> None:
    assert refused({}, changes) == [wanted]


def test_a_loopback_address_is_enough_for_one_host() -> None:
    logical, _ = understood({"encap_ip": "127.0.0.1"})
    assert logical.hosts[0].chassis.encap_ip == "127.0.0.1"


@pytest.mark.parametrize(
    "members",
    ["tcp:192.0.2.8:6641, tcp:[2001:db8::1]:6641", ["tcp:192.0.2.8:6641", "tcp:[2001:db8::1]:6641"]],
)
def test_databases_have_several_members(members: Any) -> None:
    logical, warnings = understood({}, ovn_northbound=members, ovn_southbound="unix:/run/ovn/sb.sock")
    assert warnings == []
    assert logical.ovn == Remotes(
        ovn_northbound=("tcp:192.0.2.8:6641", "tcp:[2001:db8::1]:6641"),
        ovn_southbound=("unix:/run/ovn/sb.sock",),
    )


@pytest.mark.parametrize(
    ("more", "wanted"),
    [
        ({"ovn_northbound": "tcp:192.0.2.8:6641"}, [("missing-key", "ovn_northbound")]),
        (
            {"ovn_northbound": "192.0.2.8", "ovn_southbound": "tcp:192.0.2.8:99999"},
            [("bad-value", "ovn_northbound"), ("bad-value", "ovn_southbound")],
        ),
        (
            {"ovn_northbound": "ssl:192.0.2.8:6641", "ovn_southbound": "ssl:192.0.2.8:6642"},
            [("missing-key", "ovn_northbound")] * 3,
        ),
        ({"ovn_private_key": "key"}, [("missing-key", "ovn_private_key")] * 1),
    ],
)
def test_wrong_databases_are_refused(more: dict[str, Any], wanted: list[tuple[str, str]]) -> None:
    assert refused({}, **more) == wanted


def test_keys_are_paths_that_up_needs() -> None:
    keys = {name: f"{name}.pem" for name in ("ovn_private_key", "ovn_certificate", "ovn_ca_certificate")}
    logical, warnings = understood(
        {}, ovn_northbound="ssl:192.0.2.8:6641", ovn_southbound="ssl:192.0.2.8:6642", **keys
    )
    assert warnings == [("missing-file", name) for name in keys]
    assert logical.ovn is not None
    assert logical.ovn.ovn_ca_certificate == "ovn_ca_certificate.pem"
