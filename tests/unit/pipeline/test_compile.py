"""The whole pipeline as one function of values: two texts in, state and artefacts out."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the golden projects are a package there

from golden.bench import GOLDEN, cases
from golden.memory import MemoryFiles, compile_text, hosts
from kvmcompose.build.project_files import FolderFiles
from kvmcompose.core.artefact import Literal, Overlay, Policy, Rendered
from kvmcompose.core.errors import InputError, KvmComposeError
from kvmcompose.core.image_source import ImageFile
from kvmcompose.core.project import FileKind, Flaw
from kvmcompose.core.state import encode_state
from kvmcompose.effects.resources import schemas
from kvmcompose.effects.stat_cache import StatCache
from kvmcompose.pipeline.compile import STATE_PATH, Compiled
from kvmcompose.pipeline.stored import read_state

SMALL = """\
machines:
  - name: server
    interfaces: [{bridge: br0}]
    libvirt: {cpus: 1, memory_mb: 64, libvirt_type: {cloud_image: {name: debian_12}}}
  - name: web
    interfaces: [{bridge: br1}]
    docker: {image: nginx}
network:
  bridges: [{name: br0}, {name: br1}]
  bridge_connections: {br0: br1}
  external_bridge: br0
"""


class AnyFiles(MemoryFiles):
    """Everything that is asked for is there."""

    def kind(self, path: str) -> Any:
        return FileKind.FILE

    def image_names(self) -> tuple[str, ...]:
        return ("debian_12", "ubuntu_20_04")


class CaseFiles(AnyFiles):
    """The same, with the folders of a golden case: digests of what images are built from are in the state."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            contents={
                str(path.relative_to(folder)): path.read_bytes()
                for path in folder.rglob("*")
                if path.is_file() and "expected" not in path.parts
            }
        )
        self.folder = folder
        self.there = FolderFiles(folder, StatCache())

    def kind(self, path: str) -> Any:
        return FileKind.FOLDER if (self.folder / path).is_dir() else super().kind(path)

    def build_flaws(self, context: str, dockerfile: str) -> tuple[Flaw, ...]:
        return self.there.build_flaws(context, dockerfile)

    def build_digest(self, context: str, dockerfile: str) -> str:
        return self.there.build_digest(context, dockerfile)

    def image_id(self, source: ImageFile) -> str | Flaw:
        return self.there.image_id(source)


def state_of(compiled: Compiled) -> Any:
    (state,) = (each for each in compiled.artefacts if each.path == STATE_PATH)
    assert isinstance(state.content, Literal)
    return json.loads(state.content.data)


def test_the_state_comes_first_and_every_path_once() -> None:
    artefacts = compile_text(SMALL).artefacts
    assert artefacts[0].path == STATE_PATH
    paths = [each.path for each in artefacts]
    tasks = [each.task for each in artefacts]
    assert len(set(paths)) == len(paths)
    assert len(set(tasks)) == len(tasks)


def test_each_artefact_has_its_kind() -> None:
    found = {
        each.path: (each.task, each.policy, type(each.content)) for each in compile_text(SMALL).artefacts
    }
    assert found == {
        "state.json": ("state", Policy.TEXT, Literal),
        "artefacts/lab-network.xml": ("network-xml", Policy.TEXT, Rendered),
        "artefacts/server-cloud-init.img": ("disk:server", Policy.MUTABLE, Overlay),
        "artefacts/server-cloud-init.iso": ("seed-iso:server", Policy.REPRODUCIBLE, Rendered),
        "artefacts/server-domain.xml": ("domain-xml:server", Policy.TEXT, Rendered),
        "artefacts/web-container.json": ("container:web", Policy.TEXT, Rendered),
        "artefacts/web-resolv.conf": ("resolv-conf:web", Policy.TEXT, Rendered),
    }


@pytest.mark.parametrize("case", cases())
def test_compiling_is_a_function_of_its_input(case: str) -> None:
    """Twice the same, and what the golden state says."""
    text = (GOLDEN / case / "kvm-compose.yaml").read_text(encoding="utf-8")
    config = (GOLDEN / case / "kvm-compose-config.json").read_text(encoding="utf-8")
    files = CaseFiles(GOLDEN / case)  # only digests of what is read are in the state
    first = compile_text(text, config=config, files=files, project=case)
    second = compile_text(text, config=config, files=files, project=case)
    assert first.artefacts == second.artefacts
    assert state_of(first) == json.loads((GOLDEN / case / "expected/state.json").read_bytes())


@pytest.mark.parametrize("case", cases())
def test_what_an_artefact_waits_for_is_an_artefact(case: str) -> None:
    text = (GOLDEN / case / "kvm-compose.yaml").read_text(encoding="utf-8")
    config = (GOLDEN / case / "kvm-compose-config.json").read_text(encoding="utf-8")
    artefacts = compile_text(text, config=config, files=CaseFiles(GOLDEN / case), project=case).artefacts
    seen: set[str] = set()
    for artefact in artefacts:
        assert seen.issuperset(artefact.after)
        seen.add(artefact.path)


def test_an_edit_of_a_guest_changes_its_artefacts_and_the_state_only() -> None:
    before = compile_text(SMALL)
    after = compile_text(SMALL.replace("memory_mb: 64", "memory_mb: 65"))
    changed = {new.guest for new, old in zip(after.artefacts, before.artefacts, strict=True) if new != old}
    assert changed == {None, "server"}


def test_same_host_connections_are_veth_pairs_and_others_tunnels_with_a_key_of_the_pair() -> None:
    one = state_of(compile_text(SMALL))["network"]["physical_bridge_connections"]
    assert list(one) == ["br0:br1"]
    assert list(one["br0:br1"]) == ["ovs"]
    two = state_of(compile_text(SMALL, on=hosts(2)))["network"]["physical_bridge_connections"]
    assert list(two["br0:br1"]) == ["tunnel"]
    tunnel = two["br0:br1"]["tunnel"]
    assert (tunnel["source_remote_ip"], tunnel["target_remote_ip"]) == ("192.0.2.2", "192.0.2.1")
    assert 0 < tunnel["key"] < 2**24
    swapped = SMALL.replace("{br0: br1}", "{br1: br0}")
    other = state_of(compile_text(swapped, on=hosts(2)))["network"]["physical_bridge_connections"]
    assert other["br1:br0"]["tunnel"]["key"] == tunnel["key"]


def test_a_tunnel_has_the_same_key_with_more_tunnels_beside_it() -> None:
    def keys(count: int) -> dict[str, int]:
        bridges = ", ".join(f"{{name: b{number}}}" for number in range(count))
        pairs = ", ".join(f"[b0, b{number}]" for number in range(1, count))
        text = "machines: [{name: a, interfaces: [bridge: b0], docker: {image: x}}]\n"
        text += f"network: {{bridges: [{bridges}], bridge_connections: [{pairs}]}}\n"
        found = state_of(compile_text(text, on=hosts(count)))["network"]["physical_bridge_connections"]
        return {name: each["tunnel"]["key"] for name, each in found.items()}

    many = keys(40)
    assert len(set(many.values())) == 39
    assert many.items() >= keys(5).items()


@pytest.mark.parametrize("project", ["lab", "a-project-with-a-rather-long-name-indeed"])
def test_no_two_things_on_the_hosts_have_the_same_name(project: str) -> None:
    clones = ", ".join(str(number) for number in range(50))
    text = f"""\
machines:
  - name: prjbr0
    interfaces: [{{bridge: veth0}}, {{bridge: veth1}}]
    docker: {{image: x}}
  - name: herd
    libvirt:
      cpus: 1
      memory_mb: 64
      libvirt_type: {{cloud_image: {{name: debian_12}}}}
      scaling: {{count: 50, interfaces: [{{bridge: veth0, clones: [{clones}]}}]}}
network:
  bridges: [{{name: veth0}}, {{name: veth1}}, {{name: prjbr0}}, {{name: herd-0-0}}]
  bridge_connections: {{veth0: veth1, veth1: prjbr0}}
"""
    state = state_of(compile_text(text, project=project))
    network = state["network"]
    names = [network["libvirt_network_bridge_name"], network["veth_peer_left"], network["veth_peer_right"]]
    names += [bridge["ovs_name"] for bridge in network["bridges"]]
    names += [nic["target"] for guest in state["testbed_guests"].values() for nic in guest["interfaces"]]
    for connection in network["physical_bridge_connections"].values():
        names += [connection["ovs"]["source_veth"], connection["ovs"]["target_veth"]]
    assert len(set(names)) == len(names)
    assert all(len(name) <= 15 for name in names)
    assert all(re.fullmatch(r"[a-z0-9-]+", name) for name in names)


def test_one_default_route_at_most() -> None:
    text = SMALL.replace("[{bridge: br0}]", "[{bridge: br1}, {bridge: br0}, {bridge: br1}]")
    nics = state_of(compile_text(text))["testbed_guests"]["server"]["interfaces"]
    assert [("gateway" in nic) for nic in nics] == [True, False, False]


def test_every_address_that_dhcp_could_hand_out_is_reserved_for_who_has_it() -> None:
    """Also those of second interfaces: a guest with a dynamic address must not be given one of them."""
    text = SMALL.replace("[{bridge: br0}]", "[{bridge: br0}, {bridge: br1}]")
    compiled = compile_text(text)
    (network,) = (each for each in compiled.artefacts if each.task == "network-xml")
    assert isinstance(network.content, Rendered)
    reserved = {(each.mac, each.ip) for each in network.content.values.reservations}
    guests = state_of(compiled)["testbed_guests"].values()
    assert reserved == {(nic["mac"], nic["ip"]) for guest in guests for nic in guest["interfaces"]}
    named = [each.name for each in network.content.values.reservations if each.name is not None]
    assert sorted(named) == ["lab-server", "lab-web"]


def test_a_network_that_dhcp_does_not_serve_has_no_reservations() -> None:
    compiled = compile_text(SMALL.replace("  bridge_connections: {br0: br1}\n", ""))
    (network,) = (each for each in compiled.artefacts if each.task == "network-xml")
    assert isinstance(network.content, Rendered)
    assert [each.name for each in network.content.values.reservations] == ["lab-server"]


def test_hosts_of_the_config_come_in_its_order_with_hostname_for_ip() -> None:
    config = """{"testbed_host_ssh_config": {
        "z": {"hostname": "z.example", "user": "u"}, "a": {"ip": "192.0.2.1", "is_main_host": true}},
        "ssh_public_key_location": "key.pub"}"""
    compiled = compile_text(SMALL, config=config)
    assert [(each.name, each.ip, each.is_main_host) for each in compiled.placed.logical.hosts] == [
        ("z", "z.example", False),
        ("a", "192.0.2.1", True),
    ]
    assert state_of(compiled)["testbed_guest_shared_config"] == {
        "ssh_public_key_location": "key.pub",
        "ssh_private_key_location": "key",
    }


def test_many_unconnected_bridges_are_no_crash() -> None:
    bridges = ", ".join(f"{{name: b{number}}}" for number in range(300))
    machines = "".join(
        f"  - {{name: g{number}, interfaces: [bridge: b{number}], docker: {{image: x}}}}\n"
        for number in range(300)
    )
    state = state_of(compile_text(f"machines:\n{machines}network: {{bridges: [{bridges}]}}\n"))
    addresses = {guest["interfaces"][0]["ip"] for guest in state["testbed_guests"].values()}
    assert len(addresses) == 300


LABELS = "    labels: {role: db, tier: 1, on: on, empty: ''}\n"


def test_labels_change_nothing_but_the_state_and_only_where_given() -> None:
    labelled = SMALL.replace("  - name: server\n", f"  - name: server\n{LABELS}")
    plain, found = compile_text(SMALL), compile_text(labelled)
    assert found.state.testbed_guests["server"].labels == {"role": "db", "tier": "1", "on": "on", "empty": ""}
    assert [each for each in plain.artefacts if each.path != STATE_PATH] == [
        each for each in found.artefacts if each.path != STATE_PATH
    ]
    assert "labels" not in state_of(plain)["testbed_guests"]["server"]
    assert state_of(found)["testbed_guests"]["server"].pop("labels")["tier"] == "1"


@pytest.mark.parametrize(
    ("labels", "code"),
    [
        ("{-a: b}", "bad-name"),
        ("{a b: c}", "bad-name"),
        ("{'': c}", "bad-name"),
        ("[role=db]", "wrong-type"),
        ("{a: [b]}", "wrong-type"),
    ],
)
def test_labels_that_are_none_are_refused(labels: str, code: str) -> None:
    text = SMALL.replace("  - name: server\n", f"  - name: server\n    labels: {labels}\n")
    with pytest.raises(InputError) as caught:
        compile_text(text)
    assert [each.code for each in caught.value.problems] == [code]


def test_a_state_with_labels_is_read_back() -> None:
    compiled = compile_text(SMALL.replace("  - name: server\n", f"  - name: server\n{LABELS}"))
    data = encode_state(compiled.state)
    found = read_state(data, schemas()).testbed_guests["server"]
    assert found.labels == compiled.state.testbed_guests["server"].labels
    with pytest.raises(KvmComposeError):
        read_state(data.replace(b'"db"', b'"\\u001b[31m"'), schemas())
