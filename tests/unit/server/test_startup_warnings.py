"""How a server starts: whom it makes powerful is said, and garbage is collected."""

from __future__ import annotations

import gc
import logging
from pathlib import Path
from typing import Any

import pytest

from kvmcompose.core.errors import KvmComposeError
from kvmcompose.server import run
from kvmcompose.server.settings import ServerSettings

ROOT_SERVES = "runs as root"
ROOT_IN_A_GROUP = "only the checks of this server"
CANNOT_ACT = "does not run as root"


@pytest.mark.parametrize(
    ("uid", "options", "expected"),
    [
        (0, {}, {ROOT_SERVES}),
        (0, {"embedded": True}, set()),
        (0, {"socket_group": "testers"}, {ROOT_SERVES, ROOT_IN_A_GROUP}),
        (1000, {}, set()),
        (1000, {"socket_group": "testers"}, {CANNOT_ACT}),
    ],
)
def test_whom_a_server_makes_powerful_is_said(
    uid: int, options: dict[str, Any], expected: set[str], monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr("os.geteuid", lambda: uid)
    settings = ServerSettings(state_dir=Path("/s"), socket=Path("/s/socket"), project_roots=(), **options)
    with caplog.at_level(logging.WARNING):
        run._warn(settings)
    said = [record.getMessage() for record in caplog.records]
    assert {
        part for part in (ROOT_SERVES, ROOT_IN_A_GROUP, CANNOT_ACT) if any(part in text for text in said)
    } == expected
    assert len(said) == len(expected)
    assert all("testers" in text for text in said if ROOT_SERVES not in text)


def test_garbage_is_collected_in_a_server_unlike_in_other_commands(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    settings = ServerSettings(
        state_dir=tmp_path / "file", socket=tmp_path / "file/socket", project_roots=(tmp_path,)
    )
    before = gc.get_threshold()
    gc.disable()  # as every command does at first
    try:
        with pytest.raises((KvmComposeError, OSError)):
            run.serve(settings)
        assert gc.isenabled()
    finally:
        gc.enable()
        gc.set_threshold(*before)
        gc.unfreeze()
