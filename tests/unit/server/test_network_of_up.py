from __future__ import annotations

import asyncio
import socket

import pytest

from kvmcompose.hosts.errors import DriverError
from kvmcompose.server.orchestrator.network import _address


def test_a_host_may_be_given_by_name() -> None:
    assert asyncio.run(_address("192.0.2.7")) == "192.0.2.7"
    assert asyncio.run(_address("localhost")) == "127.0.0.1"


def test_a_name_that_leads_nowhere_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **_kept: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(DriverError, match=r"no address for the host no-such-host\.invalid") as raised:
        asyncio.run(_address("no-such-host.invalid"))
    assert "ip" in str(raised.value.hint)
