"""The page in a real browser, Debian's chromium.

A test is a function that takes ``visit``, a watched page of a browser, and ``lab``, a server of its own with
three simulated hosts and a project of six guests, which is not up:

    def test_a_guest_that_fails_is_seen(lab: FakeLab, visit: Visitor) -> None:
        lab.fail("start_domain:*")      # also lab.delay(0.1), lab.change(lambda: …), lab.up(), lab.down()
        page = visit.open("lab")        # signs in by a link; "" is the list, "lab/guests/g000" a guest
        page.get_by_role("button", name="Up").click()
        expect(page.get_by_text("was made to fail")).to_be_visible()  # waits; never sleep
        visit.check_accessible()        # axe, in light and dark
        visit.check_fits()              # 390, 1280 and 1600 pixels wide

- Every test fails if there is an error or a warning in the console, a violation of the content security
  policy, an uncaught exception or rejection, or a request to another origin. What a test causes itself is
  allowed: ``visit.expected.append(LOST_CONNECTION)``.
- Another size: ``@pytest.mark.parametrize("project", [(40, 3)], indirect=True)`` (guests, hosts, and
  containers, if any); built once for each process of the run. ``lab.token(Role.READ_ONLY)`` is a token to
  sign in with.
- ``look`` compares a picture of an element with ``pictures/NAME.png`` (``looks.py``); ``--update-pictures``
  writes those.
- ``make page`` builds what is tested. All of these tests together may take two minutes: let one visit look at
  several things.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# golden projects and the server of other tests
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(1, str(Path(__file__).resolve().parent.parent / "server"))

from fake_lab import FakeLab, build, running_lab
from looks import Looks
from playwright.sync_api import Browser, sync_playwright
from visitor import ARGUMENTS, CHROMIUM, Visitor

import kvmcompose

_PICTURES = Path(__file__).parent / "pictures"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-pictures", action="store_true", help="write the pictures that tests compare with"
    )


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for the tests of a file; each has a context of its own.

    Not for longer: until it is closed, Playwright's event loop counts as running in this thread, and
    other tests cannot run theirs.
    """
    page = Path(kvmcompose.__file__).parent / "web/index.html"
    assert page.is_file(), "the page is not built: make page"
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(
            executable_path=os.environ.get("CHROMIUM", CHROMIUM), args=list(ARGUMENTS)
        )
        yield found
        found.close()


@pytest.fixture(scope="session")
def _projects(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, ...], Path]:
    return {}


@pytest.fixture
def project(
    request: pytest.FixtureRequest,
    _projects: dict[tuple[int, ...], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The folder of a built project, shared by tests: they do not change it."""
    size: tuple[int, ...] = getattr(request, "param", (6, 3))
    if size not in _projects:
        guests, hosts, containers = (*size, 0)[:3]
        _projects[size] = build(
            tmp_path_factory.mktemp("page"), guests=guests, hosts=hosts, containers=containers
        )
    return _projects[size]


@pytest.fixture
def lab(project: Path) -> Iterator[FakeLab]:
    """A server with the deployment ``lab``, which is not up."""
    with tempfile.TemporaryDirectory(prefix="kc") as folder, running_lab(Path(folder), project) as found:
        yield found


@pytest.fixture
def visit(browser: Browser, lab: FakeLab) -> Iterator[Visitor]:
    """A page of a browser without cookies and storage, 1280 pixels wide, which is watched."""
    context = browser.new_context(
        viewport={"width": 1280, "height": 844},
        color_scheme="light",
        reduced_motion="reduce",
        locale="en-GB",
        timezone_id="UTC",
    )
    visitor = Visitor(context, lab)
    yield visitor
    context.close()
    visitor.check()


@pytest.fixture
def look(browser: Browser, request: pytest.FixtureRequest) -> Looks:
    """Compares what elements look like with pictures in the repository."""
    return Looks(browser, _PICTURES, update=bool(request.config.getoption("--update-pictures")))
