"""What all machines have: merged into each of them, and reported where it is written."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the golden projects are a package there

from golden.memory import SCHEMAS, MemoryFiles, compile_text
from kvmcompose.core.errors import InputError, Problem
from kvmcompose.pipeline import defaults
from kvmcompose.pipeline.compile import Compiled
from kvmcompose.pipeline.defaults import with_defaults
from kvmcompose.pipeline.read import read_json, read_yaml
from kvmcompose.pipeline.schemas import complete_schema
from kvmcompose.pipeline.shape import shape_testbed

DEFAULTS = """\
defaults:
  labels: {team: red, tier: one}
  interfaces: [{bridge: br0}]
  libvirt:
    cpus: 2
    memory_mb: 1024
    libvirt_type:
      cloud_image: {name: debian_12, setup_script: a.sh}
  docker:
    image: nginx
    environment: {A: b, C: d}
"""
NETWORK = "network: {bridges: [{name: br0}, {name: br1}]}\n"


def compiled(machines: str, text: str = DEFAULTS) -> Compiled:
    files = MemoryFiles({"key.pub", "key", "a.sh", "i.iso", "d.qcow2", "web/Dockerfile"}, {"web"})
    return compile_text(f"{text}machines:\n{machines}{NETWORK}", files=files)


def definition(machine: str) -> Any:
    return compiled(f"- {{name: a, {machine}}}\n").state.testbed_guests["a"].definition


def problems(machines: str, text: str = DEFAULTS) -> tuple[Problem, ...]:
    with pytest.raises(InputError) as caught:
        compiled(machines, text)
    return caught.value.problems


def places(machines: str, text: str = DEFAULTS) -> list[tuple[str, int, str]]:
    return [(each.code, each.location.line, each.path) for each in problems(machines, text)]


def test_written_out_a_testbed_is_the_same() -> None:
    machines = "- {name: a, libvirt: {}}\n- {name: b, labels: {tier: two}, docker: {}}\n"
    written = """\
- name: a
  labels: {team: red, tier: one}
  interfaces: [{bridge: br0}]
  libvirt:
    {cpus: 2, memory_mb: 1024, libvirt_type: {cloud_image: {name: debian_12, setup_script: a.sh}}}
- name: b
  labels: {team: red, tier: two}
  interfaces: [{bridge: br0}]
  docker: {image: nginx, environment: {A: b, C: d}}
"""
    assert compiled(machines).state == compiled(written, "").state


def test_a_section_is_for_machines_of_its_kind_and_an_empty_one_names_the_kind() -> None:
    found = compiled("- {name: a, libvirt: }\n- {name: b, docker: ~}\n").state.testbed_guests
    assert (found["a"].kind, found["a"].definition.cpus) == ("libvirt", 2)
    assert (found["b"].kind, found["b"].definition.image) == ("docker", "nginx")


def test_mappings_are_merged_and_lists_and_values_replaced() -> None:
    guest = compiled(
        "- {name: a, labels: {tier: two, x: y}, interfaces: [{bridge: br1}], libvirt: {cpus: 4}}\n"
    ).state.testbed_guests["a"]
    assert guest.labels == {"team": "red", "tier": "two", "x": "y"}
    assert [each.bridge for each in guest.interfaces] == ["br1"]
    assert (guest.definition.cpus, guest.definition.memory_mb) == (4, 1024)


def test_an_empty_value_removes_the_default() -> None:
    assert definition("docker: {environment: {A: }}").environment.keys() == {"C"}
    assert not definition("docker: {environment: }").environment
    image = definition("libvirt: {libvirt_type: {cloud_image: {setup_script: ~}}}").libvirt_type.cloud_image
    assert (image.name, image.setup_script) == ("debian_12", None)
    guest = compiled("- {name: a, labels: , docker: {}}\n").state.testbed_guests["a"]
    assert not guest.labels


def test_a_machine_that_names_an_alternative_does_not_inherit_the_other() -> None:
    kind = definition("libvirt: {libvirt_type: {iso_guest: {path: i.iso}}}").libvirt_type
    assert kind.iso_guest is not None
    assert kind.cloud_image is None
    image = definition("libvirt: {libvirt_type: {cloud_image: {path: d.qcow2}}}").libvirt_type.cloud_image
    assert (image.name, image.path, image.setup_script) == (None, "d.qcow2", "a.sh")
    web = definition("docker: {build: web}")
    assert (web.image, web.build) == (None, "web")
    assert web.environment.keys() == {"A", "C"}


def test_anchors_and_merge_keys_stay_as_they_are() -> None:
    text = "defaults: &all\n  interfaces: [{bridge: br0}]\n  docker: &web {image: nginx, user: one}\n"
    machines = (
        "- {name: a, docker: {<<: *web, user: two}}\n- {<<: *all, name: b}\n- {name: c, docker: *web}\n"
    )
    found = compiled(machines, text).state.testbed_guests
    assert [(each.definition.image, each.definition.user) for each in found.values()] == [
        ("nginx", "two"),
        ("nginx", "one"),
        ("nginx", "one"),
    ]


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("name: a", "name"),
        ("id: a", "id"),
        ("interfaces: [{bridge: br0, mac: 52:54:00:12:34:56}]", "interfaces[0].mac"),
        ("interfaces: [{bridge: br0, ip: 10.0.0.2}]", "interfaces[0].ip"),
        ("libvirt: {scaling: {interfaces: [{bridge: br0, clones: [0], ip: 10.0.0.2}]}}", None),
    ],
)
def test_what_each_machine_has_itself_is_refused(line: str, key: str | None) -> None:
    (found,) = problems(
        "- {name: a, docker: {image: x}}\n- {name: b, docker: {image: x}}\n", f"defaults:\n  {line}\n"
    )
    assert found.location.line == 2
    assert found.path.startswith("defaults.")
    assert key is None or found.path == f"defaults.{key}"
    assert "in the machine" in str(found.hint)


def test_dhcp_is_for_all() -> None:
    machine = (
        "- {name: a, libvirt: {cpus: 1, memory_mb: 64, libvirt_type: {cloud_image: {name: debian_12}}}}\n"
    )
    text = "defaults: {interfaces: [{bridge: br0, ip: dynamic}]}\n"
    assert compiled(machine, text).state.testbed_guests["a"].interfaces[0].ip == "dynamic"


def test_on_logical_switches_a_machine_adds_its_address_to_the_interface_of_all() -> None:
    text = """\
defaults: {network: {switch: sw0}, docker: {image: nginx}}
machines: [{name: a, network: {ip: 10.0.0.5}, docker: }, {name: b, docker: {}}]
network: {ovn: {switches: {sw0: {subnet: 10.0.0.0/24}}}}
"""
    found = compile_text(text, files=MemoryFiles({"key.pub", "key"})).state.testbed_guests
    assert found["a"].interfaces[0].ip == "10.0.0.5"
    assert found["b"].interfaces


FIVE = "".join(f"- {{name: g{number}, libvirt: {{}}}}\n" for number in range(5))


def test_a_wrong_default_is_reported_once_at_its_line() -> None:
    wrong = DEFAULTS.replace("cpus: 2", "cpus: two").replace("image: nginx", "imag: nginx")
    assert places(FIVE, wrong) == [
        ("wrong-type", 5, "defaults.libvirt.cpus"),
        ("unknown-key", 10, "defaults.docker.imag"),
    ]


def test_a_wrong_value_of_a_machine_is_reported_there() -> None:
    machines = "- {name: a, libvirt: {}}\n- {name: b, libvirt: {cpus: two}}\n"
    assert places(machines) == [("wrong-type", 14, "machines[1].libvirt.cpus")]


def test_a_missing_file_of_the_defaults_is_reported_once_with_its_machines() -> None:
    machines = "".join(f"- {{name: g{number}, libvirt: {{}}}}\n" for number in range(9))
    (found,) = problems(machines + "- {name: d, docker: {}}\n", DEFAULTS.replace("a.sh", "b.sh"))
    assert (found.code, found.location.line) == ("missing-file", 8)
    assert found.path == "defaults.libvirt.libvirt_type.cloud_image.setup_script"
    assert "(machines: g0, g1, g2, g3, g4, g5 and 3 more)" in found.message


def test_a_default_that_does_not_fit_a_machine_names_it() -> None:
    text = DEFAULTS.replace("cpus: 2", "cpus: 2\n    max_cpus: 4")
    (found,) = problems("- {name: a, libvirt: {}}\n- {name: b, libvirt: {cpus: 8}}\n", text)
    assert (found.code, found.location.line, found.wanted) == ("out-of-range", 6, "at least 8")
    assert "(machines: b)" in found.message


def test_what_is_still_missing_is_missing_in_the_machine() -> None:
    text = "defaults: {libvirt: {cpus: 1, memory_mb: 64}}\n"
    assert places("- {name: a, libvirt: {}}\n", text) == [("missing-key", 3, "machines[0].libvirt")]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("defaults: {docker: {image: x, build: y}}\n", "too-many-keys"),
        ("defaults: {libvirt: {libvirt_type: {iso_guest: {path: x}, cloud_image: {}}}}\n", "too-many-kinds"),
        ("defaults: [a]\n", "wrong-type"),
        ("defaults: {cpus: 2}\n", "unknown-key"),
    ],
)
def test_defaults_have_the_form_of_machines(text: str, code: str) -> None:
    (found,) = problems("- {name: a, docker: {image: x}}\n", text)
    assert (found.code, found.location.line) == (code, 1)
    assert found.path.startswith("defaults")


def test_a_key_of_a_section_is_shown_its_place_in_the_defaults() -> None:
    (found,) = problems("- {name: a, docker: {image: x}}\n", "defaults: {memory_mb: 2}\n")
    assert found.hint == "it belongs under 'docker' or 'libvirt'"


def test_no_defaults_change_nothing() -> None:
    document = read_yaml(b"machines: [{name: a, docker: {image: x}}]\n", "a.yaml")
    assert with_defaults(document, SCHEMAS) is document
    machine = "- {name: a, interfaces: [{bridge: br0}], docker: {image: x}}\n"
    assert compiled(machine, "defaults:\n").state.testbed_guests.keys() == {"a"}


def test_defaults_do_not_multiply_without_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(defaults, "MAX_INHERITED_NODES", 20)
    (found,) = problems(FIVE)
    assert (found.code, found.location.line) == ("too-large", 14)


def test_json_has_defaults_too() -> None:
    text = b'{"defaults": {"docker": {"image": "x"}}, "machines": [{"name": "a", "docker": null}]}'
    value, found = shape_testbed(with_defaults(read_json(text, "a.json"), SCHEMAS), SCHEMAS)
    assert not found
    assert value["machines"][0]["docker"] == {"image": "x"}


def test_editors_require_of_a_machine_only_what_defaults_cannot_give() -> None:
    valid = Draft202012Validator(complete_schema(SCHEMAS)).is_valid
    machine = {"name": "a", "libvirt": {}}
    assert not valid({"machines": [machine]})
    assert valid({"machines": [machine], "defaults": {"libvirt": {"cpus": 1}, "docker": {}}})
    assert not valid({"machines": [{"libvirt": {}}], "defaults": {}})
    assert not valid({"machines": [machine], "defaults": {"name": "a"}})
    assert not valid({"machines": [machine], "defaults": {"docker": {"image": "x", "build": "y"}}})
