"""``logs GUEST``: what a guest's console has printed, harmless to the terminal."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

import pytest

from kvmcompose.cli._consoles import ConsoleLines, _follow
from kvmcompose.cli._server import Target
from kvmcompose.core.access import ConsolePart
from kvmcompose.monitor.console import Console

if TYPE_CHECKING:
    from conftest import Lab


def test_the_console_is_printed_without_what_acts_on_a_terminal(running: Lab) -> None:
    ran = running.must("logs", "web")
    assert ran.out.splitlines() == ["(a fake console)", "OK \ufffd31mready\ufffd", "login: "]
    assert (ran.err, running.must("logs", "lab-web").out) == ("", ran.out)
    assert running.must("logs", "--tail", "1", "web").out == "login: \n"
    assert running.must("logs", "--tail", "0", "web").out == ""
    assert running.must("logs", "--tail", "9", "web").out == ran.out


def test_logs_without_a_guest_are_those_of_actions(running: Lab) -> None:
    first = running.must("logs", "--list", "--json").json[-1]["uuid"]
    assert "lab is up: 2 guests run" in running.must("logs", "--action", first).out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("logs", "wbe"), "did you mean web?"),
        (("logs", "--tail", "3"), "kvm-compose logs --tail N GUEST"),
        (("logs", "--tail", "-3", "web"), "'-3' is not a number of lines"),
        (("logs", "--tail", "x", "web"), "'x' is not a number of lines"),
        (("logs", "--list", "web"), "--list is for logs of actions"),
        (("logs", "--guest", "db", "web"), "--guest is for logs of actions"),
        (("logs", "-t", "web"), "--timestamps is for logs of actions"),
    ],
)
def test_what_excludes_each_other(running: Lab, words: tuple[str, ...], message: str) -> None:
    assert message in running.must(*words, status=2).err


def test_following_ends_with_ctrl_c(running: Lab) -> None:
    process = running.start("logs", "-f", "web")
    time.sleep(4)  # the prompt has no line break, and is shown all the same
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "")
    assert out.splitlines()[-1] == "login: "


def test_lines_are_whole_whatever_the_parts_and_bounded() -> None:
    cut = ConsoleLines()
    data = "one\r\ntw\u00f6\n\x1b[31mred\x1b[0m\nrest".encode()
    lines = [line for byte in data for line in cut.feed(bytes([byte]))]
    assert lines == ["one", "tw\u00f6", "red"]
    assert (cut.flush(), cut.flush()) == (["rest"], [])
    assert [len(line) for line in cut.feed(b"x" * 200_000)] == [65536] * 3


class Server:
    """Answers with these parts, then is interrupted. ``asked`` are the offsets and how long it may wait."""

    def __init__(self, *parts: ConsolePart) -> None:
        self.parts = list(parts)
        self.asked: list[tuple[int, int]] = []

    def console(self, _name: str, _guest: str, after: int, wait: int) -> ConsolePart:
        self.asked.append((after, wait))
        if not self.parts:
            raise KeyboardInterrupt
        return self.parts.pop(0)


def test_following_waits_at_the_server_for_what_comes(capsys: pytest.CaptureFixture[str]) -> None:
    server = Server(
        ConsolePart(start=0, data=b"one\nlog"),
        ConsolePart(start=7, data=b"in: "),
        ConsolePart(start=11, data=b""),
        ConsolePart(start=11, data=b""),
        ConsolePart(start=0, data=b"again\n"),
    )
    target = Target(server, "lab", None)  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        _follow(target, "web", 0, ConsoleLines(), Console())
    assert server.asked == [(0, 2), (7, 2), (11, 2), (11, 20), (11, 20), (6, 2)]
    assert capsys.readouterr().out.splitlines() == ["one", "login: ", "again"]
