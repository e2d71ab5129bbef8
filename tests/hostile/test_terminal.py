"""What others have named reaches no terminal as anything but text, and no command line as an option."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import msgspec
import pytest

from golden.bench import Bench, new_bench
from kvmcompose.cli import main
from kvmcompose.cli._access import destination, ssh_options, through
from kvmcompose.cli.inventory import ansible, hosts, ssh_config
from kvmcompose.core.access import GuestAccess, HostAccess
from kvmcompose.core.errors import KvmComposeError, Location
from kvmcompose.core.plain import plain, plain_json
from kvmcompose.core.probe import ProbeOutcome
from kvmcompose.core.tested import TestDocument, TestedExpectation, TestedTraffic, Verdict
from kvmcompose.monitor.console import Console
from kvmcompose.reachability.junit import junit_of_test

ATTACKS = {
    "clear": "\x1b[2J",
    "title": "\x1b]0;owned\x07",
    "c1": "\x9b2J",
    "return": "good\rbad",
    "backspace": "bad\x08\x08\x08good",
    "delete": "\x7f",
    "right to left": "\u202egpj.exe",
    "isolate": "\u2066x\u2069",
    "mark": "\u200e\u200f\u061c",
    "separator": "a\u2028b\u2029c",
    "zero width": "a\u200bb\ufeffc",
    "tags": "a\U000e0041",
    "not in XML": "\ufffe\uffff",
    "colour left on": "\x1b[31mred",
}


class _Terminal(io.TextIOWrapper):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def _terminal(monkeypatch: pytest.MonkeyPatch) -> io.BytesIO:
    written = io.BytesIO()
    stream = _Terminal(written, encoding="utf-8", write_through=True)
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    return written


@pytest.mark.parametrize("text", ATTACKS.values(), ids=ATTACKS)
@pytest.mark.parametrize(
    "way", ["data", "talk", "say", "warn", "error", "status", "table", "raw", "json", "paint"]
)
def test_nothing_of_others_acts_on_a_terminal(monkeypatch: pytest.MonkeyPatch, way: str, text: str) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    terminal = _terminal(monkeypatch)
    console = Console(colour=way == "paint")
    match way:
        case "table":
            console.table([[text, "x"]], ["NAME", "WHAT"])
        case "raw":
            console.raw(text.encode())
        case "json":
            console.json({"name": text})
        case "paint":
            console.data(console.paint(text, "red"))
        case _:
            getattr(console, way)(text)
    shown = terminal.getvalue().decode()
    if way == "paint":
        assert shown.startswith("\x1b[31m")
        assert shown.endswith("\x1b[0m\n")
        shown = shown.removeprefix("\x1b[31m").removesuffix("\x1b[0m\n")
    if way == "json":
        assert json.loads(shown) == {"name": text}
    lines = shown.removeprefix("\r").split("\n")  # the line of status begins with one
    assert all(plain(line) == line for line in lines), lines
    assert "\\" in shown


@pytest.mark.parametrize("text", ["Grüße", "日本語", "a\tb", "👩‍💻", "क्‍ष", "שלום", ""])
def test_what_people_write_stays_as_it_is(text: str) -> None:
    assert plain(text) == text
    assert plain_json(msgspec.json.encode(text)) == msgspec.json.encode(text)


def test_cleaning_twice_is_cleaning_once() -> None:
    for text in ATTACKS.values():
        assert plain(plain(text)) == plain(text)


@pytest.mark.parametrize("text", ATTACKS.values(), ids=ATTACKS)
def test_a_report_is_xml_whatever_guests_print(text: str) -> None:
    traffic = TestedTraffic("web", "db", "icmp", ProbeOutcome.UNKNOWN, text)
    line = TestedExpectation(
        text="web to db, icmp: allowed",
        wanted="allowed",
        path="expect[0]",
        at=Location("kvm-compose.yaml", 1, 1),
        verdict=Verdict.UNKNOWN,
        pairs=1,
        skipped=0,
        broken=(),
        unknown=(traffic,),
        checked=None,
    )
    report = junit_of_test(TestDocument("lab", holds=False, expectations=(line,)))
    (error,) = ET.fromstring(report).iter("error")  # noqa: S314 (our own)
    assert plain(text) in str(error.text)


ACCESS: dict[str, Any] = {
    "name": "web",
    "host": "one",
    "domain": "lab-web",
    "libvirt_uri": "qemu:///system",
    "user": "nocloud",
    "address": "10.1.2.3",
    "port": 22,
    "identity_file": "/keys/id",
    "known_hosts": "/lab/.kvm-compose/known_hosts",
    "host_key_alias": "lab-web",
    "groups": ["br0"],
    "via": {
        "address": "192.0.2.1",
        "user": "root",
        "port": 22,
        "identity_file": "/keys/id",
        "host_key": "ssh-ed25519 AAAA",
    },
}
WORDS = ["-oProxyCommand=touch marker", "x\n    ProxyCommand touch marker", "\x1b[2J", "", "a b\u2028"]


@pytest.mark.parametrize("word", WORDS, ids=repr)
@pytest.mark.parametrize(
    "key", [*sorted(ACCESS.keys() - {"via", "groups", "port"}), *(f"via.{key}" for key in ACCESS["via"])]
)
def test_a_hostile_server_puts_nothing_into_command_lines(key: str, word: str) -> None:
    answer = json.loads(json.dumps(ACCESS))
    part, _, name = key.rpartition(".")
    (answer[part] if part else answer)[name] = word
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(msgspec.json.encode(answer), type=GuestAccess)


def test_groups_and_ports_are_checked() -> None:
    for change in ({"groups": ["-x"]}, {"groups": ["a\nb"]}, {"port": 0}, {"port": 70000}):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({**ACCESS, **change}, GuestAccess)


AWKWARD = ['/keys/a b"c', "/keys/%h %d", "/keys/a'b$(touch marker)`touch marker`;x", "/keys/a\\b"]


@pytest.mark.parametrize("path", AWKWARD)
def test_ssh_reads_awkward_paths_as_they_are_and_runs_nothing(tmp_path: Path, path: str) -> None:
    guest = msgspec.convert({**ACCESS, "identity_file": path, "known_hosts": path, "via": None}, GuestAccess)
    config = tmp_path / "config"
    config.write_text(ssh_config([guest]))
    for argv in (["-F", str(config), "web"], [*ssh_options(guest), "--", destination(guest)]):
        ran = subprocess.run(["ssh", "-G", *argv], capture_output=True, text=True, cwd=tmp_path, check=True)  # noqa: S607
        told = [line.partition(" ")[2] for line in ran.stdout.splitlines() if line.startswith("identityfile")]
        assert told == [path.replace("%", "%%")], ran.stdout
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("folder", ["plain", "a b", "100%h", "it's $(touch marker)`touch marker`"])
def test_the_proxy_command_is_these_words_whatever_is_in_them(tmp_path: Path, folder: str) -> None:
    guest = msgspec.convert({**ACCESS, "via": None, "through_server": True}, GuestAccess)
    script = "import sys, pathlib; pathlib.Path('said').write_text(repr(sys.argv[1:]))"
    proxy = [sys.executable, "-c", script, folder]
    config = tmp_path / "config"
    config.write_text(ssh_config([guest], proxy))
    for argv in (["-F", str(config), "web"], [*ssh_options(guest, proxy), "--", destination(guest)]):
        subprocess.run(["ssh", *argv, "true"], capture_output=True, cwd=tmp_path, check=False, timeout=30)  # noqa: S607
        assert (tmp_path / "said").read_text() == repr([folder, guest.name])
        (tmp_path / "said").unlink()
    assert not (tmp_path / "marker").exists()


def test_another_host_is_reached_by_words_that_are_no_options() -> None:
    argv = through(HostAccess(address="192.0.2.1", user="root", identity_file="/keys/a b %h"), ["virsh"])
    assert argv[argv.index("--") + 1] == "root@192.0.2.1"
    assert 'IdentityFile="/keys/a b %%h"' in argv


def test_ansible_runs_no_template_of_a_server() -> None:
    guest = msgspec.convert({**ACCESS, "identity_file": "/{{ lookup('pipe', 'touch marker') }}"}, GuestAccess)
    with pytest.raises(KvmComposeError, match="template"):
        ansible([guest])
    assert "ProxyCommand" not in hosts([guest])


# -- through every command -------------------------------------------------------------------------------

_EVIL = "\x1b[31m\u202egpj"
_FILE = f"stray{_EVIL}.img"
_YAML = """\
machines:
  - name: web
    interfaces: [{bridge: br0}]
    libvirt:
      cpus: 1
      memory_mb: 128
      libvirt_type:
        cloud_image: {name: debian_12, context: "ctx\u202e", setup_script: "set\u202eup.sh"}
network:
  bridges: [{name: br0}]
  external_bridge: br0
"""
_CONFIG = """\
{"testbed_host_ssh_config": {"one": {"ip": "192.0.2.11", "is_main_host": true, "virt_type": "qemu"}},
 "ssh_public_key_location": "keys/id_ed25519.pub", "ssh_private_key_location": "keys/id_ed25519"}
"""
#: What to call a command with where there is more to be asked than nothing.
_WORDS = {
    "capture": [["web"], [_FILE]],
    "clean": [["--dry-run"], [_FILE], [f"artefacts/{_FILE}"]],
    "cloud-images": [["list"], ["check", _FILE], ["add", "mine", _FILE], ["add", _EVIL, _FILE]],
    "completion": [["bash"], [_EVIL]],
    "console": [[_FILE]],
    "convert": [["--out", f"/nowhere/{_FILE}"], [_FILE]],  # a pipe gets the YAML as it is
    "cp": [[_FILE, f"{_EVIL}:"], [_FILE, "web:"]],
    "deployments": [[], ["delete", _EVIL]],
    "errors": [[], [_EVIL]],
    "exec": [[_EVIL, "--", "true"]],
    "forget": [[_FILE], ["web"]],
    "generate": [[_FILE], ["--verify"], ["-v"], ["--overwrite"]],
    "graph": [["--tasks"], ["--format", "mermaid"], []],
    "info": [["web"], [_FILE], [f"remove:artefacts/{_FILE}"]],
    "init": [[_FILE], []],
    "list": [[], ["--all", "--status"], ["--deps", "--all"], [_FILE]],
    "logs": [[], [_EVIL]],
    "plan": [[], ["-v"], [_FILE]],
    "server": [["status"], ["--socket", f"/nowhere/{_EVIL}", "stop"]],
    "snapshot": [["list"], ["create", _EVIL]],
    "ssh": [[_FILE]],
    "why": [["web"], [_FILE], [f"artefacts/{_FILE}"]],
}


@pytest.fixture(scope="module")
def evil(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A built project in which everything that may have a name that acts on a terminal has one."""
    folder = tmp_path_factory.mktemp("evil") / f"of{_EVIL}"
    folder.mkdir()
    files = {
        "kvm-compose.yaml": _YAML,
        "kvm-compose-config.json": _CONFIG,
        "keys/id_ed25519": "not a key\n",
        "ctx\u202e/file": "x",
        f"ctx\u202e/{_EVIL}": "x",
        "set\u202eup.sh": "#!/bin/sh\n",
    }
    bench = new_bench(folder, "lab", files)
    bench.generate()
    for name in (_FILE, f"artefacts/{_FILE}", f"artefacts/images/{_FILE}"):
        bench.write(name, "x")
    return bench


def _commands() -> list[tuple[str, list[str]]]:
    return [
        (name, words)
        for name in sorted(main._commands())
        for words in _WORDS.get(name, [[], [_FILE], [f"--{_EVIL}"]])
    ]


@pytest.mark.parametrize(("command", "words"), _commands(), ids=ascii)
def test_no_command_says_anything_that_acts(
    evil: Bench, command: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also to pipes what is said is clean; data that is piped (JSON) is as it is."""
    monkeypatch.chdir(tmp_path)  # `bundle` writes a file there
    nowhere = f"unix:{evil.root}/{_EVIL}/none.socket"
    ran = evil.run(command, *words, KVM_COMPOSE_SERVER=nowhere, TERM="xterm")
    assert plain(ran.said, lines=True) == ran.said, ascii(ran.said)


def test_words_of_the_shell_are_names_of_files(evil: Bench) -> None:
    for words in (["clean", _FILE, "x"], ["plan", f"--{_EVIL}"], [_FILE], ["generate", "-n", _EVIL]):
        ran = evil.run(*words)
        assert ran.status
        assert plain(ran.said, lines=True) == ran.said
