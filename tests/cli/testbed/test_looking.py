"""``status``, ``logs``, ``errors``, ``deployments``, ``inventory``: what is and was."""

from __future__ import annotations

import argparse
import getpass
import io
import json
import os
import re
import signal
from typing import TYPE_CHECKING
from unittest import mock

import pytest
import yaml

from kvmcompose.cli import status
from kvmcompose.cli._server import Target
from kvmcompose.core.deployment_event import StatusReport
from kvmcompose.monitor.console import Console

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import Lab


def test_status_is_the_state_and_a_table(running: Lab) -> None:
    first, header, *rows = running.must("status").out.splitlines()
    assert first == "lab: up"
    assert header.split() == ["GUEST", "HOST", "STATE", "ADDRESS", "UPTIME", "CPU", "MEMORY"]
    cells = [re.split(r"  +", row) for row in rows]
    assert [row[:3] for row in cells] == [["web", "main", "running"], ["db", "main", "running"]]
    assert all(row[3].startswith("10.") and re.fullmatch(r"\d+ of 128 MiB", row[6]) for row in cells)


def test_status_in_scripts(up: Lab) -> None:
    assert up.must("status", "-q", "--exit-status").said == ""
    up.bench.edit("memory_mb: 128\n      libvirt_type", "memory_mb: 256\n      libvirt_type")
    up.must("generate", "domain-xml")
    ran = up.must("status", "--exit-status", status=1)
    assert ran.out.startswith("lab: up\n")  # what was edited and not applied yet is no drift
    assert "differs: " in ran.out
    up.must("down")
    up.must("status", "--exit-status", status=1)


def test_a_guest_that_was_stopped_says_so(up: Lab) -> None:
    assert up.must("stop", "web").err.splitlines()[-1].startswith("stop: done in ")
    up.must("pause", "db")
    first, _header, *rows = up.must("status").out.splitlines()
    assert first == "lab: up"
    states = {row.split()[0]: re.split(r"  +", row)[2] for row in rows}
    assert states == {"web": "stopped (stop)", "db": "paused (pause)"}
    up.must("start")
    assert up.must("logs", "--list").out.splitlines()[1].split()[3:5] == ["start", "succeeded"]


def test_status_of_what_was_never_up(lab: Lab) -> None:
    lab.must("status", status=3)
    lab.must("generate")
    assert lab.must("status").out.startswith("lab: down\nGUEST")


def test_status_of_another_name_makes_nothing_known(up: Lab) -> None:
    assert (
        "no such deployment on this server: 'other'"
        in up.must("status", "--project-name", "other", status=1).err
    )
    assert len(up.must("deployments", "--json").json) == 1


def test_watching_ends_with_ctrl_c(running: Lab) -> None:
    process = running.start("status", "--watch", "--json")
    assert process.stdout is not None
    rows = [json.loads(process.stdout.readline()) for _ in range(2)]
    assert [row["deployment"]["state"] for row in rows] == ["up", "up"]
    process.send_signal(2)
    _out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "")


def test_watching_ends_with_a_ctrl_c_that_python_loses(capsys: pytest.CaptureFixture[str]) -> None:
    """What is raised while a file is closed that nobody has any more comes to nobody's ears."""

    class Response(io.RawIOBase):
        def close(self) -> None:
            if not self.closed:
                super().close()
                os.kill(os.getpid(), signal.SIGINT)

    class Server:
        asked = 0

        def events(self, _name: str, *, status: bool) -> Iterator[StatusReport]:
            while status:
                self.asked += 1
                Response()
                yield StatusReport(number=1, time="", status={"state": "up"})  # type: ignore[arg-type]

    server = Server()
    arguments = argparse.Namespace(json=True, watch=True, project_name="lab", labels=[])
    before = signal.getsignal(signal.SIGINT)
    target = Target(server, "lab", None)  # type: ignore[arg-type] # no more of one is needed
    with mock.patch.object(status, "open_target", return_value=target):
        assert status.run(arguments, Console()) == 130
    assert server.asked == 1
    assert signal.getsignal(signal.SIGINT) is before
    assert capsys.readouterr().out in ("", '{"state":"up"}\n')


def test_the_log_of_the_latest_action(up: Lab) -> None:
    out = up.must("logs").out.splitlines()
    assert out[0] == "check:"
    assert "web | (a fake guest) /etc/nocloud/setup/00-setup.sh" in out
    assert out.index("setup:") < out.index("web | (a fake guest) /etc/nocloud/setup/00-setup.sh")
    assert out[-1] == "lab is up: 2 guests run"
    assert re.fullmatch(r"\d\d:\d\d:\d\d lab is up: 2 guests run", up.must("logs", "-t").out.splitlines()[-1])


def test_the_log_of_one_guest_with_or_without_the_projects_name(up: Lab) -> None:
    out = up.must("logs", "--guest", "web").out
    assert "start web" in out
    assert "db" not in out
    assert up.must("logs", "--guest", "lab-web").out == out
    assert "did you mean web?" in up.must("logs", "--guest", "wbe", status=2).err


def test_the_log_as_json(up: Lab) -> None:
    lines = [json.loads(line) for line in up.must("logs", "--json").out.splitlines()]
    assert lines[-1]["text"] == "lab is up: 2 guests run"
    assert [line["sequence"] for line in lines] == list(range(1, len(lines) + 1))


def test_past_actions_by_the_beginning_of_their_uuid(up: Lab) -> None:
    up.must("down")
    header, last, first = up.must("logs", "--list").out.splitlines()
    assert header.split() == ["ACTION", "STARTED", "COMMAND", "STATE", "TOOK", "BY"]
    assert (last.split()[3:5], first.split()[3:5]) == (["down", "succeeded"], ["up", "succeeded"])
    assert "lab is up: 2 guests run" in up.must("logs", "--action", first.split()[0]).out
    ran = up.must("logs", "--action", "zzz", status=2)
    assert "no such action: 'zzz'" in ran.err


def test_what_was_never_asked_for_has_no_log(lab: Lab) -> None:
    assert "no such deployment on this server" in lab.must("logs", status=1).err


def test_following_ends_as_the_action_does(idle: Lab) -> None:
    idle.serve("--delay", "0.1", "--fail", "start_domain:lab-db")
    idle.must("up", "--detach")
    ran = idle.must("logs", "-f", status=1)
    assert "start_domain:lab-db was made to fail" in ran.out
    idle.must("logs", "-f", "--json", status=1)
    idle.must("logs")


def test_a_connection_that_is_lost_is_taken_up_again(idle: Lab) -> None:
    idle.must("generate")
    idle.serve("--delay", "0.5")
    process = idle.start("up")
    assert process.stderr is not None
    assert any(line.startswith("network:") for line in process.stderr)  # it is at work
    idle.serve("--delay", "0.1")  # what ran counts as interrupted, or as cancelled by the end of the server
    _out, err = process.communicate(timeout=60)
    assert process.returncode in (1, 130), err
    assert "Traceback" not in err
    assert idle.state() == "failed"


def test_deployments(up: Lab) -> None:
    header, row = up.must("deployments").out.splitlines()
    assert header.split() == ["NAME", "STATE", "OWNER", "FOLDER"]
    assert row.split() == ["lab", "up", getpass.getuser(), str(up.folder)]
    assert up.must("deployment", "list").out == up.must("deployments").out
    assert up.must("deployments", "info", "lab", "--json").json[0]["name"] == "lab"
    assert "no such deployment: 'x'" in up.must("deployments", "info", "x", status=1).err
    up.must("deployments", "remove", "lab", status=3)
    up.must("down")
    up.must("deployments", "destroy", "lab")
    assert up.must("deployments", "--json").json == []


def test_the_inventory_for_ansible(running: Lab) -> None:
    document = yaml.safe_load(running.must("inventory").out)
    web = document["all"]["hosts"]["web"]
    assert web["ansible_user"] == "nocloud"
    assert web["ansible_host"].startswith("10.")
    assert web["ansible_ssh_private_key_file"] == str(running.folder / "keys/id_ed25519")
    assert "-o HostKeyAlias=lab-web" in web["ansible_ssh_common_args"]
    assert document["all"]["children"] == {"br0": {"hosts": {"web": {}, "db": {}}}}


def test_the_inventory_in_other_forms(running: Lab) -> None:
    access = {each["name"]: each for each in running.must("inventory", "--json").json}
    hosts = running.must("inventory", "--format", "hosts").out
    assert hosts == "".join(f"{access[name]['address']}\t{name} lab-{name}\n" for name in ("web", "db"))
    assert running.must("inventory", "--format", "ssh_config").out.startswith("Host web\n    HostName 10.")


@pytest.mark.parametrize("command", ["status", "logs", "errors", "inventory", "cancel"])
def test_where_there_is_no_project(running: Lab, tmp_path: Path, command: str) -> None:
    nowhere = tmp_path / "nowhere"
    nowhere.mkdir()
    ran = running.must("-C", str(nowhere), command, status=2)
    assert "no project in this folder, and no deployment 'nowhere'" in ran.err
