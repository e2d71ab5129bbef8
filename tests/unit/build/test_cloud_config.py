"""What cloud-init prints of a cloud-config's problems, taken apart."""

from __future__ import annotations

import pytest

from kvmcompose.build.cloud_config import _split


@pytest.mark.parametrize(
    ("text", "errors"),
    [
        (
            "ntp.servers: 'hello, world' is not of type 'array', runcmd: 5 is not of type 'array'",
            [("ntp.servers", "is not of type 'array'"), ("runcmd", "is not of type 'array'")],
        ),
        (
            "users.0: {'name': 'x', 'passwd': 'SECRET'} is not valid under any of the given schemas",
            [("users.0", "is not valid under any of the given schemas")],
        ),
        (
            "password: 'SECRET is not short' is not of type 'object'",
            [("password", "is not of type 'object'")],
        ),
        ("key: SECRET", [("key", "is not valid")]),
        (
            "apt: Additional properties are not allowed ('foo' was unexpected)",
            [("apt", "Additional properties are not allowed ('foo' was unexpected)")],
        ),
    ],
)
def test_errors_are_told_apart_and_show_no_value(text: str, errors: list[tuple[str, str]]) -> None:
    assert list(_split(text)) == errors
