from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from daemon import Daemon
from stub import StubServer, running

from kvmcompose.core.deployment import NewDeployment
from kvmcompose.effects import process


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder with a path short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="kc") as folder:
        yield Path(folder)


@pytest.fixture
def stub(short_path: Path) -> Iterator[StubServer]:
    """A server with an orchestrator that the test controls."""
    with running(short_path) as server:
        yield server


@pytest.fixture(scope="module")
def shared_stub() -> Iterator[StubServer]:
    """One such server for all tests of a module that do not change its state."""
    with tempfile.TemporaryDirectory(prefix="kc") as folder, running(Path(folder)) as server:
        server.client().put(NewDeployment("demo", str(server.project("demo"))))
        yield server


@pytest.fixture(scope="session")
def built_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with two guests, built."""
    folder = tmp_path_factory.mktemp("built") / "demo"
    folder.mkdir()
    process.run(["qemu-img", "create", "-q", "-f", "qcow2", "tiny.qcow2", "1M"], cwd=folder)
    (folder / "kvm-compose.yaml").write_text(_YAML)
    process.run([sys.executable, "-m", "kvmcompose", "-q", "-C", str(folder), "generate"])
    return folder


_GUEST = """\
  - name: {name}
    interfaces: [{{bridge: br0}}]
    libvirt:
      cpus: 1
      memory_mb: 64
      libvirt_type: {{existing_disk: {{path: ./tiny.qcow2, driver_type: qcow2}}}}
"""
_YAML = f"""\
machines:
{_GUEST.format(name="one")}{_GUEST.format(name="two")}
network:
  bridges: [{{name: br0}}]
  external_bridge: br0
"""


@pytest.fixture
def project(built_project: Path, short_path: Path) -> Path:
    """A copy of it that the test may change."""
    copy = short_path / "projects" / "demo"
    shutil.copytree(built_project, copy, symlinks=True)
    return copy


@pytest.fixture
def daemon(short_path: Path) -> Iterator[Callable[..., Daemon]]:
    """Starts servers in processes of their own, and ends them after the test."""
    started: list[Daemon] = []

    def start(*options: str, **environment: str) -> Daemon:
        made = Daemon(short_path / "state", short_path, options, environment)
        started.append(made)
        made.start()
        return made

    yield start
    for each in started:
        each.kill()


@pytest.fixture
def own_place(state_place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Redirect the default paths of clients to a temporary folder."""
    monkeypatch.setenv("KVM_COMPOSE_STATE_DIR", str(state_place))
    monkeypatch.setenv("KVM_COMPOSE_SERVER_FAKE", "1")
    monkeypatch.setenv("KVM_COMPOSE_SERVER_IDLE", "1")
    return state_place
