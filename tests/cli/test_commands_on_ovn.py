"""Commands that show a project, where its network consists of logical switches and routers."""

from __future__ import annotations

from pathlib import Path

import pytest

from golden.bench import GOLDEN, Bench, new_bench


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """The golden project on three hosts, which commands only read."""
    folder = GOLDEN / "ovn-three-hosts"
    names = ("kvm-compose.yaml", "kvm-compose-config.json")
    files = {name: (folder / name).read_text() for name in names}
    return new_bench(tmp_path_factory.mktemp("ovn"), "lab", files)


def test_the_picture_has_the_whole_network(bench: Bench) -> None:
    graph = bench.run("graph", "--json").json
    nodes = {each["name"]: each for each in graph["nodes"]}
    kinds = {name: each["kind"] for name, each in nodes.items()}
    assert {name for name, kind in kinds.items() if kind == "switch"} == {
        "public", "sw-mid", "sw0", "sw1", "sw6",
    }  # fmt: skip
    assert nodes["sw0"]["details"] == ["10.0.0.0/24", "3 rules", "the rest is denied"]
    assert (nodes["lr0"]["group"], nodes["lr1"]["group"]) == ("testbed-host-two", "")
    assert "snat 10.0.0.0/16: 172.16.1.200" in nodes["lr0"]["details"]
    # a provider network and a switch have the same name
    assert kinds["public (network)"] == "network"
    assert (nodes["probe"]["kind"], nodes["probe"]["group"]) == ("host interface", "testbed-host-one")
    edges = {(each["source"], each["target"]): each["label"] for each in graph["edges"]}
    assert edges["lr0", "public"] == "172.16.1.200/24, gateway on testbed-host-two"
    assert {("server", "sw0"), ("server", "sw1"), ("probe", "sw0"), ("public", "public (network)")} <= {
        *edges
    }
    assert {end for edge in edges for end in edge} <= nodes.keys()


def test_the_picture_in_all_formats(bench: Bench) -> None:
    mermaid = bench.run("graph", "--format", "mermaid").out
    assert '"sw1<br/>10.0.2.0/24<br/>fd00:2::/64<br/>2 rules<br/>the rest is denied"' in mermaid
    dot = bench.run("graph").out
    assert r'"sw6" [shape=box, label="sw6\nfd00:6::/64\neverything is denied"];' in dot


def test_nodes_of_one_name_are_told_apart(tmp_path: Path) -> None:
    machine = (
        "{name: br0, interfaces: [{bridge: br0}], "
        "libvirt: {cpus: 1, memory_mb: 64, libvirt_type: {cloud_image: {name: debian_12}}}}"
    )
    bench = new_bench(
        tmp_path,
        "lab",
        {"kvm-compose.yaml": f"machines: [{machine}]\nnetwork: {{bridges: [{{name: br0}}]}}\n"},
    )
    graph = bench.run("graph", "--json").json
    assert [each["name"] for each in graph["nodes"]] == ["br0 (bridge)", "br0"]
    assert [(each["source"], each["target"]) for each in graph["edges"]] == [("br0", "br0 (bridge)")]


def test_where_guests_and_gateways_are(bench: Bench) -> None:
    shown = bench.run("placement")
    assert "gateway  lr0-public  testbed-host-two    its gateway chassis" in shown.out
    assert "3 of 5 switches have guests on several hosts" in shown.err
    assert "bridge" not in shown.said
    found = bench.run("placement", "--json").json
    assert found["switches"]["sw1"] == ["testbed-host-two", "testbed-host-three"]
    assert found["gateways"] == {"lr0-public": "testbed-host-two"}
    compared = bench.run("placement", "--compare")
    assert "SWITCHES ON SEVERAL HOSTS" in compared.out
    assert "TUNNELS" not in compared.out
