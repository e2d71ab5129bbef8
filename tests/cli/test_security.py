"""A testbed from the internet: no text of it becomes a command, markup or a file where it has no business."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shlex
import shutil
import sqlite3
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as ET

import pycdlib
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from golden.bench import Bench, new_bench

CONFIG = """\
{"testbed_host_ssh_config": {"a": {"ip": "192.0.2.1", "is_main_host": true, "virt_type": "qemu"}},
 "ssh_public_key_location": "keys/id_ed25519.pub", "ssh_private_key_location": "keys/id_ed25519"}
"""


def lab(name: str = "one", bridge: str = "br0", image: str = "debian_12", **cloud_image: object) -> str:
    """A YAML file (JSON is YAML) with one guest."""
    return json.dumps(
        {
            "machines": [
                {
                    "name": name,
                    "interfaces": [{"bridge": bridge}],
                    "libvirt": {
                        "cpus": 1,
                        "memory_mb": 64,
                        "libvirt_type": {"cloud_image": {"name": image, **cloud_image}},
                    },
                }
            ],
            "network": {"bridges": [{"name": bridge}], "external_bridge": bridge},
        },
        ensure_ascii=False,
    )


def project(root: Path, yaml_text: str) -> Bench:
    return new_bench(
        root,
        "lab",
        {"kvm-compose.yaml": yaml_text, "kvm-compose-config.json": CONFIG, "keys/id_ed25519": ""},
    )


def seed(bench: Bench, name: str = "one") -> dict[str, bytes]:
    image = pycdlib.PyCdlib()
    image.open(str(bench.path(f"{name}-cloud-init.iso")))
    found = {}
    for file in ("meta-data", "user-data", "network-config", "context.tar"):
        data = io.BytesIO()
        image.get_file_from_iso_fp(data, rr_path=f"/{file}")
        found[file] = data.getvalue()
    image.close()
    return found


def archive(bench: Bench, name: str = "one") -> tarfile.TarFile:
    return tarfile.open(fileobj=io.BytesIO(seed(bench, name)["context.tar"]))


TRICKS = [
    "../../../etc/cron.d/x", "/etc/passwd", "..", ".", "-rf", "--help", "a b", "a;b", "a$(id)", "a`id`",
    "a|b", "a&b", "a\nb", "a'b", 'a"b', "<a>", "a&amp;b", "{{ 7*7 }}", "{% x %}", "%s", "ünicode", "a\u202eb",
    "\u0430dmin", "\uff41", "A", "a_b", "a.b", "a/b", "a\\b", "con:", "~", "~root", "", " ", "a\u200bb", "1a",
    "a-", "é",
]  # fmt: skip


@pytest.mark.parametrize("trick", TRICKS)
def test_a_name_holds_nothing_but_letters_digits_and_dashes(trick: str, tmp_path: Path) -> None:
    for text in (lab(name=trick), lab(bridge=trick)):
        bench = project(tmp_path, text)
        ran = bench.run("generate")
        assert ran.status == 2, trick
        assert "Traceback" not in ran.err
        assert not (bench.folder / "artefacts").exists()


@pytest.mark.parametrize("trick", [*TRICKS, "root\nALL", "x" * 33])
def test_a_user_name_is_one(trick: str, tmp_path: Path) -> None:
    value = json.loads(lab())
    value["machines"][0]["libvirt"]["username"] = trick
    ran = project(tmp_path, json.dumps(value)).run("validate")
    assert ran.status == (0 if trick in ("a_b", "a-") else 2)


#: Words that ssh or docker would take for options, or that are several words.
NO_OPERANDS = ["-oProxyCommand=id", "--privileged", "-v/:/host", "a b", "a\nb"]


@pytest.mark.parametrize("trick", NO_OPERANDS)
@pytest.mark.parametrize("key", ["ip", "user"])
def test_a_host_is_reached_by_a_name_and_not_by_an_option(key: str, trick: str, tmp_path: Path) -> None:
    bench = project(tmp_path, lab())
    config = json.loads(CONFIG)
    config["testbed_host_ssh_config"]["a"][key] = trick
    bench.config.write_text(json.dumps(config))
    assert bench.run("validate").status == 2


@pytest.mark.parametrize("trick", NO_OPERANDS)
@pytest.mark.parametrize("key", ["image", "user"])
def test_a_container_s_image_and_user_are_no_options(key: str, trick: str, tmp_path: Path) -> None:
    value = json.loads(lab())
    value["machines"][0].pop("libvirt")
    value["machines"][0]["docker"] = {"image": "nginx", key: trick}
    assert project(tmp_path, json.dumps(value)).run("validate").status == 2


@pytest.mark.parametrize("trick", [trick for trick in TRICKS if trick not in ("A", "a_b")])
def test_a_variable_s_name_is_one(trick: str, tmp_path: Path) -> None:
    ran = project(tmp_path, lab(environment={trick: "x"})).run("validate")
    assert ran.status == 2


@pytest.mark.parametrize("trick", TRICKS)
def test_an_image_is_no_path_in_disguise(trick: str, tmp_path: Path) -> None:
    assert project(tmp_path, lab(name="one", image=trick)).run("generate").status == 2


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return project(tmp_path_factory.mktemp("environment"), lab())


#: All that an input file may hold: no control characters but tab and newline.
TEXT = st.text(
    st.characters(blacklist_categories=["Cs"], blacklist_characters="\ufffe\uffff").filter(
        lambda character: character in "\t\n" or not (ord(character) < 32 or 127 <= ord(character) < 160)
    ),
    max_size=60,
)


@settings(
    max_examples=40, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(
    values=st.dictionaries(st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,12}", fullmatch=True), TEXT, max_size=4)
)
def test_a_shell_in_the_guest_reads_every_value_as_it_was_written(
    shared: Bench, values: dict[str, str]
) -> None:
    # of the shell's own
    values = {f"V_{name}": text for name, text in values.items()}
    shared.yaml.write_text(lab(environment=values), encoding="utf-8")
    shared.generate()
    with archive(shared) as tar:
        member = tar.extractfile("environment")
        assert member is not None
        data = member.read()
    # a reader that is not ours: the words of POSIX shell grammar …
    words = shlex.split(data.decode().replace("\r", "\ue000"), comments=False)
    assert dict(word.partition("=")[::2] for word in words) == {
        name: text.replace("\r", "\ue000") for name, text in values.items()
    }
    # … and a shell itself
    script = 'set -a; . "$1"; set +a; shift; for name; do eval "printf %s\\\\\\\\0 \\"\\${$name}\\""; done'
    path = shared.root / "environment"
    path.write_bytes(data)
    shell = shutil.which("sh")
    assert shell is not None
    script = '. "$1"; shift; for name; do eval "value=\\$$name"; printf "%s\\0" "$value"; done'
    ran = subprocess.run(
        [shell, "-c", script, "sh", path, *values],
        capture_output=True,
        check=True,
        env={"PATH": "/usr/bin:/bin"},
    )
    assert ran.stderr == b""
    assert ran.stdout.decode().split("\0")[:-1] == list(values.values())


def test_what_stands_in_values_reaches_no_markup(tmp_path: Path) -> None:
    values = {
        "A": "]]></domain><evil/>",
        "B": "\n  - [sh, -c, evil]\n",
        "C": '"; evil: "x',
        "D": "#cloud-config",
    }
    bench = project(tmp_path, lab(environment=values))
    bench.generate()
    for path in bench.folder.glob("artefacts/*.xml"):
        assert b"evil" not in path.read_bytes()
        ET.parse(path)  # noqa: S314 (our own file)
    files = seed(bench)
    for name in ("user-data", "meta-data", "network-config"):
        assert b"evil" not in files[name]
        yaml.safe_load(files[name])
    with archive(bench) as tar:
        assert {member.name for member in tar} == {"context", "run", "setup", "env.sh", "environment"}


SCRIPTS = [
    "-e.sh",
    "a b.sh",
    "$(id).sh",
    "`id`.sh",
    "a;b.sh",
    "a'b\".sh",
    "é.sh",
    "{{ x }}.sh",
    "<x>.sh",
    "%n.sh",
]


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_name_of_a_script_is_only_a_name(script: str, tmp_path: Path) -> None:
    bench = project(tmp_path, lab(setup_script=f"./{script}"))
    bench.write(script, "#!/bin/sh\n")
    bench.generate()
    with archive(bench) as tar:
        assert f"setup/00-{script}" in tar.getnames()
    files = seed(bench)
    for name in ("user-data", "meta-data", "network-config"):
        assert script.encode() not in files[name]
    for path in bench.folder.glob("artefacts/*.xml"):
        assert script.encode() not in path.read_bytes()


def test_a_name_with_control_characters_is_refused(tmp_path: Path) -> None:
    bench = project(tmp_path, lab(setup_script="./a\nb.sh"))
    bench.write("a\nb.sh", "#!/bin/sh\n")
    refused = bench.run("generate")
    assert refused.status == 2
    assert "wanted a path without control characters" in refused.err


def test_the_archive_of_a_seed_stays_below_its_folder(tmp_path: Path) -> None:
    bench = project(tmp_path, lab(context="stuff"))
    bench.write("stuff/...", "x")
    bench.write("stuff/-x", "x")
    bench.write("stuff/sub/..x", "x")
    (bench.folder / "stuff/up").symlink_to("sub/../-x")
    bench.generate()
    with archive(bench) as tar:
        for member in tar:
            assert not member.name.startswith("/")
            assert ".." not in member.name.split("/")
            assert member.uid == member.gid == 0
            assert not member.mode & 0o7000
            if member.issym():
                assert not member.linkname.startswith("/")


def test_set_user_id_is_not_carried_along(tmp_path: Path) -> None:
    bench = project(tmp_path, lab(context="stuff"))
    bench.write("stuff/tool", "x", mode=0o6755)
    bench.generate()
    with archive(bench) as tar:
        assert tar.getmember("context/tool").mode == 0o755


def test_a_file_name_that_is_no_utf_8_is_carried_or_refused_in_words(tmp_path: Path) -> None:
    bench = project(tmp_path, lab(context="stuff"))
    (bench.folder / "stuff").mkdir()
    (bench.folder / "stuff" / os.fsdecode(b"latin-\xe9")).write_text("x")
    ran = bench.run("generate")
    assert "Traceback" not in ran.err
    if ran.status == 0:
        assert bench.generate() == {}


def test_a_guest_cannot_be_given_etc_shadow_through_a_link_swapped_in_later(tmp_path: Path) -> None:
    bench = project(tmp_path, lab(context="stuff"))
    bench.write("stuff/file", "harmless")
    bench.generate()
    (bench.folder / "stuff/file").unlink()
    (bench.folder / "stuff/file").symlink_to("/etc/shadow")
    assert bench.run("generate").status == 2
    shutil.rmtree(bench.folder / "stuff")
    (bench.folder / "stuff").symlink_to("/etc")
    assert bench.run("generate").status == 2


def test_a_private_key_never_gets_into_a_seed(tmp_path: Path) -> None:
    bench = project(tmp_path, lab())
    bench.write(
        "keys/id_ed25519.pub",
        "-----BEGIN OPENSSH PRIVATE KEY-----\nc2VjcmV0\n-----END OPENSSH PRIVATE KEY-----\n",
    )
    ran = bench.run("generate")
    assert ran.status == 2
    assert "private key" in ran.err
    assert not bench.path("one-cloud-init.iso").exists()


@pytest.mark.parametrize(
    "text",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ self._TemplateReference__context }}",
        "{{ joiner.__init__.__globals__ }}",
        "{% for c in [].__class__.__base__.__subclasses__() %}{{ c }}{% endfor %}",
        "{{ ssh_authorized_keys.append('evil') }}",
        "{{ (''|attr('format'))('x') }}{{ ''['for' ~ 'mat'].__globals__ }}",
        "{{ '{0.__class__.__init__.__globals__}'.format(hostname) }}",
        "{% include '/etc/hostname' %}",
        "{% include '../keys/id_ed25519.pub' %}",
        "{% import 'os' as os %}",
        "{{ 1/0 }}",
        "{{ missing }}",
        "{% for %}",
        "{{ range(10**12) | list }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ 'x'|nofilter }}",
        "{% include 'user-data.j2' %}",
        "{% extends 'user-data.j2' %}",
        "{{ lipsum.__globals__ }}",
    ],
)
def test_a_template_of_the_project_cannot_leave_its_sandbox(text: str, tmp_path: Path) -> None:
    bench = project(tmp_path, lab())
    bench.write("templates/user-data.j2", f"#cloud-config\nx: {text}\n")
    ran = bench.run("generate", "-k")
    assert ran.status == 1, "it was rendered"
    assert "templates/user-data.j2" in ran.err
    assert "Traceback" not in ran.err
    assert "Traceback" not in ran.out
    assert not bench.path("one-cloud-init.iso").exists()
    # what has nothing to do with that template is made
    assert bench.path("one-domain.xml").exists()


def test_a_template_is_taken_from_its_own_folder_only(tmp_path: Path) -> None:
    bench = project(tmp_path, lab())
    secret = tmp_path / "secret.j2"
    secret.write_text("secret")
    bench.write(
        "templates/user-data.j2",
        "#cloud-config\n{% include 'sub/x.j2' ignore missing %}{% include '../secret.j2' ignore missing %}",
    )
    bench.write("templates/sub/x.j2", "sub")
    bench.generate()
    assert seed(bench)["user-data"].strip() == b"#cloud-config"


def test_a_template_that_is_a_link_out_of_the_project_is_refused(tmp_path: Path) -> None:
    bench = project(tmp_path, lab())
    secret = tmp_path / "secret"
    secret.write_text("#cloud-config\nsecret: true\n")
    (bench.folder / "templates").mkdir()
    (bench.folder / "templates/user-data.j2").symlink_to(secret)
    ran = bench.run("generate")
    if ran.status == 0:
        assert b"secret" not in seed(bench)["user-data"]
    else:
        assert "Traceback" not in ran.err


def test_values_that_a_template_shows_are_escaped_there_too(tmp_path: Path) -> None:
    bench = project(tmp_path, lab(environment={"A": "<evil>&\"'"}))
    bench.write("templates/user-data.j2", "#cloud-config\nx: {{ environment.A }}\ny: {{ environment }}\n")
    bench.generate()
    assert yaml.safe_load(seed(bench)["user-data"]) == {"x": "<evil>&\"'", "y": {"A": "<evil>&\"'"}}


def test_nothing_is_written_through_a_link_called_artefacts(tmp_path: Path) -> None:
    bench = project(tmp_path, lab())
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "one-domain.xml").write_text("precious")
    (bench.folder / "artefacts").symlink_to(outside)
    bench.run("generate", "--overwrite")
    kept = [path.read_text() for path in outside.glob("one-domain.xml*") if path.is_file()]
    assert "precious" in kept


@pytest.mark.parametrize("name", ["state.json", "artefacts/one-domain.xml"])
def test_a_link_that_came_with_the_project_is_not_written_through(name: str, tmp_path: Path) -> None:
    bench = project(tmp_path, lab())
    victim = tmp_path / "victim"
    victim.write_text("precious")
    path = bench.folder / name
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(victim)
    bench.run("generate", "--overwrite", "--provision")
    assert victim.read_text() == "precious"


def test_a_ledger_that_came_with_the_project_makes_it_remove_nothing_outside(
    golden: Callable[[str], Bench], tmp_path: Path
) -> None:
    """Whoever packs a project can pack a ledger with it that names any path as built."""
    bench = golden("addresses")
    bench.generate()
    victims = [tmp_path / "victim", bench.folder / "keys/id_ed25519.pub", bench.folder / "setup-notes"]
    for victim in victims:
        victim.write_text("precious")
    ledger = sqlite3.connect(bench.folder / ".kvm-compose/ledger.sqlite")
    columns = [row[1] for row in ledger.execute("PRAGMA table_info(artefacts)")]
    row = dict(zip(columns, ledger.execute("SELECT * FROM artefacts LIMIT 1").fetchone(), strict=True))
    for victim, path in zip(victims, ("../victim", str(victims[1]), "setup-notes"), strict=True):
        status = victim.stat()
        fake = row | {
            "path": path, "policy": "text", "content": hashlib.sha256(b"precious").hexdigest(),
            "size": status.st_size, "mtime_ns": status.st_mtime_ns, "ctime_ns": status.st_ctime_ns,
            "inode": status.st_ino,
        }  # fmt: skip
        marks = ", ".join("?" * len(columns))
        ledger.execute(f"INSERT INTO artefacts VALUES ({marks})", [fake[name] for name in columns])  # noqa: S608
    ledger.commit()
    ledger.close()
    bench.edit("cpus: 2", "cpus: 3")
    ran = bench.run("generate")
    assert "Traceback" not in ran.err
    bench.run("clean", "--force")
    assert [victim.exists() for victim in victims] == [True, True, True]


def test_seeds_can_be_read_by_their_owner_only(tmp_path: Path) -> None:
    bench = project(tmp_path, lab(environment={"TOKEN": "secret"}))
    bench.generate()
    assert bench.path("one-cloud-init.iso").stat().st_mode & 0o077 == 0


def test_the_output_shows_no_control_characters_of_a_file(tmp_path: Path) -> None:
    bench = project(tmp_path, lab(setup_script="\u009b31m\u001b]0;x\u0007.sh"))
    ran = bench.run("validate")
    assert ran.status == 2
    assert "\x1b" not in ran.err
    assert "\x9b" not in ran.err
