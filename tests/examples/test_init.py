"""``kvm-compose init``: the project it writes works, and it never harms one that is there."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING

import jsonschema
from commands import BIN, kvm_compose, read_yaml, run

if TYPE_CHECKING:
    from pathlib import Path

FILES = [".gitignore", "dodo.py", "kvm-compose.schema.json", "kvm-compose.yaml", "setup.sh"]
REFUSED = 3


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_writes_a_project_that_is_valid_and_can_be_planned(tmp_path: Path) -> None:
    kvm_compose("init", "made/for/me", folder=tmp_path)
    folder = tmp_path / "made/for/me"
    assert names(folder) == FILES
    assert os.access(folder / "setup.sh", os.X_OK)
    assert "valid: 2 guests" in kvm_compose("validate", folder=folder).stderr
    assert "artefacts/me-network.xml" in kvm_compose("plan", folder=folder).stdout
    assert names(folder) == FILES


def test_its_yaml_fits_the_schema_that_its_modeline_names(tmp_path: Path) -> None:
    kvm_compose("init", folder=tmp_path)
    text = (tmp_path / "kvm-compose.yaml").read_text()
    schema = text.splitlines()[0].partition("$schema=")[2]
    validator = jsonschema.Draft202012Validator(json.loads((tmp_path / schema).read_text()))
    validator.validate(read_yaml(text))


def test_the_keys_that_are_commented_out_are_right(tmp_path: Path) -> None:
    kvm_compose("init", folder=tmp_path)
    text = (tmp_path / "kvm-compose.yaml").read_text()
    text = text.replace("# path: ./my-image.qcow2", "")  # for use without 'name', as it says there
    commented = re.compile(r"^( *)# ((?: {2})*(?:- |# )?[a-z0-9_]+:(?: .*)?)$", re.MULTILINE)
    while (whole := commented.sub(r"\1\2", text)) != text:
        text = whole
    testbed = read_yaml(text)
    assert [machine["name"] for machine in testbed["machines"]] == [
        "server", "client", "prebuilt", "installer", "worker",
    ]  # fmt: skip
    assert list(testbed["network"]) == [
        "bridges", "bridge_connections", "external_bridge", "network_interfaces",
    ]  # fmt: skip
    schema = json.loads((tmp_path / "kvm-compose.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(testbed)


def test_doit_works_in_it(tmp_path: Path, images: None) -> None:
    kvm_compose("init", folder=tmp_path)
    run(BIN / "doit", folder=tmp_path)
    assert (tmp_path / "artefacts/server-domain.xml").exists()
    assert kvm_compose("plan", "--detailed-exitcode", folder=tmp_path).stdout == ""


def test_refuses_and_writes_nothing_when_a_file_is_there(tmp_path: Path) -> None:
    (tmp_path / "setup.sh").write_text("mine")
    (tmp_path / "dodo.py").symlink_to("nowhere")
    result = kvm_compose("init", folder=tmp_path, check=False)
    assert result.returncode == REFUSED
    assert "already contains setup.sh, dodo.py" in result.stderr
    assert names(tmp_path) == ["dodo.py", "setup.sh"]
    assert (tmp_path / "setup.sh").read_text() == "mine"


def test_says_what_it_cannot_write_to(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = kvm_compose("init", "file", folder=tmp_path, check=False)
    assert result.returncode == 1
    assert "cannot write to file" in result.stderr
    assert "Traceback" not in result.stderr


def test_follows_the_global_directory(tmp_path: Path) -> None:
    kvm_compose("-C", "there", "init", folder=tmp_path)
    assert names(tmp_path / "there") == FILES
