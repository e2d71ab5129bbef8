"""What ``.dockerignore`` leaves out is what Docker leaves out (its own rules, by its SDK)."""

from __future__ import annotations

from pathlib import Path

import pytest
from docker.utils.build import exclude_paths

from kvmcompose.build.context_listing import MOST_MEMBERS, Surroundings, for_image, list_context
from kvmcompose.build.docker_ignore import read_docker_ignore
from kvmcompose.core.errors import KvmComposeError

FILES = (
    "Dockerfile", ".dockerignore", "a.log", "keep.log", "docs/a.md", "docs/README.md", "docs/deep/b.md",
    "docs/deep/README.md", "src/a.py", "src/a.pyc", "src/sub/b.pyc", "src/sub/.hidden", "x[y]", "with space",
    "node_modules/one/index.js", "lib/node_modules/two.js", "Ω", "build/out", "build/keep/this",
)  # fmt: skip
IGNORED = (
    "",
    "*.log",
    "*.log\n!keep.log",
    "**/*.pyc",
    "docs\n!docs/README.md",
    "docs/**\n!docs/deep",
    "/docs/deep\n  src/sub/  \n",
    "node_modules",
    "**/node_modules",
    "*\n!src\nsrc/sub",
    "*\n!src/sub/b.pyc",
    "# a comment\n./build/../docs\n",
    "s?c/[ab].py",
    "!build/keep\nbuild",
    "build\n!build/keep",
    "Dockerfile\n.dockerignore",
    "**",
    "**/README.md",
    "docs/*/b.md",
    "with space\nΩ",
    ".",
    "src/**/b.pyc",
    "*/*/b*",
    "!*\n*.log\n!docs",
)


@pytest.mark.parametrize("ignored", IGNORED)
def test_the_same_files_are_left_out_as_by_docker(tmp_path: Path, ignored: str) -> None:
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / ".dockerignore").write_text(ignored)
    lines = [line.strip() for line in ignored.splitlines()]
    # as its function `tar` is called for a build, but that the ignore file is sent, as by its command
    wanted = exclude_paths(str(tmp_path), [each for each in lines if each and each[0] != "#"], "Dockerfile")
    around = Surroundings(tmp_path, lambda _: True, lambda _: False)
    found = list_context(tmp_path, around, {}, for_image("Dockerfile"))
    assert not found.flaws
    files = {each.name for each in found.members if each.kind == "file"}
    assert files == {each for each in wanted if (tmp_path / each).is_file()} | {".dockerignore"}
    # no file comes without the folders that it is in
    folders = {each.name for each in found.members if each.kind == "folder"}
    assert {str(Path(each).parent) for each in files} - {"."} <= folders


@pytest.mark.parametrize(
    ("ignored", "said"),
    [
        ("*a*b*c*d*e", "too many wildcards in line 1"),
        ("a\n**.log", r"\*\* beside other characters in line 2"),
        ("\0", "binary"),
        ("[[:alpha:]]", "class of characters"),
        ("a\n" * 2000, "patterns"),
    ],
)
def test_patterns_that_are_refused(tmp_path: Path, ignored: str, said: str) -> None:
    (tmp_path / ".dockerignore").write_text(ignored)
    with pytest.raises(KvmComposeError, match=said):
        read_docker_ignore(tmp_path)


def test_a_context_of_too_many_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MOST_MEMBERS == 100_000
    monkeypatch.setattr("kvmcompose.build.context_listing.MOST_MEMBERS", 5)
    for number in range(5):
        (tmp_path / str(number)).touch()
    around = Surroundings(tmp_path, lambda _: True, lambda _: False)
    (tmp_path / "Dockerfile").touch()
    (flaw,) = list_context(tmp_path, around, {}, for_image("Dockerfile")).flaws
    assert "more than 5 files and folders" in flaw.message
    assert flaw.hint == "list what is not needed in .dockerignore"
