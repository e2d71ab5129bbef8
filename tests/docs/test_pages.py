"""Every page can be found: in the site's navigation, and from its first page."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from test_tutorial import REPOSITORY

DOCS = REPOSITORY / "docs"
PAGES = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}


def linked_from(page: Path, text: str) -> set[str]:
    """The files that a page links to, relative to the repository."""
    targets = re.findall(r"\]\((?!https?:)([^)#\s]+)", text)
    return {os.path.relpath(page.parent / target, REPOSITORY) for target in targets}


def in_navigation() -> list[str]:
    found: list[str] = []
    entries = [yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text())["nav"]]
    while entries:
        entry = entries.pop()
        if isinstance(entry, str):
            found.append(entry)
        else:
            entries.extend(entry.values() if isinstance(entry, dict) else entry)
    return found


def test_every_page_is_in_the_navigation_once() -> None:
    assert sorted(in_navigation()) == sorted(PAGES)


def test_the_first_page_links_to_every_other_but_decisions() -> None:
    linked = linked_from(DOCS / "index.md", (DOCS / "index.md").read_text())
    wanted = {f"docs/{page}" for page in PAGES if page != "index.md" and not page.startswith("decisions/")}
    assert wanted - linked == set()  # the navigation lists the decisions


def test_every_link_leads_to_a_file() -> None:
    # the build of docs/ checks links to pages, but not those to pictures and other files
    pages = [REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    pages += (REPOSITORY / "examples").rglob("*.md")
    pages += DOCS.rglob("*.md")
    broken = [
        f"{page.relative_to(REPOSITORY)}: {target}"
        for page in pages
        for target in sorted(linked_from(page, page.read_text()))
        if not (REPOSITORY / target).exists()
    ]
    assert broken == []


def test_the_picture_of_the_layers_is_their_contract() -> None:
    contract = configparser.ConfigParser()
    contract.read(REPOSITORY / ".importlinter")
    layers = contract["importlinter:contract:layers"]["layers"].split("\n")
    rows = [[part.removeprefix("kvmcompose.") for part in row.split(" | ")] for row in layers if row]
    drawn: dict[str, list[str]] = {}
    picture = (DOCS / "pictures" / "layers.svg").read_text()
    for line, name in re.findall(
        r'<text class="name" x="[^"]+" y="(.+?)" text-anchor="middle">(.+?)<', picture
    ):
        drawn.setdefault(line, []).append(name)
    assert list(drawn.values()) == rows


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("documentation")
    shutil.copy(REPOSITORY / "mkdocs.yml", folder)
    shutil.copytree(DOCS, folder / "docs")
    argv = [sys.executable, "-m", "zensical", "build", "--strict"]
    built = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False, timeout=120)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder / "site"


def test_a_page_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = {path.relative_to(site).with_suffix(".md").as_posix(): path for path in site.rglob("*.html")}
    assert pages.keys() >= PAGES
    loading = re.compile(
        r'<(?!a )[^>]*\b(?:src|href|srcset|data)="?(?:https?:)?//[^>]*>|<pre class="?mermaid'
    )
    # a diagram in Mermaid would fetch its script from unpkg.com: diagrams are SVG
    found = {name: loading.findall(path.read_text()) for name, path in pages.items()}
    assert {name: tags for name, tags in found.items() if tags} == {}
    styles = "".join(path.read_text() for path in site.rglob("*.css"))
    assert re.findall(r"(?:url\(|@import )[\"']?(?:https?:)?//\S*", styles) == []


def test_every_variable_is_on_the_page_about_the_environment() -> None:
    named = {
        name
        for path in (REPOSITORY / "kvmcompose").rglob("*.py")
        for name in re.findall(r"KVM_COMPOSE_[A-Z]+(?:_[A-Z]+)*", path.read_text())
    }
    assert "KVM_COMPOSE_STORE" in named
    page = (DOCS / "reference" / "environment.md").read_text()
    internal = {"KVM_COMPOSE_SERVER_IDLE"}  # for tests
    assert {name for name in named - internal if f"`{name}`" not in page} == set()
