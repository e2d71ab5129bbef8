"""Public keys for guests: what ssh-keygen reads is accepted, and what it does not read is refused."""

from __future__ import annotations

import base64
import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from golden.bench import PUBLIC_KEY, Bench, new_bench
from kvmcompose.core.public_keys import parse_public_keys

KEY = PUBLIC_KEY.strip()
CONFIG = """\
{"testbed_host_ssh_config": {"one": {"ip": "192.0.2.11", "is_main_host": true, "virt_type": "qemu"}},
 "ssh_public_key_location": "keys/mine.pub", "ssh_private_key_location": "keys/mine"}
"""
YAML = """\
machines:
  - name: web
    interfaces: [{bridge: br0}]
    libvirt: {cpus: 1, memory_mb: 128, libvirt_type: {cloud_image: {name: debian_12}}}
network: {bridges: [{name: br0}]}
"""


def keygen(*words: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    program = shutil.which("ssh-keygen")
    assert program is not None
    return subprocess.run([program, *map(str, words)], check=check, capture_output=True, text=True)


def made(folder: Path, kind: str, *options: str) -> str:
    path = folder / f"key-{kind}-{'-'.join(options)}"
    keygen("-q", "-t", kind, *options, "-N", "", "-C", "me", "-f", path)
    return path.with_name(path.name + ".pub").read_text().strip()


def line(kind: str, *fields: bytes) -> str:
    blob = b"".join(struct.pack(">I", len(each)) + each for each in (kind.encode(), *fields))
    return f"{kind} {base64.b64encode(blob).decode()} me"


def read(text: str | bytes) -> tuple[list[str], list[str]]:
    data = text if isinstance(text, bytes) else text.encode()
    keys, problems = parse_public_keys(data, "mine.pub")
    return keys, [f"{each.location}: {each.message}" for each in problems]


CURVES = ("256", "384", "521")
KINDS = [("ed25519",), ("rsa", "-b", "1024"), ("rsa", "-b", "3072"), *(("ecdsa", "-b", n) for n in CURVES)]


@pytest.mark.parametrize("options", KINDS)
def test_every_type_is_accepted_whole_and_refused_cut(tmp_path: Path, options: tuple[str, ...]) -> None:
    key = made(tmp_path, *options)
    assert read(key) == ([key], [])
    kind, blob, _ = key.split()
    for end in (1, 10, len(blob) // 2, len(blob) - 4, len(blob) - 1):
        cut = f"{kind} {blob[:end]} me"
        (tmp_path / "cut").write_text(cut)
        assert keygen("-l", "-f", tmp_path / "cut", check=False).returncode != 0
        keys, problems = read(cut)
        assert keys == []
        assert len(problems) == 1
        assert "wrapped" in problems[0]


def test_keys_of_security_tokens(tmp_path: Path) -> None:
    point = base64.b64decode(made(tmp_path, "ecdsa", "-b", "256").split()[1])[-65:]
    for key in (
        line("sk-ssh-ed25519@openssh.com", bytes(range(32)), b"ssh:"),
        line("sk-ecdsa-sha2-nistp256@openssh.com", b"nistp256", point, b"ssh:"),
    ):
        (tmp_path / "key").write_text(key)
        keygen("-l", "-f", tmp_path / "key")
        assert read(key) == ([key], [])


OPTIONS = [
    "no-pty", "restrict,pty", "cert-authority", 'command="echo \\"hi\\" there"', 'from="192.0.2.0/24,!::1"',
    'no-X11-forwarding,environment="A=b c"', 'CERT-AUTHORITY,principals="a,b"', 'permitopen="[::1]:80"',
    "verify-required", 'expiry-time="20300101"', 'tunnel="0"',
]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS)
def test_options_before_the_key_are_kept(tmp_path: Path, options: str) -> None:
    text = f"{options} {KEY}"
    (tmp_path / "key").write_text(text)
    keygen("-l", "-f", tmp_path / "key")
    assert read(text) == ([text], [])


def test_several_keys_comments_and_lines_of_windows() -> None:
    text = f"# mine\r\n\r\n  {KEY} of two words\r\n{KEY}\r\n\tno-pty {KEY}\r\n{KEY.rsplit(' ', 1)[0]}"
    keys, problems = read(text)
    assert problems == []
    assert keys == [f"{KEY} of two words", KEY, f"no-pty {KEY}", KEY.rsplit(" ", 1)[0]]


@pytest.mark.parametrize("odd", ["a\u2028b", "a\x0bb", "a\x0cb", "a\x85b", "a\x1cb"])
def test_only_line_ends_end_a_line(tmp_path: Path, odd: str) -> None:
    text = f"{KEY} {odd}\n"
    (tmp_path / "key").write_bytes(text.encode())
    keygen("-l", "-f", tmp_path / "key")
    assert read(text) == ([f"{KEY} {odd}"], [])


KIND, BLOB, _ = KEY.split()
WRONG: list[tuple[str | bytes, str, str]] = [
    ("", "mine.pub:1:1", "no public key"),
    ("# only a comment\n\n", "mine.pub:1:1", "no public key"),
    (f"{KEY}\nhello world\n", "mine.pub:2:1", "'hello'"),
    (f"my key: {KEY}\n", "mine.pub:1:1", "'my'"),
    (f"no-ptty {KEY}\n", "mine.pub:1:1", "'no-ptty'"),
    (f"no-pty,from=me {KEY}\n", "mine.pub:1:8", "'from'"),
    (f"no-pty, {KEY}\n", "mine.pub:1:8", "blank between the options"),
    (f"{KIND}\xa0{BLOB} me\n", "mine.pub:1:1", "neither the type"),
    (f"{KIND} {BLOB}= me\n", "mine.pub:1:13", "after its end"),
    (f'command="ls {KEY}\n', "mine.pub:1:1", "'command'"),
    ("no-pty\n", "mine.pub:1:7", "no type of a key"),
    (f"{KIND}\n", "mine.pub:1:12", "there is no key"),
    (f"{KIND} {BLOB[:40]}\n{BLOB[40:]}\n", "mine.pub:1:13", "wrapped"),
    (f"{KIND} {BLOB[:32]}\n{BLOB[32:56]}\n{BLOB[56:]} me\n", "mine.pub:1:13", "wrapped"),
    (f"ssh-rsa {BLOB}\n", "mine.pub:1:9", "not of the type ssh-rsa"),
    (f"{KIND} {BLOB[:-1]}! me\n", "mine.pub:1:13", "not complete"),
    (KEY.encode("utf-16"), "mine.pub:1:1", "UTF-16"),
    (KEY.encode("utf-16-le"), "mine.pub:1:1", "UTF-16"),
    (b"\xef\xbb\xbf" + KEY.encode(), "mine.pub:1:1", "byte-order mark"),
    ("-----BEGIN OPENSSH PRIVATE KEY-----\n", "mine.pub:1:1", "private key"),
    ("PuTTY-User-Key-File-3: ssh-ed25519\n", "mine.pub:1:1", "private key"),
    ("x" * (2**20 + 1), "mine.pub:1:1", "larger than 1 MiB"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "place", "said"), WRONG)
def test_what_no_sshd_accepts_is_refused_with_its_place(text: str | bytes, place: str, said: str) -> None:
    _, problems = read(text)
    assert problems
    assert problems[0].startswith(f"{place}: ")
    assert said in problems[0]


@pytest.mark.parametrize("form", ["RFC4716", "PKCS8", "PEM"])
def test_the_hint_converts_other_formats(tmp_path: Path, form: str) -> None:
    key = made(tmp_path, "rsa", "-b", "2048")
    (tmp_path / "plain.pub").write_text(key)
    (tmp_path / "mine.pub").write_text(keygen("-e", "-m", form, "-f", tmp_path / "plain.pub").stdout)
    _, (problem,) = parse_public_keys((tmp_path / "mine.pub").read_bytes(), "mine.pub")
    assert problem.hint is not None
    command = problem.hint.partition(": ")[2]
    done = subprocess.run(
        ["/bin/sh", "-c", command], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert read(done.stdout)[0][0].split()[:2] == key.split()[:2]


def test_a_certificate_is_refused_but_its_authority_accepted(tmp_path: Path) -> None:
    authority = made(tmp_path, "ed25519", "-C", "ca")
    (tmp_path / "user.pub").write_text(KEY)
    keygen("-q", "-s", tmp_path / "key-ed25519--C-ca", "-I", "me", tmp_path / "user.pub")
    _, problems = read((tmp_path / "user-cert.pub").read_text())
    assert "certificate" in problems[0]
    assert read(f"cert-authority {authority}") == ([f"cert-authority {authority}"], [])


@given(st.binary(max_size=200), st.sampled_from([KEY.encode(), b"no-pty " + KEY.encode(), b'command="']))
def test_nothing_is_a_traceback(noise: bytes, start: bytes) -> None:
    parse_public_keys(noise, "x")
    parse_public_keys(start + noise, "x")
    parse_public_keys(start[: len(noise)] + noise, "x")


def project(root: Path, key: str | bytes) -> Bench:
    bench = new_bench(
        root, "lab", {"kvm-compose.yaml": YAML, "kvm-compose-config.json": CONFIG, "keys/mine": ""}
    )
    (bench.folder / "keys/mine.pub").write_bytes(key if isinstance(key, bytes) else key.encode())
    return bench


def test_validate_has_the_place_and_nothing_is_built(tmp_path: Path) -> None:
    bench = project(tmp_path, f"{KEY}\n{KIND} {BLOB[:40]}\n{BLOB[40:]}\n")
    (problem,) = json.loads(bench.run("validate", "--json").out)["problems"]
    assert problem["code"] == "bad-public-key"
    assert (Path(problem["location"]["file"]).name, problem["location"]["line"]) == ("mine.pub", 2)
    assert problem["path"] == "ssh_public_key_location"
    assert bench.run("generate").status == 2
    assert not (bench.folder / "artefacts").exists()


@pytest.mark.parametrize(
    ("key", "good"), [(f"{KIND} {BLOB}", True), (f"{KIND} {BLOB[:40]}", False), ("ssh-rsa " + BLOB, False)]
)
def test_the_key_of_a_host_is_decoded_too(tmp_path: Path, key: str, good: bool) -> None:
    bench = project(tmp_path, KEY)
    bench.edit(
        '"is_main_host": true', f'"is_main_host": true, "host_key": "{key}"', "kvm-compose-config.json"
    )
    found = json.loads(bench.run("validate", "--json").out)["problems"]
    wanted = [] if good else [("bad-public-key", "testbed_host_ssh_config.one.host_key")]
    assert [(each["code"], each["path"]) for each in found] == wanted


def test_guests_get_all_keys_with_their_options(tmp_path: Path) -> None:
    bench = project(tmp_path, f'# two\n{KEY}\nfrom="192.0.2.0/24",no-pty {KEY}\n')
    bench.generate()
    seed = (bench.folder / "artefacts/web-cloud-init.iso").read_bytes()
    assert KEY.encode() in seed
    assert b"192.0.2.0/24" in seed
    assert b"no-pty" in seed
