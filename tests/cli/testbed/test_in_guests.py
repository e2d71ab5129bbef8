"""``exec``, ``ssh``, ``console``, ``cp``: what is done in guests."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Lab, Replaced

    Become = Callable[..., Replaced]


PROXY = "  - {name: proxy, interfaces: [{bridge: br0}], docker: {image: nginx}}\n"


@pytest.mark.parametrize(
    "words",
    [
        ("web", "--", "echo", "a  b", "-q"),
        ("lab-web", "echo", "a  b", "-q"),
        ("web", "shell-command", "echo", "a  b", "-q"),
        ("web", "shell-command", "--", "echo", "a  b", "-q"),
    ],
)
def test_words_reach_the_command_as_they_are_and_its_output_is_data(
    running: Lab, words: tuple[str, ...]
) -> None:
    ran = running.must("exec", *words)
    assert (ran.out, ran.err) == ("a  b -q\n", "")


def test_the_status_is_that_of_the_command(running: Lab) -> None:
    ran = running.must("exec", "web", "--", "false", status=1)
    assert ran.said == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("wbe", "--", "true"), "did you mean web?"),
        (("web",), "no command given"),
        (("web", "--"), "no command given"),
        (("web", "tool", "adb", "shell"), "kvm-compose exec web -- tool …"),
    ],
)
def test_what_is_not_run_has_a_status_of_its_own(running: Lab, words: tuple[str, ...], message: str) -> None:
    ran = running.must("exec", *words, status=255)
    assert message in ran.err


def test_in_a_container(lab: Lab) -> None:
    lab.bench.edit("machines:\n", "machines:\n" + PROXY)
    ran = lab.must("up")
    assert "ssh proxy" in ran.said
    assert lab.guests()["proxy"] == "running"
    assert "proxy started" in lab.must("logs", "proxy").out
    assert "(a fake container) true" in lab.must("exec", "proxy", "--", "true").out
    assert "requires a terminal" in lab.must("ssh", "proxy", status=1).err
    assert "kvm-compose exec proxy -- id -u" in lab.must("ssh", "proxy", "id", "-u", status=1).err
    shell = Typed(lab, "ssh", "proxy")
    shell.until("# ")
    shell.resize(rows=20, columns=70)
    end = time.monotonic() + 30
    shell.types("stty size\r")
    while "20 70\r\n" not in shell.until("\r\n# "):  # what is typed may be there before the size, as in ssh
        assert time.monotonic() < end, "the size stays"
        shell.types("stty size\r")
    shell.types("exit 7\r")
    assert shell.status() == 7
    shell = Typed(lab, "ssh", "proxy")
    shell.until("# ")
    shell.types("\r~.")
    assert shell.status() == 255


class Typed:
    """A command on a terminal."""

    def __init__(self, lab: Lab, *words: str) -> None:
        self.terminal, other = pty.openpty()
        name = os.ttyname(other)
        self.process = lab.start(*words, line=f'"$@" <{name} >{name}')
        self.other = other
        self.printed = ""

    def until(self, text: str) -> str:
        """Return what is printed until that text, which counts once."""
        while text not in self.printed:
            assert select.select([self.terminal], [], [], 30)[0], self.printed
            self.printed += os.read(self.terminal, 4096).decode()
        found, _, self.printed = self.printed.partition(text)
        return found + text

    def types(self, text: str) -> None:
        os.write(self.terminal, text.encode())

    def resize(self, *, rows: int, columns: int) -> None:
        fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def status(self) -> int:
        self.process.communicate(timeout=30)
        os.close(self.terminal)
        os.close(self.other)
        return int(self.process.returncode)


def test_in_a_guest_that_does_not_run(up: Lab) -> None:
    up.must("down")
    ran = up.must("exec", "web", "--", "true", status=255)
    assert "web" in ran.err


def test_ctrl_c_ends_it(up: Lab) -> None:
    process = up.start("exec", "web", "--", "sleep", "60")
    _until(lambda: _latest(up)["command"] == "exec")
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert time.monotonic() - began < 20
    assert up.must("logs", "--list", "--json").json[0]["state"] == "cancelled"


def test_a_command_has_no_more_time_than_it_is_given(running: Lab) -> None:
    ran = running.must("exec", "--timeout", "0.2", "web", "--", "sleep", "60", status=255)
    assert "did not end within 0.2 s" in ran.err


def test_ssh_takes_the_guests_keys_and_nothing_else(running: Lab, become: Become) -> None:
    ran = become("ssh", "ssh", "lab-web", "--", "-N", "echo", "a b")
    assert ran.status == 7
    assert ran.words[:2] == ["-F", "none"]
    assert ran.words[-4].startswith("nocloud@10.")
    assert ran.words[-3:] == ["-N", "echo", "a b"]
    assert f'IdentityFile="{running.folder}/keys/id_ed25519"' in ran.words
    assert "StrictHostKeyChecking=accept-new" in ran.words
    assert "HostKeyAlias=lab-web" in ran.words


def test_openssh_reads_the_options_as_they_are_meant(running: Lab, become: Become) -> None:
    argv = ["/usr/bin/ssh", "-G", *become("ssh", "ssh", "web").words]
    read = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    found = dict(line.split(" ", 1) for line in read.splitlines())
    assert found["user"] == "nocloud"
    assert found["identityfile"] == str(running.folder / "keys/id_ed25519")
    assert found["userknownhostsfile"] == str(running.folder / ".kvm-compose/known_hosts")
    assert found["stricthostkeychecking"] == "accept-new"
    assert found["identitiesonly"] == "yes"
    assert found["hostkeyalias"] == "lab-web"


def test_the_console_is_libvirts(become: Become) -> None:
    ran = become("virsh", "console", "web")
    assert (ran.status, ran.err) == (7, "console of lab-web; Ctrl-] to leave\n")
    assert ran.words[-2:] == ["console", "lab-web"]


@pytest.mark.parametrize(
    ("words", "paths"),
    [
        (("a.txt", "web:"), ["a.txt", "{web}:"]),
        (("-r", "a", "b", "lab-web:/srv"), ["a", "b", "{web}:/srv"]),
        (("web:/etc/x y", "."), ["{web}:/etc/x y", "."]),
        (("./a:b", "web:x:y"), ["./a:b", "{web}:x:y"]),
        (("/a:b", "web:"), ["/a:b", "{web}:"]),
        (("-O", "--", "-a", "web:"), ["-a", "{web}:"]),
    ],
)
def test_cp_is_scp(running: Lab, become: Become, words: tuple[str, ...], paths: list[str]) -> None:
    (web,) = (each for each in running.must("inventory", "--json").json if each["name"] == "web")
    ran = become("scp", "cp", *words)
    assert ran.status == 7, ran.err
    place = ran.words.index("--")
    assert ran.words[place + 1 :] == [path.format(web=f"nocloud@{web['address']}") for path in paths]
    flags = ("-r", "-O")
    assert [each for each in ran.words[:place] if each in flags] == [each for each in words if each in flags]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("a", "b"), "no guest given"),
        (("web:a", "db:b"), "copy in two steps"),
        (("web:a", "web:b"), "copy in two steps"),
        (("web:a", "b", "db:c"), "copy in two steps"),
        (("wbe:a", "."), "did you mean web?"),
    ],
)
def test_cp_has_one_side_in_one_guest(running: Lab, words: tuple[str, ...], message: str) -> None:
    assert message in running.must("cp", *words, status=2).err


def test_input_arrives_byte_for_byte_and_ends(running: Lab) -> None:
    data = bytes(range(256)) * 12_345 + b"\r\n\x00\xff"  # more than fits on the way
    process = running.start("exec", "-i", "web", "--", "sha256sum", text=False)
    out, err = process.communicate(data, timeout=60)
    assert (process.returncode, out.decode(), err) == (0, hashlib.sha256(data).hexdigest() + "\n", b"")


def test_an_empty_input_is_one(running: Lab) -> None:
    process = running.start("exec", "-i", "web", "--", "sha256sum", text=False)
    out, _err = process.communicate(b"", timeout=60)
    assert (process.returncode, out.decode()) == (0, hashlib.sha256(b"").hexdigest() + "\n")


def test_a_closed_input_is_an_empty_one(running: Lab) -> None:
    process = running.start("exec", "-i", "web", "--", "sha256sum", text=False, line='"$@" <&-')
    out, err = process.communicate(timeout=60)
    assert (out.decode(), err) == (hashlib.sha256(b"").hexdigest() + "\n", b"")


def test_a_command_that_ends_does_not_wait_for_the_rest_of_its_input(running: Lab) -> None:
    process = running.start("exec", "-i", "web", "--", "false")
    assert process.wait(timeout=60) == 1  # its standard input is still open
    process.communicate()


def test_input_that_breaks_off_is_not_taken_for_its_end(running: Lab) -> None:
    process = running.start("exec", "-i", "web", "--", "sha256sum")
    assert process.stdin is not None
    process.stdin.write("half of it")
    process.stdin.flush()
    _until(lambda: _latest(running)["state"] == "running")
    time.sleep(0.5)  # the input is on its way
    process.kill()
    process.communicate()
    _until(lambda: _latest(running)["state"] == "failed")
    assert "broke off" in running.must("logs").out


def test_commands_run_as_a_user_of_the_guest(running: Lab) -> None:
    assert running.must("exec", "web", "--", "whoami").out == "nocloud\n"
    assert running.must("exec", "--user", "nocloud", "web", "--", "whoami").out == "nocloud\n"
    assert running.must("exec", "-u", "root", "web", "--", "whoami").out == "root\n"
    assert running.must("exec", "-u", "postgres", "web", "--", "whoami").out == "postgres\n"


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (("-u", "nobody-here", "web", "--", "true"), 255, "cannot run commands as nobody-here in web"),
        (("-u", "-x", "web", "--", "true"), 2, "expected one argument"),
        (("-u", "a b", "web", "--", "true"), 2, "'a b' is not the name of a user"),
        (("-it", "web", "--", "bash"), 255, "kvm-compose ssh web"),
    ],
)
def test_users_and_terminals_that_there_are_not(
    running: Lab, words: tuple[str, ...], status: int, message: str
) -> None:
    assert message in running.must("exec", *words, status=status).err


def test_guests_with_a_label_run_it_side_by_side(running: Lab) -> None:
    began = time.monotonic()
    ran = running.must("exec", "--label", "tier=1", "--", "sleep", "3")
    assert time.monotonic() - began < 5.9  # the command itself may take seconds on a busy machine
    ran = running.must("exec", "--label", "tier=1", "--", "echo", "a", "-b")
    assert sorted(ran.out.splitlines()) == ["db | a -b", "web | a -b"]
    ran = running.must("exec", "--label", "role", "--label", "role=store", "echo", "one")
    assert (ran.out, ran.err) == ("db | one\n", "")


def test_the_status_of_many_is_the_worst(running: Lab) -> None:
    ran = running.must("exec", "--label", "tier", "--", "false", status=1)
    assert sorted(ran.err.splitlines()) == ["db: exit status 1", "web: exit status 1"]
    ran = running.must("exec", "--json", "--label", "tier", "--", "echo", "x")
    found = [json.loads(line) for line in ran.out.splitlines()]
    assert sorted(each["guest"] for each in found if "sequence" in each) == ["db", "web"]
    assert [each["exit_status"] for each in found if "uuid" in each] == [0, 0]


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (("--label", "role=nobody", "--", "true"), 255, "labels: role=front, tier=1, role=store"),
        (("--label", "role=front", "-i", "--", "true"), 255, "-i and --label exclude each other"),
        (("--label", "=x", "--", "true"), 2, "'=x' is not KEY=VALUE"),
        (("--label", "role=front"), 255, "no command given"),
        ((), 255, "no guest given"),
    ],
)
def test_labels_that_select_nothing(running: Lab, words: tuple[str, ...], status: int, message: str) -> None:
    assert message in running.must("exec", *words, status=status).err


def test_ctrl_c_ends_all_of_them(up: Lab) -> None:
    process = up.start("exec", "--label", "tier", "--", "sleep", "60")
    _until(lambda: [each["command"] for each in up.must("logs", "--list", "--json").json[:2]] == ["exec"] * 2)
    process.send_signal(signal.SIGINT)
    _out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert {each["state"] for each in up.must("logs", "--list", "--json").json[:2]} == {"cancelled"}


@pytest.mark.parametrize(
    "words", [("status",), ("inventory",), ("plan",), ("generate", "--verify"), ("snapshot", "list")]
)
def test_labels_select_wherever_guests_are_named(running: Lab, words: tuple[str, ...]) -> None:
    ran = running.must(*words, "--label", "role=store")
    assert "web" not in ran.out
    running.must(*words, "--label", "role=nobody", status=2)


def _latest(lab: Lab) -> Any:
    return lab.must("logs", "--list", "--json").json[0]


def _until(held: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not held():
        assert time.monotonic() < deadline
        time.sleep(0.1)
