"""The shell of the page: signing in, the list of testbeds, the connection to the server."""

from __future__ import annotations

import re

from fake_lab import FakeLab
from playwright.sync_api import APIResponse, Route, expect
from visitor import LOST_CONNECTION, Visitor

from kvmcompose.core.commands import Power, PowerVerb
from kvmcompose.server.people import Role

_NOT_SIGNED_IN = "status of 401"


def test_a_link_signs_in_once_and_leaves_no_code(lab: FakeLab, visit: Visitor) -> None:
    link = lab.link("lab")
    page = visit.page
    page.goto(link)
    expect(page.get_by_role("heading", name="lab")).to_be_visible()
    assert page.url == f"{lab.origin}/#/lab"
    cookies = visit.context.cookies()
    assert [(each.get("httpOnly"), each.get("sameSite")) for each in cookies] == [(True, "Strict")]
    page.reload()
    expect(page.get_by_role("heading", name="lab")).to_be_visible()
    visit.context.clear_cookies()
    visit.expected.append(_NOT_SIGNED_IN)
    page.goto("about:blank")
    page.goto(link)
    expect(page.get_by_text("no longer")).to_be_visible()


def test_a_token_signs_in_and_signing_out_ends_it(lab: FakeLab, visit: Visitor) -> None:
    visit.expected.append(_NOT_SIGNED_IN)
    page = visit.page
    page.goto(lab.origin)
    token = page.get_by_label("Token")
    token.fill("not a token")
    page.keyboard.press("Enter")
    expect(page.get_by_text("not valid")).to_be_visible()
    visit.check_accessible()
    visit.check_fits()
    token.fill(lab.token(Role.USER))
    page.keyboard.press("Enter")
    expect(page.get_by_role("link", name="lab")).to_be_visible()
    page.get_by_role("button", name="Sign out").click()
    expect(token).to_be_visible()
    page.reload()
    expect(token).to_be_visible()


def test_the_list_of_testbeds(lab: FakeLab, visit: Visitor) -> None:
    page = visit.open("")
    link = page.get_by_role("link", name="lab")
    expect(link).to_be_visible()
    visit.check_accessible()
    visit.check_fits()
    assert visit.transferred() <= 300 << 10
    assert visit.tab_through()
    lab.up()
    expect(page.get_by_role("row", name="lab").get_by_text("up", exact=True)).to_be_visible(timeout=2000)
    link.press("Enter")
    expect(page.get_by_role("heading", name="lab")).to_be_visible()
    lab.change(lab.world().bridges["lab"].clear)
    degraded = re.compile(r"^degraded \([1-9]\d*\)$")
    expect(page.locator(".labhead").get_by_text(degraded)).to_be_visible()
    visit.go("")
    expect(page.get_by_role("row", name="lab").get_by_text(degraded)).to_be_visible()


def test_a_connection_that_is_cut_comes_back(lab: FakeLab, visit: Visitor) -> None:
    visit.expected.append(LOST_CONNECTION)
    page = visit.open()
    lab.cut_connections()
    lab.up()
    expect(page.locator(".labhead").get_by_text("up", exact=True)).to_be_visible()
    expect(page.get_by_text("The connection to the server is lost")).to_be_hidden()


def test_a_server_that_stops_is_noticed(lab: FakeLab, visit: Visitor) -> None:
    """Its sessions end with it: another start needs another link."""
    visit.expected += [LOST_CONNECTION, _NOT_SIGNED_IN]
    page = visit.open()
    lab.stop()
    expect(page.get_by_text("The connection to the server is lost")).to_be_visible()
    visit.check_accessible()
    lab.start()
    expect(page.get_by_text("the session is over")).to_be_visible()
    visit.open("lab")
    expect(page.get_by_role("heading", name="lab")).to_be_visible()


def test_a_late_answer_about_an_earlier_session_ends_no_other(lab: FakeLab, visit: Visitor) -> None:
    """A link that is opened in the page of a server that was restarted."""
    visit.expected += [LOST_CONNECTION, _NOT_SIGNED_IN]
    page = visit.open("")
    held: list[tuple[Route, APIResponse]] = []

    def hold(route: Route) -> None:
        if not held and route.request.method == "GET":
            held.append((route, route.fetch()))
        else:
            route.continue_()

    page.route("**/api/session", hold)
    lab.stop()
    lab.start()
    while not held:  # the session is asked for as the stream of the list is refused
        page.wait_for_timeout(50)
    route, answer = held[0]
    assert answer.status == 401
    key = page.evaluate("() => JSON.stringify(localStorage)")
    page.evaluate("link => { location.hash = new URL(link).hash }", lab.link())
    page.wait_for_function("key => JSON.stringify(localStorage) !== key", arg=key)
    route.fulfill(response=answer)
    expect(page.get_by_text("The connection to the server is lost")).to_be_hidden()
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()
    expect(page.get_by_text("the session is over")).to_be_hidden()


def test_a_link_in_an_open_page_begins_another_session_quietly(lab: FakeLab, visit: Visitor) -> None:
    """Its view goes on in the new one: the consoles, too. A link that is not valid any more says so."""
    lab.up()
    page = visit.open("lab/guests/g000")
    page.get_by_role("button", name="Open the console").click()
    expect(page.get_by_text("Connected", exact=True)).to_be_visible()
    key = page.evaluate("() => JSON.stringify(localStorage)")
    link = lab.link("lab/guests/g000")
    for turn in range(2):
        page.evaluate("link => { location.hash = new URL(link).hash }", link)
        if turn == 0:
            page.wait_for_function("key => JSON.stringify(localStorage) !== key", arg=key)
            expect(page.get_by_text("Not connected")).to_be_visible()
        expect(page.get_by_text("Connected", exact=True)).to_be_visible()
        expect(page.get_by_text("The connection to the server is lost")).to_be_hidden()
        assert page.url == f"{lab.origin}/#/lab/guests/g000"
        if turn == 0:
            visit.expected.append(_NOT_SIGNED_IN)
    expect(page.locator(".notice")).to_contain_text("this link or token is not valid")
    lab.run(Power(verb=PowerVerb.PAUSE, guests=("g000",)))
    expect(page.locator("header .badge")).to_have_text("paused (pause)")
    for place in ("", "lab", "lab/guests/g001"):
        page.evaluate("link => { location.hash = new URL(link).hash }", lab.link(place))
        expect(page.get_by_role("heading", name=place.rpartition("/")[2] or "Testbeds")).to_be_visible()
    assert [each for each in visit.problems if "WebSocket" in each] == []


def test_places_that_are_not_there(visit: Visitor) -> None:
    visit.expected.append("status of 404|WebSocket connection")
    page = visit.open("lab/nothing")
    expect(page.get_by_text("There is no such view.")).to_be_visible()
    visit.check_accessible()
    for place in (
        "nothing",
        "%00",
        "%",
        "lab/guests/%3Cimg%20src=x%20onerror=alert(1)%3E",
        "//",
        "lab/%2e%2e",
    ):
        visit.go(place)
        expect(page.locator("main")).to_be_visible()


def test_every_view_is_accessible_and_fits(lab: FakeLab, visit: Visitor) -> None:
    lab.up()
    page = visit.open()
    for place, shown in {
        "lab": "6 guests",
        "lab/guests/g000": "Console",
        "lab/change": "succeeded",
        "lab/file": "machines",
    }.items():
        page.set_viewport_size({"width": 1280, "height": 844})
        visit.go(place)
        expect(page.locator("main")).to_contain_text(shown)
        visit.check_accessible()
        visit.check_fits()
