"""Compares what an element looks like with a picture in the repository.

Texts are not drawn, because fonts differ between machines; small differences are tolerated. So pictures show
places, shapes and colours. They are compared in the browser, which is what can decode them.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TypedDict

from playwright.sync_api import Browser, Locator

#: A pixel differs where a colour differs by more than this, of 255. So many may: the dot that is the state of
#: a guest has twice as many.
_COLOUR, _PIXELS = 24, 40
_WITHOUT_TEXT = """
() => {
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(`*, *::before, *::after {
    color: transparent !important; caret-color: transparent !important; text-shadow: none !important;
    animation: none !important; transition: none !important }
    text { fill: transparent !important; stroke: transparent !important }`);
  document.adoptedStyleSheets = [sheet];
}
"""
_WITH_TEXT = "() => { document.adoptedStyleSheets = [] }"
_DIFFERENCE = """
async ([one, two, most]) => {
  const pixels = async (data) => {
    const image = new Image();
    image.src = `data:image/png;base64,${data}`;
    await image.decode();
    const canvas = new OffscreenCanvas(image.width, image.height);
    const context = canvas.getContext("2d");
    context.drawImage(image, 0, 0);
    return context.getImageData(0, 0, image.width, image.height);
  };
  const [a, b] = [await pixels(one), await pixels(two)];
  let count = 0;
  if (a.width === b.width && a.height === b.height) {
    for (let at = 0; at < a.data.length; at += 4) {
      const differs = (part) => Math.abs(a.data[at + part] - b.data[at + part]) > most;
      if (differs(0) || differs(1) || differs(2)) count += 1;
    }
  } else count = -1;
  return {count, size: [a.width, a.height], wanted: [b.width, b.height]};
}
"""


class _Difference(TypedDict):
    count: int
    size: list[int]
    wanted: list[int]


class Looks:
    """Compares with the pictures in a folder, or writes them with ``update``."""

    def __init__(self, browser: Browser, folder: Path, *, update: bool) -> None:
        self._browser = browser
        self._folder = folder
        self._update = update

    def check(self, element: Locator, name: str) -> None:
        """Fail if an element does not look as in the picture; what it looks like is left beside it then."""
        page = element.page
        page.evaluate(_WITHOUT_TEXT)
        seen = element.screenshot(animations="disabled", caret="hide")
        page.evaluate(_WITH_TEXT)
        path = self._folder / f"{name}.png"
        if self._update:
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(seen)
            return
        assert path.is_file(), f"{path.name} is missing: pytest tests/page --update-pictures"
        found = self._difference(seen, path.read_bytes())
        wrong = path.with_suffix(".seen.png")
        wrong.unlink(missing_ok=True)
        if not 0 <= found["count"] <= _PIXELS:
            wrong.write_bytes(seen)
            raise AssertionError(f"{wrong} does not look like {path.name}: {found}")

    def _difference(self, one: bytes, two: bytes) -> _Difference:
        page = self._browser.new_page()
        try:
            texts = [base64.b64encode(data).decode() for data in (one, two)]
            found: _Difference = page.evaluate(_DIFFERENCE, [*texts, _COLOUR])
            return found
        finally:
            page.close()
