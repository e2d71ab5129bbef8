"""Host keys are pinned for as long as the guest is the one that was met."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import asyncssh
import pytest

from kvmcompose.providers.guest import connection
from kvmcompose.providers.guest.interface import Login
from kvmcompose.providers.guest.known_hosts import KnownHosts

_KEY, _OTHER = "ssh-ed25519 AAAA", "ssh-ed25519 BBBB"


@pytest.fixture
def known(tmp_path: Path) -> KnownHosts:
    return KnownHosts(tmp_path / "known_hosts")


def test_a_key_counts_in_the_life_in_which_it_was_noted(known: KnownHosts) -> None:
    known.note("lab-web", _KEY, "one")
    known.note("lab-db", _OTHER, "one")
    assert known.key("lab-web", "one") == _KEY
    assert known.key("lab-web", "two") is None
    assert known.key("lab-db", "one") == _OTHER
    known.note("lab-web", _OTHER, "two")
    assert known.key("lab-web", "two") == _OTHER
    assert known.key("lab-web", "one") is None


def test_a_key_noted_without_a_life_counts_in_all(known: KnownHosts) -> None:
    known.note("lab-web", _KEY)
    assert known.key("lab-web", "two") == _KEY
    known.note("lab-web", _KEY, "one")
    assert known.key("lab-web") == _KEY


def test_a_forgotten_key_is_not_known(known: KnownHosts) -> None:
    known.note("lab-web", _KEY, "one")
    known.note("lab-db", _OTHER, "one")
    known.forget("lab-web")
    known.forget("lab-none")
    assert known.key("lab-web", "one") is None
    assert known.key("lab-db", "one") == _OTHER


def test_a_guest_in_another_life_may_show_another_key(
    known: KnownHosts, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = []

    async def reach(_login: Login) -> socket.socket:
        return socket.socket()

    async def ssh(_address: str, **options: object) -> None:
        client = options["client_factory"]()  # type: ignore[operator]
        asked.append(client.noted)
        client.shown = _OTHER
        options["sock"].close()  # type: ignore[attr-defined]

    monkeypatch.setattr(connection, "reach", reach)
    monkeypatch.setattr(connection, "_identity", lambda _login: None)
    monkeypatch.setattr(asyncssh, "connect", ssh)
    known.note("lab-web", _KEY, "one")
    for life in ("one", "two", "two"):
        login = Login(
            guest="web", alias="lab-web", address="192.0.2.1", user="root",
            identity_file=tmp_path / "key", known_hosts=known.path, life=life,
        )  # fmt: skip
        asyncio.run(connection.connect(login))
    assert asked == [_KEY, None, _OTHER]
    assert known.path.read_text() == f"lab-web {_OTHER} two\n"
