"""``kvm-compose check``, ``validate --expect`` and the doit task ``expect``."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import jsonschema
import pytest

from golden.bench import Bench, environment, new_bench

BODY = "libvirt: {cpus: 1, memory_mb: 64, libvirt_type: {cloud_image: {name: debian_12}}}"
BRIDGES = f"""\
machines:
  - name: web
    interfaces: [{{bridge: br0}}]
    {BODY}
  - name: db
    interfaces: [{{bridge: br1}}]
    {BODY}
network: {{bridges: [{{name: br0}}, {{name: br1}}], bridge_connections: {{br0: br1}}, external_bridge: br0}}
"""
OVN = f"""\
machines:
  - name: web
    network: [{{switch: lan, ip: 10.0.0.10, mac: "52:54:00:00:00:10", gateway: 10.0.0.1}}]
    {BODY}
  - name: db
    network: [{{switch: back, ip: 10.0.1.10, mac: "52:54:00:00:00:11", gateway: 10.0.1.1}}]
    {BODY}
network:
  ovn:
    switches:
      lan: {{subnet: 10.0.0.0/24}}
      back: {{subnet: 10.0.1.0/24}}
    routers:
      r0:
        ports:
          - {{name: r0-lan, mac: "00:00:00:00:ff:01", gateway_ip: 10.0.0.1/24, switch: lan}}
          - {{name: r0-back, mac: "00:00:00:00:ff:02", gateway_ip: 10.0.1.1/24, switch: back}}
    acl:
      switches:
        back:
          - {{direction: to-lport, priority: 1000, match: 'outport == "db" && ip4', action: drop}}
          - {{direction: to-lport, priority: 1001, match: 'tcp.dst == 5432', action: allow-related}}
"""
HOLDS = "expect: [{from: web, to: db, tcp: 5432, is: allowed}]\n"
BROKEN = "expect: [{from: web, to: db, tcp: 5432, is: allowed}, {from: web, to: db, is: allowed}]\n"
CONFIG = json.dumps(
    {
        "testbed_host_ssh_config": {"one": {"ip": "192.0.2.1", "virt_type": "qemu", "is_main_host": True}},
        "ssh_public_key_location": "keys/id_ed25519.pub",
        "ssh_private_key_location": "keys/id_ed25519",
    }
)


def bench_of(root: Path, text: str) -> Bench:
    return new_bench(root, "lab", {"kvm-compose.yaml": text, "kvm-compose-config.json": CONFIG})


def shown(bench: Bench, text: str) -> str:
    """Return what was printed, with files named as in their folder."""
    return text.replace(f"{bench.folder}/", "")


def test_bridges_need_no_ovn(tmp_path: Path) -> None:
    bench = bench_of(tmp_path, BRIDGES + "expect: [{from: db, to: internet, is: denied}]\n")
    ran = bench.run("check", "--matrix", "--junit", str(tmp_path / "report.xml"))
    assert ran.status == 1
    assert "broken  db to internet: denied (kvm-compose.yaml:9:10)" in shown(bench, ran.out)
    assert "db to internet, icmp, passes: the main host translates it (NAT) (kvm-compose.yaml:8:97)" in shown(
        bench, ran.out
    )
    assert "internet   no   no   -" in shown(bench, ran.out)
    assert ET.parse(tmp_path / "report.xml").getroot().get("failures") == "1"  # noqa: S314 (our own)
    assert not (bench.folder / "state.json").exists()


def test_json_is_as_its_schema_says(tmp_path: Path) -> None:
    bench = bench_of(tmp_path, BRIDGES + HOLDS)
    schema = bench.run("schema", "--of", "check").json
    found = bench.run("check", "--matrix", "--json").json
    jsonschema.validate(found, schema)
    assert found["holds"] is True
    assert len(found["matrix"]) == 6


def test_an_expectation_more_changes_nothing_that_is_built(tmp_path: Path) -> None:
    bench = bench_of(tmp_path, BRIDGES)
    assert bench.run("generate", "state", "domain-xml", "network-xml").status == 0
    bench.write("kvm-compose.yaml", BRIDGES + HOLDS)
    assert bench.run("plan", "state", "domain-xml", "network-xml", "--detailed-exitcode").status == 0


@pytest.mark.parametrize("form", ["dot", "mermaid"])
def test_pictures_have_an_edge_for_what_passes(tmp_path: Path, form: str) -> None:
    bench = bench_of(tmp_path, BRIDGES + HOLDS)
    ran = bench.run("check", "--format", form)
    assert ran.status == 0
    edge = '"web" -> "db";' if form == "dot" else "n0 --> n1"
    assert edge in shown(bench, ran.out)


@pytest.mark.real
def test_a_rule_of_ovn_is_named_with_its_line(tmp_path: Path) -> None:
    bench = bench_of(tmp_path, OVN + BROKEN)
    ran = bench.run("check")
    assert ran.status == 1
    assert "holds   web to db, tcp 5432: allowed" in shown(bench, ran.out)
    cause = "web to db, icmp, does not arrive: rule to-lport 1000 of back drops it (kvm-compose.yaml:21:13)"
    assert cause in shown(bench, ran.out)
    validated = bench.run("validate", "--expect")
    assert validated.status == 2
    assert ": expect[1]: error: this does not hold: " in shown(bench, validated.err)
    assert bench.run("validate").status == 0


@pytest.mark.real
def test_without_ovn_it_says_what_to_install(tmp_path: Path) -> None:
    bench = bench_of(tmp_path, OVN + HOLDS)
    programs = tmp_path / "programs"
    programs.mkdir()
    ran = bench.run("check", PATH=str(programs))
    assert ran.status == 3
    assert "hint: sudo apt-get install ovn-central" in ran.err


def test_the_doit_task_fails_with_the_lines_that_are_broken(tmp_path: Path) -> None:
    bench = bench_of(tmp_path, BRIDGES + "expect: [{from: db, to: web, is: denied}]\n")
    bench.write(
        "dodo.py",
        "from kvmcompose.build.dodo import doit_config, project_tasks\n"
        "DOIT_CONFIG = doit_config()\n"
        "def task_testbed(): yield from project_tasks(project_name='lab')\n",
    )
    ran = subprocess.run(
        [Path(sys.executable).parent / "doit", "expect"], cwd=bench.folder, check=False, timeout=120,
        text=True, env=environment(bench.root), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert ran.returncode == 1
    assert "kvm-compose.yaml:9:10: broken: db to web: denied" in ran.stdout
    assert "1 of 1 expectations broken" in ran.stdout
