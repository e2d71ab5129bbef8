"""Files with all that the existing system's examples and documentation contain, on one to three hosts."""

from __future__ import annotations

from pathlib import Path

import pytest
from ovn_labs import compiled, problems

from kvmcompose.networks.ovn import northbound

FILES = Path(__file__).parents[2] / "testbedos"
LR0 = "network.ovn.routers.lr0"
#: A router with a default route and NAT, but without a port that leads outside.
NO_WAY_OUT = [
    ("warning", "unknown-next-hop", f"{LR0}.static_routes[0].nexthop"),
    ("warning", "nat-without-gateway", f"{LR0}.nat"),
]
CASES = {
    "acl": [
        ("warning", "useless-route", f"{LR0}.static_routes[1].nexthop"),
        ("warning", "useless-route", f"{LR0}.static_routes[2].nexthop"),
        ("warning", "bad-match", "network.ovn.acl.switches.sw0[0].match"),
    ],
    "avd": [("error", "unknown-key", "machines[0].android")],
    "clones": NO_WAY_OUT,
    "doc-acl": [],
    "doc-clones": [],
    "docker": [
        ("error", "duplicate-mac", "machines[1].docker.scaling.interfaces.sw0.mac_range"),
        *NO_WAY_OUT,
    ],
    "multi_interface": [],
    "ovn": [],
    "ovn-all": [],
    "sigadb": [
        *(
            ("warning", "ignored-key", f"machines[0].libvirt.{each}")
            for each in (
                "extended_graphics_support",
                "libvirt_type.existing_disk.run_script",
                "libvirt_type.existing_disk.context",
            )
        ),
        *NO_WAY_OUT,
        ("warning", "no-dhcp", "machines[0].network.ip"),
    ],
    "signal": [],
}


def test_all_files_are_read() -> None:
    assert {path.stem for path in FILES.iterdir()} == set(CASES)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("case", sorted(CASES))
def test_files_of_the_existing_system(case: str, count: int) -> None:
    found = problems((FILES / f"{case}.yaml").read_text(), count)
    seen = [(each.severity.value, each.code, each.path) for each in found]
    assert sorted(seen) == sorted(CASES[case])
    assert all(problem.location.line > 1 for problem in found)


def test_a_rule_with_single_quotes_reaches_ovn_without_them() -> None:
    state = compiled((FILES / "acl.yaml").read_text()).state
    [rule] = [row for row in northbound(state) if row.ref.table == "ACL"]
    assert rule.columns["match"] == "ip4.src == 10.0.0.10"
