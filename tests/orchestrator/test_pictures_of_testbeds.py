"""The picture of a testbed: of what is up, kept where it was, made once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec
import pytest

from kvmcompose.core.commands import Down, Up
from kvmcompose.core.picture import TestbedPicture
from kvmcompose.drawing.places import Grid
from kvmcompose.server.orchestrator import picture as module

if TYPE_CHECKING:
    from conftest import Lab


def drawn(lab: Lab, *opened: str) -> tuple[str, TestbedPicture]:
    found = asyncio.run(lab.orchestrator.picture(lab.deployment, opened))
    return found.tag, msgspec.json.decode(found.content, type=TestbedPicture)


def places(lab: Lab) -> Grid:
    stored = lab.store.places("lab", module.WHOLE)
    assert stored is not None
    return msgspec.json.decode(stored, type=Grid)


def test_it_shows_the_folder_and_then_what_is_up(lab: Lab) -> None:
    tag, before = drawn(lab)
    guests = {node.name for node in before.nodes if node.kind in ("guest", "golden image")}
    assert {"web", "db"} <= guests
    lab.must(Up())
    lab.edit("name: db", "name: base")
    _, up = drawn(lab)
    assert {node.name for node in up.nodes} == {node.name for node in before.nodes}
    lab.must(Down())
    other, after = drawn(lab)
    assert "base" in {node.name for node in after.nodes}
    assert other != tag


def test_guests_have_addresses_machines_and_lines(lab: Lab) -> None:
    _, found = drawn(lab)
    web = next(node for node in found.nodes if node.name == "web")
    assert (web.kind, web.host, web.machine) == ("guest", "one", "web")
    (nic,) = web.interfaces
    assert nic.addresses[0].startswith("10.")
    assert {(edge.source, edge.target) for edge in found.edges} >= {("web", nic.segment)}
    assert 'data-node="web"' in found.svg
    assert "<style" not in found.svg
    assert "style=" not in found.svg


def test_it_is_drawn_once(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    tag, _ = drawn(lab)

    def fail(*_given: object) -> None:
        pytest.fail("drawn again")

    monkeypatch.setattr(module, "_draw", fail)
    assert drawn(lab)[0] == tag


def test_everything_stays_where_it_was_after_a_restart(lab: Lab) -> None:
    def guests() -> list[str]:
        return [name for block in places(lab).columns[0].blocks for name in block.guests]

    drawn(lab)
    wanted = ["a-new-one" if name == "db" else name for name in guests()]
    lab.edit("name: db", "name: a-new-one")
    drawn(lab)
    assert guests() == wanted
    assert "a-new-one" in wanted
    lab.restart()
    tag, _ = drawn(lab)
    assert drawn(lab)[0] == tag
    assert guests() == wanted


def test_places_of_another_version_are_made_again(lab: Lab) -> None:
    lab.store.put_places("lab", module.WHOLE, b'{"columns":7}')
    drawn(lab)
    assert places(lab).columns


def test_they_go_with_the_deployment(lab: Lab) -> None:
    drawn(lab)
    lab.store.remove_deployment("lab")
    assert lab.store.places("lab", module.WHOLE) is None


def test_a_state_that_does_not_fit_together_is_refused(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_state: object) -> None:
        raise KeyError("br9")

    monkeypatch.setattr(module, "drawing", broken)
    with pytest.raises(module.RefusedError, match="br9"):
        drawn(lab)
