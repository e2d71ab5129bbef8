"""``kvm-compose convert``: the same guests, addresses and reachability on logical switches."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from golden.bench import GOLDEN, Bench, lay_out, new_bench

BODY = "libvirt: {cpus: 1, memory_mb: 64, libvirt_type: {cloud_image: {name: debian_12}}}"
PROJECTS = (
    "a-project-with-a-rather-long-name", "addresses", "base-one-host", "base-three-hosts", "base-two-hosts",
    "clones-one-host", "clones-three-hosts", "clones-two-hosts", "disks", "host-nics", "metacharacters",
    "no-external", "renamed", "room",
)  # fmt: skip


def hosts_config(*names: str) -> str:
    hosts = {
        name: {"ip": f"192.0.2.{number}", "virt_type": "qemu", "is_main_host": number == 1}
        for number, name in enumerate(names, 1)
    }
    keys = {"ssh_public_key_location": "keys/id_ed25519.pub", "ssh_private_key_location": "keys/id_ed25519"}
    return json.dumps({"testbed_host_ssh_config": hosts} | keys)


def bench_of(root: Path, text: str, *hosts: str) -> Bench:
    config = hosts_config(*(hosts or ("one",)))
    return new_bench(root, "lab", {"kvm-compose.yaml": text, "kvm-compose-config.json": config})


def converted(bench: Bench) -> tuple[str, list[str]]:
    """Convert the project in place; the YAML, and the warnings of ``convert`` itself."""
    ran = bench.run("convert")
    assert ran.status == 0, ran.err
    lines = ran.err.replace(f"{bench.folder}/", "").splitlines()
    bench.write("kvm-compose.yaml", ran.out)
    return ran.out, [line for line in lines if line.endswith("[no-counterpart]")]


def addresses(bench: Bench) -> dict[str, list[tuple[Any, ...]]]:
    """The addresses of all guests, and their default routes, by name."""
    guests = bench.run("config", "--json").json["testbed_guests"]
    return {
        name: [
            (nic["mac"], nic["ip"], nic["prefix_length"], nic["mtu"], nic.get("gateway"))
            for nic in guest["interfaces"]
        ]
        for name, guest in guests.items()
        if not guest["is_golden_image"]
    }


def management_ports(bench: Bench) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = bench.run("config", "--json").json["network"]["management_ports"]
    return found


def matrix(bench: Bench) -> dict[tuple[str, str], bool]:
    found = bench.run("check", "--matrix", "--json")
    assert found.status == 0, found.err
    return {(each["from"], each["to"]): each["reaches"] for each in found.json["matrix"]}


@pytest.fixture
def golden(tmp_path: Path, request: pytest.FixtureRequest) -> Bench:
    """A golden project."""
    bench = new_bench(tmp_path, "lab", {})
    shutil.copytree(GOLDEN / request.param, bench.folder, dirs_exist_ok=True)
    lay_out(bench.folder)
    return bench


@pytest.mark.parametrize("golden", PROJECTS, indirect=True)
def test_golden_projects_keep_their_addresses(golden: Bench) -> None:
    before = addresses(golden)
    _, notes = converted(golden)
    assert golden.run("validate").status == 0
    after = addresses(golden)
    for note in notes:  # there is no DHCP without an external bridge
        if found := re.search("'(.*)' gets the address ([0-9.]+)", note):
            ((mac, ip, *rest),) = before[found[1]]
            assert ip == "dynamic"
            before[found[1]] = [(mac, found[2], *rest)]
    assert after == before


YAML = f"""\
# kept
machines:
  - name: web                # the web server
    interfaces:              # two
      - bridge: lan          # inside
        # nothing else
      - {{bridge: dmz, mac: "52:54:00:00:00:01"}}   # outside
    {BODY}
  - {{name: db, interfaces: [{{bridge: far, ip: 10.9.0.7}}], {BODY}}}
  - name: asks
    interfaces: [{{bridge: dmz, ip: dynamic}}]
    {BODY}
  - name: waits
    interfaces: [{{bridge: far, ip: dynamic}}]
    {BODY}
network:
  bridges:
    - {{name: dmz, protocol: OpenFlow13}}
    - name: lan
      controller: tcp:127.0.0.1:6653
    - {{name: near, subnet: 10.9.0.0/16}}
    - name: far
    - name: empty
  bridge_connections: [[lan, dmz], [far, near]]
  external_bridge: dmz
  network_interfaces: [{{nic_name: eth1, testbed_bridge: far, testbed_host: two}}]
# also kept
testbed_options:
  placement:
    pin: {{dmz: one, far: two}}    # of bridges
    apart: [[lan, far]]
"""


def shortened(note: str) -> str:
    """Return place and message of a warning."""
    file, line, column, rest = note.split(":", 3)
    assert file == "kvm-compose.yaml"
    return f"{line}:{column} " + rest.partition("warning: ")[2].removesuffix(" [no-counterpart]")


def test_comments_and_layout_stay(tmp_path: Path) -> None:
    bench = bench_of(tmp_path, YAML, "one", "two")
    before = addresses(bench)
    gateway = before["web"][0][4]
    text, notes = converted(bench)
    at = text.index("network:\n  ovn:")
    assert (
        text[:at]
        == f"""\
# kept
machines:
  - name: web                # the web server
    network:              # two
      - switch: dmz          # inside
        gateway: {gateway}
        # nothing else
      - {{switch: dmz, mac: "52:54:00:00:00:01"}}   # outside
    {BODY}
  - {{name: db, network: [{{switch: near, ip: 10.9.0.7}}], {BODY}}}
  - name: asks
    network: [{{switch: dmz, ip: dynamic}}]
    {BODY}
  - name: waits
    network: [{{switch: near, ip: {addresses(bench)["waits"][0][1]}}}]
    {BODY}
"""
    )
    assert (
        "# also kept\ntestbed_options:\n  placement:\n    pin: {web: one, asks: one, db: two, waits: two}\n"
        in text
    )
    waits = addresses(bench)["waits"][0][1]
    assert [shortened(note) for note in notes] == [
        "18:19 'dmz' loses its OpenFlow versions: OVN uses those that it needs",
        "20:7 'lan' loses its controller: OVN is that of logical switches",
        "26:24 eth1 of 'two' is left out: a switch reaches a bridge that the config of the host names",
        "25:3 the server no longer reaches web, asks, so `up` does not await or set them up",
        "23:7 'empty' is left out: no guest is on it, nor on a bridge connected to it",
        f"14:18 there is no DHCP on this network: 'waits' gets the address {waits}",
        "30:11 the guests on 'dmz' are pinned in its place",
        "30:21 the guests on 'far' are pinned in its place",
        "31:13 bridges with several guests cannot be kept apart",
    ]
    assert bench.run("validate").status == 0
    after = addresses(bench)
    assert {name: after[name] for name in ("web", "db", "asks")} == {
        name: before[name] for name in ("web", "db", "asks")
    }


def test_hints_are_lines_to_write(tmp_path: Path) -> None:
    bench = bench_of(tmp_path, YAML, "one", "two")
    said = bench.run("convert").err
    assert "hint: add to the YAML: testbed_options: {management: true}" in said
    assert "on two: ovs-vsctl add-br br-eth1 -- add-port br-eth1 eth1;" in said
    assert "ports: [{name: eth1, localnet: {network_name: eth1}}]" in said
    # with management ports they are reached
    managed = YAML.replace("testbed_options:\n", "testbed_options:\n  management: true\n")
    assert "no longer reaches" not in bench_of(tmp_path / "managed", managed, "one", "two").run("convert").err


def test_clones_have_ranges_where_they_can(tmp_path: Path) -> None:
    scaling = ",\n      scaling: {count: 3, interfaces: [%s]}}\n"
    machine = f"  - name: worker\n    {BODY[:-1]}{scaling}"
    near = ", ".join(
        f"{{bridge: br{each % 2}, clones: [{each}], ip: 10.7.0.{7 + each}}}" for each in range(3)
    )
    odd = near.replace("10.7.0.9", "10.7.0.99")
    network = "network: {bridges: [{name: br0}, {name: br1}], bridge_connections: {br0: br1}}\n"
    bench = bench_of(tmp_path / "near", f"machines:\n{machine % near}{network}")
    before = addresses(bench)
    text, notes = converted(bench)
    assert "{br0: {clones: [0, 1, 2], ip_type: {ip_range: {from: 10.7.0.7, to: 10.7.0.9}}}}" in text
    assert (notes, addresses(bench)) == ([], before)
    bench = bench_of(tmp_path / "odd", f"machines:\n{machine % odd}{network}")
    _, notes = converted(bench)
    assert "the addresses of clones of 'worker' are no range: they get derived ones" in notes[0]
    assert len([note for note in notes if " becomes 52:54:00:" in note]) == 3


def test_nothing_is_replaced_that_was_not_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machines = f"machines: [{{name: a, interfaces: [{{bridge: b}}], {BODY}}}]\n"
    bench = bench_of(tmp_path, f"{machines}network: {{bridges: [{{name: b}}]}}\n")
    monkeypatch.chdir(bench.folder)
    before = bench.yaml.read_bytes()
    refused = bench.run("convert", "-o", "kvm-compose.yaml")
    assert (refused.status, bench.yaml.read_bytes()) == (3, before)
    assert "kvm-compose.yaml exists: nothing was written" in refused.err
    assert bench.run("convert", "-o", "other.yaml").status == 0
    assert bench.yaml.read_bytes() == before
    assert bench.run("convert", "-o", "kvm-compose.yaml", "--force").status == 0
    assert bench.yaml.read_bytes() == (bench.folder / "other.yaml").read_bytes() != before
    again = bench.run("convert")
    assert again.status == 2
    assert "[not-bridges]" in again.err


def test_aliases_are_followed_or_refused(tmp_path: Path) -> None:
    shared = (
        "machines:\n"
        f"  - {{name: a, interfaces: &nics [{{bridge: b}}], {BODY}}}\n"
        f"  - {{name: c, interfaces: *nics, {BODY}}}\n"
        "network: {bridges: [{name: b}], external_bridge: b}\n"
    )
    bench = bench_of(tmp_path / "same", shared)
    before = addresses(bench)
    text, _ = converted(bench)
    assert text.count("gateway: 10.") == 1
    assert addresses(bench) == before
    waits = shared.replace("{bridge: b}", "{bridge: b, ip: dynamic}").replace(", external_bridge: b", "")
    refused = bench_of(tmp_path / "other", waits).run("convert")
    assert refused.status == 2
    assert re.search(r"kvm-compose.yaml:2:\d+: error: an alias repeats this", refused.err)
    assert not refused.out


def test_interfaces_in_the_defaults_are_refused_at_their_line(tmp_path: Path) -> None:
    text = (
        "machines:\n"
        f"  - {{name: a, {BODY}}}\n"
        f"  - {{name: c, interfaces: [{{bridge: b}}], {BODY}}}\n"
        "defaults: {interfaces: [{bridge: b}], labels: {x: y}}\n"
        "network: {bridges: [{name: b}]}\n"
    )
    refused = bench_of(tmp_path / "shared", text).run("convert")
    assert refused.status == 2
    assert "kvm-compose.yaml:4:12: defaults.interfaces: error: interfaces in the defaults" in refused.err
    assert not refused.out


def test_guests_with_management_ports_keep_them(tmp_path: Path) -> None:
    text = (
        f"machines: [{{name: a, interfaces: [{{bridge: b}}], {BODY}}},\n"
        f"           {{name: c, interfaces: [{{bridge: b}}], {BODY}}}]\nnetwork: {{bridges: [{{name: b}}]}}\n"
        "testbed_options:\n  management:\n    except: [a]\n"
    )
    bench = bench_of(tmp_path, text)
    before = addresses(bench)
    (was,) = management_ports(bench)
    text, notes = converted(bench)
    assert "management:\n    except: [a]" in text
    assert notes == []
    assert bench.run("validate").status == 0
    assert addresses(bench) == before
    (now,) = management_ports(bench)
    assert now["guests"] == was["guests"] == ["c"]


def random_testbed(seed: int) -> str:
    """Bridges, some of them connected, and guests with up to three interfaces."""
    rng = random.Random(seed)  # noqa: S311 (a seeded test)
    bridges = [f"b{number}" for number in range(rng.randint(1, 4))]
    links = [
        f"[{rng.choice(bridges[:each])}, {bridges[each]}]"
        for each in range(1, len(bridges))
        if rng.random() < 0.5
    ]

    def nics() -> Sequence[str]:
        chosen = rng.sample(bridges, rng.randint(1, min(3, len(bridges))))
        return [f"{{bridge: {each}}}" for each in chosen]

    machines = [
        f"  - {{name: g{number}, interfaces: [{', '.join(nics())}], {BODY}}}"
        for number in range(rng.randint(2, 4))
    ]
    external = f", external_bridge: {rng.choice(bridges)}" if rng.random() < 0.8 else ""
    names = ", ".join(f"{{name: {each}}}" for each in bridges)
    return (
        "machines:\n" + "\n".join(machines)
        + f"\nnetwork: {{bridges: [{names}], bridge_connections: [{', '.join(links)}]{external}}}\n"
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(40))
def test_random_testbeds_keep_their_addresses(tmp_path: Path, seed: int) -> None:
    bench = bench_of(tmp_path, random_testbed(seed))
    before = addresses(bench)
    _, notes = converted(bench)
    assert addresses(bench) == before
    assert not [note for note in notes if "becomes" in note]


@pytest.mark.real
@pytest.mark.parametrize("seed", range(10))
def test_random_testbeds_reach_the_same(tmp_path: Path, seed: int) -> None:
    bench = bench_of(tmp_path, random_testbed(seed))
    before = matrix(bench)
    converted(bench)
    assert matrix(bench) == before


@pytest.mark.real
@pytest.mark.parametrize("golden", ["addresses", "clones-two-hosts", "room"], indirect=True)
def test_golden_projects_reach_the_same(golden: Bench) -> None:
    before = matrix(golden)
    converted(golden)
    assert matrix(golden) == before


SPELLINGS = {
    "flow": json.dumps(
        {
            "machines": [
                {
                    "name": "a",
                    "libvirt": {
                        "cpus": 1,
                        "memory_mb": 64,
                        "libvirt_type": {"cloud_image": {"name": "debian_12"}},
                        "scaling": {"count": 1, "interfaces": [{"bridge": "b", "clones": [0]}]},
                    },
                }
            ],
            "network": {"bridges": [{"name": "b"}], "external_bridge": "b"},
        }
    ),
    "no indentation": (
        f"# Grüße 世界 😀\nmachines:\n- name: a\n  interfaces:\n  - bridge: b\n  {BODY}\n"
        "- name: herd\n  libvirt:\n    cpus: 1\n    memory_mb: 64\n"
        "    libvirt_type: {cloud_image: {name: debian_12}}\n"
        "    scaling:\n      count: 2\n      interfaces:\n"
        "      - bridge: b\n        clones: [0, 1]\n"
        "network:  # of bridges\n  bridges:\n  - name: b\n  external_bridge: b # the way out"
    ),
    "merged": (
        f"machines:\n  - {{name: a, interfaces: [&b {{bridge: b}}], {BODY}}}\n"
        f"  - {{name: c, interfaces: [{{<<: *b, ip: 10.3.0.9}}], {BODY}}}\n"
        "network: {bridges: [{name: b}], external_bridge: b}\n"
    ),
}


@pytest.mark.parametrize("line_break", ["\n", "\r\n"])
@pytest.mark.parametrize("spelling", sorted(SPELLINGS))
def test_all_spellings_of_yaml(tmp_path: Path, spelling: str, line_break: str) -> None:
    bench = bench_of(tmp_path, "")
    bench.yaml.write_bytes(b"\xef\xbb\xbf" + SPELLINGS[spelling].replace("\n", line_break).encode())
    before = addresses(bench)
    text = bench.run("convert").out
    bench.yaml.write_bytes(text.encode())
    assert bench.run("validate").status == 0
    assert addresses(bench) == before
    assert text.count("\n") == text.count(line_break)
