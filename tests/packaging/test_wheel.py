"""The wheel, in an environment of its own, away from the checkout, without what development needs."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.real

REPOSITORY = Path(__file__).resolve().parents[2]


def run(*argv: str | Path, folder: Path) -> str:
    result = subprocess.run([*argv], cwd=folder, check=False, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(
        sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, REPOSITORY,
        folder=folder,
    )  # fmt: skip
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of an environment that holds the wheel and what it needs."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", folder=folder)
    # the tests import a small part of it: to compile all takes longer
    install = ("install", "--quiet", "--no-compile")
    run(*pip(folder / "venv"), *install, "--require-hashes", "-r", REPOSITORY / "requirements/base.txt",
        folder=folder)  # fmt: skip
    # without an index: whatever the wheel needs is pinned, or this fails
    run(*pip(folder / "venv"), *install, "--no-index", wheel, folder=folder)
    return folder / "venv/bin"


def pip(environment: Path) -> tuple[str | Path, ...]:
    """That of the tests, working on another environment."""
    python = environment / "bin/python"
    return (sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check")


def test_holds_the_package_with_its_schemas_templates_and_starter(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    wanted = {
        f"kvmcompose/{path.relative_to(REPOSITORY)}"
        for pattern in ("schemas/**/*.json", "templates/*.j2")
        for path in REPOSITORY.glob(pattern)
    }
    wanted |= {
        str(path.relative_to(REPOSITORY))
        for package in ("kvmcompose", "microimage")
        for path in (REPOSITORY / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert wanted - held == set()
    assert {name.split("/")[0] for name in held} == {"kvmcompose", "microimage", "kvmcompose-0.1.0.dist-info"}


def test_needs_no_libvirt_and_nothing_of_development(installed: Path) -> None:
    listed = run(*pip(installed.parent), "list", "--format=freeze", folder=installed)
    names = {line.partition("==")[0].lower().replace("_", "-") for line in listed.splitlines()}
    pinned = {
        line.partition("==")[0].lower()
        for line in (REPOSITORY / "requirements/base.txt").read_text().splitlines()
        if "==" in line
    }
    assert names - pinned == {"kvmcompose"}
    assert "libvirt-python" not in names


def test_builds_a_project_in_a_folder_of_its_own(installed: Path, tmp_path: Path) -> None:
    kvm_compose = installed / "kvm-compose"
    where = run(installed / "python", "-c", "import kvmcompose; print(kvmcompose.__file__)", folder=tmp_path)
    assert not Path(where.strip()).is_relative_to(REPOSITORY)

    run("qemu-img", "create", "-q", "-f", "qcow2", "tiny.qcow2", "1M", folder=tmp_path)
    run(kvm_compose, "cloud-images", "add", "debian_12", "tiny.qcow2", folder=tmp_path)
    run(kvm_compose, "init", "lab", folder=tmp_path)
    lab = tmp_path / "lab"
    run(kvm_compose, "generate", folder=lab)
    assert sorted(path.name for path in (lab / "artefacts").iterdir()) == [
        "client-cloud-init.img",
        "client-cloud-init.iso",
        "client-domain.xml",
        "images",
        "lab-network.xml",
        "server-cloud-init.img",
        "server-cloud-init.iso",
        "server-domain.xml",
    ]
    run(kvm_compose, "plan", "--detailed-exitcode", folder=lab)


def test_doit_works_with_the_dodo_that_init_writes(installed: Path, tmp_path: Path) -> None:
    run("qemu-img", "create", "-q", "-f", "qcow2", "tiny.qcow2", "1M", folder=tmp_path)
    run(installed / "kvm-compose", "cloud-images", "add", "debian_12", "tiny.qcow2", folder=tmp_path)
    run(installed / "kvm-compose", "init", "lab", folder=tmp_path)
    lab = tmp_path / "lab"
    assert ".  domain-xml:server" in run(installed / "doit", folder=lab)
    assert "-- domain-xml:server" in run(installed / "doit", "generate", folder=lab)
    assert "domain-xml:client" in run(installed / "doit", "list", "--all", folder=lab)
