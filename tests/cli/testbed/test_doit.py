"""``up``, ``down``, ``snapshot`` and ``status`` as doit tasks."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from golden.bench import environment

if TYPE_CHECKING:
    from conftest import Lab

DOIT = Path(sys.executable).parent / "doit"
DODO = """\
from kvmcompose.build.dodo import doit_config, project_tasks, take_down

DOIT_CONFIG = doit_config()


def task_testbed():
    yield from project_tasks()


def task_test():
    return {"task_dep": ["up"], "actions": ["echo tested >>tested.txt"]}


def task_careful():
    return {"actions": ["false"], "teardown": [take_down]}
"""


@pytest.fixture
def dodo(lab: Lab) -> Lab:
    lab.bench.write("dodo.py", DODO)
    return lab


def doit(lab: Lab, *words: str, status: int = 0) -> list[str]:
    """Run doit; all that it says, line by line."""
    address = f"unix:{lab.bench.root}/state/server.sock"
    ran = subprocess.run(
        [DOIT, *words], cwd=lab.folder, check=False, timeout=120, text=True,
        env=environment(lab.bench.root) | lab.env | {"KVM_COMPOSE_SERVER": address},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert ran.returncode == status, ran.stdout
    return ran.stdout.splitlines()


def test_up_builds_first_and_a_task_can_hang_on_it(dodo: Lab) -> None:
    said = doit(dodo, "test")
    assert ".  domain-xml:web" in said
    assert said.index(".  domain-xml:web") < said.index(".  up") < said.index(".  test")
    assert "lab is up: 2 guests run" in said
    assert (dodo.folder / "tested.txt").read_text() == "tested\n"
    assert dodo.state() == "up"


def test_nothing_is_built_twice_but_up_asks_each_time(dodo: Lab) -> None:
    doit(dodo, "up")
    said = doit(dodo, "up")
    assert "-- domain-xml:web" in said
    assert ".  up" in said
    assert any("is up already" in line for line in said)


def test_the_default_builds_and_no_more(dodo: Lab) -> None:
    doit(dodo)
    assert (dodo.folder / "state.json").exists()
    assert dodo.must("deployments", "--json").json == []


def test_status_snapshot_and_down(dodo: Lab) -> None:
    doit(dodo, "up")
    assert "lab: up" in doit(dodo, "status")
    doit(dodo, "snapshot", "create", "one")
    assert {each["guest"] for each in dodo.must("snapshot", "list", "--json").json} == {"web", "db"}
    assert "doit snapshot create|restore|delete NAME" in doit(dodo, "snapshot", status=1)
    doit(dodo, "down", "--timeout", "5")
    assert dodo.state() == "down"


def test_a_failure_says_which_guest_and_why(dodo: Lab) -> None:
    dodo.serve("--fail", "start_domain:lab-db")
    said = doit(dodo, "test", status=1)
    assert "error: start db: start_domain:lab-db was made to fail" in said
    assert "TaskFailed - taskid:up" in said
    assert not (dodo.folder / "tested.txt").exists()


def test_take_down_is_an_action_for_any_task(dodo: Lab) -> None:
    doit(dodo, "careful", status=1)  # nothing is up: nothing to do
    doit(dodo, "up")
    doit(dodo, "careful", status=1)
    assert dodo.state() == "down"


def test_other_builds_are_let_in_while_the_testbed_comes_up(dodo: Lab) -> None:
    dodo.bench.edit("echo tested >>tested.txt", "kvm-compose generate --no-wait", "dodo.py")
    dodo.env["PATH"] = f"{DOIT.parent}:/usr/bin:/bin"
    doit(dodo, "test")


def test_list_of_kvm_compose_is_about_artefacts(dodo: Lab) -> None:
    names = [line.split()[0] for line in dodo.must("list").out.splitlines()]
    assert "generate" in names
    assert not {"up", "down", "snapshot", "status"} & set(names)
    assert {"up", "down", "snapshot", "status", "test"} <= {line.split()[0] for line in doit(dodo, "list")}


def test_ctrl_c_cancels_and_waits(dodo: Lab) -> None:
    dodo.must("generate")
    dodo.serve("--delay", "0.4")
    address = f"unix:{dodo.bench.root}/state/server.sock"
    process = subprocess.Popen(
        [DOIT, "up"], cwd=dodo.folder, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        env=environment(dodo.bench.root) | dodo.env | {"KVM_COMPOSE_SERVER": address},
        start_new_session=True,
    )  # fmt: skip
    assert process.stderr is not None
    assert any("network" in line for line in process.stderr)
    process.send_signal(signal.SIGINT)
    _out, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    assert "cancelling" in err
    assert "Traceback" not in err
    assert dodo.must("logs", "--list", "--json").json[0]["state"] == "cancelled"


def test_what_is_done_to_the_host_needs_the_users_word_first(dodo: Lab) -> None:
    dodo.must("generate")
    xml = dodo.folder / "artefacts" / "web-domain.xml"
    xml.write_text(xml.read_text().replace("</devices>", "<emulator>/opt/evil</emulator></devices>"))
    said = "\n".join(doit(dodo, "test", status=1))
    assert "/opt/evil" in said
    assert "kvm-compose trust" in said
    assert "TaskFailed - taskid:up" in said
    assert "Traceback" not in said
    assert not (dodo.folder / "tested.txt").exists()
    assert dodo.must("deployments", "--json").json == []
    doit(dodo, "generate")  # building needs none
    dodo.must("trust", "--yes")
    doit(dodo, "test")
    assert dodo.state() == "up"


def test_the_word_can_be_given_by_variable(dodo: Lab) -> None:
    dodo.must("generate")
    xml = dodo.folder / "artefacts" / "web-domain.xml"
    xml.write_text(xml.read_text().replace("</devices>", "<emulator>/opt/evil</emulator></devices>"))
    dodo.env["KVM_COMPOSE_TRUST"] = "0"
    doit(dodo, "up", status=1)
    dodo.env["KVM_COMPOSE_TRUST"] = "1"
    doit(dodo, "up")
    assert dodo.state() == "up"
    del dodo.env["KVM_COMPOSE_TRUST"]
    dodo.must("trust", status=3)  # and it is not kept
