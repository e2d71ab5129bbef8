"""The topology in a browser: what is where, search, filters, table, folding, by keyboard."""

from __future__ import annotations

import re

import pytest
from fake_lab import FakeLab
from playwright.sync_api import Locator, Page, Route, expect
from visitor import Visitor

from kvmcompose.core.commands import Power


def card(page: Page, name: str) -> Locator:
    return page.locator(f'.board g[data-node="{name}"]')


def places(page: Page) -> dict[str, tuple[float, float]]:
    """Return where cards and bars are in their frame, which is lower while something is said above it."""
    found: list[tuple[str, float, float]] = page.evaluate(
        "() => { const frame = document.querySelector('.board').getBoundingClientRect();"
        " return [...document.querySelectorAll('.board .node')].map((each) => {"
        " const {x, y} = each.firstElementChild.getBoundingClientRect();"
        " return [each.dataset.node, x - frame.x, y - frame.y] }) }"
    )
    # of a bar that goes on below, the first part
    return {name: (round(x), round(y)) for name, x, y in reversed(found)}


def test_what_is_on_a_segment_and_what_a_guest_is_connected_to(lab: FakeLab, visit: Visitor) -> None:
    lab.up()
    page = visit.open("lab")
    card(page, "g001").click()
    panel = page.get_by_role("complementary", name="About g001")
    expect(panel.get_by_role("link", name="Console, charts and more")).to_be_visible()
    lab.run(Power(verb="stop", guests=("g001",)))
    expect(panel).to_contain_text("running → shut off")
    panel.get_by_role("button", name="br1", exact=True).click()
    panel = page.get_by_role("complementary", name="About br1")
    expect(panel).to_contain_text("1 guest")
    expect(panel).to_contain_text("stopped (stop)")
    card(page, "br1").get_by_text("br1").click()
    page.locator('g[data-host="h1"] text').click()
    expect(page.get_by_role("complementary", name="About h1")).to_contain_text("2 guests")
    visit.check_accessible()


def test_the_picture_makes_room_for_the_panel_and_goes_back(lab: FakeLab, visit: Visitor) -> None:
    page = visit.open("lab")
    expect(card(page, "g005").locator(".state")).to_have_text("absent")
    before = places(page)
    card(page, "g005").click()
    panel = page.get_by_role("complementary", name="About g005")
    expect(panel).to_be_visible()
    page.evaluate(_PAINTED)
    assert places(page)["g005"] != before["g005"]
    panel.get_by_role("button", name="Close").click()
    expect(panel).to_be_hidden()
    page.evaluate(_PAINTED)
    assert places(page) == before


#: Wait until what was changed has been laid out.
_PAINTED = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"


def test_a_guest_that_moves_is_seen_to_move_and_two_fingers_zoom(lab: FakeLab, visit: Visitor) -> None:
    page = visit.open("lab")
    expect(card(page, "g005").locator(".state")).to_have_text("absent")
    home = places(page)

    def moved(route: Route) -> None:
        """Answer with a picture in which two guests have each other's place."""
        answer = route.fetch()
        names = {"g001": "g002", "g002": "g001"}
        picture = answer.json()
        picture["svg"] = re.sub("g00[12]", lambda match: names[match[0]], picture["svg"])
        route.fulfill(response=answer, json=picture)

    for motion, how_many in (("no-preference", 2), ("reduce", 0)):
        page.emulate_media(reduced_motion=motion)
        page.evaluate(_COUNT_MOVES)
        if motion == "reduce":
            page.unroute("**/topology*")
        else:
            page.route("**/topology*", moved)
        with page.expect_response("**/topology*"):
            lab.down()
        wanted = home["g002"] if how_many else home["g001"]
        page.wait_for_function(_IS_AT, arg=["g001", *wanted])
        assert page.evaluate("() => window.moves") == how_many, motion

    devices = page.context.new_cdp_session(page)
    frame = page.locator(".board").bounding_box()
    assert frame is not None
    x, y = frame["x"] + frame["width"] / 2, frame["y"] + frame["height"] / 2
    before, ids = page.locator(".zoom .quiet").inner_text(), (0, 1)

    def touch(kind: str, apart: float | None) -> None:
        points = [] if apart is None else [{"x": x + side * apart, "y": y} for side in (-1, 1)]
        devices.send(
            "Input.dispatchTouchEvent",
            {"type": kind, "touchPoints": [{**each, "id": n} for n, each in zip(ids, points, strict=False)]},
        )

    devices.send("Emulation.setTouchEmulationEnabled", {"enabled": True, "maxTouchPoints": 2})
    touch("touchStart", 60)
    for apart in range(60, 125, 4):
        touch("touchMove", apart)
    touch("touchEnd", None)
    expect(page.locator(".zoom .quiet")).not_to_have_text(before)
    after = page.locator(".zoom .quiet").inner_text()
    assert 1.7 < int(after.split()[0]) / int(before.split()[0]) < 2.1
    assert page.evaluate("() => visualViewport.scale") == 1  # not the page


#: Count the cards whose move is animated.
_COUNT_MOVES = """
() => {
  window.moves = 0;
  const animate = window.animateCard ??= SVGElement.prototype.animate;
  SVGElement.prototype.animate = function (...how) { window.moves++; return animate.apply(this, how); };
}
"""
#: Whether a card is at a place in the frame, and stays there.
_IS_AT = """
([name, x, y]) => {
  const frame = document.querySelector(".board").getBoundingClientRect();
  const card = document.querySelector(`.board g[data-node="${name}"]`);
  const box = card.firstElementChild.getBoundingClientRect();
  return Math.abs(box.x - frame.x - x) <= 1 && Math.abs(box.y - frame.y - y) <= 1;
}
"""


def test_search_filters_and_table_by_keyboard(lab: FakeLab, visit: Visitor) -> None:
    lab.up()
    page = visit.open("lab")
    expect(card(page, "g005").locator(".state")).to_have_text("running")
    page.get_by_role("searchbox").fill("g00")
    page.get_by_label("Host", exact=True).select_option("h1")
    expect(page.locator(".tools [role=status]")).to_have_text("2 of 6 guests")
    expect(page.locator(".board .guest.found")).to_have_count(2)
    page.get_by_role("button", name="Clear").press("Enter")
    card(page, "g004").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("complementary", name="About g004")).to_be_visible()
    before = places(page)["g004"]
    page.locator(".board").focus()
    page.keyboard.press("ArrowLeft")
    assert places(page)["g004"][0] == before[0] + 60
    page.get_by_role("button", name="Table").press("Enter")
    names = page.locator("tbody th")
    expect(names).to_have_text([f"g00{number}" for number in range(6)])
    page.get_by_role("columnheader", name="Guest").get_by_role("button").press("Enter")
    expect(names.first).to_have_text("g005")
    visit.check_accessible()
    visit.check_fits()


@pytest.mark.parametrize("project", [(120, 3)], indirect=True)
def test_stacks_open_and_close_and_nothing_else_moves(lab: FakeLab, visit: Visitor) -> None:
    lab.up()
    page = visit.open("lab")
    stacks = page.locator(".board .many")
    expect(stacks).to_have_count(6)
    expect(stacks.locator(".state")).to_have_text(["20 running"] * 6)
    before = places(page)
    name = stacks.first.get_attribute("data-node") or ""
    stacks.first.click()
    expect(page.locator(".board .guest")).to_have_count(20)
    after = places(page)
    assert {each: after[each] for each in before} == before
    lab.change(lambda: setattr(lab.domain("g000"), "paused", "I/O error"))
    expect(card(page, "g000").locator(".mark")).to_have_class("mark bad")
    expect(card(page, name).locator(".mark")).to_have_class("mark bad")
    expect(card(page, name)).to_have_attribute("aria-label", re.compile("1 paused, 19 running$"))
    visit.check_accessible()
    page.get_by_role("button", name="Fold into one card").click()
    expect(page.locator(".board .guest")).to_have_count(0)
    assert places(page) == before
