"""Plan, up, down and the file in the page, with the real command line and simulated hosts."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_lab import FakeLab
from playwright.sync_api import expect
from visitor import Visitor

from kvmcompose.effects import process
from kvmcompose.server.people import Role

_GUEST = """\
  - name: {name}
    interfaces: [{{bridge: br0}}]
    libvirt:
      cpus: 1
      memory_mb: 64
      libvirt_type: {{existing_disk: {{path: ./tiny.qcow2, driver_type: qcow2}}}}
"""
_NETWORK = "network: {bridges: [{name: br0}], bridge_connections: {}, external_bridge: br0}\n"
_YAML = f"machines:\n{_GUEST.format(name='one')}{_GUEST.format(name='two')}{_NETWORK}"
#: What a request that is refused leaves in the console.
_REFUSED = "status of 409"


@pytest.fixture(scope="module")
def _built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("change") / "lab"
    folder.mkdir()
    process.run(["qemu-img", "create", "-q", "-f", "qcow2", "tiny.qcow2", "1M"], cwd=folder)
    (folder / "kvm-compose.yaml").write_text(_YAML)
    process.run([sys.executable, "-m", "kvmcompose", "-q", "-C", str(folder), "generate"])
    return folder


@pytest.fixture(autouse=True)
def _patience(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The page waits for commands, each of which takes a second or more on a busy machine.

    They record consents beside the test's project, not for this user.
    """
    monkeypatch.setenv("KVM_COMPOSE_STATE_DIR", str(tmp_path / "consents"))
    expect.set_options(timeout=30_000)
    yield
    expect.set_options(timeout=5_000)


@pytest.fixture
def project(_built: Path, tmp_path: Path) -> Path:
    """A project of two guests, which the test may change."""
    return Path(shutil.copytree(_built, tmp_path / "lab", symlinks=True))


def test_a_plan_is_reviewed_and_carried_out(lab: FakeLab, visit: Visitor) -> None:
    page = visit.open("lab/change")
    page.get_by_role("button", name="Plan").click()
    runs = page.get_by_role("region", name="What runs")
    expect(runs.get_by_role("heading", name="one")).to_be_visible()
    expect(runs.get_by_text("2 guests boot")).to_be_visible()
    visit.check_accessible()
    visit.check_fits()
    page.set_viewport_size({"width": 1280, "height": 844})
    page.get_by_role("button", name="Carry out this plan").click()
    report = page.get_by_role("region", name="Action up")
    expect(report.get_by_text("succeeded")).to_be_visible()
    expect(page.get_by_role("row", name="up succeeded")).to_be_visible()
    visit.check_accessible()

    yaml = lab.project_folder / "kvm-compose.yaml"
    yaml.write_text(_YAML.replace("memory_mb: 64", "memory_mb: 96", 1))
    page.get_by_role("button", name="Plan").click()
    expect(runs.get_by_text("restart").first).to_be_visible()
    expect(
        page.get_by_role("region", name="Files of the project").get_by_text("rebuild").first
    ).to_be_visible()
    yaml.write_text(_YAML.replace("memory_mb: 64", "memory_mb: 80", 1))
    page.get_by_role("button", name="Carry out this plan").click()
    expect(page.get_by_role("heading", name="Not brought up")).to_be_visible()
    expect(page.get_by_text("something has changed since the plan was made")).to_be_visible()

    page.get_by_role("button", name="Down…").click()
    page.get_by_role("button", name="Take down").click()
    expect(page.get_by_role("region", name="Action down").get_by_text("succeeded")).to_be_visible()


def test_consent_is_asked_for(lab: FakeLab, visit: Visitor) -> None:
    templates = lab.project_folder / "templates"
    templates.mkdir()
    shutil.copy(Path(__file__).resolve().parents[2] / "templates" / "domain.xml.j2", templates)
    page = visit.open("lab/change")
    page.get_by_role("button", name="Up", exact=True).click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_text("template").first).to_be_visible()
    visit.check_accessible()
    dialog.get_by_role("button", name="Cancel").click()
    expect(page.get_by_text("you have not trusted it")).to_be_visible()
    page.get_by_role("button", name="Up", exact=True).click()
    visit.go("lab")  # the build goes on meanwhile, and asks there
    dialog.get_by_role("button", name="I trust it").click()
    expect(page.locator(".labhead")).to_contain_text("up")
    visit.go("lab/change")
    page.locator("#main").get_by_role("link", name="up", exact=True).click()
    expect(page.get_by_role("region", name="Action up").get_by_text("succeeded")).to_be_visible()


def test_the_file_is_edited_and_saved_when_it_is_valid(lab: FakeLab, visit: Visitor) -> None:
    visit.expected.append(_REFUSED)
    yaml = lab.project_folder / "kvm-compose.yaml"
    page = visit.open("lab/file")
    editor = page.get_by_role("textbox", name="kvm-compose.yaml")
    expect(editor).to_contain_text("memory_mb: 64")
    save = page.get_by_role("button", name="Save")
    expect(save).to_be_disabled()
    visit.check_accessible()
    visit.check_fits()
    page.set_viewport_size({"width": 1280, "height": 844})

    editor.click()
    page.keyboard.press("Control+Home")
    page.keyboard.type("nonsense: 1\n")
    expect(page.get_by_text("1 error")).to_be_visible()
    place = page.get_by_role("button", name="kvm-compose.yaml:1:1")
    expect(place).to_be_visible()
    expect(save).to_be_disabled()
    visit.check_accessible()
    page.get_by_role("button", name="Discard changes").click()
    expect(editor).not_to_contain_text("nonsense")

    editor.click()
    page.keyboard.press("Control+End")
    page.keyboard.type("# a remark")
    expect(save).to_be_enabled()
    yaml.write_text(_YAML + "# edited elsewhere\n")
    save.click()
    expect(page.get_by_text("changed on disk")).to_be_visible()
    page.get_by_role("button", name="Keep my text").click()
    expect(save).to_be_enabled()
    save.click()
    expect(page.get_by_text("Saved.")).to_be_visible()
    assert yaml.read_text() == _YAML + "# a remark"


def test_completion_and_reading_only(lab: FakeLab, visit: Visitor) -> None:
    page = visit.open("lab/file")
    editor = page.get_by_role("textbox", name="kvm-compose.yaml")
    editor.click()
    page.keyboard.press("Control+End")
    page.keyboard.type("testbed_o")
    expect(page.get_by_role("option", name="testbed_options")).to_be_visible()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Discard changes").click()

    page.get_by_role("button", name="Sign out").click()
    page.get_by_label("Token").fill(lab.token(Role.READ_ONLY))
    page.keyboard.press("Enter")
    expect(page.get_by_text("read-only").first).to_be_visible()
    visit.go("lab/file")
    expect(editor).to_contain_text("memory_mb: 64")
    expect(editor).to_have_attribute("aria-readonly", "true")
    expect(page.get_by_role("button", name="Save")).not_to_be_visible()
    visit.go("lab/change")
    page.get_by_role("button", name="Plan").click()
    expect(page.get_by_role("region", name="What runs").get_by_text("2 guests boot")).to_be_visible()
    expect(page.get_by_role("button", name="Carry out this plan")).not_to_be_visible()
