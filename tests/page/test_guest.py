"""The page's view of a guest: what is done with it, its console and its screen, also where it is hostile."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_lab import FakeLab
from playwright.sync_api import Page, expect
from visitor import Visitor

from kvmcompose.core.commands import SNAPSHOT_PATTERN, Power, PowerVerb
from kvmcompose.core.deployment import ActionState
from kvmcompose.server.people import Role

_WORDS = Path(__file__).resolve().parents[2] / "web/src/views/guest/words.ts"


def button(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def confirmed(page: Page, name: str) -> None:
    button(page, name)
    page.get_by_role("dialog").get_by_role("button", name=name).click()


def test_a_guest_is_paused_resumed_and_restored(lab: FakeLab, visit: Visitor) -> None:
    lab.up()
    page = visit.open("lab/guests/g001")
    badge = page.locator("header .badge")
    expect(badge).to_have_text("running")
    expect(page.get_by_role("img", name=re.compile("^CPU: .* of one CPU"))).to_be_visible()
    button(page, "Stop")
    page.get_by_role("button", name="Cancel").click()
    confirmed(page, "Pause")
    expect(badge).to_have_text("paused (pause)")
    button(page, "Resume")
    expect(badge).to_have_text("running")
    name = page.get_by_label("Name")
    name.fill("a/b")
    expect(page.get_by_text("at most 63 printable characters")).to_be_visible()
    expect(page.get_by_role("button", name="Create a snapshot")).to_be_disabled()
    name.fill("<b>vor</b>".replace("/", " "))
    button(page, "Create a snapshot")
    expect(page.get_by_role("cell", name="<b>vor< b> (current)")).to_be_visible()
    visit.check_accessible()
    visit.check_fits()
    restarted = lab.run(Power(verb=PowerVerb.RESTART, guests=("g001",)))
    assert restarted.state is ActionState.SUCCEEDED, restarted.faults  # in spite of the name of its snapshot
    button(page, "Restore <b>vor< b>")
    page.get_by_role("dialog").get_by_role("button", name="Restore").click()
    expect(page.get_by_role("log")).to_contain_text("restore")
    button(page, "Delete <b>vor< b>")
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.get_by_text("There is none.")).to_be_visible()


def test_what_fails_is_said_with_its_hint_and_mended(lab: FakeLab, visit: Visitor) -> None:
    lab.up()
    page = visit.open("lab/guests/g001")
    lab.fail("*start_domain:*")
    confirmed(page, "Stop")
    expect(page.locator("header .badge")).to_have_text("stopped (stop)")
    button(page, "Start")
    expect(page.get_by_role("alert")).to_contain_text("was made to fail")
    lab.mend()
    button(page, "Start")
    expect(page.locator("header .badge")).to_have_text("running")
    expect(page.get_by_role("alert")).to_have_count(0)


def test_the_console_obeys_the_user_and_not_the_guest(lab: FakeLab, visit: Visitor) -> None:
    lab.up()
    page = visit.open("lab/guests/g000")
    title = page.title()
    button(page, "Open the console")
    rows = page.locator(".xterm-rows")
    expect(rows).to_contain_text("login:")
    button(page, "Type in the console")
    page.keyboard.type("echo hello\n")
    expect(rows).to_contain_text("hello")
    page.keyboard.type("hostile\n")
    expect(rows).to_contain_text("linkred")
    expect(page.locator(".xterm-rows span", has_text="red").last).to_have_css("color", "rgb(200, 30, 40)")
    assert page.locator(".xterm-rows a").count() == 0
    assert page.title() == title
    page.keyboard.press("Control+]")
    assert visit.focused() == "Type in the console"
    visit.check_accessible()
    visit.check_fits()
    button(page, "Type in the console")
    # what the terminal answered to the guest's questions is in the line that the guest reads
    page.keyboard.type("\nflood\n")
    expect(rows).to_contain_text("0123456789abcdef")
    page.keyboard.press("Control+]")
    button(page, "Close the console")
    expect(rows).to_have_count(0)


@pytest.mark.parametrize("project", [(1, 1, 1)], indirect=True)
def test_a_shell_in_a_container_lives_as_long_as_it_is_seen(lab: FakeLab, visit: Visitor) -> None:
    lab.up()
    page = visit.open("lab/guests/c000")
    expect(page.get_by_role("heading", name="Output and shell")).to_be_visible()
    visit.check_fits()
    button(page, "Open the shell")
    rows = page.locator(".xterm-rows")
    expect(rows).to_contain_text("#")
    button(page, "Type in the shell")
    page.keyboard.type("stty size\n")
    wide = re.compile(r"\n*(\d+) (\d{3,})")
    expect(rows).to_contain_text(wide)
    page.set_viewport_size({"width": 390, "height": 844})
    page.keyboard.type("stty size\n")
    expect(rows).to_contain_text(re.compile(r"\d\d (3|4)\d\D"))
    visit.check_accessible()
    page.keyboard.type("exit 4\n")
    expect(page.get_by_text("Not connected: exit status 4")).to_be_visible()
    button(page, "Open another shell")
    expect(page.get_by_text("Connected", exact=True)).to_be_visible()
    button(page, "Type in the shell")
    page.keyboard.press("Control+]")
    assert visit.focused() == "Type in the shell"
    opened = [each for each in lab.hosts.calls if each.startswith("open_terminal:")]
    assert opened == ["open_terminal:lab-c000:sh"] * 2
    visit.go("lab/guests")
    lab.client().status("lab")
    until(lambda: lab.hosts.calls.count("close_terminal:lab-c000") == 2)
    visit.page.go_back()
    lab.run(Power(verb=PowerVerb.STOP, guests=("c000",)))
    expect(page.locator("header .badge")).to_have_text("stopped (stop)")
    assert page.get_by_role("button", name="Open the shell").count() == 0


def until(found: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_console_is_taken_from_another_user(lab: FakeLab, visit: Visitor) -> None:
    lab.up()
    page = visit.open("lab/guests/g000")
    button(page, "Open the console")
    expect(page.get_by_text("Connected", exact=True)).to_be_visible()
    other = visit.context.new_page()
    other.goto(f"{lab.origin}/#/lab/guests/g000")
    button(other, "Open the console")
    expect(other.get_by_text("another user has the console")).to_be_visible()
    button(other, "Take the console")
    button(other, "Take it")
    expect(other.get_by_text("Connected", exact=True)).to_be_visible()
    expect(page.get_by_text("another user has the console")).to_be_visible()


def test_the_screen_is_seen_and_used(lab: FakeLab, visit: Visitor) -> None:
    lab.up()

    def plug() -> None:
        lab.domain("g000").hardware.screen = "vnc"

    lab.change(plug)
    page = visit.open("lab/guests/g000")
    button(page, "Open the screen")
    expect(page.get_by_text("Connected", exact=True)).to_be_visible()
    visit.expected.append("willReadFrequently")  # by this test, which looks at a pixel
    pixel = "document.querySelector('.screen canvas').getContext('2d').getImageData(5, 5, 1, 1).data.join()"
    page.wait_for_function(f"() => {pixel} === '128,64,32,255'")
    button(page, "Use the screen")
    page.keyboard.press("a")
    page.wait_for_function(f"() => {pixel} === '32,128,64,255' || {pixel} === '64,128,32,255'")
    page.keyboard.press("Control+]")
    assert visit.focused() == "Use the screen"
    visit.check_accessible()


def test_readers_see_no_button_that_does_not_work(lab: FakeLab, visit: Visitor) -> None:
    lab.up()
    visit.expected.append("status of 401")
    page = visit.page
    page.goto(f"{lab.origin}/#/lab/guests/g000")
    page.get_by_label("Token").fill(lab.token(Role.READ_ONLY))
    page.keyboard.press("Enter")
    button(page, "Open the console")
    expect(page.locator(".xterm-rows")).to_contain_text("login:")
    expect(page.get_by_text("Only what it prints: the token")).to_be_visible()
    for name in ("Restart", "Stop", "Pause", "Create a snapshot", "Take the console", "Open the screen"):
        assert page.get_by_role("button", name=name).count() == 0, name


def test_the_page_knows_the_names_of_snapshots_that_the_server_accepts() -> None:
    text = _WORDS.read_text()
    pattern = re.search(r"raw`(\^.*?)`,", text)
    assert pattern
    found = pattern[1]
    for name in ("HIDDEN", "SPACES"):
        part = re.search(rf"{name} = String.raw`(.*?)`", text)
        assert part
        found = found.replace(f"${{{name}}}", part[1])
    assert found == SNAPSHOT_PATTERN.removesuffix(r"(?!\n)")
