"""Own templates: the same bytes in every build, and no change of what they include is overlooked."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from golden.bench import Bench, new_bench
from kvmcompose.build.steady_templates import SteadyTemplates
from kvmcompose.effects.resources import shipped
from kvmcompose.render.templates import Templates

YAML = """\
machines:
  - name: web
    interfaces: [{bridge: br0}]
    libvirt: {cpus: 1, memory_mb: 64, libvirt_type: {cloud_image: {path: disks/base.qcow2}}}
network: {bridges: [{name: br0}], external_bridge: br0}
"""
CONFIG = """\
{
  "testbed_host_ssh_config": {"main": {"ip": "127.0.0.1", "is_main_host": true, "virt_type": "qemu"}},
  "ssh_public_key_location": "keys/id_ed25519.pub"
}
"""
XML = "artefacts/web-domain.xml"
TEMPLATE = (shipped("templates") / "domain.xml.j2").read_text(encoding="utf-8")


@pytest.fixture
def lab(memory_root: Path, tmp_path: Path) -> Bench:
    root = memory_root / tmp_path.name
    root.mkdir()
    files = {"kvm-compose.yaml": YAML, "kvm-compose-config.json": CONFIG, "keys/id_ed25519": ""}
    return new_bench(root, "lab", files)


def with_template(lab: Bench, text: str) -> Bench:
    lab.write("templates/domain.xml.j2", TEMPLATE.replace("<name>", text + "<name>", 1))
    return lab


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("{{ lipsum() }}", "'lipsum' is undefined"),
        ("{{ lipsum }}", "'lipsum' is undefined"),
        ("{{ [1, 2, 3]|random }}", "No filter named 'random'"),
        ("{{ cycler('a') }}", "Cycler object"),
        ("{{ joiner() }}", "Joiner object"),
        ("{{ name.upper }}", "method upper"),
        ("{{ range }}", "function safe_range"),
        ("{{ [1]|map('string') }}", "generator object"),
        ("{{ ([1]|unique)|string|tojson }}", "generator object"),
        ("{{ [[1]|batch(1)] }}", "generator object"),
        ("{% for x in [1] %}{{ [[2]|reverse]|pprint }}{% endfor %}", "object"),
        ("{{ '%s'|format(lipsum) }}", "'lipsum' is undefined"),
    ],
)
def test_what_differs_from_build_to_build_is_refused(lab: Bench, expression: str, said: str) -> None:
    ran = with_template(lab, f"<!-- {expression} -->").run("generate")
    assert ran.status != 0
    assert "templates/domain.xml.j2" in ran.err
    assert said in ran.err
    assert not (lab.folder / XML).exists()


def test_what_is_the_same_in_each_build_may_be_used(lab: Bench) -> None:
    used = (
        "{% set turn = cycler('a', 'b') %}{% set comma = joiner(',') %}{% set n = namespace(x=1) %}"
        "<!-- {{ turn.next() }}{{ turn.next() }} {{ comma() }}x{{ comma() }} {{ n.x }} {{ range(3)|list }}"
        " {{ [2, 2]|unique|list }} {{ name.upper() }} the object at 0x7fff0000 -->"
    )
    with_template(lab, used).generate()
    before = lab.artefacts()
    assert b"<!-- ab x, 1 [0, 1, 2] [2] LAB-WEB the object at 0x7fff0000 -->" in before[XML]
    shutil.rmtree(lab.folder / "artefacts")
    shutil.rmtree(lab.folder / ".kvm-compose")
    lab.generate()
    assert lab.artefacts() == before


def test_an_empty_template_is_another_one_than_none(lab: Bench) -> None:
    with_template(lab, "{% include ['extra.j2', 'part.j2'] %}")
    lab.write("templates/part.j2", "<!-- part -->\n")
    lab.generate()
    assert b"<!-- part -->" in (lab.folder / XML).read_bytes()
    lab.write("templates/extra.j2", "")
    assert lab.plan() == {XML: "rebuild"}
    assert lab.generate() == {XML: "rebuild"}
    assert b"<!-- part -->" not in (lab.folder / XML).read_bytes()
    (lab.folder / "templates/extra.j2").unlink()
    assert lab.generate() == {XML: "rebuild"}


def test_two_sets_of_texts_have_two_digests() -> None:
    """Also where the texts contain what separates them in the digest."""
    top = "{% include ['a', 'b'] %}"
    variants: list[dict[str, str]] = [
        {},
        {"a": ""},
        {"b": ""},
        {"a": "", "b": ""},
        {"a": "x"},
        {"a": "x\0b\0y"},
        {"a": "x", "b": "y"},
        {"a": "x", "b": "y\0b\0z"},
        {"a": "x\0b\0y", "b": "z"},
    ]
    digests = {SteadyTemplates({"top": top, **texts}).digest("top") for texts in variants}
    assert len(digests) == len(variants)


def test_digests_that_version_0_1_recorded_stay() -> None:
    """A change of a digest would be a conflict with each edit of an XML file by hand."""
    texts = {"top": "{% include ['a', 'b'] %}", "a": "x"}
    assert SteadyTemplates(texts).digest("top") == Templates(texts).digest("top")
    ours = {path.name: path.read_text(encoding="utf-8") for path in shipped("templates").glob("*.j2")}
    for name in ours:
        assert SteadyTemplates(ours).digest(name) == Templates(ours).digest(name)
