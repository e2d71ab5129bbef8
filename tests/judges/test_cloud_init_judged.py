"""cloud-init's own code reads the seeds: what it makes of the parts of user-data, merged by its rules.

Debian's Python has its modules; ours does not.
"""

from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from golden.bench import Bench
from kvmcompose.build.cloud_config import CloudConfigSchema
from kvmcompose.render.cloud_init import CloudInitValues, user_data

#: Prints the cloud-config that remains of user-data, and the scripts in it, as cloud-init consumes them.
_CONSUME = """
import json, sys
from pathlib import Path
from cloudinit import handlers, helpers, user_data as ud, util
from cloudinit.handlers.cloud_config import CloudConfigPartHandler
from cloudinit.handlers.jinja_template import JinjaTemplatePartHandler
from cloudinit.handlers.shell_script import ShellScriptPartHandler

class Paths:
    def __init__(self, root):
        self.root = root
    def get_ipath(self, name=None):
        return str(self.root / (name or ""))
    get_ipath_cur = get_cpath = get_runpath = get_ipath

source, root = Path(sys.argv[1]), Path(sys.argv[2])
(root / "scripts").mkdir(parents=True)
(root / "instance_data_sensitive").write_text(json.dumps({"v1": {"local_hostname": "named"}}))
paths = Paths(root)
paths.run_dir = str(root)
message = ud.UserDataProcessor.__new__(ud.UserDataProcessor)
message.paths, message.ssl_details = paths, {}
message = message.process(source.read_bytes())
config, shell = CloudConfigPartHandler(paths), ShellScriptPartHandler(paths)
shell.script_dir = str(root / "scripts")
parts = [config, shell]
jinja = JinjaTemplatePartHandler(paths, sub_handlers=parts)
known = helpers.ContentHandlers()
for each in (*parts, jinja):
    known.register(each)
data = {"handlers": known, "handlerdir": str(root), "data": None, "frequency": None,
        "handlercount": 0, "excluded": []}
for each in (*parts, jinja):
    handlers.call_begin(each, None, "always")
handlers.walk(message, lambda d, name, payload, headers: handlers.run_part(
    known[headers["Content-Type"]], None, name, payload, "always", headers)
    if headers["Content-Type"] in known else None, data)
for each in (*parts, jinja):
    handlers.call_end(each, None, "always")
print(json.dumps({
    "config": util.load_yaml(Path(config.cloud_fn).read_text()),
    "scripts": {each.name: each.read_text() for each in sorted((root / "scripts").iterdir())},
}))
"""

OURS = """\
#cloud-config
hostname: lab-g
ssh_pwauth: false
users:
  - name: nocloud
bootcmd:
  - [ours, first]
runcmd:
  - [touch, /etc/nocloud/ready]
"""


def consumed(data: bytes, tmp_path: Path) -> dict[str, Any]:
    """What cloud-init makes of user-data."""
    source = tmp_path / "user-data"
    source.write_bytes(data)
    done = subprocess.run(
        ["/usr/bin/python3", "-c", _CONSUME, source, tmp_path / "root"],
        capture_output=True, check=False, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def merged(tmp_path: Path, theirs: bytes | None, **short: Any) -> dict[str, Any]:
    files = {"cloud-init/user_data": theirs} if theirs is not None else {}
    values = {key: json.dumps(value) for key, value in short.items()}
    return consumed(user_data(CloudInitValues(values), files, OURS), tmp_path)


@pytest.mark.parametrize("how", ["", "merge_how: 'dict(replace)+list()+str()'\n"])
def test_lists_of_all_parts_are_joined_and_other_values_are_the_users(tmp_path: Path, how: str) -> None:
    theirs = f"#cloud-config\n{how}ssh_pwauth: true\nusers: [{{name: ada}}]\nbootcmd: [a]\nruncmd: [größe]\n"
    config = merged(tmp_path, theirs.encode(), users=[{"name": "bob"}], timezone="UTC")["config"]
    assert [each["name"] for each in config["users"]] == ["ada", "bob", "nocloud"]
    assert config["bootcmd"] == ["a", ["ours", "first"]]
    assert config["runcmd"] == ["größe", ["touch", "/etc/nocloud/ready"]]  # ready is the last word
    assert (config["ssh_pwauth"], config["hostname"], config["timezone"]) == (True, "lab-g", "UTC")


def test_mappings_of_a_short_key_and_of_user_data_are_merged(tmp_path: Path) -> None:
    theirs = b"#cloud-config\nntp: {servers: [a]}\napt: {proxy: mine}\n"
    config = merged(tmp_path, theirs, ntp={"servers": ["b"]}, apt={"proxy": "http://p", "mirror": "http://m"})
    assert config["config"]["ntp"] == {"servers": ["a", "b"], "enabled": True}
    assert config["config"]["apt"]["proxy"] == "mine"
    assert config["config"]["apt"]["primary"] == [{"arches": ["default"], "uri": "http://m"}]


@pytest.mark.parametrize("kind", ["script", "jinja", "gzip", "mime", "mime-crlf", "archive"])
def test_user_data_of_every_format_is_what_it_was_alone(tmp_path: Path, kind: str) -> None:
    config = "#cloud-config\npackages: [größe]\n"
    mime = (
        "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n\n"
        "--b\nContent-Type: text/cloud-config\n\n#cloud-config\npackages: [one]\n"
        "--b\nContent-Type: text/x-shellscript\n\n#!/bin/sh\necho two\n--b--\n"
    )
    theirs = {
        "script": b"#!/bin/sh\necho gr\xc3\xb6\xc3\x9fe\r\n",
        "jinja": b"## template: jinja\n#cloud-config\npackages: [{{ v1.local_hostname }}]\n",
        "gzip": gzip.compress(config.encode()),
        "mime": mime.encode(),
        "mime-crlf": mime.replace("\n", "\r\n").encode(),
        "archive": b"#cloud-config-archive\n- type: text/cloud-config\n  content: |\n    packages: [one]\n",
    }[kind]
    found = merged(tmp_path, theirs)
    assert [each["name"] for each in found["config"]["users"]] == ["nocloud"]
    assert found["config"]["runcmd"] == [["touch", "/etc/nocloud/ready"]]
    packages = {
        "jinja": ["named"],
        "gzip": ["größe"],
        "mime": ["one"],
        "mime-crlf": ["one"],
        "archive": ["one"],
    }
    assert found["config"].get("packages") == packages.get(kind)
    scripts = [text.replace("\r\n", "\n").strip() for text in found["scripts"].values()]
    assert scripts == (["#!/bin/sh\necho größe"] if kind == "script" else [mime_script()] * ("mime" in kind))


def test_its_schema_is_found_and_read_as_it_reads_it(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text(
        "#cloud-config\nntp: {servers: x}\npackages: [x, [a, b, c]]\nusers: [{name: a, shell: 3}]\n"
        "write_files: [{path: /x, permissions: 644}]\nexpire: 1\n"
    )
    program = shutil.which("cloud-init")
    assert program is not None
    argv = [program, "schema", "--config-file", wrong]
    done = subprocess.run(argv, capture_output=True, check=False, text=True)
    (said,) = (line for line in (done.stdout + done.stderr).splitlines() if "schema errors: " in line)
    paths = [".".join(map(str, path)) for path, _ in CloudConfigSchema().errors(wrong.read_bytes())]
    assert paths == re.findall(r"(?:errors:|,) ([\w.]+): ", said)
    assert len(paths) == 4


def mime_script() -> str:
    return "#!/bin/sh\necho two"


def test_the_same_parts_are_the_same_bytes(tmp_path: Path) -> None:
    script = {"cloud-init/user_data": b"#!/bin/sh\n"}
    first = user_data(CloudInitValues({}), script, OURS)
    assert user_data(CloudInitValues({}), script, OURS) == first
    boundary = first.partition(b'boundary="')[2].partition(b'"')[0]
    within = {"cloud-init/user_data": b"#!/bin/sh\n--%b--\n" % boundary}
    assert len(consumed(user_data(CloudInitValues({}), within, OURS), tmp_path)["scripts"]) == 1


def test_the_golden_seed_is_what_its_yaml_says(projects: dict[str, Bench], tmp_path: Path) -> None:
    """The short keys, as cloud-init sees them."""
    iso = projects["cloud-init"].folder / "artefacts/short-cloud-init.iso"
    out = extracted(iso, tmp_path / "files", "nojoliet")
    config = consumed((out / "user-data").read_bytes(), tmp_path)["config"]
    ada, bob, ours = config["users"]
    assert (ada["gecos"], ada["uid"], ada["lock_passwd"]) == ("Ada Lövelace", 1234, False)
    assert ada["hashed_passwd"].startswith("$6$saltsalt$")
    assert (bob["lock_passwd"], ours["name"]) == (True, "nocloud")
    assert config["write_files"][0]["content"] == 'Hello: {{ name }} "quoted"\n'
    assert config["timezone"] == "Europe/Vienna"


def extracted(iso: Path, out: Path, reading: str) -> Path:
    """The files of an image by their names of Linux (nojoliet) or of Windows (norock)."""
    xorriso = shutil.which("xorriso")
    assert xorriso is not None
    out.mkdir()
    argv = [xorriso, "-read_fs", reading, "-osirrox", "on", "-indev", f"stdio:{iso}", "-extract", "/", out]
    subprocess.run(argv, check=True, capture_output=True)
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("name", "label", "files"),
    [
        ("desktop-cloud-init", "CIDATA", {"meta-data", "user-data", "network-config"}),
        (
            "server-cloud-init",
            "config-2",
            {f"openstack/latest/{each}" for each in ("meta_data.json", "user_data", "network_data.json")},
        ),
        ("fresh.answers.own", "UNATTEND", {"autounattend.xml"}),
        ("anaconda.answers.own", "OEMDRV", {"ks.cfg"}),
        ("subiquity.answers.own", "CIDATA", {"meta-data", "user-data"}),
    ],
)
def test_windows_and_installers_find_their_files(
    projects: dict[str, Bench], tmp_path: Path, name: str, label: str, files: set[str]
) -> None:
    iso = projects["windows"].folder / f"artefacts/{name}.iso"
    linux, windows = (contents(extracted(iso, tmp_path / each, each)) for each in ("nojoliet", "norock"))
    assert linux == windows
    assert linux.keys() == files
    blkid = shutil.which("blkid")
    assert blkid is not None
    told = subprocess.run([blkid, "-p", "-o", "export", iso], capture_output=True, check=True, text=True)
    assert f"LABEL={label}" in told.stdout.splitlines()


def test_cloud_init_reads_the_network_of_a_config_drive(projects: dict[str, Bench], tmp_path: Path) -> None:
    """The same format as for cloudbase-init, by a reader that is not ours."""
    iso = projects["windows"].folder / "artefacts/server-cloud-init.iso"
    data = extracted(iso, tmp_path / "files", "norock") / "openstack/latest/network_data.json"
    convert = (
        "import json, sys; from cloudinit.sources.helpers.openstack import convert_net_json;"
        "found = json.load(open(sys.argv[1]));"
        "macs = {each['ethernet_mac_address']: each['id'] for each in found['links']};"
        "print(json.dumps(convert_net_json(found, known_macs=macs)))"
    )
    done = subprocess.run(
        ["/usr/bin/python3", "-c", convert, data], capture_output=True, check=False, text=True
    )
    assert done.returncode == 0, done.stderr
    state = json.loads((projects["windows"].folder / "state.json").read_bytes())
    (nic,) = state["testbed_guests"]["server"]["interfaces"]
    link, dns = json.loads(done.stdout)["config"]
    assert (link["mac_address"], link["mtu"]) == (nic["mac"], nic["mtu"])
    (subnet,) = link["subnets"]
    assert subnet["address"].partition("/")[0] == nic["ip"]
    assert [route["gateway"] for route in subnet["routes"]] == [nic["gateway"]]
    assert dns == {"type": "nameserver", "address": nic["gateway"]}
