"""500 guests keep the page answering: opened, changing all at once, and as a table.

Tasks are measured by the processor time of the page's main thread: other programs run beside the tests.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fake_lab import FakeLab
from playwright.sync_api import expect
from visitor import Visitor

GUESTS = 500
#: The longest task, in milliseconds.
MOST = 100


@contextmanager
def quick(visit: Visitor) -> Iterator[None]:
    """Fail if a task of the page's main thread takes too long in the block."""
    browser = visit.context.browser
    assert browser is not None
    browser.start_tracing(page=visit.page, categories=["toplevel", "devtools.timeline"])
    yield
    events: list[dict[str, Any]] = json.loads(browser.stop_tracing())["traceEvents"]
    main = {
        (each["pid"], each["tid"])
        for each in events
        if each["name"] == "thread_name" and each["args"].get("name") == "CrRendererMain"
    }
    tasks = [
        each["tdur"] / 1000
        for each in events
        if each["name"].endswith("RunTask") and "tdur" in each and (each["pid"], each["tid"]) in main
    ]
    assert tasks
    assert max(tasks) < MOST


def _pause_all(lab: FakeLab) -> None:
    for world in lab.hosts.worlds.values():
        for domain in world.domains.values():
            domain.paused = "I/O error"


@pytest.mark.long_only  # half a minute, and measures times
@pytest.mark.parametrize("project", [(GUESTS, 3)], indirect=True)
def test_no_task_is_long_with_five_hundred_guests(lab: FakeLab, visit: Visitor) -> None:
    lab.up()
    with quick(visit):
        page = visit.open("lab")
        stacks = page.locator(".board .many")
        expect(stacks).to_have_count(6)
        expect(stacks.locator(".state").first).to_have_text("84 running")
    with quick(visit):
        for number in range(6):
            stacks.nth(number).click()
        expect(page.locator(".board .guest")).to_have_count(GUESTS)
    with quick(visit):
        lab.change(lambda: _pause_all(lab))
        expect(page.locator(".board .guest .mark.bad")).to_have_count(GUESTS)
    with quick(visit):
        page.get_by_role("button", name="Table").click()
        expect(page.locator("tbody tr")).to_have_count(GUESTS)
