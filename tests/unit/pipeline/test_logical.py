"""Scaling written out, and what a schema cannot say."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the golden projects are a package there

from golden.memory import MemoryFiles, compile_text, host, hosts
from kvmcompose.core.errors import InputError
from kvmcompose.core.model import Guest
from kvmcompose.core.names import HOSTNAME_LIMIT

HERD = """\
machines:
  - name: herd
    libvirt:
      cpus: 1
      memory_mb: 64
      libvirt_type: {cloud_image: {name: debian_12, setup_script: a.sh, run_script: b.sh}}
      scaling:
        count: 3
        shared_setup: s.sh
        interfaces: [{bridge: br0, clones: [0, 2]}, {bridge: br1, clones: [2, 1]}]
        clone_setup: [{script: c.sh, clones: [2]}, {script: d.sh, clones: [0, 2]}]
        clone_run: [{script: e.sh, clones: [1]}]
network: {bridges: [{name: br0}, {name: br1}]}
"""

FILES = {"key.pub", "key", *(f"{letter}.sh" for letter in "abcdes")}


def guests(text: str, **more: str) -> dict[str, Guest]:
    compiled = compile_text(text, files=MemoryFiles(set(FILES)), **more)  # type: ignore[arg-type]
    return {guest.name: guest for guest in compiled.placed.logical.guests}


def codes(text: str, **more: str) -> list[str]:
    with pytest.raises(InputError) as caught:
        guests(text, **more)
    return [problem.code for problem in caught.value.problems]


def test_scaling_makes_a_golden_image_and_its_clones_in_order() -> None:
    found = guests(HERD)
    assert list(found) == ["herd", "herd-0", "herd-1", "herd-2"]
    assert [guest.is_golden_image for guest in found.values()] == [True, False, False, False]
    assert [guest.golden_image for guest in found.values()] == [None, "herd", "herd", "herd"]


def test_clones_get_the_interfaces_that_name_them_in_file_order() -> None:
    found = guests(HERD)
    segments = {name: [each.segment for each in guest.attachments] for name, guest in found.items()}
    assert segments == {"herd": [], "herd-0": ["br0"], "herd-1": ["br1"], "herd-2": ["br0", "br1"]}


def test_the_golden_image_runs_what_is_shared_and_clones_run_the_rest() -> None:
    scripts = {
        name: (each.definition.setup_scripts, each.definition.run_scripts)
        for name, each in guests(HERD).items()
    }
    assert scripts == {
        "herd": (("s.sh",), ()),
        "herd-0": (("a.sh", "d.sh"), ("b.sh",)),
        "herd-1": (("a.sh",), ("b.sh", "e.sh")),
        "herd-2": (("a.sh", "c.sh", "d.sh"), ("b.sh",)),
    }


def test_a_scaled_container_has_no_golden_image() -> None:
    text = """\
machines:
  - name: web
    docker: {image: nginx, scaling: {count: 2, interfaces: [{bridge: br0, clones: [0, 1]}]}}
network: {bridges: [{name: br0}]}
"""
    found = guests(text)
    assert list(found) == ["web-0", "web-1"]
    assert not any(guest.is_golden_image for guest in found.values())


def test_a_volume_of_the_project_folder_is_relative_in_the_state() -> None:
    text = """\
machines:
  - name: web
    interfaces: [{bridge: br0}]
    docker:
      image: nginx
      volumes:
        - {source: "${PWD}/html", target: /a}
        - {source: $PWD/html, target: /b}
        - {source: "${PWD}", target: /c}
        - {source: ./html, target: /d}
network: {bridges: [{name: br0}]}
"""
    files = MemoryFiles({"key.pub", "key"}, {"html", "."})
    (web,) = compile_text(text, files=files).placed.logical.guests
    assert [volume.source for volume in web.definition.volumes] == ["./html", "./html", ".", "./html"]


@pytest.mark.parametrize("length", [HOSTNAME_LIMIT - 4, HOSTNAME_LIMIT - 3])
def test_a_host_name_fits_or_is_refused(length: int) -> None:
    text = f"machines: [{{name: {'a' * length}, interfaces: [bridge: b], docker: {{image: x}}}}]\n"
    text += "network: {bridges: [{name: b}]}\n"
    if 4 + length <= HOSTNAME_LIMIT:
        assert guests(text, project="lab")
    else:
        assert "name-too-long" in codes(text, project="lab")


def test_the_name_of_a_clone_may_be_too_long_where_that_of_its_machine_is_not() -> None:
    name = "h" * (HOSTNAME_LIMIT - len("lab-") - 1)
    text = HERD.replace("name: herd", f"name: {name}")
    assert "name-too-long" in codes(text, project="lab") * 3


def test_without_a_network_section_nothing_can_be_reached() -> None:
    alone = "machines: [{name: a, docker: {image: x}}]\n"
    assert codes(alone) == ["no-interface"]
    assert codes(f"{alone}testbed_options: {{placement: {{pin: {{a: main}}}}}}\n") == ["no-interface"]


@pytest.mark.parametrize("text", ["", "{}", "machines: []", "machines:", "network: {bridges: []}"])
def test_a_testbed_without_machines_is_none(text: str) -> None:
    assert set(codes(text)) <= {"no-machines", "missing-key", "wrong-type"}


def test_the_main_host_need_not_be_the_first() -> None:
    text = "machines: [{name: a, interfaces: [bridge: b], docker: {image: x}}]\n"
    text += "network: {bridges: [{name: b}]}\n"
    on = [host("h0", main=False), host("h1", "192.0.2.9")]
    assert compile_text(text, on=on).placed.placement.guests == {"a": "h0"}


def test_golden_images_are_set_up_on_the_main_host() -> None:
    placed = compile_text(HERD.replace("[2, 1]", "[1]"), files=MemoryFiles(set(FILES)), on=hosts(2)).placed
    assert placed.placement.guests == {"herd": "h0", "herd-0": "h0", "herd-1": "h1", "herd-2": "h0"}
