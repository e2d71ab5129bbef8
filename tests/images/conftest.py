from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from fileserver import serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fileserver import Web


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """A file server that misbehaves on request."""
    monkeypatch.setenv("NO_PROXY", "*")
    with serving() as web:
        yield web
