"""A project, a server with a fake host in a separate process, and the command line to use them."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from forked import Forked
from golden.bench import Bench, Ran, environment, new_bench

YAML = """\
machines:
  - name: web
    labels: {role: front, tier: 1}
    interfaces: [{bridge: br0}]
    libvirt:
      cpus: 1
      memory_mb: 128
      libvirt_type: {cloud_image: {name: debian_12, setup_script: setup.sh}}
  - name: db
    labels: {role: store, tier: 1}
    interfaces: [{bridge: br0}]
    libvirt: {cpus: 1, memory_mb: 128, libvirt_type: {cloud_image: {name: debian_12}}}
network:
  bridges: [{name: br0}]
  external_bridge: br0
"""
FILES = {
    "kvm-compose.yaml": YAML,
    "setup.sh": "#!/bin/sh\ntrue\n",
    "keys/id_ed25519": "not a key\n",
    "kvm-compose-config.json": """\
{"testbed_host_ssh_config": {"main": {"ip": "127.0.0.1", "user": "me", "is_main_host": true,
 "virt_type": "qemu", "datapath_type": "system"}},
 "ssh_public_key_location": "keys/id_ed25519.pub", "ssh_private_key_location": "keys/id_ed25519"}
""",
}
_START_SECONDS = 30


class Lab:
    """The project ``lab`` and its server."""

    def __init__(self, root: Path) -> None:
        self.bench: Bench = new_bench(root, "lab", FILES)
        self.folder = self.bench.folder
        self.env = {"KVM_COMPOSE_STATE_DIR": str(root / "state")}
        self._server: Forked | None = None

    def serve(self, *options: str) -> None:
        """Start the server, or restart it; the fake host keeps its state."""
        self.stop()
        self._server = Forked(
            ["server", "--fake", "--project-root", str(self.bench.root), *options],
            environment(self.bench.root) | self.env,
            self.bench.root / "server.log",
        )
        socket = self.bench.root / "state" / "server.sock"
        deadline = time.monotonic() + _START_SECONDS
        while self.run("deployments").status:
            assert self._server.poll() is None, (self.bench.root / "server.log").read_text()
            assert time.monotonic() < deadline, f"no server listens on {socket}"
            time.sleep(0.05)

    def stop(self, *, kindly: bool = True) -> None:
        if self._server is not None and not kindly:
            self._server.kill()
            self._server.wait()
        elif self._server is not None:
            self._server.terminate()
            try:
                self._server.wait(20)
            except subprocess.TimeoutExpired:
                self._server.kill()
                self._server.wait()
        self._server = None

    def run(self, *words: str, **env: str) -> Ran:
        """Run a command in this process. It does not start a server."""
        address = f"unix:{self.bench.root}/state/server.sock"
        return self.bench.run(*words, **self.env, KVM_COMPOSE_SERVER=address, **env)

    def must(self, *words: str, status: int = 0, **env: str) -> Ran:
        """Run a command that must exit with this status."""
        ran = self.run(*words, **env)
        assert ran.status == status, ran.said
        return ran

    def start(self, *words: str, text: bool = True, line: str = '"$@"', **env: str) -> subprocess.Popen[Any]:
        """Start a command in a separate process, as in the foreground of a terminal. Its input is a pipe.

        ``line`` is what a shell runs, with the command as, ``"$@"``.
        """
        address = f"unix:{self.bench.root}/state/server.sock"
        return subprocess.Popen(
            ["/bin/sh", "-c", f"exec {line}", "sh", *self.bench.argv(*words)],
            env=environment(self.bench.root) | self.env | {"KVM_COMPOSE_SERVER": address} | env,
            cwd=self.folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=text,
            start_new_session=True,
        )

    def state(self) -> str:
        """Return the deployment's state, as the server reports it."""
        (found,) = self.must("deployments", "info", "lab", "--json").json
        return str(found["state"])

    def guests(self) -> dict[str, str]:
        """Return the guests and their states."""
        return {each["name"]: each["state"] for each in self.must("status", "--json").json["guests"]}


def _lab() -> Iterator[Lab]:
    root = Path(tempfile.mkdtemp(prefix="kc-"))  # short, because it contains sockets
    lab = Lab(root)
    yield lab
    lab.stop(kindly=False)
    shutil.rmtree(root)


@pytest.fixture
def idle() -> Iterator[Lab]:
    """The lab, without a server."""
    yield from _lab()


@pytest.fixture
def lab(idle: Lab) -> Lab:
    """The lab with a new server."""
    idle.serve()
    return idle


@pytest.fixture
def up(lab: Lab) -> Lab:
    """The lab, up."""
    lab.must("up")
    return lab


@pytest.fixture(scope="session")
def running() -> Iterator[Lab]:
    """A lab that is up, shared by all tests that do not change it."""
    for lab in _lab():
        lab.serve()
        lab.must("up")
        yield lab


class Replaced(NamedTuple):
    """The exit status of a command that became another program, and the arguments of that program."""

    status: int
    err: str
    words: list[str]


@pytest.fixture
def become(running: Lab, tmp_path: Path) -> Callable[..., Replaced]:
    """Runs a command of the running lab with a substitute for the program that it becomes."""

    def run(name: str, *words: str) -> Replaced:
        said = tmp_path / "words"
        script = tmp_path / name
        script.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >"{said}"\nexit 7\n')
        script.chmod(0o755)
        process = running.start(*words, PATH=f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        _out, err = process.communicate(timeout=60)
        return Replaced(process.returncode, err, said.read_text().splitlines() if said.exists() else [])

    return run
