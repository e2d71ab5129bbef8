"""``up`` and ``down``: what they build, ask for and tell, and how they end."""

from __future__ import annotations

import json
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest
import yaml

if TYPE_CHECKING:
    from conftest import Lab

DOWN = {"web": "absent", "db": "absent"}
RUNNING = {"web": "running", "db": "running"}


def test_up_builds_what_is_missing_and_brings_it_up(lab: Lab) -> None:
    ran = lab.must("up")
    assert ran.out == ""
    lines = ran.err.splitlines()
    assert "create   artefacts/web-domain.xml" in lines
    assert [line for line in lines if line.endswith(":") and " " not in line] == [
        "check:", "network:", "guests:", "setup:", "verify:",
    ]  # fmt: skip
    assert any(line.startswith("done     start web  (") for line in lines)
    assert lines[-1].startswith("up: 2 guests in ")
    assert (lab.state(), lab.guests()) == ("up", RUNNING)


def test_up_again_does_nothing_and_says_so(up: Lab) -> None:
    ran = up.must("up")
    assert ran.out == ""
    assert "is up already" in ran.err


def test_quiet_is_quiet(lab: Lab) -> None:
    assert lab.must("up", "-q").said == ""


def test_json_is_events_lines_and_the_action(lab: Lab) -> None:
    rows = [json.loads(line) for line in lab.must("up", "--json").out.splitlines()]
    assert rows[0]["event"] == "started"
    lines = [row for row in rows if "sequence" in row]
    assert [line["sequence"] for line in lines] == list(range(1, len(lines) + 1))
    assert (rows[-1]["command"], rows[-1]["state"], rows[-1]["faults"]) == ("up", "succeeded", [])


def test_what_is_wrong_with_the_yaml_comes_before_any_server(idle: Lab) -> None:
    idle.bench.edit("cpus: 1\n      memory_mb", "cpus: many\n      memory_mb")
    ran = idle.must("up", status=2)
    assert "kvm-compose.yaml:6:13" in ran.err
    assert not (idle.folder / "state.json").exists()


def test_a_server_that_is_not_there_is_an_error_with_a_way_out(idle: Lab) -> None:
    ran = idle.must("up", status=1)
    assert "cannot reach a server" in ran.err
    assert "hint:" in ran.err


def test_a_build_that_fails_brings_nothing_up(up: Lab) -> None:
    up.must("down")
    up.bench.write("artefacts/web-domain.xml", "<domain/>")
    up.bench.edit("memory_mb: 128\n      libvirt_type", "memory_mb: 129\n      libvirt_type")
    assert "web-domain.xml.new" in up.must("up", status=1).err
    assert up.state() == "down"


def test_a_failure_is_told_kept_and_gone_on_from(idle: Lab) -> None:
    idle.serve("--fail", "start_domain:lab-db")
    ran = idle.must("up", status=1)
    assert "error: start db: start_domain:lab-db was made to fail\n    hint: this is a fake" in ran.err
    assert ran.err.splitlines()[-2].startswith("error: up failed after ")
    assert idle.must("status", status=0).out.startswith("lab: failed (up)\n")

    ran = idle.must("errors")
    assert ran.out.startswith("error: start db: start_domain:lab-db was made to fail\n    host: main\n")
    (fault,) = idle.must("errors", "--json").json["faults"]
    assert (fault["step"], fault["guest"], fault["host"]) == ("start:db", "db", "main")

    idle.serve()
    idle.must("up")
    assert (idle.state(), idle.guests()) == ("up", RUNNING)
    assert "the last action with errors was up of " in idle.must("errors").err


def test_an_edit_of_what_is_up_changes_that_guest_alone(up: Lab) -> None:
    up.bench.edit("memory_mb: 128\n      libvirt_type", "memory_mb: 256\n      libvirt_type")
    lines = up.must("up").err.splitlines()
    assert [line.split("(")[0].strip() for line in lines if line.startswith("done")] == [
        "done     check", "done     stop web", "done     start web", "done     wait web", "done     verify",
    ]  # fmt: skip
    assert up.guests() == RUNNING
    assert "is up already" in up.must("up").err


def test_no_new_disks_while_guests_run_on_them(up: Lab) -> None:
    disk = up.bench.path("web-cloud-init.img").stat().st_ino
    ran = up.must("up", "--provision", status=3)
    assert "cannot replace disks of running guests: web, db" in ran.err
    assert up.bench.path("web-cloud-init.img").stat().st_ino == disk
    up.must("down")
    up.must("up", "--provision")


def test_up_of_one_guest_counts_and_shows_that_one(lab: Lab) -> None:
    err = lab.must("up", "web").err.splitlines()
    assert err[-1].startswith("up: 1 guest in ")
    assert "lab is up: 1 of 2 guests run" in err
    assert not [line for line in err if "console db" in line or "ssh db" in line]
    lab.must("up")
    err = lab.must("up", "web").err.splitlines()
    assert err[-1].startswith("up: 1 guest in ")
    assert "lab is up already: 2 guests run, nothing to do" in err


def test_artefacts_can_be_taken_as_they_are(lab: Lab) -> None:
    assert lab.must("up", "--no-generate", status=3).err
    lab.must("generate")
    lab.bench.yaml.unlink()
    assert lab.must("up", "--no-generate").out == ""
    assert lab.state() == "up"


def test_detached_it_gives_the_uuid_to_watch(lab: Lab) -> None:
    uuid = lab.must("up", "--detach").out.strip()
    ran = lab.must("logs", "--follow", "--action", uuid)
    assert "lab is up: 2 guests run" in ran.out
    assert lab.state() == "up"


def test_down_takes_it_down_and_again_is_no_error(up: Lab) -> None:
    assert up.must("down").err.splitlines()[-1].startswith("down: done in ")
    assert (up.state(), up.guests()) == ("down", DOWN)
    up.must("down")


def test_down_needs_no_yaml_and_no_artefacts(up: Lab) -> None:
    up.bench.yaml.write_text("nonsense: [")
    up.must("down")
    assert up.state() == "down"


def test_down_works_from_anywhere_by_name(up: Lab) -> None:
    elsewhere = up.bench.root / "elsewhere"
    elsewhere.mkdir()
    up.must("-C", str(elsewhere), "down", "--project-name", "lab")
    assert up.state() == "down"
    ran = up.must("-C", str(elsewhere), "down", status=2)
    assert "no deployment 'elsewhere'" in ran.err
    assert "did you mean" in up.must("-C", str(elsewhere), "down", "--project-name", "labb", status=2).err


def test_down_finds_what_a_server_without_memory_does_not_know(up: Lab) -> None:
    up.stop()
    for file in (up.bench.root / "state").glob("fake-server.db*"):
        file.unlink()
    up.serve()
    assert up.must("deployments").out == ""
    up.must("down")
    assert up.guests() == DOWN


def test_purge_removes_the_disks(up: Lab) -> None:
    assert "done     disks" in up.must("down", "--purge").err  # pretended ones: files stay
    assert up.state() == "down"


@pytest.mark.parametrize("timeout", ["-1", "nan", "soon", "3601"])
def test_a_timeout_is_a_number_of_seconds(idle: Lab, timeout: str) -> None:
    assert "is not a number of seconds" in idle.must("down", f"--timeout={timeout}", status=2).err


def test_a_copy_of_a_project_is_not_taken_for_it(up: Lab) -> None:
    copy = up.bench.root / "copy"
    copy.mkdir()
    (copy / "state.json").write_bytes((up.folder / "state.json").read_bytes())
    ran = up.must("-C", str(copy), "down", status=3)
    assert str(up.folder) in ran.err
    assert up.state() == "up"


class TestSignals:
    @pytest.fixture
    def slow(self, idle: Lab) -> Lab:
        """A lab in which everything takes its time."""
        idle.must("generate")
        idle.serve("--delay", "0.4")
        return idle

    def begun(self, process: subprocess.Popen[str]) -> None:
        """Wait for the first word of the action."""
        assert process.stderr is not None
        for line in process.stderr:
            if line == "network:\n":
                return
        pytest.fail("it never began")

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_the_first_one_cancels_and_waits(self, slow: Lab, number: signal.Signals) -> None:
        process = slow.start("up")
        self.begun(process)
        process.send_signal(number)
        _out, err = process.communicate(timeout=60)
        assert "cancelling; press Ctrl-C again to leave it to the server" in err
        assert "error: up was cancelled after " in err
        assert process.returncode == 130
        assert slow.state() == "failed"
        status = slow.must("status").out
        assert status.startswith("lab: cancelled (up)\n")
        assert "differs: guest " in status
        slow.serve()
        slow.must("up")
        assert slow.guests() == RUNNING

    def test_the_second_one_leaves_it_to_the_server(self, slow: Lab) -> None:
        slow.serve("--delay", "1.5")
        process = slow.start("up")
        self.begun(process)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert any("cancelling; press Ctrl-C again" in line for line in process.stderr)
        process.send_signal(signal.SIGINT)
        _out, err = process.communicate(timeout=60)
        # on a busy machine all may be over by then but the end of Python, which the signal is free to end
        assert process.returncode in (130, -signal.SIGINT)
        assert "Traceback" not in err
        latest = slow.must("logs", "--list", "--json").json[0]
        assert latest["state"] in ("running", "cancelled")

    def test_another_terminal_can_cancel_it(self, slow: Lab) -> None:
        process = slow.start("up")
        self.begun(process)
        assert "starting" in slow.must("deployments").out.split()
        assert "up: cancelled" in slow.must("cancel").err
        process.communicate(timeout=60)
        assert process.returncode == 130
        assert "nothing is running" in slow.must("cancel").err

    def test_one_thing_at_a_time(self, slow: Lab) -> None:
        process = slow.start("up")
        self.begun(process)
        ran = slow.must("down", status=3)
        assert "'up' has been running" in ran.err
        assert slow.must("up", status=3).out == ""
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


def _name_a_program(lab: Lab) -> None:
    lab.bench.generate()
    xml = lab.folder / "artefacts" / "web-domain.xml"
    xml.write_text(xml.read_text().replace("</devices>", "<emulator>/opt/evil</emulator></devices>"))


def test_what_is_done_to_the_host_is_refused_where_nobody_can_be_asked(lab: Lab) -> None:
    lab.serve()
    _name_a_program(lab)
    ran = lab.must("up", "--no-generate", status=3)
    assert "/opt/evil" in ran.err
    assert "kvm-compose trust" in ran.err
    assert lab.bench.run("trust", "--yes", **lab.env).status == 0
    lab.must("up", "--no-generate")


def test_the_users_word_by_option_is_remembered(lab: Lab) -> None:
    lab.serve()
    _name_a_program(lab)
    lab.must("up", "--no-generate", "--trust")
    assert lab.bench.run("trust", **lab.env).status == 0


def test_up_ends_with_how_to_get_into_the_guests(lab: Lab) -> None:
    ran = lab.must("up")
    addresses = {each["name"]: each["address"] for each in lab.must("inventory", "--json").json}
    lines = ran.err.splitlines()
    (header,) = [
        number for number, text in enumerate(lines) if text.split() == ["GUEST", "ADDRESS", "ENTER", "WITH"]
    ]
    assert [text.split(maxsplit=2) for text in lines[header + 1 : header + 3]] == [
        [name, addresses[name], f"kvm-compose -C {lab.folder} ssh {name}"] for name in ("web", "db")
    ]
    assert lines[header + 3].startswith("up: 2 guests in ")
    assert ran.out == ""
    assert "ENTER" not in lab.must("-q", "up").said
    assert "ENTER" not in lab.must("up", "--json").said


def test_destroy_never_removes_a_disk(up: Lab) -> None:
    assert "kvm-compose down --purge" in up.must("destroy", "--purge", status=2).err
    assert up.state() == "up"
    up.must("destroy")
    assert up.state() == "down"
    assert (up.folder / "artefacts/web-cloud-init.img").exists()
    up.must("apply")
    assert up.must("ps", "--json").json["deployment"]["state"] == "up"


def test_config_is_the_state_that_would_be_built(lab: Lab) -> None:
    printed = lab.must("config", "--json")
    assert not (lab.folder / "state.json").exists()
    assert yaml.safe_load(lab.must("config").out) == printed.json
    lab.must("generate")
    assert (lab.folder / "state.json").read_text() == printed.out


def test_pull_fetches_what_the_project_needs(lab: Lab) -> None:
    assert lab.must("pull").err.startswith("debian_12 is here already, sha256 ")
    assert "no image" in lab.must("pull", "no-such-image", status=2).err


def test_nothing_is_built_for_guests_that_there_are_not(lab: Lab) -> None:
    for words in (["up", "wbe"], ["up", "--recreate", "wbe"], ["up", "--rerun-scripts", "wbe"]):
        ran = lab.must(*words, status=3)
        assert "there is no guest 'wbe'\n    hint: did you mean web?" in ran.err
    assert not lab.bench.path("web-domain.xml").exists()


@pytest.mark.parametrize(
    ("old", "new", "words", "said"),
    [
        (
            "memory_mb: 128\n      libvirt_type",
            "memory_mb: 256\n      libvirt_type",
            ("--rerun-scripts", "db"),
            "db has no scripts to run again",
        ),
        (
            "{name: br0}",
            '{name: br0, controller: "tcp:192.0.2.9:6653", protocol: OpenFlow13}',
            (),
            "and you have not trusted it:\n  bridge br0: OpenFlow controller tcp:192.0.2.9:6653",
        ),
        (
            "memory_mb: 128, libvirt_type: {cloud_image: {name: debian_12",
            "memory_mb: 128, libvirt_type: {cloud_image: {name: ubuntu_22_04",
            (),
            "its data; image: debian_12 -> ubuntu_22_04\n    hint: to give up its data: kvm-compose down db;",
        ),
    ],
)
def test_what_is_refused_is_refused_before_anything_is_built(
    up: Lab, old: str, new: str, words: tuple[str, ...], said: str
) -> None:
    state = up.bench.folder / "state.json"
    before = state.read_bytes()
    up.bench.edit(old, new)
    assert said in up.must("up", *words, status=3).err
    assert state.read_bytes() == before
