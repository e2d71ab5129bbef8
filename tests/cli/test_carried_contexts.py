"""Contexts: what is left out of them, what cannot be carried, and the modes that arrive in the guest."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import socket
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pycdlib
import pytest

from golden.bench import Bench, settle
from kvmcompose.build.context_listing import Surroundings, list_context

ISO = "artefacts/server-cloud-init.iso"


def archive(bench: Bench, iso: str = ISO) -> dict[str, tarfile.TarInfo]:
    """The members of the context in a seed, as the guest's tar sees them."""
    image = pycdlib.PyCdlib()
    image.open(str(bench.folder / iso))
    out = io.BytesIO()
    image.get_file_from_iso_fp(out, joliet_path="/context.tar")
    image.close()
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as opened:
        members = {member.name: member for member in opened.getmembers()}
    return {
        name.removeprefix("context/"): member
        for name, member in members.items()
        if name.startswith("context/")
    }


def with_context(bench: Bench, text: str) -> None:
    yaml = bench.folder / "kvm-compose.yaml"
    yaml.write_text(re.sub(r"context: .*", lambda _: f"context: {text}", yaml.read_text()))


def problems(bench: Bench) -> list[dict[str, Any]]:
    return list(json.loads(bench.run("validate", "--json").out)["problems"])


# -- everything that builds make is left out


@pytest.mark.parametrize("written", [".", "./", "sub/..", "here"])
def test_a_project_as_its_own_context_is_up_to_date_after_one_build(bench: Bench, written: str) -> None:
    (bench.folder / "sub").mkdir()
    (bench.folder / "here").symlink_to(".")
    with_context(bench, written)
    assert problems(bench) == []
    settle()
    bench.generate()
    size = (bench.folder / ISO).stat().st_size
    assert problems(bench) == []
    for _ in range(2):
        assert bench.generate() == {}
    names = archive(bench)
    assert {"kvm-compose.yaml", "setup.sh", "files/readme", "keys/id_ed25519"} <= names.keys()
    assert not {name for name in names if name.split("/")[0] in ("artefacts", "state.json", ".kvm-compose")}
    # an edited state, its new version and its backup are no inputs either
    (bench.folder / "state.json").write_text("{}")
    bench.edit("memory_mb: 256", "memory_mb: 257")
    bench.run("generate")
    assert (bench.folder / "state.json.new").exists()
    bench.run("generate", "--overwrite")
    assert (bench.folder / "state.json.orig").exists()
    assert not [name for name in archive(bench) if name.startswith("state.json")]
    assert abs((bench.folder / ISO).stat().st_size - size) < 4096
    assert bench.generate() == {}


def test_the_shortcut_serves_a_project_that_is_its_own_context(bench: Bench) -> None:
    with_context(bench, ".")
    settle()
    bench.generate()
    settle()
    bench.generate()
    assert (bench.folder / ".kvm-compose/standing").exists()
    bench.write("files/more", "x")
    assert bench.generate() == {ISO.removeprefix("artefacts/").join(["artefacts/", ""]): "rebuild"}


def test_artefacts_behind_a_link_are_left_out_by_both_names(bench: Bench) -> None:
    (bench.folder / "out").mkdir()
    (bench.folder / "artefacts").symlink_to("out")
    with_context(bench, ".")
    bench.generate()
    assert bench.generate() == {}
    assert not [name for name in archive(bench) if name.split("/")[0] in ("out", "artefacts")]


def test_files_of_these_names_elsewhere_are_the_users(bench: Bench) -> None:
    for name in ("artefacts/a", "state.json", ".kvm-compose/b", "state.json.new"):
        bench.write(f"files/{name}", "x")
    bench.generate()
    assert {"artefacts/a", "state.json", ".kvm-compose/b", "state.json.new"} <= archive(bench).keys()


@pytest.mark.parametrize("written", ["artefacts", "artefacts/images", "state.json", ".kvm-compose"])
def test_what_builds_make_cannot_be_a_context(bench: Bench, written: str) -> None:
    bench.generate()
    with_context(bench, written)
    (problem,) = problems(bench)
    assert problem["code"] == "bad-file"
    assert "made by builds" in problem["message"]
    assert problem["location"]["line"] == 13


# -- the ignore file


GIT_PATTERNS = """\
# comment
*.o
!keep.o
/only-here
build/
!build/no-way-back
deep/**/leaf
doc/*.txt
\\#odd
trail\\{blank}
a?c
[x-z]1
"""
GIT_FILES = """\
one.o|keep.o|sub/two.o|sub/keep.o|only-here|sub/only-here|build/x|build/no-way-back|sub/build/y
deep/leaf|deep/a/b/leaf|deep/a/other|doc/a.txt|doc/sub/a.txt|#odd|trail |trail|abc|a/c|x1|w1
sub/z1/inside|plain\
""".replace("\n", "|").split("|")


def test_the_ignore_file_means_what_git_says(bench: Bench) -> None:
    folder = bench.folder / "files"
    shutil.rmtree(folder)
    for name in GIT_FILES:
        bench.write(f"files/{name}", "x")
    bench.write("files/.kvmcomposeignore", GIT_PATTERNS.replace("{blank}", " "))
    bench.generate()
    carried = {name for name, member in archive(bench).items() if member.isfile()}
    # git is the judge
    git = shutil.which("git")
    assert git is not None
    shutil.copy(folder / ".kvmcomposeignore", folder / ".gitignore")
    subprocess.run([git, "init", "-q", str(folder)], check=True)
    listed = subprocess.run(
        [git, "-C", str(folder), "ls-files", "-z", "--others", "--exclude-standard"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert carried == {name for name in listed.split("\0") if name} - {".gitignore", ".kvmcomposeignore"}


def test_only_the_effect_of_the_ignore_file_is_in_the_recipe(built: Bench) -> None:
    built.write("files/.kvmcomposeignore", "*.log\n")
    assert built.generate() == {}
    built.write("files/one.log", "x")
    assert built.generate() == {}
    built.write("files/.kvmcomposeignore", "# nothing is ignored\n")
    assert built.generate() == {ISO: "rebuild"}
    built.write("files/.kvmcomposeignore", "one.log\n")
    assert built.generate() == {ISO: "rebuild"}
    assert "one.log" not in archive(built)


@pytest.mark.parametrize(
    ("patterns", "said"),
    [
        (b"!\n", "not valid"),
        (b"[z-a]\n", "not valid"),
        (b"ok\n*a*a*a*a*b\n", "line 2"),
        (b"**/a/**/b/**/c/**/d\n", "line 1"),
        (b"[[:alpha:]]\n", "line 1"),
        (b"x\n" * 1001, "1001 patterns"),
        (b"x" * 70_000, "larger than 64 KiB"),
        ("key\n".encode("utf-16"), "UTF-16"),
    ],
)
def test_a_bad_ignore_file_is_a_problem_with_a_place(bench: Bench, patterns: bytes, said: str) -> None:
    (bench.folder / "files/.kvmcomposeignore").write_bytes(patterns)
    (problem,) = problems(bench)
    assert said in problem["message"]
    assert problem["message"].startswith("'files/.kvmcomposeignore'")
    assert problem["location"]["line"] == 13
    assert bench.run("generate").status == 2


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "patterns",
    [
        b"*\n!*/\n!keep",
        b"/*\n!/sub/",
        b"caf?",
        b"caf??",
        b"caf\xe9",
        b"[a-\xe9]*",
        b"[[]",
        b"sub/**\n!sub/deep/",
    ],
)
def test_patterns_and_names_are_compared_as_git_does(tmp_path: Path, patterns: bytes) -> None:
    """Folders are asked first, and a character is a byte."""
    git = shutil.which("git")
    assert git is not None
    for name in (
        b"keep",
        b"other",
        b"sub/keep",
        b"sub/other",
        b"sub/deep/keep",
        b"caf\xe9",
        b"caf\xc3\xa9",
        b"[",
    ):
        path = tmp_path / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / ".kvmcomposeignore").write_bytes(patterns)
    (tmp_path / ".gitignore").write_bytes(patterns)
    around = Surroundings(tmp_path, lambda _: True, lambda _: False)
    listing = list_context(tmp_path, around, {})
    assert not listing.flaws
    subprocess.run([git, "init", "-q", str(tmp_path)], check=True)
    command = [git, "-C", str(tmp_path), "ls-files", "-z", "--others", "--exclude-standard"]
    listed = subprocess.run(command, check=True, capture_output=True).stdout.split(b"\0")
    kept = {os.fsencode(each.name) for each in listing.members if each.kind == "file"} - {b".gitignore"}
    assert kept == {name for name in listed if name} - {b".gitignore", b".kvmcomposeignore"}


# -- validate says what generate would refuse


def make_special(folder: Path, what: str) -> None:
    if what == "pipe":
        os.mkfifo(folder / "special")
    elif what == "socket":
        held = socket.socket(socket.AF_UNIX)
        held.bind(str(folder / "special"))
        held.close()
    elif what == "absolute loop":
        (folder / "special").symlink_to(folder / "special")
    elif what == "out":
        (folder / "special").symlink_to("/etc/hostname")
    elif what == "folder elsewhere":
        (folder / "special").symlink_to("../keys")
    elif what == "to an artefact":
        (folder / "special").symlink_to("../state.json")
    elif what == "dangling":
        (folder / "special").symlink_to("../nothing")
    elif what == "ignore file":
        os.mkfifo(folder / ".kvmcomposeignore")
    elif what == "huge":
        with (folder / "special").open("wb") as file:
            file.truncate(2**30 + 1)


SPECIAL = (
    "pipe", "socket", "absolute loop", "out", "folder elsewhere", "to an artefact", "dangling", "ignore file",
    "huge",
)  # fmt: skip


@pytest.mark.parametrize("what", SPECIAL)
def test_what_cannot_be_carried_is_a_problem_with_a_place(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.chdir(bench.folder)  # names of sockets are short
    make_special(Path("files") if what == "socket" else bench.folder / "files", what)
    (problem,) = problems(bench)
    assert problem["severity"] == "error"
    assert problem["location"]["line"] == 13
    assert problem["path"] == "machines[0].libvirt.libvirt_type.cloud_image.context"
    assert problem["hint"]
    if what != "huge":
        assert "files/special" in problem["message"] or ".kvmcomposeignore" in problem["message"]
    refused = bench.run("generate")
    assert refused.status == 2
    assert not (bench.folder / "state.json").exists()


def test_all_of_them_are_listed_and_can_be_ignored(bench: Bench) -> None:
    for number in range(3):
        os.mkfifo(bench.folder / f"files/pipe{number}")
    assert len(problems(bench)) == 3
    bench.write("files/.kvmcomposeignore", "pipe*\n")
    assert problems(bench) == []
    bench.generate()


def test_harmless_links_are_kept(bench: Bench) -> None:
    links = {"self": "self", "one": "two", "two": "one", "here": ".", "sub/up": "..", "gone": "nothing"}
    links["in"] = "sub/up/in"
    (bench.folder / "files/sub").mkdir()
    for name, target in links.items():
        (bench.folder / "files" / name).symlink_to(target)
    assert problems(bench) == []
    bench.generate()
    assert bench.generate() == {}
    found = archive(bench)
    assert {name: found[name].linkname for name in links} == links


@pytest.mark.parametrize("target", ["../files/real", "../../{project}/files/real", "sub/../../files/real"])
def test_a_link_that_needs_the_name_of_the_context_becomes_the_file(bench: Bench, target: str) -> None:
    """In the guest the context has another name."""
    (bench.folder / "files/sub").mkdir()
    bench.write("files/real", "content")
    (bench.folder / "files/link").symlink_to(target.format(project=bench.folder.name))
    assert problems(bench) == []
    bench.generate()
    assert archive(bench)["link"].isfile()
    bench.write("files/real", "changed")
    assert ISO in bench.generate()


def test_deep_folders_are_no_traceback(bench: Bench) -> None:
    here = bench.folder / "files"
    handle = os.open(here, os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("d", dir_fd=handle)
        below = os.open("d", os.O_RDONLY, dir_fd=handle)
        os.close(handle)
        handle = below
    os.close(handle)
    ran = bench.run("validate")
    # pytest itself could not remove it
    subprocess.run(["rm", "-rf", str(here)], check=True)  # noqa: S607
    assert ran.status in (0, 2)
    assert "Traceback" not in ran.err


# -- modes


def test_modes_arrive_and_the_files_own_do_not_count(bench: Bench) -> None:
    bench.write("files/key", "secret")
    bench.write("files/private/x", "x")
    with_context(bench, '{path: files, modes: {key: "0600", private: 0700, private/x: 640}}')
    assert problems(bench) == []
    settle()
    bench.generate()
    modes = {name: member.mode for name, member in archive(bench).items()}
    assert modes == {"key": 0o600, "private": 0o700, "private/x": 0o640, "readme": 0o644}
    (bench.folder / "files/key").chmod(0o700)
    assert bench.generate() == {}, "its own mode is no input any more"
    bench.edit('key: "0600"', 'key: "0400"')
    assert bench.generate() == {ISO: "rebuild", "state.json": "rebuild"}
    assert archive(bench)["key"].mode == 0o400
    state = bench.state()["testbed_guests"]["server"]["libvirt"]["libvirt_type"]["cloud_image"]
    assert state["context"] == {
        "path": "files",
        "modes": {"key": "0400", "private": "0700", "private/x": "640"},
    }


def test_a_file_as_context_can_have_a_mode(bench: Bench) -> None:
    with_context(bench, "{path: keys/id_ed25519, modes: {id_ed25519: 0600}}")
    bench.generate()
    assert {name: member.mode for name, member in archive(bench).items()} == {"id_ed25519": 0o600}


def test_the_long_form_without_modes_is_the_short_form(built: Bench) -> None:
    with_context(built, "{path: files}")
    assert built.generate() == {}
    with_context(built, "{path: files, modes: {}}")
    assert built.generate() == {}


@pytest.mark.parametrize(
    ("context", "code", "said"),
    [
        ("{path: files, modes: {redme: 0600}}", "missing-file", "did you mean 'readme'?"),
        ("{path: files, modes: {link: 0600}}", "bad-file", "readme"),
        ("{path: files, modes: {gone.log: 0600}}", "missing-file", ".kvmcomposeignore"),
        ("{path: files, modes: {readme: 0800}}", "bad-value", "octal"),
        ("{path: files, modes: {readme: u=rw}}", "bad-value", "octal"),
        ("{path: files, modes: {../setup.sh: 0600}}", "bad-name", "path in the context"),
        ("{path: files, modes: {/etc/passwd: 0600}}", "bad-name", "path in the context"),
        ("{path: files, mode: 0600}", "unknown-key", "modes"),
        ("{modes: {}}", "missing-key", "path"),
        ("{path: none}", "missing-file", "none"),
        ("[files]", "wrong-type", "a path, or a mapping"),
    ],
)
def test_wrong_modes_are_problems(bench: Bench, context: str, code: str, said: str) -> None:
    (bench.folder / "files/link").symlink_to("readme")
    bench.write("files/gone.log", "x")
    bench.write("files/.kvmcomposeignore", "*.log\n")
    with_context(bench, context)
    (problem,) = problems(bench)
    assert problem["code"] == code, problem
    assert said in json.dumps(problem)
    assert problem["location"]["line"] == 13


KEYS = {
    "openssh": "-----BEGIN OPENSSH PRIVATE KEY-----\nabc\n",
    "pem": "-----BEGIN RSA PRIVATE KEY-----\nabc\n",
    "pkcs8": "-----BEGIN ENCRYPTED PRIVATE KEY-----\nabc\n",
    "both": "-----BEGIN CERTIFICATE-----\nabc\n-----END CERTIFICATE-----\n-----BEGIN PRIVATE KEY-----\n",
    "gpg": "-----BEGIN PGP PRIVATE KEY BLOCK-----\n",
    "putty": "PuTTY-User-Key-File-3: ssh-ed25519\n",
}


@pytest.mark.parametrize("name", KEYS)
def test_a_private_key_that_all_can_read_is_a_warning(bench: Bench, name: str) -> None:
    bench.write(f"files/{name}", KEYS[name])
    bench.write("files/public", "ssh-ed25519 AAAA\n-----BEGIN PUBLIC KEY-----\n")
    (problem,) = problems(bench)
    assert (problem["code"], problem["severity"]) == ("open-private-key", "warning")
    assert name in problem["message"]
    assert bench.run("validate").status == 0
    # the hint is the way out
    with_context(bench, problem["hint"].partition("context: ")[2])
    assert problems(bench) == []
    bench.generate()
    assert archive(bench)[name].mode == 0o600


def test_the_warning_stops_no_build_and_is_not_in_it(bench: Bench) -> None:
    bench.write("files/key", KEYS["openssh"])
    assert "open-private-key" not in bench.run("generate").err


# -- scripts


def test_the_mode_of_a_script_is_no_input(built: Bench) -> None:
    for mode in (0o755, 0o700, 0o600):
        (built.folder / "setup.sh").chmod(mode)
        assert built.generate() == {}
        assert "nothing to do" in built.run("plan").err


@pytest.mark.parametrize(
    ("script", "severity", "place"),
    [
        ("#!/bin/sh\r\ntrue\r\n", "error", "setup.sh:1:10"),
        ("\ufeff#!/bin/sh\ntrue\n", "error", "setup.sh:1:1"),
        ("#!/bin/sh\ncat <<END\none\r\nEND\n", "warning", "setup.sh:3:4"),
    ],
)
def test_a_script_that_a_guest_cannot_run(bench: Bench, script: str, severity: str, place: str) -> None:
    (bench.folder / "setup.sh").write_bytes(script.encode())
    (problem,) = problems(bench)
    where = problem["location"]
    assert (problem["code"], problem["severity"]) == ("bad-script", severity)
    assert f"{where['file']}:{where['line']}:{where['column']}" == place
    assert problem["path"] == "machines[0].libvirt.libvirt_type.cloud_image.setup_script"
    assert bench.run("generate").status == (2 if severity == "error" else 0)


def test_variables_that_shells_set_are_refused_by_name(bench: Bench) -> None:
    bench.write("secrets.env", "GOOD=1\nEUID=2\n")
    bench.edit(
        "context: files",
        "context: files\n          environment_file: secrets.env\n          environment: {UID: 1, OTHER: 2}",
    )
    found = problems(bench)
    places = [(each["code"], Path(each["location"]["file"]).name, each["location"]["line"]) for each in found]
    assert sorted(places) == [
        ("reserved-variable", "kvm-compose.yaml", 15),
        ("reserved-variable", "secrets.env", 2),
    ]
    assert any("UID is read-only" in each["message"] for each in found)


TEMPLATES = {
    "syntax": ("domain.xml.j2", "<a>\n{{ nonsense", 2),
    "undefined": ("domain.xml.j2", "{{ nothere }}", 0),
    "missing": ("network.xml.j2", '{% include "none.j2" %}', 0),
    "seed": ("user-data.j2", "{% while %}", 1),
    "not text": ("meta-data.j2", "\udcff", 0),
}


@pytest.mark.parametrize("kind", TEMPLATES)
def test_a_template_that_cannot_be_rendered_is_a_problem_of_validate(bench: Bench, kind: str) -> None:
    name, text, line = TEMPLATES[kind]
    (bench.folder / "templates").mkdir()
    (bench.folder / "templates" / name).write_bytes(text.encode(errors="surrogateescape"))
    (problem,) = problems(bench)
    assert (problem["code"], problem["severity"]) == ("bad-template", "error")
    assert problem["location"]["line"] == line
    assert name in json.dumps(problem)
    assert bench.run("validate").status == 2
    assert bench.run("generate").status == 1


def test_a_template_that_can_be_rendered_is_none(bench: Bench) -> None:
    bench.write("templates/network.xml.j2", "<network><name>{{ name }}</name></network>\n")
    bench.write("templates/meta-data.j2", "instance-id: {{ instance_id }}\nkeys: {{ environment }}\n")
    assert problems(bench) == []
    bench.generate()


@pytest.mark.parametrize("target", ["..", "../elsewhere"])
def test_a_link_in_the_place_of_artefacts_is_a_problem(bench: Bench, target: str) -> None:
    (bench.root / "elsewhere").mkdir()
    (bench.folder / "artefacts").symlink_to(target)
    found = {(each["code"], each["location"]["file"]) for each in problems(bench)}
    assert found == {("outside-project", "artefacts"), ("outside-project", "artefacts/images")}
    assert bench.run("generate").status == 3
