"""Guests whose address DHCP assigns: their names in DNS, and how they are found."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from golden.bench import Bench, new_bench
from kvmcompose.core.commands import Down, Exec, Power, PowerVerb, Up
from kvmcompose.core.deployment import ActionState
from kvmcompose.providers.libvirt.network_entries import addresses

if TYPE_CHECKING:
    from conftest import Lab

STATIC = """
    interfaces: [{bridge: br0}]
    libvirt: {cpus: 1, memory_mb: 128, libvirt_type: {cloud_image: {name: debian_12}}}
"""
DYNAMIC = STATIC.replace("br0", "br0, ip: dynamic")
YAML = f"""\
machines:
  - name: web{DYNAMIC}  - name: db{STATIC}network:
  bridges: [{{name: br0}}]
  external_bridge: br0
"""
CONFIG = """\
{"testbed_host_ssh_config": {"one": {"ip": "192.0.2.11", "is_main_host": true, "virt_type": "qemu"}},
 "ssh_public_key_location": "keys/id_ed25519.pub", "ssh_private_key_location": "keys/id_ed25519"}
"""


@pytest.fixture
def lab(tmp_path: Path, new_lab: type[Lab]) -> Iterator[Lab]:
    files = {"kvm-compose.yaml": YAML, "kvm-compose-config.json": CONFIG, "keys/id_ed25519": "not a key\n"}
    bench = new_bench(tmp_path, "lab", files)
    bench.generate()
    made = new_lab(Bench(bench.root, bench.folder), tmp_path)
    made.must(Up())
    yield made
    made.store.close()


def names(lab: Lab) -> dict[str, str]:
    return addresses(lab.world.network_definitions["lab-network"])


def address(lab: Lab, name: str) -> str | None:
    return next(guest.address for guest in lab.status().guests if guest.name == name)


def test_it_has_its_name_in_dns_like_others(lab: Lab) -> None:
    found = address(lab, "web")
    assert found is not None
    assert names(lab)["web"] == found
    assert names(lab)["db"] == address(lab, "db")
    assert not lab.status().differences
    assert "nothing to do" in lab.text(lab.must(Up()))


def test_a_name_that_is_gone_or_old_is_drift_that_up_repairs(lab: Lab) -> None:
    xml, found = lab.world.network_definitions["lab-network"], names(lab)["web"]
    entry = re.search(rf'<host ip="{found}"><hostname>web</hostname></host>', xml)
    assert entry is not None
    lab.world.network_definitions["lab-network"] = xml.replace(entry[0], "")
    assert lab.status().differences == ("DNS name of web: is missing",)
    lab.must(Up())
    assert names(lab)["web"] == found
    xml = lab.world.network_definitions["lab-network"]
    lab.world.network_definitions["lab-network"] = xml.replace(found, "10.0.0.9")
    assert lab.status().differences == (f"DNS name of web: address: 10.0.0.9 -> {found}",)
    assert lab.status().deployment.condition == "degraded"
    lab.must(Up())
    assert names(lab)["web"] == found


def test_another_edit_of_the_network_leaves_it(lab: Lab) -> None:
    found = names(lab)["web"]
    lab.edit("  - name: db\n", f"  - name: more{STATIC}  - name: db\n")
    action = lab.must(Up())
    assert names(lab) == {**names(lab), "web": found, "more": address(lab, "more")}
    assert "DNS name" not in lab.text(action)


def test_it_goes_with_its_guest_and_with_the_address(lab: Lab) -> None:
    lab.must(Power(verb=PowerVerb.STOP, guests=("web",)))
    assert "web" not in names(lab)
    lab.must(Power(verb=PowerVerb.START, guests=("web",)))
    assert names(lab)["web"] == address(lab, "web")
    lab.edit(f"web{DYNAMIC}", f"web{STATIC}")
    lab.must(Up(restart=True))
    assert names(lab)["web"] == names(lab)["lab-web"] == address(lab, "web")
    lab.edit(f"web{STATIC}", f"web{DYNAMIC}")
    lab.must(Up(restart=True))
    assert "lab-web" not in names(lab)
    assert names(lab)["web"] == address(lab, "web")
    lab.must(Down())
    lab.assert_clean()


def test_a_name_that_the_user_put_into_the_definition_is_theirs(lab: Lab) -> None:
    path = lab.folder / "artefacts" / "lab-network.xml"
    mine = '<host ip="10.9.9.9"><hostname>web</hostname><hostname>shop</hostname></host></dns>'
    path.write_text(path.read_text().replace("</dns>", mine))
    lab.must(Down())
    lab.must(Up())
    assert names(lab)["web"] == names(lab)["shop"] == "10.9.9.9"
    assert not lab.status().differences


def test_its_lease_is_gone_with_the_network_but_it_answers(lab: Lab) -> None:
    found = address(lab, "web")
    lab.world.drop_network("lab-network")
    lab.world.unleased = [nic.mac for each in lab.world.domains.values() for nic in each.hardware.nics]
    lab.must(Up())
    assert address(lab, "web") == found == names(lab)["web"]
    assert lab.do(Exec(guest="web", argv=("true",))).state is ActionState.SUCCEEDED


def test_another_machine_at_its_last_address_is_not_it(lab: Lab) -> None:
    domain = lab.world.domains["lab-web"]
    nics = [nic.mac for nic in domain.hardware.nics]
    lab.world.unleased = nics
    lab.store.put_mark("lab", "address", "web", "10.0.0.9")
    assert address(lab, "web") is None
    action = lab.do(Exec(guest="web", argv=("true",)))
    assert action.refused
