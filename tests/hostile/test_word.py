"""The user's word: what networks do to hosts, who is asked and how, what servers refuse."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from terminal import on_terminal

from golden.bench import Bench, environment, golden_bench

LOOPBACK = "tcp:127.0.0.1:6653"


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return {"KVM_COMPOSE_STATE_DIR": str(tmp_path / "state"), "KVM_COMPOSE_SERVER": "http://127.0.0.1:9"}


@pytest.fixture
def lab(tmp_path: Path) -> Bench:
    return golden_bench(tmp_path, "base-one-host")


def control(bench: Bench, controller: str, name: str = "kvm-compose.yaml") -> None:
    """Give the first bridge another controller."""
    path = bench.folder / name
    text = path.read_text()
    assert LOOPBACK in text
    path.write_text(text.replace(LOOPBACK, controller, 1))


# -- what a network does ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "controller",
    [
        "tcp:192.0.2.7:6653", "tcp:evil.example:6653", "tcp:localhost:6653", "tcp:0.0.0.0:6653",
        "tcp:127.1:6653", "tcp:127.0.0.1.evil.example:6653", "tcp:127.0.0.1@evil:1", "tcp:[::]:6653",
        "tcp:[::ffff:192.0.2.7]:6653", "tcp:[2001:db8::1]:6653", "ssl:192.0.2.7:6653",
        "unix:/run/docker.sock", "unix:127.0.0.1",
    ],
)  # fmt: skip
def test_a_controller_is_named(lab: Bench, env: dict[str, str], controller: str) -> None:
    control(lab, f"'{controller}'")
    lab.generate()
    ran = lab.run("trust", **env)
    assert ran.status == 3
    assert f"bridge br0: OpenFlow controller {controller}: " in ran.out
    assert len(ran.out.splitlines()) == 1


@pytest.mark.parametrize("controller", ["ptcp:6653:0.0.0.0", "pssl:6653", "punix:/etc/cron.d/x"])
def test_no_bridge_listens_whatever_wrote_the_state(lab: Bench, env: dict[str, str], controller: str) -> None:
    lab.generate()
    control(lab, controller, "state.json")
    ran = lab.run("trust", "--yes", **env)
    assert ran.status not in (0, 3)
    assert "network.bridges[0].controller" in ran.err
    control(lab, f"'{controller}'")
    assert lab.run("validate", **env).status == 2


def _all_hosts_off(state: Any) -> None:
    for host in state["testbed_hosts"].values():
        host["is_main_host"] = False


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.update(network={}),
        lambda state: state["network"].update(dialect="../x"),
        lambda state: state["network"].pop("bridges"),
        lambda state: state["network"].update(
            network_interfaces=[{"nic_name": "eth0", "testbed_bridge": "nope", "testbed_host": "x"}]
        ),
        lambda state: state.update(project_name="a\x1b[31mx"),
        lambda state: state["testbed_host_shared_config"].update(external_bridge="zz"),
        _all_hosts_off,
    ],
)  # fmt: skip
def test_a_state_that_no_build_wrote_is_an_error(
    lab: Bench, env: dict[str, str], change: Callable[[Any], object]
) -> None:
    lab.generate()
    path = lab.folder / "state.json"
    state = json.loads(path.read_text())
    change(state)
    path.write_text(json.dumps(state))
    ran = lab.run("trust", "--yes", **env)  # a traceback would be an exception here
    assert ran.status not in (0, 3)
    assert "state.json" in ran.err
    assert "hint:" in ran.err or ran.status == 2  # which says the place in the file
    assert "\x1b" not in ran.said


@pytest.mark.parametrize("controller", [LOOPBACK, "tcp:127.0.0.2", "'tcp:[::1]:6653'", "ssl:127.0.0.1:6653"])
def test_a_controller_of_ones_own_is_not_asked_for(lab: Bench, env: dict[str, str], controller: str) -> None:
    control(lab, controller)
    lab.generate()
    assert lab.run("trust", **env).status == 0


# -- what plan says of it --------------------------------------------------------------------------------

WORD = "up would ask for your consent to 1 thing that it does to the host: kvm-compose trust"


def test_plan_says_that_up_will_ask(lab: Bench, env: dict[str, str]) -> None:
    control(lab, "tcp:192.0.2.7:6653")
    for _ in range(2):  # before and after it is built
        ran = lab.run("plan", **env)
        assert (ran.status, ran.err.splitlines().count(WORD)) == (0, 1)
        assert WORD not in ran.out
        assert WORD not in lab.run("plan", "--json", **env).said
        lab.generate()
    assert WORD not in lab.run("plan", **env, KVM_COMPOSE_TRUST="1").err
    lab.run("trust", "--yes", **env)
    assert "your consent" not in lab.run("plan", **env).err
    xml = next((lab.folder / "artefacts").glob("*-domain.xml"))
    xml.write_text(xml.read_text().replace("</devices>", "<emulator>/opt/evil</emulator></devices>"))
    ran = lab.run("plan", **env)
    assert ran.err.splitlines().count(WORD) == 1, ran.err


def test_plan_says_nothing_of_what_will_be_written(lab: Bench, env: dict[str, str]) -> None:
    """The XML is still that of the bridge's old name, which the new state does not know."""
    lab.generate()
    lab.yaml.write_text(lab.yaml.read_text().replace("br1", "other"))
    ran = lab.run("plan", **env)
    assert "rebuild" in ran.out
    assert "your consent" not in ran.said


# -- who is asked, and how -------------------------------------------------------------------------------

PROMPT = "Trust it? [y/N] "


@pytest.fixture
def hostile(lab: Bench) -> Bench:
    control(lab, "tcp:192.0.2.7:6653")
    lab.generate()
    return lab


@pytest.mark.parametrize(
    ("typed", "status"),
    [
        (b"y\n", 0), (b"Y\n", 0), (b"yes\n", 0), (b" y \n", 0),
        (b"n\n", 3), (b"\n", 3), (b"\x04", 3), (b"yo\n", 3), (b"yes" + b"s" * 40 + b"\n", 3), (b"\xff\n", 3),
        (b"\x03", 130),
    ],
)  # fmt: skip
def test_at_a_terminal_only_a_yes_is_one(
    hostile: Bench, env: dict[str, str], typed: bytes, status: int
) -> None:
    everything = environment(hostile.root) | env
    ended, shown = on_terminal(hostile.argv("trust"), everything, hostile.folder, PROMPT, typed)
    assert ended == status, shown
    assert "OpenFlow controller tcp:192.0.2.7:6653" in shown[: shown.index(PROMPT)]
    assert "Traceback" not in shown
    after = shown[shown.index(PROMPT) + len(PROMPT) :]
    assert "\n" in re.split("base-one-host is|error", after)[0], shown  # what is said begins a line
    assert hostile.run("trust", **env).status == (0 if status == 0 else 3)
    if status == 0:  # and nothing is asked twice
        ended, shown = on_terminal(hostile.argv("trust"), everything, hostile.folder, PROMPT, b"")
        assert (ended, PROMPT in shown) == (0, False)


@pytest.mark.parametrize("stream", ["<&-", "</dev/null", "2>/dev/null", "2>&-"])
def test_who_does_not_sit_at_both_ends_is_not_asked(hostile: Bench, env: dict[str, str], stream: str) -> None:
    argv = ["sh", "-c", f'exec "$@" {stream}', "sh", *hostile.argv("trust")]
    ended, shown = on_terminal(argv, environment(hostile.root) | env, hostile.folder, PROMPT, b"y\n")
    assert (ended, PROMPT in shown) == (3, False), shown
    assert hostile.run("trust", **env).status == 3


def test_what_was_pasted_before_the_question_is_no_answer(hostile: Bench, env: dict[str, str]) -> None:
    """A lab's README says: kvm-compose trust, and in the next line y."""
    argv = ["sh", "-c", 'echo READY; sleep 1; exec timeout --foreground 8 "$@"', "sh", *hostile.argv("trust")]
    everything = environment(hostile.root) | env
    ended, shown = on_terminal(argv, everything, hostile.folder, "READY", b"y\n")
    assert PROMPT in shown
    assert ended != 0
    assert hostile.run("trust", **env).status == 3


def test_what_changes_while_the_question_is_open_is_not_trusted(hostile: Bench, env: dict[str, str]) -> None:
    xml = next((hostile.folder / "artefacts").glob("*-domain.xml"))
    asking = (
        "import pty, os, sys, time\n"
        "pid, fd = pty.fork()\n"
        "if not pid: os.execvp(sys.argv[2], sys.argv[2:])\n"
        "said = b''\n"
        "while b'[y/N]' not in said: said += os.read(fd, 4096)\n"
        "path = sys.argv[1]; text = open(path).read()\n"
        "open(path, 'w').write(text.replace('</devices>', '<emulator>/opt/evil</emulator></devices>'))\n"
        "os.write(fd, b'y\\n')\n"
        "try:\n"
        "    while data := os.read(fd, 4096): said += data\n"
        "except OSError: pass\n"
        "print(said.decode())\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", asking, str(xml), *hostile.argv("trust")],
        env=environment(hostile.root) | env, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ran.returncode == 3, ran.stdout + ran.stderr
    assert "/opt/evil" in ran.stdout
    assert hostile.run("trust", **env).status == 3
