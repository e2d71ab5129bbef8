"""One call of doit in examples/ci: build, up, check, down; on a host that is only pretended."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from commands import BIN, REPOSITORY, read_yaml, run

if TYPE_CHECKING:
    from commands import Run

EXAMPLE = REPOSITORY / "examples" / "ci"


class Project:
    """A copy of the example with a key of its own, and a server's state folder."""

    def __init__(self, folder: Path, state: Path) -> None:
        self.folder = folder
        self.state = state
        (folder / "keys/example.pub").unlink()
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "keys/example", folder=folder)

    def run(self, program: str, *words: str, **env: str) -> Run:
        environment = {
            **os.environ,
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "KVM_COMPOSE_STATE_DIR": str(self.state),
            "KVM_COMPOSE_SERVER_FAKE": "1",
            "KVM_COMPOSE_SERVER_IDLE": "60",  # one for all commands; `state_place` ends it
        }
        environment.pop("CI", None)
        return subprocess.run(
            [BIN / program, *words], cwd=self.folder, env=environment | env,
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip

    def doit(self, *words: str, **env: str) -> Run:
        return self.run("doit", *words, **env)

    def phase(self) -> str:
        (found,) = json.loads(self.run("kvm-compose", "deployments", "info", "ci", "--json").stdout)
        return str(found["state"])


@pytest.fixture
def project(copy_of: Callable[[str], Path], state_place: Path) -> Project:
    return Project(copy_of("examples/ci"), state_place)


def test_all_goes_well(project: Project) -> None:
    ran = project.doit()
    assert ran.returncode == 0, ran.stdout + ran.stderr
    tasks = [line for line in ran.stdout.splitlines() if line.startswith(".  ")]
    assert tasks[-4:] == [".  up", ".  check", ".  down", ".  report"]
    assert [each["command"] for each in json.loads((project.folder / "actions.json").read_text())] == [
        "down", "exec", "exec", "up",
    ]  # fmt: skip
    assert project.phase() == "down"


@pytest.mark.parametrize(("where", "left"), [({"CI": "true"}, "down"), ({}, "up")])
def test_a_check_that_fails(project: Project, where: dict[str, str], left: str) -> None:
    ran = project.doit(**where, KVM_COMPOSE_SERVER_FAIL="run:web:ssh")
    assert ran.returncode != 0
    assert "taskid:check" in ran.stdout + ran.stderr
    assert project.phase() == left


@pytest.mark.parametrize(("where", "left"), [({"CI": "true"}, "down"), ({}, "failed")])
def test_an_up_that_fails(project: Project, where: dict[str, str], left: str) -> None:
    ran = project.doit(**where, KVM_COMPOSE_SERVER_FAIL="start_domain:*")
    said = ran.stdout + ran.stderr
    assert ran.returncode == 1
    assert "start web: start_domain:ci-web was made to fail" in said
    assert ".  check" not in said
    assert project.phase() == left


def test_a_down_that_fails(project: Project) -> None:
    ran = project.doit(KVM_COMPOSE_SERVER_FAIL="remove_network*")
    said = ran.stdout + ran.stderr
    assert ran.returncode == 1, said
    assert "taskid:down" in said


def test_artefacts_that_cannot_be_built_are_not_brought_up(project: Project) -> None:
    project.run("kvm-compose", "generate", "--project-name=ci")
    yaml_file = project.folder / "kvm-compose.yaml"
    (project.folder / "artefacts/web-domain.xml").write_text("<domain/>")
    yaml_file.write_text(yaml_file.read_text().replace("512", "640"))
    ran = project.doit()
    assert ran.returncode == 1
    assert ".  up" not in ran.stdout


@pytest.mark.parametrize("recipe", [".github/workflows/testbed.yml", ".gitlab-ci.yml"])
def test_both_recipes_run_it_and_show_the_log(recipe: str) -> None:
    jobs = json.dumps(read_yaml((EXAMPLE / recipe).read_text()))
    assert 'PATH=\\"$PWD/.venv/bin:$PATH\\" doit' in jobs
    assert "logs --timestamps" in jobs
