"""What a command comes to on its way to another host: one line for the user's shell there."""

from __future__ import annotations

import shlex

import pytest

from kvmcompose.core.model import Host
from kvmcompose.hosts.connection import HostConnection
from kvmcompose.hosts.remote import SshRunner

ODD = ["two words", "$HOME", "a'b", '"', "", "; exit", "a\nb", "ü", "-n"]


def line(user: str, *argv: str, privileged: bool = False) -> list[str]:
    machine = SshRunner(HostConnection(Host(name="two", ip="192.0.2.12", user=user)))
    return shlex.split(machine._line(argv, 2.5, privileged=privileged)[0])


@pytest.mark.parametrize("privileged", [False, True])
def test_words_stay_words_and_the_limit_is_theirs(privileged: bool) -> None:
    words = line("root", "printf", *ODD, privileged=privileged)
    assert words[:3] == ["exec", "sh", "-c"]
    assert words[4:] == ["sh", "timeout", "--kill-after=1", "2.5", "printf", *ODD]


def test_what_is_roots_goes_through_sudo() -> None:
    words = line("ann", "ip", "link", privileged=True)
    assert words[4:] == ["sh", "sudo", "-n", "--", "timeout", "--kill-after=1", "2.5", "ip", "link"]
    assert "sudo" not in line("ann", "ip", "link")


def test_the_line_says_nothing_that_a_shell_of_any_kind_would_expand() -> None:
    machine = SshRunner(HostConnection(Host(name="two", ip="192.0.2.12", user="root")))
    text, _ = machine._line(["true"], 1, privileged=False)
    assert shlex.join(shlex.split(text)) == text
