"""Commands as they are shown and as root runs them, and what is made of their failures."""

from __future__ import annotations

import pytest

from kvmcompose.hosts.command import Completed, as_root, failure, pasteable


@pytest.fixture
def _an_ordinary_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)


@pytest.mark.usefixtures("_an_ordinary_user")
def test_commands_can_be_pasted() -> None:
    assert pasteable(["echo", "two words", ""]) == "echo 'two words' ''"
    assert pasteable(["ip", "-batch", "-"], b"link set dev a up\n", privileged=True) == (
        "sudo ip -batch - <<'END'\nlink set dev a up\nEND"
    )


@pytest.mark.parametrize("stdin", [b"x" * 100_000, b"\0\1"])
def test_data_is_not_shown_with_a_command(stdin: bytes) -> None:
    assert pasteable(["dd", "of=a"], stdin) == f"dd of=a  # with {len(stdin)} bytes on its standard input"


def test_root_has_the_time_limit_that_we_cannot_enforce() -> None:
    assert as_root(["ip", "link"], 2.5) == [
        "sudo", "-n", "--", "timeout", "--kill-after=1", "2.5", "ip", "link",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("status", "stderr", "message", "hint"),
    [
        (2, b"first\nlast\n", "ip failed with status 2 on main: last", "to reproduce: ip link"),
        (1, b"", "ip failed with status 1 on main: (it printed nothing)", "to reproduce"),
        (1, b"sudo: a password is required\n", "on main, but sudo requires a password", "run the server"),
        (127, b"timeout: failed to run command 'ip': No such file or directory\n",
         "the program 'ip' is not installed on main", "sudo apt-get install iproute2"),
    ],
)  # fmt: skip
def test_failures_say_what_helps(status: int, stderr: bytes, message: str, hint: str) -> None:
    error = failure(["ip", "link"], Completed(status, b"", stderr), "main")
    assert message in error.message
    assert hint in str(error.hint)
