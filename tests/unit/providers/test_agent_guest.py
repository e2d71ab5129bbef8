"""Commands by a guest agent that is hostile, slow or gone, and by one that is as it should be."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from kvmcompose.hosts.errors import AgentSilentError, DriverError
from kvmcompose.providers.libvirt import agent_guest
from kvmcompose.providers.libvirt.agent import AgentCommand
from kvmcompose.providers.libvirt.agent_guest import AgentGuest, ShellScripts

SCRIPTS = ShellScripts(start="start", end=("-c", "end"))
Answers = dict[str, Any]


class Peer:
    """A libvirt with an agent that answers: a value, what a function of the arguments returns, an error."""

    def __init__(self, **answers: Any) -> None:
        self.answers = {
            "guest-get-osinfo": {"id": "debian"},
            "guest-exec": {"pid": 7},
            "guest-exec-status": {"exited": True, "exitcode": 0},
            "guest-file-open": 1000,
            "guest-file-read": {"count": 0, "buf-b64": "", "eof": True},
            "guest-file-seek": {"position": 0, "eof": False},
            "guest-file-write": {"count": 1, "eof": False},
            "guest-file-close": {},
            **{name.replace("_", "-"): answer for name, answer in answers.items()},
        }
        self.asked: list[AgentCommand] = []

    async def ask(self, _name: str, command: AgentCommand, _seconds: int = 5) -> Any:
        self.asked.append(command)
        answer = self.answers[command.execute]
        if isinstance(answer, Exception):
            raise answer
        return answer(command.arguments) if callable(answer) else answer

    def names(self) -> list[str]:
        return [each.execute for each in self.asked]

    def run(self, *argv: str, on_data: Callable[[bytes], None] | None = None, **options: Any) -> int:
        guest = AgentGuest(self, "web", SCRIPTS)  # type: ignore[arg-type]
        return asyncio.run(guest.run(argv or ("true",), on_data or (lambda _: None), **options))


def read(*pieces: bytes) -> Callable[[object], Answers]:
    left = list(pieces)

    def part(_arguments: object) -> Answers:
        data = left.pop(0) if left else b""
        return {"count": len(data), "buf-b64": base64.b64encode(data).decode(), "eof": not left}

    return part


def test_output_and_status() -> None:
    printed: list[bytes] = []
    peer = Peer(guest_file_read=read(b"one\n", b"two\n"), guest_exec_status={"exited": True, "exitcode": 3})
    assert peer.run("ls", "-l", on_data=printed.append) == 3
    assert b"".join(printed) == b"one\ntwo\n"
    started = next(each for each in peer.asked if each.execute == "guest-exec").arguments
    assert started["path"] == "/bin/sh"
    assert started["arg"][-2:] == ["ls", "-l"]
    removed = peer.asked[-1].arguments["arg"]
    assert removed[1] == 'rm -f "$@"'


def test_a_signal_is_a_status() -> None:
    assert Peer(guest_exec_status={"exited": True, "signal": 9}).run() == 137


@pytest.mark.parametrize(
    "answers",
    [
        {"guest_exec": {}},
        {"guest_exec": {"pid": "x"}},
        {"guest_exec": []},
        {"guest_exec_status": {"exited": "no"}},
        {"guest_exec_status": {"exited": True, "exitcode": [1]}},
        {"guest_file_open": "../../etc"},
        {"guest_file_read": {"count": 1, "eof": True, "buf-b64": 5}},
        {"guest_file_read": {"count": 1, "eof": True, "buf-b64": "\u20ac no base64"}},
        {"guest_file_read": "x"},
        {"guest_file_seek": []},
    ],
    ids=str,
)
def test_answers_of_other_types_fail_in_words(answers: Answers) -> None:
    with pytest.raises(DriverError, match="the guest agent of web answers"):
        Peer(**answers).run()


def test_endless_output_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_guest, "MOST_OUTPUT", 1 << 20)
    peer = Peer(
        guest_exec_status={"exited": False},
        guest_file_read={"count": 65536, "buf-b64": base64.b64encode(b"x" * 65536).decode(), "eof": False},
    )
    monkeypatch.setattr(agent_guest, "_END_SECONDS", 0.2)
    with pytest.raises(DriverError, match="printed more than 1 MiB"):
        peer.run("yes")
    assert peer.names().count("guest-file-read") == 17
    assert any(each.arguments.get("arg") == ["-c", "end"] for each in peer.asked)  # it is ended in the guest


def test_a_command_that_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_guest, "_END_SECONDS", 0.2)
    peer = Peer(guest_exec_status={"exited": False})
    with pytest.raises(DriverError, match="sleep 9 did not end within"):
        peer.run("sleep", "9", seconds=0.2)
    assert any(each.arguments.get("arg") == ["-c", "end"] for each in peer.asked)


def test_an_agent_that_is_gone_is_asked_nothing_more() -> None:
    peer = Peer(guest_exec_status=AgentSilentError("QEMU guest agent is not connected"))
    with pytest.raises(AgentSilentError):
        peer.run()
    assert peer.names()[-1] == "guest-exec-status"


async def pieces(*data: bytes) -> AsyncIterator[bytes]:
    for each in data:
        yield each


def test_input_is_written_before_the_command_starts() -> None:
    peer = Peer()
    assert peer.run("cat", stdin=pieces(b"a" * 100_000, b"b")) == 0
    written = [each.arguments["buf-b64"] for each in peer.asked if each.execute == "guest-file-write"]
    assert b"".join(map(base64.b64decode, written)) == b"a" * 100_000 + b"b"
    assert peer.names().index("guest-file-close") < len(peer.names()) - 1 - peer.names()[::-1].index(
        "guest-exec"
    )


def test_endless_input_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_guest, "MOST_INPUT", 1 << 20)
    with pytest.raises(DriverError, match="given more input than 1 MiB"):
        Peer().run("cat", stdin=pieces(*(b"x" * (1 << 19) for _ in range(9))))


def windows(**answers: Any) -> Peer:
    return Peer(guest_get_osinfo={"id": "mswindows"}, **answers)


def test_windows_answers_with_all_of_the_output() -> None:
    printed: list[bytes] = []
    done = {"exited": True, "exitcode": 0, "out-data": base64.b64encode(b"C:\\\r\n").decode()}
    peer = windows(guest_exec_status=done)
    assert peer.run("cmd.exe", "/c", "cd", on_data=printed.append, stdin=pieces(b"x")) == 0
    assert printed == [b"C:\\\r\n"]
    started = peer.asked[1].arguments
    assert started == {
        "path": "cmd.exe",
        "arg": ["/c", "cd"],
        "capture-output": True,
        "input-data": base64.b64encode(b"x").decode(),
    }
    assert not any(name.startswith("guest-file") for name in peer.names())


def test_windows_ends_what_takes_too_long() -> None:
    peer = windows(guest_exec_status={"exited": False})
    with pytest.raises(DriverError, match="did not end within"):
        peer.run("ping", seconds=0.1)
    assert peer.asked[-1].arguments["path"] == "taskkill.exe"


def test_an_old_agent_that_does_not_know_its_system() -> None:
    assert Peer(guest_get_osinfo=DriverError("The command guest-get-osinfo has not been found")).run() == 0
