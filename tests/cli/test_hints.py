"""Where a hint is below a message."""

from __future__ import annotations

import pytest

from kvmcompose.cli._reports import hint_line


@pytest.mark.parametrize(
    ("message", "apart"),
    [
        ("there is no guest", False),
        ("lab does this to the host, and you have not trusted it:\n  web: privileged\n  db: a device", False),
        ("pin them:\ntestbed_options:\n  placement: {pin: {web: one}}", True),
    ],
)
def test_a_hint_is_set_apart_from_yaml_alone(message: str, *, apart: bool) -> None:
    assert hint_line(message, "do it") == ("\n" if apart else "") + "    hint: do it"
