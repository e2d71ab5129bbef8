"""``graph``: pictures of a testbed as it is written, as it runs, and as it would be."""

from __future__ import annotations

import struct
import sys
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Lab

_SVG = "{http://www.w3.org/2000/svg}"


def titles(lab: Lab, *words: str) -> dict[str, list[str]]:
    """Return what the picture says of each node, by its name."""
    found = ET.fromstring(lab.must("graph", "--format", "svg", *words).out)  # noqa: S314 (it is ours)
    lines = [(each.text or "").splitlines() for each in found.iter(f"{_SVG}title")]
    return {first.partition(" (")[0]: [first, *rest] for first, *rest in lines}


def test_a_picture_has_hosts_networks_guests_and_addresses(idle: Lab) -> None:
    said = titles(idle)
    assert said["web"][0] == "web (virtual machine on main)"
    assert said["web"][1].startswith("br0: 10.")
    assert said["br0"] == ["br0 (bridge on main)"]
    assert "NAT" in said
    assert idle.must("graph", "--format", "svg").out == idle.must("graph", "--format", "svg").out


def test_the_picture_shows_how_guests_are(lab: Lab) -> None:
    lab.must("up")
    lab.must("stop", "db")
    said = titles(lab, "--state")
    assert said["web"][-1] == "running"
    assert said["db"][-1] == "stopped (stop)"


def test_the_picture_shows_what_up_would_do(lab: Lab) -> None:
    lab.must("up")
    lab.bench.edit("memory_mb: 128, lib", "memory_mb: 192, lib")
    said = titles(lab, "--plan")
    assert said["db"][-1] == "would restart"
    assert len(said["web"]) == 2  # nothing but its address


def test_without_anything_up_all_guests_would_be_started(idle: Lab) -> None:
    idle.serve()
    assert titles(idle, "--plan")["web"][-1] == "would be started"


def test_a_png_is_sharp_and_a_page_needs_nothing_else(idle: Lab) -> None:
    with idle.start("graph", "--format", "png", text=False) as process:
        made, _ = process.communicate()
    assert made.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", made[16:24])
    root = ET.fromstring(idle.must("graph", "--format", "svg").out)  # noqa: S314 (it is ours)
    assert (width, height) == (2 * int(root.get("width", "0")), 2 * int(root.get("height", "0")))
    page = idle.must("graph", "--format", "html").out
    assert page.startswith("<!DOCTYPE html>")
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("--state",), "require a picture of the topology"),
        (("--format", "json", "--plan"), "require a picture of the topology"),
        (("--of", "tasks", "--format", "svg", "--state"), "require a picture of the topology"),
        (("--of", "tasks", "--format", "png"), "has no png"),
    ],
)
def test_options_that_say_nothing_are_refused(idle: Lab, words: tuple[str, ...], wanted: str) -> None:
    assert wanted in idle.must("graph", *words, status=2).said


def test_a_missing_package_is_named(idle: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    said = idle.must("graph", "--format", "png", status=3).said
    assert "pip install resvg-py" in said
