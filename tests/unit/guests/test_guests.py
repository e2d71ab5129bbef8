"""Kinds of guest: what each makes of its section."""

from __future__ import annotations

from typing import Any

import pytest

from golden.memory import SCHEMAS, MemoryFiles, compile_text
from kvmcompose.core.artefact import Blank, DeepCopy, LinkTo, Overlay, Policy, Rendered
from kvmcompose.core.errors import InputError, KvmComposeError
from kvmcompose.guests import guest_kind, kinds

FILES = MemoryFiles({"key.pub", "key", "d.raw", "d.qcow2", "i.iso", "a.sh"}, {"folder"})


def artefacts(libvirt_type: str) -> dict[str, Any]:
    body = f"libvirt: {{cpus: 2, memory_mb: 64, libvirt_type: {{{libvirt_type}}}}}"
    text = f"machines: [{{name: g, interfaces: [bridge: b], {body}}}]\nnetwork: {{bridges: [{{name: b}}]}}\n"
    return {each.task: each for each in compile_text(text, files=FILES).artefacts if each.guest == "g"}


def domain(found: dict[str, Any]) -> Any:
    content = found["domain-xml:g"].content
    assert isinstance(content, Rendered)
    return content.values


def test_every_kind_with_a_schema_has_a_module_and_the_other_way_round() -> None:
    assert set(SCHEMAS.guest_kinds) <= set(kinds())
    assert set(kinds()) - set(SCHEMAS.guest_kinds) == {"clone"}


def test_a_kind_that_is_none_is_said_with_those_there_are() -> None:
    with pytest.raises(KvmComposeError) as caught:
        guest_kind("vax")
    assert "libvirt" in str(caught.value.hint)


@pytest.mark.parametrize("name", sorted(kinds()))
def test_a_kind_offers_what_a_kind_has_to(name: str) -> None:
    module = guest_kind(name)
    assert module.SECTION
    assert all(callable(getattr(module, each)) for each in ("expand", "check", "artefacts"))


@pytest.mark.parametrize("name", sorted(SCHEMAS.guest_kinds))
def test_what_the_schema_knows_the_definition_knows(name: str) -> None:
    schema = SCHEMAS.files[f"guests/{name}.json"]["properties"]
    properties = {key for key, value in schema.items() if "x-ignored" not in value}
    assert set(guest_kind(name).Definition.__struct_fields__) == properties


@pytest.mark.parametrize(
    ("libvirt_type", "kinds_of_content"),
    [
        ("cloud_image: {name: debian_12}", {"disk": Overlay, "seed-iso": Rendered}),
        ("cloud_image: {path: d.qcow2}", {"disk": Overlay, "seed-iso": Rendered}),
        ("existing_disk: {path: d.raw}", {"disk": Overlay}),
        ("existing_disk: {path: d.qcow2, driver_type: qcow2, create_deep_copy: true}", {"disk": DeepCopy}),
        ("existing_disk: {path: i.iso, device_type: cdrom}", {"media": LinkTo}),
        ("iso_guest: {path: i.iso}", {"media": LinkTo}),
        ("iso_guest: {path: i.iso, expand_gigabytes: 3}", {"media": LinkTo, "disk": Blank}),
    ],
)
def test_a_guest_has_the_files_that_its_type_needs(
    libvirt_type: str, kinds_of_content: dict[str, type]
) -> None:
    found = artefacts(libvirt_type)
    made = {task.partition(":")[0]: type(each.content) for task, each in found.items()}
    assert made == {**kinds_of_content, "domain-xml": Rendered}
    values = domain(found)
    assert (values.disk is not None) == ("disk" in made)
    assert (values.seed is not None) == ("seed-iso" in made)
    assert (values.media is not None) == ("media" in made)
    assert (values.cpus, values.memory_mb) == (2, 64)


def test_only_guests_that_nobody_set_up_have_a_screen() -> None:
    assert not domain(artefacts("cloud_image: {name: debian_12}")).graphics
    assert domain(artefacts("existing_disk: {path: d.raw}")).graphics
    assert domain(artefacts("iso_guest: {path: i.iso}")).graphics


def test_disks_are_mutable_links_are_links_and_seeds_are_for_their_owner() -> None:
    found = artefacts("cloud_image: {name: debian_12}")
    assert found["disk:g"].policy is Policy.MUTABLE
    assert found["seed-iso:g"].policy is Policy.REPRODUCIBLE
    assert found["seed-iso:g"].mode & 0o077 == 0
    assert artefacts("iso_guest: {path: i.iso}")["media:g"].policy is Policy.LINK


def test_paths_in_a_domain_are_those_of_the_host() -> None:
    values = domain(artefacts("cloud_image: {name: debian_12}"))
    assert values.disk == "/var/lib/kvm-compose/lab/artefacts/g-cloud-init.img"
    assert values.seed == "/var/lib/kvm-compose/lab/artefacts/g-cloud-init.iso"


def test_the_order_of_the_environment_does_not_show() -> None:
    one, two = (
        artefacts(f"cloud_image: {{name: debian_12, environment: {{{text}}}}}")["seed-iso:g"].content
        for text in ("A: 1, B: 2", "B: 2, A: 1")
    )
    assert one == two


def test_a_disk_that_is_read_only_is_so_in_the_domain() -> None:
    assert domain(artefacts("existing_disk: {path: d.raw, readonly: true}")).disk_readonly
    assert not domain(artefacts("existing_disk: {path: d.raw}")).disk_readonly


def test_an_image_is_not_refused_for_where_it_lies() -> None:
    files = MemoryFiles({"key.pub", "key", "/images/d.raw"}, outside={"/images/d.raw"})
    text = """\
machines:
  - name: g
    interfaces: [{bridge: b}]
    libvirt: {cpus: 1, memory_mb: 64, libvirt_type: {existing_disk: {path: /images/d.raw}}}
network: {bridges: [{name: b}]}
"""
    assert compile_text(text, files=files).artefacts


def test_an_image_is_refused_for_what_is_in_it() -> None:
    files = MemoryFiles({"key.pub", "key", "d.raw"}, bad_images={"d.raw": "is an overlay on '/etc/shadow'"})
    text = """\
machines:
  - name: g
    interfaces: [{bridge: b}]
    libvirt: {cpus: 1, memory_mb: 64, libvirt_type: {existing_disk: {path: d.raw}}}
network: {bridges: [{name: b}]}
"""
    with pytest.raises(InputError) as caught:
        compile_text(text, files=files)
    (problem,) = caught.value.problems
    assert problem.code == "bad-image"
    assert "/etc/shadow" in problem.message


@pytest.mark.parametrize("number", [1, 99, 100, 150])
def test_scripts_run_in_the_order_in_which_they_are_written(number: int) -> None:
    """Their names carry their place; whoever runs them goes by the names."""
    entries = ", ".join("{script: a.sh, clones: [0]}" for _ in range(number))
    text = f"""\
machines:
  - name: g
    libvirt:
      cpus: 1
      memory_mb: 64
      libvirt_type: {{cloud_image: {{name: debian_12}}}}
      scaling: {{count: 1, interfaces: [{{bridge: b, clones: [0]}}], clone_run: [{entries}]}}
network: {{bridges: [{{name: b}}]}}
"""
    compiled = compile_text(text, files=FILES)
    (seed,) = (each for each in compiled.artefacts if each.task == "seed-iso:g-0")
    assert isinstance(seed.content, Rendered)
    names = [name for name in seed.content.files if name.startswith("run/")]
    assert len(names) == number
    assert names == sorted(names)
