"""Looks at a testbed of real guests in a browser, as a user does: a program, run in a test host by a test.

It prints what it has seen. The argument is a file of the project's that is edited on the way, and is followed
by the text to replace in it and the new one.
"""

from __future__ import annotations

import sys
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS / "page"), str(TESTS / "server"), str(TESTS)]

from visitor import ARGUMENTS, CHROMIUM  # noqa: E402 (found by the line above)

from kvmcompose.client.connect import connect  # noqa: E402

#: Guests boot without KVM, beside others.
_MILLISECONDS = 120_000


def seen(*words: str) -> None:
    sys.stdout.write(" ".join(words) + "\n")


def story(page: Page, address: str) -> None:
    page.goto(f"{address}&lab=lab")
    node = page.locator('g[data-node="left"]')
    expect(node).to_contain_text("shut off")
    node.click()
    page.get_by_role("link", name="Console, charts and more").click()
    seen("broken")

    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.locator("header .badge")).to_have_text("running")
    seen("mended")

    page.get_by_role("button", name="Open the console").click()
    rows = page.locator(".xterm-rows")
    expect(rows).to_contain_text("login:")
    page.get_by_role("button", name="Type in the console").click()
    page.keyboard.type("root\n")
    expect(rows).to_contain_text("# ")
    page.keyboard.type("echo It is $(id -un)\n")
    expect(rows).to_contain_text("It is root")
    page.keyboard.press("Control+]")
    seen("console")

    edited, before, after = Path(sys.argv[1]), *sys.argv[2:4]
    edited.write_text(edited.read_text().replace(before, after))
    page.get_by_role("link", name="Plan and up").click()
    page.get_by_role("button", name="Plan").click()
    expect(page.get_by_role("region", name="What runs").get_by_text("create").first).to_be_visible()
    page.get_by_role("button", name="Carry out this plan").click()
    expect(page.get_by_role("region", name="Action up").get_by_text("succeeded")).to_be_visible()
    seen("plan")


def main() -> None:
    expect.set_options(timeout=_MILLISECONDS)
    with sync_playwright() as playwright:
        # test hosts hide what the machine has in memory
        arguments = [*ARGUMENTS, "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        page = browser.new_page()
        page.on("console", lambda message: seen("console:", message.type, message.text))
        page.on("pageerror", lambda error: seen("error:", str(error)))
        # made last: a server that nobody asks anything for three seconds ends, and a browser may start slowly
        address = connect(None).make_link(None).address
        try:
            story(page, address)
        except AssertionError:
            seen(page.locator("body").inner_text())
            raise
        browser.close()


if __name__ == "__main__":
    main()
