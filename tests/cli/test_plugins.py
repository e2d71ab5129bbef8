"""The seams: a new kind of guest and a new placement strategy come as files of their own.

Each test runs kvm-compose as a process, as plug-ins are code that a process takes in for good.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from golden.bench import Bench, new_bench, settle
from kvmcompose.effects.files import STAGED_PREFIX

SENSOR = '''\
"""A sensor: neither a machine nor a container; a file tells somebody how to wire it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from kvmcompose.core.artefact import Artefact, Policy, Rendered
from kvmcompose.core.errors import Complaint
from kvmcompose.core.model import Guest, Machine
from kvmcompose.core.project import ProjectFiles
from kvmcompose.core.state import GuestState, State


class Definition(msgspec.Struct, frozen=True):
    """The ``sensor`` section."""

    unit: str
    rate_hz: int = 1


def expand(machine: Machine) -> Iterator[Guest]:
    yield Guest(
        name=machine.name, kind=machine.kind, definition=machine.body,
        attachments=machine.attachments, machine=machine,
    )


def check(machine: Machine, files: ProjectFiles) -> Iterator[Complaint]:
    if machine.body.unit == "furlong":
        yield Complaint(code="old-unit", path=("sensor", "unit"), message="nobody has furlongs")


def artefacts(guest: GuestState, state: State) -> Iterator[Artefact]:
    values: Any = {"name": guest.hostname, "unit": guest.definition.unit, "rate": guest.definition.rate_hz}
    yield Artefact(
        task=f"wiring:{guest.name}", path=f"artefacts/{guest.name}-wiring.xml", policy=Policy.TEXT,
        content=Rendered("xml", values, templates=("wiring.xml.j2",)), summary="wiring", guest=guest.name,
    )
'''

SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "sensor",
    "description": "A sensor.",
    "type": "object",
    "properties": {
        "unit": {"description": "What it measures in.", "$ref": "kvm-compose.json#/$defs/text"},
        "rate_hz": {"description": "How often.", "type": "integer", "minimum": 1, "maximum": 1000},
    },
    "required": ["unit"],
    "additionalProperties": False,
}

TEMPLATE = '<sensor name="{{ name }}"><unit>{{ unit }}</unit><rate>{{ rate }}</rate></sensor>\n'

LAST = '''\
"""Everything on the last host."""

from kvmcompose.core.model import LogicalTestbed, Placement
from kvmcompose.placement import guests_follow


def place(testbed: LogicalTestbed) -> Placement:
    host = testbed.hosts[-1].name
    segments = {segment.name: host for segment in testbed.topology.segments}
    guests, reasons = guests_follow(testbed, segments)
    return Placement(segments, guests, dict.fromkeys(segments, "the last host has room") | reasons)
'''

TESTBED = """\
machines:
  - name: probe
    interfaces: [{bridge: br0}]
    sensor: {unit: "°C <per> second", rate_hz: 10}
  - name: other
    interfaces: [{bridge: br1}]
    sensor: {unit: V}
network:
  bridges: [{name: br0}, {name: br1}]
"""

CONFIG = """\
{"testbed_host_ssh_config": {
  "a": {"ip": "192.0.2.1", "is_main_host": true, "virt_type": "qemu"},
  "b": {"ip": "192.0.2.2", "virt_type": "qemu"}},
 "ssh_public_key_location": "keys/id_ed25519.pub", "ssh_private_key_location": "keys/id_ed25519.pub"}
"""


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    """A folder with a kind of guest and a strategy that kvmcompose knows nothing of."""
    folder = tmp_path / "plug in"
    for name, text in {
        "guests/sensor.py": SENSOR,
        "schemas/guests/sensor.json": json.dumps(SCHEMA),
        "templates/wiring.xml.j2": TEMPLATE,
        "placement/last.py": LAST,
    }.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.fixture
def toy(tmp_path: Path) -> Bench:
    return new_bench(tmp_path, "toy", {"kvm-compose.yaml": TESTBED, "kvm-compose-config.json": CONFIG})


def test_a_kind_of_guest_is_unknown_without_its_plug_in(toy: Bench) -> None:
    ran = toy.spawn("validate")
    assert ran.status == 2
    assert "kvm-compose.yaml:4:5: machines[0].sensor: error:" in ran.err


def test_a_new_kind_of_guest_builds(toy: Bench, plugin: Path) -> None:
    env = {"KVM_COMPOSE_PLUGINS": str(plugin)}
    assert toy.spawn("validate", **env).status == 0
    ran = toy.spawn("generate", **env)
    assert ran.status == 0, ran.said
    text = toy.path("probe-wiring.xml").read_text(encoding="utf-8")
    assert text == '<sensor name="toy-probe"><unit>°C &lt;per&gt; second</unit><rate>10</rate></sensor>\n'
    guest = toy.state()["testbed_guests"]["other"]
    assert guest["sensor"] == {"unit": "V", "rate_hz": 1}
    assert guest["testbed_host"] == "b"


def test_a_new_kind_of_guest_is_incremental_and_can_be_asked_about(toy: Bench, plugin: Path) -> None:
    env = {"KVM_COMPOSE_PLUGINS": str(plugin)}
    toy.spawn("generate", **env)
    assert toy.spawn("plan", "--detailed-exitcode", **env).status == 0
    toy.edit("rate_hz: 10", "rate_hz: 20")
    ran = toy.spawn("generate", **env)
    assert [line.split()[1] for line in ran.out.splitlines()] == ["state.json", "artefacts/probe-wiring.xml"]
    toy.edit("rate_hz: 20", "rate_hz: 30")
    why = toy.spawn("why", "wiring:probe", "--json", **env).json
    assert why["changed"] == [{"name": "values.rate", "before": 20, "after": 30}]
    toy.spawn("generate", **env)
    (plugin / "templates/wiring.xml.j2").write_text(TEMPLATE + "<!-- new -->\n")
    ran = toy.spawn("generate", **env)
    assert [line.split()[1] for line in ran.out.splitlines()] == [
        "artefacts/probe-wiring.xml",
        "artefacts/other-wiring.xml",
    ]
    assert "wiring:probe" in toy.spawn("list", "--all", **env).out
    assert toy.spawn("clean", "wiring", **env).status == 0
    assert not toy.path("probe-wiring.xml").exists()


def test_an_edit_behind_a_link_in_a_plug_in_is_noticed(toy: Bench, plugin: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "shared"
    (plugin / "templates").rename(elsewhere)
    (plugin / "templates").symlink_to(elsewhere)
    (elsewhere / "round").symlink_to(plugin)
    env = {"KVM_COMPOSE_PLUGINS": str(plugin)}
    # the first process to import a plug-in may add the folder for Python's bytecode to it
    assert toy.spawn("plan", **env).status == 0
    settle()
    assert toy.spawn("generate", **env).status == 0
    assert (toy.folder / ".kvm-compose/standing").exists()  # which answers the next one
    assert toy.spawn("generate", **env).out == ""
    (elsewhere / "wiring.xml.j2").write_text(TEMPLATE + "<!-- new -->\n")
    assert toy.spawn("generate", **env).status == 0
    assert toy.path("probe-wiring.xml").read_text(encoding="utf-8").endswith("<!-- new -->\n")


def test_a_new_kind_of_guest_is_checked_by_its_schema_and_by_itself(toy: Bench, plugin: Path) -> None:
    env = {"KVM_COMPOSE_PLUGINS": str(plugin)}
    toy.edit("unit: V", "unit: furlong")
    toy.edit("rate_hz: 10", "rate_hz: often, colour: red")
    found = toy.spawn("validate", "--json", **env).json["problems"]
    assert [(each["code"], each["path"]) for each in found] == [
        ("wrong-type", "machines[0].sensor.rate_hz"),
        ("unknown-key", "machines[0].sensor.colour"),
    ]
    toy.edit("rate_hz: often, colour: red", "rate_hz: 2")
    (problem,) = toy.spawn("validate", "--json", **env).json["problems"]
    assert (problem["code"], problem["location"]["line"]) == ("old-unit", 7)


def test_the_schema_for_editors_knows_the_new_kind(toy: Bench, plugin: Path) -> None:
    assert "bridges-sensor" in toy.spawn("schema", KVM_COMPOSE_PLUGINS=str(plugin)).json["$defs"]
    assert "bridges-sensor" not in toy.spawn("schema").json["$defs"]


def test_a_new_strategy_places(toy: Bench, plugin: Path) -> None:
    env = {"KVM_COMPOSE_PLUGINS": str(plugin)}
    toy.yaml.write_text(f"{TESTBED}testbed_options: {{load_balancing: last}}\n")
    ran = toy.spawn("placement", "--json", **env)
    assert ran.status == 0, ran.said
    assert {row["host"] for row in ran.json["guests"].values()} == {"b"}
    assert ran.json["bridges"]["br0"] == {"host": "b", "reason": "the last host has room"}
    without = toy.spawn("placement")
    assert without.status == 2


def test_a_new_strategy_is_offered_where_round_robin_fails(toy: Bench, plugin: Path) -> None:
    toy.edit("[{bridge: br0}]", "[{bridge: br0}, {bridge: br1}]")
    ran = toy.spawn("validate", KVM_COMPOSE_PLUGINS=str(plugin))
    assert ran.status == 2
    assert "'probe'" in ran.err
    assert "last or min_tunnels or pack or spread" in ran.err


@pytest.mark.parametrize(
    "path", ["artefacts/../x", "/elsewhere/x", "x", "artefacts", "artefacts//x", "artefacts/./x"]
)
def test_no_kind_of_guest_can_have_files_elsewhere(toy: Bench, plugin: Path, path: str) -> None:
    module = plugin / "guests/sensor.py"
    module.write_text(module.read_text().replace('f"artefacts/{guest.name}-wiring.xml"', repr(path)))
    ran = toy.spawn("generate", KVM_COMPOSE_PLUGINS=str(plugin))
    assert ran.status == 1
    assert "outside artefacts/" in ran.err
    assert "Traceback" not in ran.err
    assert not toy.path("").exists()


def test_two_guests_cannot_have_the_same_file(toy: Bench, plugin: Path) -> None:
    module = plugin / "guests/sensor.py"
    module.write_text(module.read_text().replace('f"artefacts/{guest.name}-wiring.xml"', '"artefacts/x"'))
    ran = toy.spawn("generate", KVM_COMPOSE_PLUGINS=str(plugin))
    assert ran.status == 1
    assert "'artefacts/x'" in ran.err


def test_a_plug_in_folder_that_is_none_is_an_error(toy: Bench) -> None:
    ran = toy.spawn("validate", KVM_COMPOSE_PLUGINS="/nonexistent/plug-in")
    assert ran.status == 1
    assert "KVM_COMPOSE_PLUGINS" in ran.err
    assert "Traceback" not in ran.err


def test_a_project_cannot_bring_code_of_its_own(toy: Bench, plugin: Path) -> None:
    for name in ("guests", "placement", "schemas"):
        (plugin / name).rename(toy.folder / name)
    marker = toy.root / "it-ran"
    toy.write("sitecustomize.py", f"open({str(marker)!r}, 'w')\n")
    toy.write("guests/docker.py", f"open({str(marker)!r}, 'w')\n")
    ran = toy.spawn("validate", cwd=toy.root)
    assert ran.status == 2
    assert not marker.exists()


def test_a_change_of_a_plug_in_s_template_is_not_overlooked(toy: Bench, plugin: Path) -> None:
    env = {"KVM_COMPOSE_PLUGINS": str(plugin)}
    for _ in range(2):
        assert toy.spawn("generate", **env).status == 0
    (plugin / "templates/wiring.xml.j2").write_text("<sensor/>\n")
    assert toy.spawn("generate", **env).status == 0
    assert toy.path("probe-wiring.xml").read_text() == "<sensor/>\n"


def test_a_change_of_a_plug_in_s_code_is_not_overlooked(toy: Bench, plugin: Path) -> None:
    env = {"KVM_COMPOSE_PLUGINS": str(plugin)}
    for _ in range(2):
        assert toy.spawn("generate", **env).status == 0
    module = plugin / "guests/sensor.py"
    module.write_text(module.read_text().replace('"unit": guest.definition.unit', '"unit": "lux"'))
    assert toy.spawn("generate", **env).status == 0
    assert "<unit>lux</unit>" in toy.path("probe-wiring.xml").read_text()


def test_a_link_to_plug_ins_that_is_switched_is_noticed(toy: Bench, plugin: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(plugin, other)
    (other / "templates/wiring.xml.j2").write_text("<other/>\n")
    link = tmp_path / "link"
    link.symlink_to(plugin)
    env = {"KVM_COMPOSE_PLUGINS": str(link)}
    for _ in range(2):
        settle()
        assert toy.spawn("generate", **env).status == 0
    link.unlink()
    link.symlink_to(other)
    assert "rebuild  artefacts/probe-wiring.xml" in toy.spawn("generate", **env).out
    assert toy.path("probe-wiring.xml").read_text() == "<other/>\n"
    assert toy.spawn("plan", **env).out == ""


def test_artefacts_in_a_folder_of_their_own(toy: Bench, plugin: Path) -> None:
    """What a build that was killed had staged there goes with the next one, and the folder with clean."""
    module = plugin / "guests/sensor.py"
    module.write_text(module.read_text().replace("artefacts/{guest.name}-", "artefacts/wiring/{guest.name}/"))
    env = {"KVM_COMPOSE_PLUGINS": str(plugin)}
    assert toy.spawn("generate", **env).status == 0
    folder = toy.folder / "artefacts/wiring/probe"
    assert (folder / "wiring.xml").exists()
    (folder / f"{STAGED_PREFIX}123-0").write_text("<sens")
    (toy.folder / f"artefacts/{STAGED_PREFIX}scratch").mkdir()
    (toy.folder / "artefacts/elsewhere").symlink_to(toy.root)
    outside = toy.root / f"{STAGED_PREFIX}of another project"
    outside.touch()
    toy.edit("unit: V", "unit: A")
    assert toy.spawn("generate", **env).status == 0
    assert not list((toy.folder / "artefacts").rglob(f"{STAGED_PREFIX}*"))
    assert outside.exists(), "no link is followed"
    (toy.folder / "artefacts/elsewhere").unlink()
    assert toy.spawn("clean", **env).status == 0
    assert not (toy.folder / "artefacts").exists()
