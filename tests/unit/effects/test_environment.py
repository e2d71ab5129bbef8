"""Variables that are on or off."""

from __future__ import annotations

import pytest

from kvmcompose.effects.environment import is_on


@pytest.mark.parametrize(
    ("text", "on"),
    [("", False), ("0", False), ("false", False), ("No", False), ("1", True), ("yes", True)],
)
def test_nothing_0_false_and_no_are_off(text: str, *, on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVM_COMPOSE_INSECURE", text)
    assert is_on("KVM_COMPOSE_INSECURE") is on


def test_a_variable_that_is_not_set_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KVM_COMPOSE_INSECURE", raising=False)
    assert not is_on("KVM_COMPOSE_INSECURE")
