"""Folders that images are built from, made to read the host's files, to hang, or to fill something."""

from __future__ import annotations

import io
import os
import socket
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from golden.bench import Bench, new_bench
from kvmcompose import privileges
from kvmcompose.build.trust import asked_by
from kvmcompose.core.image_build import ContextEntry, ImageBuild, content_digest
from kvmcompose.core.privilege import PrivilegeKind
from kvmcompose.effects.resources import schemas
from kvmcompose.hosts.errors import DriverError
from kvmcompose.pipeline.stored import read_state
from kvmcompose.providers.containers.archives import build_context_digest

YAML = """\
machines:
- name: web
  interfaces: [{bridge: b}]
  docker: {build: {context: web}}
network: {bridges: [{name: b}]}
"""


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    (tmp_path / "secret").write_text("of the host")
    files = {"kvm-compose.yaml": YAML, "web/Dockerfile": "FROM scratch\n", "web/sub/file": "one\n"}
    return new_bench(tmp_path, "lab", files)


def _socket(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        here = Path.cwd()
        os.chdir(folder)  # paths of sockets are short
        sock.bind("sock")
        os.chdir(here)


def _dockerfile_is(change: Callable[[Path], None]) -> Callable[[Path], None]:
    def changed(web: Path) -> None:
        (web / "Dockerfile").unlink()
        change(web / "Dockerfile")

    return changed


BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "a link out": (
        lambda web: (web / "x").symlink_to("../../secret"),
        "'web/x' is a link out of the project",
    ),
    "an absolute link": (lambda web: (web / "x").symlink_to("/etc/passwd"), "'web/x' is a link out of"),
    "a folder elsewhere": (lambda web: (web / "x").symlink_to("/etc"), "'web/x' is a link out of"),
    "a pipe": (lambda web: os.mkfifo(web / "x"), "'web/x' is neither a file nor a folder"),
    "a socket": (_socket, "'web/sock' is neither a file nor a folder"),
    "a link to a device": (lambda web: (web / "x").symlink_to("/dev/zero"), "'web/x' is a link out of"),
    "a terabyte": (lambda web: os.truncate(web / "sub/file", 1 << 40), "holds more than 1 GiB"),
    "an ignore file that is a link": (
        lambda web: (web / ".dockerignore").symlink_to("/dev/zero"),
        "'web/.dockerignore' cannot be read",
    ),
    "an ignore file that is a pipe": (lambda web: os.mkfifo(web / ".dockerignore"), "'web/.dockerignore'"),
    "patterns that take forever": (
        lambda web: (web / ".dockerignore").write_text("a*a*a*a*a*a*b\n") and None,
        "too many wildcards in line 1",
    ),
    "a Dockerfile that is a pipe": (_dockerfile_is(os.mkfifo), "'web/Dockerfile' is neither a file"),
    "a Dockerfile elsewhere": (
        _dockerfile_is(lambda path: path.symlink_to("../../secret")),
        "'web/Dockerfile' is a link out of the project",
    ),
    "a Dockerfile that is a folder": (
        _dockerfile_is(lambda path: (path / "sub" / "deep").mkdir(parents=True)),
        "is a folder, and not a file",
    ),
    "no Dockerfile": (lambda web: (web / "Dockerfile").unlink(), "there is no 'Dockerfile' in 'web'"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_folder_that_no_image_is_built_from(bench: Bench, case: str) -> None:
    change, said = BAD[case]
    change(bench.folder / "web")
    ran = bench.run("validate")
    assert ran.status == 2
    assert "kvm-compose.yaml:4:29: machines[0].docker.build.context: error: " in ran.said
    assert said in ran.said
    assert not (bench.folder / "artefacts").exists()


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("context: web", "context: /etc", "'/etc' is outside the project folder and would be copied into an"),
        ("context: web", "context: ..", "'..' is outside the project folder"),
        ("context: web", "context: artefacts", "'artefacts' does not exist"),
        ("context: web", "context: web/Dockerfile", "'web/Dockerfile' is a file (wanted a folder)"),
        (
            "context: web",
            "context: web, dockerfile: ../kvm-compose.yaml",
            "the Dockerfile is not in the context",
        ),
        ("context: web", "context: web, dockerfile: /etc/passwd", "the Dockerfile is not in the context"),
        ("context: web", "context: web, network: host", "none"),
        ("context: web", "context: web, target: '-x'", "the name of a stage"),
        ("context: web", "context: web, args: {'a b': c}", "a variable's name"),
        ("{context: web}", "web, image: x", "exclude each other"),
    ],
)
def test_a_build_that_is_refused(bench: Bench, before: str, after: str, said: str) -> None:
    bench.edit(before, after)
    ran = bench.run("validate")
    assert ran.status == 2
    assert said in ran.said


@pytest.mark.parametrize(
    "command",
    [
        "RUN --network=host wget http://127.0.0.1/",
        "  run   --mount=type=tmpfs,target=/x   --network=host true",
        "RUN \\\n--network=default true",
        "RUN --net\\\n# in between\n\nwork=host true",
        "RUN --net\\  \nwork=host true",
        "ONBUILD RUN --network=host true",
    ],
)
def test_a_command_has_no_network_of_its_own(bench: Bench, command: str) -> None:
    """What is consented to is a build without one; newer versions of Podman would connect the command."""
    bench.write("web/Dockerfile", f"FROM scratch\n{command}\n")
    ran = bench.run("validate")
    assert ran.status == 2
    assert "'web/Dockerfile' has RUN --network" in ran.said


def test_a_dockerfile_of_gigabytes_is_not_read(bench: Bench) -> None:
    os.truncate(bench.folder / "web" / "Dockerfile", 1 << 29)
    ran = bench.run("validate")
    assert ran.status == 2
    assert "larger than 1 MiB" in ran.said


def test_other_commands_may_speak_of_networks(bench: Bench) -> None:
    text = "FROM scratch\n# RUN --network=host\nRUN docker run --network host x\nENV A=--network\n"
    bench.write("web/Dockerfile", f"{text}COPY --chown=1:1 . /\nRUN true \\\n  && ip --network\n")
    assert bench.run("validate").status == 0


def test_what_builds_make_is_in_no_image(bench: Bench) -> None:
    """Or each build would need another one."""
    bench.write("Dockerfile", "FROM scratch\n")
    bench.edit("context: web", "context: .")
    bench.generate()
    (archive,) = bench.folder.glob("artefacts/build-context-*.tar")
    with tarfile.open(archive) as tar:
        names = {name.split("/")[0] for name in tar.getnames()}
    assert "Dockerfile" in names
    assert not names & {"artefacts", "state.json", ".kvm-compose"}
    assert bench.plan() == {}


def test_a_build_needs_a_word_once_and_no_member_has_it(bench: Bench) -> None:
    bench.generate()

    def builds() -> list[str]:
        asked = asked_by(bench.folder).privileges
        return [each.what for each in asked if each.kind is PrivilegeKind.BUILD]

    assert builds() == ["'web/Dockerfile', without a network"]
    bench.write("web/sub/file", "two\n")
    bench.generate()
    assert builds() == ["'web/Dockerfile', without a network"]
    bench.edit("context: web", "context: web, network: default")
    bench.generate()
    assert builds() == ["'web/Dockerfile', with the engine's network"]
    state = read_state((bench.folder / "state.json").read_bytes(), schemas())
    for_member = privileges.of_state(state, for_member=True)
    assert [each.kind for each in for_member if each.kind is PrivilegeKind.BUILD] == [PrivilegeKind.BUILD]


def test_a_state_names_no_archive_of_its_own() -> None:
    """The path of the archive follows from the names, and is always an artefact."""
    for context, dockerfile in (("../../etc/x", "D"), ("/etc", "../../D"), ("a\n$(x)/ü", ""), ("", "/")):
        archive = ImageBuild(context, dockerfile).archive
        assert archive.startswith("artefacts/build-")
        assert set(archive) <= set("artefacts/build-.0123456789cdefghjkmnopqrvwxyzl")
        assert archive.count("/") == 1


def _tar(*members: tarfile.TarInfo) -> io.BytesIO:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for each in members:
            tar.addfile(each, io.BytesIO(bytes(each.size)))
    out.seek(0)
    return out


def _member(kind: bytes, **more: object) -> tarfile.TarInfo:
    found = tarfile.TarInfo("x")
    found.type = kind
    for key, value in more.items():
        setattr(found, key, value)
    return found


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_an_archive_with_what_no_build_packs_is_refused(kind: bytes) -> None:
    with pytest.raises(DriverError, match="is not a context of an image: 'x' is neither"):
        build_context_digest(_tar(_member(kind, linkname="/etc/passwd")), "a.tar")


def test_an_archive_that_takes_forever_is_refused() -> None:
    """A sparse file of an exabyte takes no room, and a path of megabytes is no path."""
    sparse = _member(tarfile.REGTYPE, pax_headers={"GNU.sparse.size": f"{1 << 60}", "GNU.sparse.map": "0,0"})
    started = time.monotonic()
    with pytest.raises(DriverError, match="'x' is neither a file"):
        build_context_digest(_tar(sparse), "a.tar")
    with pytest.raises(DriverError, match="longer than 4096 characters"):
        build_context_digest(_tar(_member(tarfile.REGTYPE, name="x" * 5000)), "a.tar")
    assert time.monotonic() - started < 5


def test_an_archive_has_the_digest_of_its_context(bench: Bench) -> None:
    """What builds pack and what a server reads have one digest: of content, names and what is executable."""
    (bench.folder / "web" / "run").write_text("x")
    (bench.folder / "web" / "run").chmod(0o755)
    (bench.folder / "web" / "sub" / "link").symlink_to("file")
    bench.generate()
    state = read_state((bench.folder / "state.json").read_bytes(), schemas())
    wanted = state.testbed_guests["web"].definition["build_digest"]
    (path,) = bench.folder.glob("artefacts/build-web-*.tar")
    with path.open("rb") as file:
        assert build_context_digest(file, path.name) == wanted
    for name, change in (
        ("mode", lambda: (bench.folder / "web" / "run").chmod(0o644)),
        ("content", lambda: bench.write("web/run", "y")),
        ("name", lambda: (bench.folder / "web" / "run").rename(bench.folder / "web" / "other")),
        ("folder", (bench.folder / "web" / "empty").mkdir),
    ):
        change()
        bench.generate()
        with path.open("rb") as file:
            assert build_context_digest(file, path.name) != wanted, name
    assert content_digest([ContextEntry("a", "link", "b")]) != content_digest(
        [ContextEntry("a", "file", "b")]
    )
