"""The plug-ins of ``docs/how-to/plug-ins.md`` work as the page shows them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path
from threading import Timer

import pytest
from test_tutorial import BIN, REPOSITORY

GUIDE = REPOSITORY / "docs" / "how-to" / "plug-ins.md"
CONFIG = (
    '{"testbed_host_ssh_config": {"main": {"ip": "192.0.2.1", "is_main_host": true, "virt_type": "qemu"}}}'
)
CONFIG_OF_TWO = CONFIG.replace("}}}", '}, "last": {"ip": "192.0.2.2", "virt_type": "qemu"}}}')


def shown() -> dict[str, list[str]]:
    """The code blocks of the page by language, in order."""
    blocks: dict[str, list[str]] = {}
    for language, text in re.findall(r"^```(\w+)\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL):
        blocks.setdefault(language, []).append(text)
    return blocks


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    """The page's files in a plug-in folder, and its testbed in a project beside it."""
    blocks = shown()
    (tree,), (schema,), code = blocks["text"], blocks["json"], blocks["python"]
    template, _ = blocks["xml"]
    named = re.findall(r"^  (\S+)", tree, re.MULTILINE)
    guest_type, provider, runtime, strategy = code
    for name, text in zip(named, [guest_type, provider, runtime, schema, template, strategy], strict=True):
        path = tmp_path / "plug-ins" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    lab = tmp_path / "lab"
    lab.mkdir()
    (lab / "kvm-compose.yaml").write_text(blocks["yaml"][0])
    (lab / "kvm-compose-config.json").write_text(CONFIG)
    return lab


def environment_of(lab: Path) -> dict[str, str]:
    return os.environ | {
        "NOTICE_BOARD": str(lab.parent / "board"),
        "KVM_COMPOSE_PLUGINS": str(lab.parent / "plug-ins"),
        "KVM_COMPOSE_SERVER_FAKE": "1",
        "KVM_COMPOSE_SERVER_IDLE": "60",  # one for all commands; `state_place` ends it
        "KVM_COMPOSE_STATE_DIR": os.environ.get("KVM_COMPOSE_STATE_DIR", str(lab.parent / "state")),
        "XDG_DATA_HOME": str(lab.parent / "data"),
    }


def kvm_compose(lab: Path, *words: str) -> subprocess.CompletedProcess[str]:
    argv = [str(BIN / "kvm-compose"), *words]
    return subprocess.run(
        argv, cwd=lab, env=environment_of(lab), capture_output=True, text=True, check=False, timeout=120
    )


def line_of_console(lab: Path) -> str:
    """The first line that ``console`` shows of the guest; it is left with Ctrl-C then."""
    argv = [str(BIN / "kvm-compose"), "console", "readme"]
    shown = subprocess.Popen(argv, cwd=lab, env=environment_of(lab), stdout=subprocess.PIPE, text=True)
    limit = Timer(60, shown.kill)
    limit.start()
    with shown:
        assert shown.stdout is not None
        line = shown.stdout.readline()
        shown.send_signal(signal.SIGINT)
        assert shown.wait() == 130
    limit.cancel()
    return line


def test_the_guest_type_builds_the_file_that_is_shown(lab: Path) -> None:
    ran = kvm_compose(lab, "generate")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert (lab / "artefacts/readme-note.xml").read_text() == shown()["xml"][1]
    assert kvm_compose(lab, "plan", "--detailed-exitcode").returncode == 0


def test_its_check_is_applied(lab: Path) -> None:
    yaml = lab / "kvm-compose.yaml"
    yaml.write_text(yaml.read_text().replace("Mind", "TODO: mind"))
    (problem,) = json.loads(kvm_compose(lab, "validate", "--json").stdout)["problems"]
    assert (problem["code"], problem["path"]) == ("unfinished-note", "machines[0].notes.text")


def test_the_strategy_places(lab: Path) -> None:
    (lab / "kvm-compose-config.json").write_text(CONFIG_OF_TWO)
    with (lab / "kvm-compose.yaml").open("a") as yaml:
        (option,) = re.findall(r"`(testbed_options: .*?)`", GUIDE.read_text())
        yaml.write(option + "\n")
    ran = kvm_compose(lab, "placement", "--json")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert json.loads(ran.stdout)["guests"]["readme"]["host"] == "last"


@pytest.fixture
def server_place(state_place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVM_COMPOSE_STATE_DIR", str(state_place))


@pytest.mark.usefixtures("server_place")
def test_its_resources_are_brought_up_changed_repaired_and_taken_down(lab: Path) -> None:
    board = lab.parent / "board/lab/main"

    def must(*words: str) -> str:
        ran = kvm_compose(lab, *words)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout + ran.stderr

    def shown() -> tuple[str, list[str]]:
        status = json.loads(must("status", "--json"))
        (guest,) = status["guests"]
        return guest["state"], status["differences"]

    said = must("up")
    assert "note readme" in said
    assert "lab is up: 1 guest runs" in said
    assert (board / "readme").read_text() == "Mind the <gap> & run"
    assert shown() == ("running", [])
    assert "up already" in must("up")

    # its runtime: what it offers works, and the rest is refused
    assert must("exec", "readme", "--", "wc", "-w").split() == ["5"]
    late = kvm_compose(lab, "exec", "--timeout", "0.2", "readme", "--", "sleep", "60")
    assert (late.returncode, "sleep did not end within 0.2 s" in late.stderr) == (255, True)
    assert must("logs", "readme") == "Mind the <gap> & run\n"
    must("cp", "readme:/note", ".")
    assert (lab / "note").read_text() == "Mind the <gap> & run"
    (lab / "other").write_text("Copied")
    must("cp", "other", "readme:/note")
    assert must("logs", "readme") == "Copied\n"
    must("cp", "note", "readme:")
    must("cp", "-r", "readme:/", "all")
    assert (lab / "all/note").read_text() == "Mind the <gap> & run"
    for words, message in (
        (("readme:/nothing", "."), "there is only /note in readme: no /nothing"),
        (("readme:/", "."), "readme:/: it is a folder"),
        (("note", "readme:/no/note"), "no such folder in readme: /no"),
        (("note", "readme:/other"), "there is only /note in readme"),
        (("nothing", "readme:/"), "cannot read nothing: No such file or directory"),
        (("note", "other", "readme:/note"), "several files need a folder"),
    ):
        refused = kvm_compose(lab, "cp", *words)
        assert (refused.returncode, message in refused.stderr) == (1, True), refused.stderr
    assert line_of_console(lab) == "Mind the <gap> & run\n"
    assert "left out, because they are not entered by SSH: readme" in must("inventory")
    assert "readme is not entered by SSH" in kvm_compose(lab, "ssh", "readme").stderr
    refused = kvm_compose(lab, "snapshot", "create", "before", "--guest", "readme")
    assert "readme is a notes guest: there are no snapshots of it" in refused.stderr

    (board / "readme").write_text("all is well")  # drift
    assert shown() == ("running", ["note readme: text: all is well -> Mind the <gap> & run"])
    assert "note readme" in must("plan")
    must("up")
    assert (board / "readme").read_text() == "Mind the <gap> & run"
    (board / "readme").unlink()
    assert shown()[0] == "absent"
    assert "readme is not up" in kvm_compose(lab, "exec", "readme", "--", "true").stderr
    must("up")
    assert shown() == ("running", [])

    yaml = lab / "kvm-compose.yaml"
    yaml.write_text(yaml.read_text().replace("Mind", "Leap over"))
    assert "text: Mind the <gap> & run -> Leap over the <gap> & run" in must("plan")
    assert "note readme" in must("up")
    assert (board / "readme").read_text() == "Leap over the <gap> & run"
    assert "note readme" in must("logs")
    must("down")
    assert not list(board.iterdir())


@pytest.mark.usefixtures("server_place")
def test_a_guest_without_a_runtime_cannot_be_entered(lab: Path) -> None:
    module = lab.parent / "plug-ins/guests/notes.py"
    module.write_text(module.read_text().partition("def deployable")[0])
    assert kvm_compose(lab, "up").returncode == 0
    ran = kvm_compose(lab, "exec", "readme", "--", "true")
    assert ran.returncode == 255
    assert "readme is a notes guest: no runtime runs these" in ran.stderr
