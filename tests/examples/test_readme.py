"""The sessions that README.md shows are what really happens."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from commands import BIN, REPOSITORY, kvm_compose, run

if TYPE_CHECKING:
    from pathlib import Path

README = (REPOSITORY / "README.md").read_text()


#: What ``plan`` prints where it has no server to ask.
NOT_SEEN = "what runs is not seen: "


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def without_digests(text: str) -> str:
    """An image's name has its digest in it, which depends on the image."""
    return re.sub(r"-[0-9a-f]{12}\.", "-DIGEST.", text)


def test_the_sessions_are_real(tmp_path: Path, images: None) -> None:
    folder = tmp_path / "lab"
    folder.mkdir()
    (example,) = blocks("yaml")
    (folder / "kvm-compose.yaml").write_text(example)
    kvm_compose("plan", folder=folder)  # once per boot of a machine it says that it tries out KVM
    for session in blocks("console"):
        commands = re.findall(r"^\$ (.*)$", session, re.MULTILINE)
        shell = "; ".join(f"printf '%s\\n' {quoted(each)}; {each}" for each in commands)
        path = f"PATH={BIN}:{os.environ['PATH']}"
        result = run("env", path, "bash", "-c", f"exec 2>&1; {shell}", folder=folder, check=False)
        # whether plan sees hosts, and what is up on them, depends on the machine
        lines = [line for line in result.stdout.splitlines(keepends=True) if not line.startswith(NOT_SEEN)]
        assert without_digests("".join(lines)) == without_digests(session)


def quoted(command: str) -> str:
    return "'$ " + command.replace("'", "'\\''") + "'"


def test_every_command_is_in_the_table() -> None:
    listed = kvm_compose("--help", folder=REPOSITORY).stdout.partition("commands:")[2].partition("files:")[0]
    commands = re.findall(r"^    ([a-z][a-z-]*)", listed, re.MULTILINE)
    assert commands
    table = README.partition("| command |")[2].partition("\n\n")[0]
    assert [name for name in commands if f"`{name}`" not in table] == []


def test_what_it_links_to_in_the_repository_is_there() -> None:
    targets = re.findall(r"\]\((?!http)([^)#]+)", README)
    # the documentation is checked by its own builder
    assert [
        each for each in targets if not each.startswith("docs/") and not (REPOSITORY / each).exists()
    ] == []


def test_its_picture_is_what_graph_draws() -> None:
    folder = REPOSITORY / "examples" / "three-hosts"
    drawn = kvm_compose("graph", "--format", "svg", folder=folder).stdout
    assert (REPOSITORY / "docs" / "pictures" / "three-hosts.svg").read_text() == drawn
