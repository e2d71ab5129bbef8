"""Guides that show what is printed are what happens, on a host that is only pretended.

As in the tutorial; see there. They begin in the project that ``kvm-compose init lab`` writes.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from test_tutorial import BIN, REPOSITORY, pattern, run_all, steps

GUIDES = REPOSITORY / "docs" / "how-to"


@pytest.mark.parametrize("name", ["up-and-down", "change-what-runs", "snapshots", "capture"])
def test_a_guide_is_what_happens(
    name: str, tmp_path: Path, state_place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = {"KVM_COMPOSE_STORE": str(tmp_path / "store")}
    image = tmp_path / "tiny.qcow2"
    for argv in (
        ["qemu-img", "create", "-q", "-f", "qcow2", image, "1M"],
        [BIN / "kvm-compose", "cloud-images", "add", "debian_12", image],
    ):
        subprocess.run(argv, check=True, capture_output=True, env=os.environ | store)
    monkeypatch.setenv("KVM_COMPOSE_SERVER_FAKE", "1")
    monkeypatch.setenv("KVM_COMPOSE_SERVER_DELAY", "0.02")  # so that one thing comes after the other
    shown = steps((GUIDES / f"{name}.md").read_text())
    begin = "kvm-compose init lab >/dev/null && cd lab\n"
    results = run_all([begin, *(step.commands for step in shown)], tmp_path, state_place)
    for step, (output, status) in zip(shown, results[1:], strict=True):
        place = f"docs/how-to/{name}.md:{step.line}:\n{step.commands}"
        assert status == step.status, f"{place}ended with {status}:\n{output}"
        if step.output is not None:
            assert re.fullmatch(pattern(step.output), output), f"{place}printed:\n{output}"
