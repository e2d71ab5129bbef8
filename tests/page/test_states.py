"""What becomes of guests and hosts is seen as it happens, by every reader, whatever their names are."""

from __future__ import annotations

import re

from fake_lab import FakeLab
from looks import Looks
from playwright.sync_api import Locator, Page, expect
from visitor import Visitor

from kvmcompose.core.commands import Power, Up
from kvmcompose.core.deployment import ActionState
from kvmcompose.server.people import Role


def card(page: Page, guest: str) -> Locator:
    """Return a guest in the picture."""
    return page.locator(f'g[data-node="{guest}"]')


def expect_state(page: Page, guest: str, word: str) -> None:
    expect(card(page, guest)).to_have_attribute("aria-label", re.compile(f": {word}$"))


def _break(lab: FakeLab) -> None:
    """Do to guests what happens to guests: g000 stays as it was."""
    two = lab.world("h1")
    lab.domain("g003").paused = "I/O error"
    lab.domain("g002").started, lab.domain("g002").off = 0, "crashed"
    for name, domain in list(lab.world("h2").domains.items()):
        if domain.guest == "g005":
            del lab.world("h2").domains[name]
    taps = lab.domain("g001").taps
    for bridge in two.bridges["lab"].values():
        for tap in taps:
            bridge.ports.pop(tap, None)


def test_each_state_of_a_guest_is_seen(lab: FakeLab, visit: Visitor, look: Looks) -> None:
    page = visit.open()
    for guest in ("g000", "g005"):
        expect_state(page, guest, "absent")
    look.check(page.locator(".board svg"), "topology-down")
    lab.up()
    for guest in ("g000", "g005"):
        expect_state(page, guest, "running")
    look.check(page.locator(".board svg"), "topology-up")
    lab.change(lambda: _break(lab))
    expect_state(page, "g003", "paused: I/O error")
    expect_state(page, "g002", "shut off: crashed")
    expect_state(page, "g005", "absent")
    expect_state(page, "g001", "degraded")
    expect_state(page, "g000", "running")
    expect(page.locator(".labhead")).to_contain_text("degraded")
    trouble = page.get_by_role("region", name="What is wrong")
    expect(trouble).to_contain_text("guest g001: its port on the bridge br1 is missing")
    expect(trouble.get_by_role("link", name="Plan a repair")).to_be_visible()
    look.check(page.locator(".board svg"), "topology-broken")
    visit.dark()
    look.check(page.locator(".board svg"), "topology-broken-dark")
    visit.check_accessible()
    visit.check_fits()
    lab.up()  # mends all of it
    for guest in ("g001", "g002", "g003", "g005"):
        expect_state(page, guest, "running")
    assert lab.run(Power(verb="pause", guests=("g000",))).state is ActionState.SUCCEEDED
    expect_state(page, "g000", r"paused \(pause\)")
    lab.fail("h1/*")
    expect_state(page, "g001", "unknown.*")
    expect_state(page, "g004", "unknown.*")
    look.check(page.locator(".board svg"), "topology-silent-host")
    lab.mend()
    expect_state(page, "g001", "running")


def test_a_guest_that_fails_is_seen_with_its_hint(lab: FakeLab, visit: Visitor) -> None:
    page = visit.open()
    lab.fail("*start_domain:*g004*")
    action = lab.run(Up())
    assert action.state is ActionState.FAILED
    expect(page.locator(".labhead")).to_contain_text("failed")
    expect_state(page, "g004", "absent")
    trouble = page.get_by_role("region", name="What is wrong")
    expect(trouble).to_contain_text("start g004")
    expect(trouble.get_by_role("link", name="What up did")).to_be_visible()
    card(page, "g004").focus()
    page.keyboard.press("Enter")
    panel = page.get_by_role("complementary")
    expect(panel.get_by_text("was made to fail")).to_be_visible()
    expect(panel.get_by_text("this is a fake host")).to_be_visible()
    visit.check_accessible()
    visit.check_fits(390, 1280)
    lab.mend()
    panel.get_by_role("button", name="Start").click()
    expect_state(page, "g004", "running")
    expect(panel.get_by_text("was made to fail")).to_be_hidden()  # what was done well since is no fault
    expect(trouble).to_be_hidden()


def test_a_bridge_that_is_gone_is_the_cause_that_is_named(lab: FakeLab, visit: Visitor) -> None:
    lab.up()
    page = visit.open()
    expect_state(page, "g001", "running")
    lab.change(lambda: lab.world("h1").bridges["lab"].pop("lab-br1"))
    trouble = page.get_by_role("region", name="What is wrong")
    expect(trouble.locator("summary")).to_contain_text(re.compile("^bridge lab-br1: is missing and"))
    trouble.locator("summary").click()
    expect(trouble).to_contain_text("guest g001: its port on the bridge br1 is missing")
    card(page, "br1").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("complementary")).to_contain_text("bridge lab-br1: is missing")
    trouble.get_by_role("link", name="guest g001").click()
    expect(page.get_by_role("region", name="What differs")).to_contain_text(
        "its port on the bridge br1 is missing"
    )
    expect(page.locator(".guest header")).to_contain_text("degraded")
    page.go_back()
    page.get_by_role("button", name=re.compile(r"^\d+ degraded$")).press("Enter")
    expect(page.locator(".tools [role=status]")).to_contain_text(" of 6 guests")
    visit.check_accessible()
    visit.check_fits(390, 1280)
    trouble.get_by_role("link", name="Plan a repair").click()
    expect(page.get_by_role("button", name="Carry out this plan")).to_be_visible(timeout=60_000)
    # the cause comes before the guests that need it
    expect(page.get_by_role("region", name="What runs").locator("h3").first).to_have_text("h1")
    lab.up()
    visit.go("lab")
    expect_state(page, "g001", "running")
    expect(trouble).to_be_hidden()


def test_those_who_only_read_have_no_buttons_that_do_not_work(lab: FakeLab, visit: Visitor) -> None:
    lab.up()
    page = visit.page
    page.goto(lab.origin)
    page.get_by_label("Token").fill(lab.token(Role.READ_ONLY))
    page.keyboard.press("Enter")
    page.get_by_role("link", name="lab").click()
    expect_state(page, "g000", "running")
    expect(page.get_by_text("(read-only)")).to_be_visible()
    harmless = {"Sign out", "Clear", "Picture", "Table", "Zoom in", "Zoom out", "Fit", "Close"}
    for place, shown in (("lab", "g000"), ("lab/guests/g000", "g000"), ("lab/change", "History")):
        visit.go(place)
        expect(page.locator("main")).to_contain_text(shown)
        names = {each.accessible_name for each in _buttons(page)}
        assert not {name for name in names - harmless if re.search(_CHANGES, name)}, names


#: What a button that changes something is called.
_CHANGES = r"\b(Up|Down|Start|Stop|Restart|Pause|Resume|Cancel|Create|Restore|Delete|Repair|Save)\b"


class _Button:
    def __init__(self, locator: Locator) -> None:
        self.accessible_name = locator.get_attribute("aria-label") or locator.inner_text()


def _buttons(page: Page) -> list[_Button]:
    return [_Button(each) for each in page.locator("button:visible").all()]


_HOSTILE = "<img src=x onerror=alert(1)>\u202e'\"&<script>alert(2)</script>"


def test_what_guests_and_labs_say_is_text(visit: Visitor, lab: FakeLab) -> None:
    """What libvirt says of a guest, for example, which may be what the guest says."""
    alerts: list[str] = []
    visit.page.on("dialog", lambda dialog: (alerts.append(dialog.message), dialog.dismiss()))
    lab.up()
    lab.change(lambda: setattr(lab.domain("g001"), "paused", _HOSTILE))
    page = visit.open()
    expect(card(page, "g001")).to_have_attribute("aria-label", re.compile("onerror=alert"))
    card(page, "g001").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("complementary")).to_contain_text("<script>alert(2)</script>")
    visit.go("lab/guests/g001")
    expect(page.locator("main")).to_contain_text("<script>alert(2)</script>")
    page.get_by_role("link", name="lab", exact=True).first.click()
    page.get_by_role("button", name="Table").click()
    expect(page.get_by_role("table")).to_contain_text("<script>alert(2)</script>")
    assert page.locator("main img, main script").count() == 0
    assert alerts == []
