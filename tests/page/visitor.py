"""A reader of the page in a real browser, who notices what readers do not see: errors, foreign requests."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from fake_lab import FakeLab
from playwright.sync_api import BrowserContext, ConsoleMessage, Error, Page, Request, Response

#: Debian's package. Others can be tried with CHROMIUM.
CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = (
    "--no-sandbox",  # which root cannot have
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--font-render-hinting=none",
    "--force-color-profile=srgb",
)
AXE = Path(__file__).resolve().parents[2] / "web/node_modules/axe-core/axe.min.js"
#: What chromium says in the console where a request or a WebSocket fails, which no page can prevent.
LOST_CONNECTION = r"(WebSocket connection to .* failed|net::ERR_(CONNECTION|EMPTY_RESPONSE|NETWORK))"

OBSERVER = """
window.longTasks = [];
new PerformanceObserver((list) => {
  for (const {startTime, duration} of list.getEntries()) window.longTasks.push([startTime, duration]);
}).observe({type: "longtask", buffered: true});
addEventListener("securitypolicyviolation", ({violatedDirective, blockedURI, sample}) => {
  console.error(`content security policy: ${violatedDirective} ${blockedURI} ${sample}`);
});
"""
#: The label of a card in the picture says in a sentence what the card says in short.
_RULES = {"label_content_name_mismatch": False}
_AXE = """
async (rules) => {
  const {violations} = await axe.run(document, {resultTypes: ["violations"], rules});
  return violations.map(({id, help, nodes}) => ({
    id, help, nodes: nodes.map(({target, failureSummary}) => `${target.join(" ")}: ${failureSummary}`),
  }));
}
"""
#: What is cut off or wider than the window: elements that reach out of it and cannot be scrolled to.
_WIDER = """
() => document.documentElement.scrollWidth > document.documentElement.clientWidth
  ? [...document.querySelectorAll("body *")]
      .filter((each) => each.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5)
      .map((each) => `${each.tagName.toLowerCase()}.${each.className}`).slice(0, 10)
  : []
"""


class Visitor:
    """A page of a context of its own. ``page`` is Playwright's; ``problems`` is what must not be.

    ``expected`` are patterns of console messages that the test causes.
    """

    def __init__(self, context: BrowserContext, lab: FakeLab) -> None:
        self.context = context
        self.lab = lab
        self.problems: list[str] = []
        self.expected: list[str] = []
        self.responses: list[Response] = []
        context.set_default_timeout(20_000)
        context.add_init_script(OBSERVER)
        context.on("request", self._request)
        context.on("response", self._response)
        context.on("console", self._console)
        context.on("weberror", lambda error: self.problems.append(f"uncaught: {error.error}"))
        self.page: Page = context.new_page()
        self.page.on("crash", lambda _: self.problems.append("the page has crashed"))

    def _request(self, request: Request) -> None:
        if not request.url.startswith((f"{self.lab.origin}/", "data:", "blob:")):
            self.problems.append(f"request elsewhere: {request.url}")

    def _response(self, response: Response) -> None:
        self.responses.append(response)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning", "assert"):
            self.problems.append(f"console: {message.text} ({message.location.get('url')})")

    def check(self) -> None:
        """Fail if there was an error in the console, a violation of the policy or a request elsewhere."""
        unexpected = [
            each for each in self.problems if not any(re.search(pattern, each) for pattern in self.expected)
        ]
        assert unexpected == []

    # -- where to

    def open(self, place: str = "lab") -> Page:
        """Sign in by a one-time link to a place, ``lab`` or ``lab/guests/g000``, and wait for its view."""
        self.page.goto(self.lab.link(place))
        self.settle()
        return self.page

    def go(self, place: str) -> Page:
        """Go to another place of the page, without loading it again."""
        self.page.evaluate("place => { location.hash = `#/${place}` }", place)
        self.settle()
        return self.page

    def settle(self) -> None:
        """Wait until the view is loaded and its first data has come."""
        self.page.wait_for_load_state("load")
        self.page.wait_for_function("() => document.querySelector('main') !== null")
        self.page.wait_for_function("() => document.querySelector('[aria-busy=true]') === null")

    # -- what it is like

    def dark(self, *, dark: bool = True) -> None:
        """Prefer dark, or light, colours."""
        self.page.emulate_media(color_scheme="dark" if dark else "light", reduced_motion="reduce")

    def axe(self, **rules: bool) -> list[dict[str, Any]]:
        """Return what axe finds wrong on the page as it is. Rules can be switched off by name."""
        if not AXE.is_file():
            raise FileNotFoundError(f"{AXE} is missing: make page")
        if not self.page.evaluate("() => 'axe' in window"):
            self.page.evaluate(f"() => {{ {AXE.read_text()} }}")
        chosen = {**_RULES, **rules}
        switches = {name.replace("_", "-"): {"enabled": enabled} for name, enabled in chosen.items()}
        found: list[dict[str, Any]] = self.page.evaluate(_AXE, switches)
        return found

    def check_accessible(self, **rules: bool) -> None:
        """Fail if axe finds something wrong, in light or dark."""
        for dark in (False, True):
            self.dark(dark=dark)
            found = self.axe(**rules)
            assert not found, ("dark" if dark else "light", found)

    def check_fits(self, *widths: int) -> None:
        """Fail if the page is wider than a window of these widths: it would have to be scrolled sideways."""
        for width in widths or (390, 1280, 1600):
            self.page.set_viewport_size({"width": width, "height": 844})
            assert self.page.evaluate(_WIDER) == [], width

    def long_tasks(self) -> list[tuple[float, float]]:
        """Return beginning and duration of tasks over 50 ms since the page was loaded, in milliseconds."""
        found: list[tuple[float, float]] = self.page.evaluate("() => window.longTasks")
        return found

    def transferred(self) -> int:
        """Return how many bytes the page and what it loaded were on the way, compressed, without headers."""
        total = 0
        for response in self.responses:
            try:
                total += response.request.sizes()["responseBodySize"]
            except Error:  # it was not finished
                continue
        return total

    # -- by keyboard

    def focused(self) -> str:
        """Return the accessible name of the element that has the focus, or its text."""
        name: str = self.page.evaluate(
            "() => { const e = document.activeElement;"
            " return (e.ariaLabel ?? e.labels?.[0]?.textContent ?? e.textContent ?? '').trim(); }"
        )
        return name

    def has_visible_focus(self) -> bool:
        """Return whether the focused element is marked by an outline or a shadow."""
        seen: bool = self.page.evaluate(
            "() => { const style = getComputedStyle(document.activeElement);"
            " const outlined = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) > 0;"
            " return outlined || style.boxShadow !== 'none' }"
        )
        return seen

    def tab_through(self, most: int = 60) -> list[str]:
        """Press Tab until the focus leaves the page; return what had it. Fail where it cannot be seen."""
        found: list[str] = []
        first: Any = None
        for _ in range(most):
            self.page.keyboard.press("Tab")
            handle = self.page.evaluate_handle("() => document.activeElement").as_element()
            if handle is None or self.page.evaluate("() => document.activeElement === document.body"):
                return found
            if first is not None and self.page.evaluate("([a, b]) => a === b", [first, handle]):
                return found
            first = first or handle
            assert self.has_visible_focus(), self.focused()
            found.append(self.focused())
        return found
