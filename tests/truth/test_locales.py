"""Locales: they change neither a byte of an artefact nor what is up to date, and output never fails.

Names of files are bytes, and UTF-8 in the YAML. Under another locale Python would decode them in another way.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from golden.bench import Bench, environment, new_bench

YAML = """\
machines:
  - name: web
    interfaces: [{bridge: br0}]
    libvirt:
      cpus: 1
      memory_mb: 64
      libvirt_type: {cloud_image: {path: disks/bäse.qcow2, setup_script: é.sh, context: ctx}}
  - name: live
    interfaces: [{bridge: br0}]
    libvirt: {cpus: 1, memory_mb: 64, libvirt_type: {iso_guest: {path: disks/ïso.iso}}}
network: {bridges: [{name: br0}], external_bridge: br0}
"""
CONFIG = """\
{
  "testbed_host_ssh_config": {"main": {"ip": "127.0.0.1", "is_main_host": true, "virt_type": "qemu"}},
  "ssh_public_key_location": "keys/ключ.pub"
}
"""
DODO = """\
from kvmcompose.build.dodo import doit_config, project_tasks
DOIT_CONFIG = doit_config()
def task_testbed():
    yield from project_tasks()
"""
UTF8 = {"LC_ALL": "C.UTF-8"}
POSIX = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
LATIN1 = {"LC_ALL": "en_US.ISO-8859-1"}
LOCALES = {
    "latin1": LATIN1,
    "posix": POSIX,
    "coerced": {"LC_ALL": "C"},
    "utf8-mode": {"LC_ALL": "C", "PYTHONUTF8": "1"},
    "ascii-output": {"LC_ALL": "C.UTF-8", "PYTHONIOENCODING": "ascii"},
}


@pytest.fixture(scope="module")
def locpath(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the locale en_US.ISO-8859-1, which few machines have."""
    folder = tmp_path_factory.mktemp("locales")
    made = subprocess.run(  # its status is 1 after warnings, too
        ["/usr/bin/localedef", "-i", "en_US", "-f", "ISO-8859-1", folder / "en_US.ISO-8859-1"],
        capture_output=True,
        check=False,
    )
    assert (folder / "en_US.ISO-8859-1/LC_CTYPE").exists(), made.stderr
    return folder


@pytest.fixture
def lab(memory_root: Path, tmp_path: Path, locpath: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A project whose names are in several scripts, and some not in UTF-8 at all."""
    monkeypatch.setenv("LOCPATH", str(locpath))
    root = memory_root / tmp_path.name
    root.mkdir()
    bench = new_bench(root, "läb", {"dodo.py": DODO})
    files = {"kvm-compose.yaml": YAML, "kvm-compose-config.json": CONFIG, "é.sh": "#!/bin/sh\necho …\n"}
    for name, text in files.items():
        bench.yaml.with_name(name).write_text(text, encoding="utf-8")
    for before, after in (
        ("disks/base.qcow2", "disks/bäse.qcow2"),
        ("disks/install.iso", "disks/ïso.iso"),
        ("keys/id_ed25519.pub", "keys/ключ.pub"),
    ):
        (bench.folder / before).rename(bench.folder / after)
    (bench.folder / "keys/ключ").touch()
    context = bench.folder / "ctx"
    context.mkdir()
    for name in (b"caf\xc3\xa9", b"caf\xe9", b"\xff", b"plain", "Ω".encode()):
        (context / os.fsdecode(name)).write_bytes(name)
    (context / "link").symlink_to(os.fsdecode(b"caf\xe9"))
    (bench.folder / "ctx/.kvmcomposeignore").write_text("Ω\n", encoding="utf-8")
    return Bench(root, bench.folder, ("--project-name", "lab"))


def run(lab: Bench, locale: dict[str, str], *words: str) -> subprocess.CompletedProcess[bytes]:
    env = environment(lab.root)
    for name in ("LC_ALL", "LANG", "LC_CTYPE", "PYTHONUTF8", "PYTHONIOENCODING", "PYTHONCOERCECLOCALE"):
        env.pop(name, None)
    return subprocess.run(
        lab.argv(*words), env=env | locale, cwd=lab.root, capture_output=True, timeout=120, check=False
    )


def made(lab: Bench) -> dict[str, bytes]:
    """The bytes of all artefacts, and the texts of links."""
    return {
        str(path.relative_to(lab.folder)): os.fsencode(path.readlink())
        if path.is_symlink()
        else path.read_bytes()
        for path in (lab.folder / "state.json", *(lab.folder / "artefacts").rglob("*"))
        if not path.is_dir()
    }


@pytest.mark.parametrize("name", LOCALES)
def test_every_locale_makes_the_same(lab: Bench, name: str) -> None:
    """The same bytes in a clean build, the same digests of inputs: what one built, the other keeps."""
    assert run(lab, UTF8, "generate").returncode == 0
    expected = made(lab)
    seed = expected["artefacts/web-cloud-init.iso"]
    assert b"caf\xe9" in seed
    assert b"caf\xc3\xa9" in seed
    planned = run(lab, LOCALES[name], "plan")
    assert planned.returncode == 0, planned.stderr
    assert planned.stdout == b"", planned.stdout
    shutil.rmtree(lab.folder / "artefacts")
    shutil.rmtree(lab.folder / ".kvm-compose")
    built = run(lab, LOCALES[name], "generate")
    assert built.returncode == 0, built.stderr
    assert made(lab) == expected
    assert run(lab, UTF8, "plan").stdout == b""


@pytest.mark.parametrize("name", ["latin1", "posix", "ascii-output"])
def test_output_never_fails_for_want_of_a_character(lab: Bench, name: str) -> None:
    """Whatever is printed: characters that the encoding lacks are escapes."""
    assert run(lab, UTF8, "generate").returncode == 0
    (lab.folder / "é.sh").write_text("#!/bin/sh\n", encoding="utf-8")
    for words in (
        ("plan", "-v", "--diff"),
        ("why", "seed-iso:web", "--json"),
        ("list", "--all", "--status"),
        ("config",),
        ("graph",),
        ("--help",),
        ("generate", "-v"),
    ):
        ran = run(lab, LOCALES[name], *words)
        assert ran.returncode == 0, (words, ran.stdout, ran.stderr)
        assert b"Traceback" not in ran.stderr, words
    shown = run(lab, LOCALES[name], "why", "seed-iso:web").stdout
    encoding, e_acute = ("latin-1", "é") if name == "latin1" else ("utf-8", "é")
    if name in ("posix", "ascii-output"):
        encoding, e_acute = "ascii", "\\xe9"
    assert f'files.setup/00-{e_acute}.sh.path = "{e_acute}.sh"' in shown.decode(encoding)


@pytest.mark.parametrize("name", ["latin1", "posix"])
def test_doit_makes_the_same_in_every_locale(lab: Bench, name: str) -> None:
    assert run(lab, UTF8, "generate").returncode == 0
    expected = made(lab)
    shutil.rmtree(lab.folder / "artefacts")
    shutil.rmtree(lab.folder / ".kvm-compose")
    # the project's name is that of the folder, as project_tasks() takes it
    (lab.folder / "dodo.py").write_text(DODO.replace("project_tasks()", "project_tasks(project_name='lab')"))
    env = environment(lab.root) | LOCALES[name]
    ran = subprocess.run(
        [sys.executable, "-m", "doit"], env=env, cwd=lab.folder, capture_output=True, timeout=120, check=False
    )
    assert ran.returncode == 0, (ran.stdout, ran.stderr)
    assert made(lab) == expected


@pytest.mark.parametrize("locale", [LATIN1, POSIX])
def test_doit_in_another_program_says_what_to_set(lab: Bench, locale: dict[str, str]) -> None:
    """That program is not ours to start again."""
    env = environment(lab.root) | locale
    program = (
        "import sys; sys.argv = ['program'];"
        "from kvmcompose.build.dodo import doit_config, project_tasks; doit_config(); list(project_tasks())"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], env=env, cwd=lab.folder, capture_output=True, timeout=60, check=False
    )
    assert ran.returncode == 1
    assert b"set PYTHONUTF8=1" in ran.stderr


def test_names_that_are_not_utf8_are_escapes_in_json(lab: Bench) -> None:
    """JSON is UTF-8 (RFC 8259), which has no such bytes."""
    os.mkfifo(os.fsencode(lab.folder / "ctx") + b"/\xfd")
    for locale in (UTF8, LATIN1, POSIX):
        ran = run(lab, locale, "validate", "--json")
        assert ran.returncode == 2
        assert "udcfd" in ran.stdout.decode("utf-8")
        missing = run(lab, locale, "--input", os.fsdecode(b"\xfe"), "validate", "--json")
        assert missing.returncode == 2
        assert "\\\\udcfe" in missing.stdout.decode("utf-8"), missing.stderr
