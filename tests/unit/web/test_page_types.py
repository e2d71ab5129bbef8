"""The types that the page has of the API are those that the server sends."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from kvmcompose.core import access, deployment, deployment_event, explained, picture

_SOURCE = Path(__file__).parents[3] / "web/src/types.ts"
_INTERFACE = re.compile(r"export interface (\w+)(?: extends \w+)? \{\n(.*?)\n\}", re.DOTALL)
_FIELD = re.compile(r"^  (\w+)(\??):", re.MULTILINE)
#: What the page has of the events: each but its number, its time and its type.
_EVENTS = {
    "StepEvent": deployment_event.StepStarted,
    "GuestEvent": deployment_event.GuestChanged,
    "ResourceEvent": deployment_event.ResourceChanged,
}
#: What the page ignores.
_LEFT_OUT = {"ProblemDetails": {"type"}, "TestbedStatus": {"differences"}}


def _interfaces() -> dict[str, dict[str, bool]]:
    """The fields of each interface, and whether they may be missing."""
    text = _SOURCE.read_text()
    return {name: {n: q == "?" for n, q in _FIELD.findall(body)} for name, body in _INTERFACE.findall(text)}


@pytest.mark.parametrize(
    "name",
    [
        "Deployment", "Action", "Fault", "Step", "LogLine", "GuestStatus", "TestbedStatus", "ProblemDetails",
        "PictureInterface", "PictureNode", "PictureEdge", "PictureStack", "TestbedPicture",
        "SnapshotStatus", "StatusDifference", "GuestTerminals", "ConsoleOpened", "Explanation",
        "RecipeChange", *_EVENTS,
    ],
)  # fmt: skip
def test_fields(name: str) -> None:
    modules = (deployment, picture, access, explained)
    struct = _EVENTS.get(name) or next(getattr(each, name) for each in modules if hasattr(each, name))
    config = struct.__struct_config__
    sent = {
        field.encode_name: config.omit_defaults and not field.required
        for field in msgspec.structs.fields(struct)
        if not (name in _EVENTS and field.name in ("number", "time"))
        and field.name not in _LEFT_OUT.get(name, ())
    }
    known = _interfaces()[name]
    known.pop("event", None)
    assert known == sent


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("Phase", deployment.Phase),
        ("ActionState", deployment.ActionState),
        ("StepState", deployment.StepState),
    ],
)
def test_words(name: str, values: type[deployment.Phase]) -> None:
    (found,) = re.findall(rf"export type {name} = (.*?);", _SOURCE.read_text(), re.DOTALL)
    assert set(re.findall(r'"([^"]+)"', found)) == {str(each) for each in values}
