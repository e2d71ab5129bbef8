"""Files that version 0.1 wrote into projects go on working."""

from __future__ import annotations

import pytest

from kvmcompose.build import dodo
from kvmcompose.tasks import dodo as of_0_1


@pytest.mark.parametrize("name", ["doit_config", "project_tasks", "take_down"])
def test_a_dodo_py_finds_what_it_imports(name: str) -> None:
    assert getattr(of_0_1, name) is getattr(dodo, name)
