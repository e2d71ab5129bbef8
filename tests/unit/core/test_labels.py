"""Selecting guests by their labels."""

from __future__ import annotations

import pytest

from kvmcompose.core.labels import Selector, selected

GUESTS = {"a": {"role": "web", "tier": ""}, "b": {"role": "db"}, "c": {}}


@pytest.mark.parametrize(
    ("texts", "names"),
    [
        (["role=web"], ["a"]),
        (["role"], ["a", "b"]),
        (["tier="], ["a"]),
        (["role", "tier"], ["a"]),
        (["role=web", "role=db"], []),
        (["role=we"], []),
        (["role=a=b"], []),
    ],
)
def test_all_selectors_must_match(texts: list[str], names: list[str]) -> None:
    selectors = [Selector.parse(text) for text in texts]
    assert selected(GUESTS, selectors) == names
    assert [str(each) for each in selectors] == texts


@pytest.mark.parametrize("text", ["", "=", "=web"])
def test_a_selector_has_a_key(text: str) -> None:
    with pytest.raises(ValueError, match="no key"):
        Selector.parse(text)
