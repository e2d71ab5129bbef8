"""What bridges and their connections join, with the line that is the cause."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the golden projects are a package there

from golden.memory import compile_text
from kvmcompose.core.answers import Answer
from kvmcompose.core.expectation import PING
from kvmcompose.networks.bridges import connectivity

LAB = """\
machines:
  - {name: web, docker: {image: a}, interfaces: [{bridge: br0}]}
  - {name: db, docker: {image: a}, interfaces: [{bridge: br2}]}
  - {name: both, docker: {image: a}, interfaces: [{bridge: br3}, {bridge: br2}]}
  - {name: lone, docker: {image: a}, interfaces: [{bridge: br3}]}
  - name: clone
    docker:
      image: a
      scaling: {count: 1, interfaces: [{bridge: br3, clones: [0]}]}
network:
  bridges: [{name: br0}, {name: br1}, {name: br2}, {name: br3}]
  bridge_connections: [[br0, br1], [br1, br2]]
  external_bridge: br0
"""


def answer(source: str, target: str, lab: str = LAB) -> Answer:
    return connectivity(compile_text(lab).placed.logical).answer(source, target, PING)


@pytest.mark.parametrize(
    ("source", "target", "reaches", "text", "path"),
    [
        ("web", "db", True, "connections join br0 - br1 - br2", ("network", "bridge_connections", 0)),
        ("db", "web", True, "connections join br2 - br1 - br0", ("network", "bridge_connections", 1)),
        ("db", "both", True, "both are on br2", ("machines", 2, "interfaces")),
        ("both", "lone", True, "both are on br3", ("machines", 3, "interfaces")),
        ("both", "clone-0", True, "both are on br3", ("machines", 4, "docker", "scaling", "interfaces")),
        ("web", "lone", False, "no connection joins br0 and br3", ("network", "bridge_connections")),
        ("db", "internet", True, "the main host translates it (NAT)", ("network", "external_bridge")),
        (
            "lone",
            "internet",
            False,
            "no connection joins br3 and the outside",
            ("network", "external_bridge"),
        ),
        (
            "internet",
            "db",
            False,
            "the NAT of the main host lets no connection in",
            ("network", "external_bridge"),
        ),
    ],
)
def test_what_is_connected_reaches_each_other(
    source: str, target: str, reaches: bool, text: str, path: tuple[str | int, ...]
) -> None:
    found = answer(source, target)
    assert (found.reaches, found.cause.text, found.cause.path) == (reaches, text, path)


def test_a_mapping_of_connections_is_found_by_its_key() -> None:
    lab = LAB.replace("[[br0, br1], [br1, br2]]", "{br0: br1, br1: br2}")
    assert answer("db", "web", lab).cause.path == ("network", "bridge_connections", "br1")


def test_an_interface_of_a_host_lets_both_in_and_out() -> None:
    nic = "{nic_name: eth1, testbed_bridge: br3, testbed_host: main}"
    lab = LAB + f"  network_interfaces: [{nic}]\n"
    for source, target in (("lone", "internet"), ("internet", "lone")):
        found = answer(source, target, lab)
        assert found.reaches
        assert found.cause.path == ("network", "network_interfaces", 0)
