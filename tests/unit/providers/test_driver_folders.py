"""The links to the folders of projects."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from recorder import Recorder

from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.project_folder.driver import HostProjectFolders


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc"])
def test_project_names_are_no_paths(name: str) -> None:
    folders = HostProjectFolders(Recorder(("realpath", 0, b"/p\n", b"")))
    with pytest.raises(DriverError, match="invalid project name"):
        asyncio.run(folders.link(name, Path("/p")))
