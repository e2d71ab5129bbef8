"""The examples are projects that work, and do what their READMEs say."""

from __future__ import annotations

import csv
import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import jsonschema
import pytest
from commands import BIN, REPOSITORY, Run, kvm_compose, read_yaml, run

if TYPE_CHECKING:
    from collections.abc import Callable

    Copy = Callable[[str], Path]

EXAMPLES = REPOSITORY / "examples"
SCHEMA = EXAMPLES / "kvm-compose.schema.json"
PROJECTS = sorted(path.parent.name for path in EXAMPLES.glob("*/kvm-compose.yaml"))
OUTDATED = 2


def doit(*words: str, folder: Path) -> Run:
    return run(BIN / "doit", *words, folder=folder)


def state_of(folder: Path) -> dict[str, dict]:
    state: dict[str, dict] = json.loads((folder / "state.json").read_text())
    return state


def built(result: Run) -> list[str]:
    """The paths that a generate made or removed."""
    return [line.split()[1] for line in result.stdout.splitlines()]


def test_the_schema_beside_the_examples_is_the_one_printed() -> None:
    assert kvm_compose("schema", folder=EXAMPLES).stdout == SCHEMA.read_text()


def test_every_project_is_in_the_list() -> None:
    text = (EXAMPLES / "README.md").read_text()
    assert [name for name in PROJECTS if f"]({name})" not in text] == []


@pytest.mark.parametrize("name", PROJECTS)
class TestEach:
    def test_has_a_readme(self, name: str) -> None:
        assert (EXAMPLES / name / "README.md").read_text().startswith("# ")

    def test_its_modeline_leads_to_a_schema_it_fits(self, name: str) -> None:
        text = (EXAMPLES / name / "kvm-compose.yaml").read_text()
        start, _, schema = text.splitlines()[0].partition("$schema=")
        assert start == "# yaml-language-server: "
        assert (EXAMPLES / name / schema).resolve() == SCHEMA
        jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text())).validate(read_yaml(text))

    def test_is_valid(self, name: str, images: None) -> None:
        result = kvm_compose("validate", "--json", folder=EXAMPLES / name)
        problems = json.loads(result.stdout)["problems"]
        # nobody has the private half of the example's key
        assert [each["message"] for each in problems if "keys/example" not in each["message"]] == []

    def test_builds_and_is_up_to_date_then(self, name: str, copy_of: Copy) -> None:
        folder = copy_of(f"examples/{name}")
        kvm_compose("generate", "--jobs", "2", folder=folder)
        kvm_compose("plan", "--detailed-exitcode", folder=folder)

    def test_its_scripts_can_be_read_by_their_shell(self, name: str) -> None:
        for script in (EXAMPLES / name).glob("*.sh"):
            assert os.access(script, os.X_OK)
            run("bash", "-n", script, folder=EXAMPLES)


def test_two_guests_rebuilds_one_domain_for_one_machines_memory(copy_of: Copy) -> None:
    folder = copy_of("examples/two-guests")
    kvm_compose("generate", folder=folder)
    run("sed", "-i", "0,/512/s//768/", "kvm-compose.yaml", folder=folder)
    assert built(kvm_compose("generate", folder=folder)) == ["state.json", "artefacts/server-domain.xml"]


def test_clones_lie_on_their_golden_image_wherever_the_folder_is(copy_of: Copy, tmp_path: Path) -> None:
    kvm_compose("generate", folder=copy_of("examples/clones"))
    moved = (tmp_path / "examples/clones").rename(tmp_path / "elsewhere")
    for number in range(3):
        clone = f"artefacts/worker-{number}-linked-clone.qcow2"
        result = run("qemu-img", "info", "--output=json", "--backing-chain", clone, folder=moved)
        names = [Path(link["filename"]).name for link in json.loads(result.stdout)]
        assert names[:2] == [f"worker-{number}-linked-clone.qcow2", "worker-cloud-init.img"]
        assert names[2].startswith("debian_12-")


def test_three_hosts_has_a_tunnel_for_each_connection(copy_of: Copy) -> None:
    folder = copy_of("examples/three-hosts")
    kvm_compose("generate", "state", folder=folder)
    state = state_of(folder)
    hosts = {bridge["name"]: bridge["testbed_host"] for bridge in state["network"]["bridges"]}
    assert hosts == {"br0": "one", "br1": "two", "br2": "three"}
    links = state["network"]["physical_bridge_connections"]
    tunnels = [link["tunnel"] for link in (links.values() if isinstance(links, dict) else links)]
    ends = [(each["testbed_host_source"], each["testbed_host_target"]) for each in tunnels]
    assert ends == [("one", "two"), ("two", "three")]
    assert len({each["key"] for each in tunnels}) == len(tunnels)


class TestMany:
    def test_the_testbed_in_the_repository_is_what_its_program_writes(self) -> None:
        folder = EXAMPLES / "many"
        assert (
            run(folder / "write_testbed.py", folder=folder).stdout
            == (folder / "kvm-compose.yaml").read_text()
        )

    def test_of_200_guests_and_one_more_only_the_new_one_is_built(self, copy_of: Copy) -> None:
        folder = copy_of("examples/many")
        self.write(folder, 200)
        kvm_compose("generate", "--jobs", "2", folder=folder)
        kvm_compose("plan", "--detailed-exitcode", folder=folder)
        assert len(list(folder.glob("artefacts/*-domain.xml"))) == 200
        self.write(folder, 201)
        assert sorted(built(kvm_compose("generate", folder=folder))) == [
            "artefacts/guest-200-cloud-init.img",
            "artefacts/guest-200-cloud-init.iso",
            "artefacts/guest-200-domain.xml",
            "artefacts/many-network.xml",
            "state.json",
        ]

    def write(self, folder: Path, guests: int) -> None:
        result = run("./write_testbed.py", "--guests", str(guests), "--bridges", "8", folder=folder)
        (folder / "kvm-compose.yaml").write_text(result.stdout)


class TestCi:
    @pytest.fixture
    def committed(self, copy_of: Copy) -> Path:
        """The example as a fresh clone has it: its text artefacts, and no ledger."""
        folder = copy_of("examples/ci")
        self.make("artefacts", folder)
        run("rm", "-r", ".kvm-compose", folder=folder)
        return folder

    def make(self, target: str, folder: Path, *, check: bool = True) -> Run:
        return run(
            "make", "--silent", target, f"KVM_COMPOSE={BIN / 'kvm-compose'}", folder=folder, check=check
        )

    def test_passes_when_what_is_committed_is_up_to_date(self, committed: Path) -> None:
        result = self.make("check", committed)
        assert result.stdout == ""
        assert not (committed / ".kvm-compose").exists()

    @pytest.mark.parametrize(("old", "new"), [("512", "640"), ("web", "www")])
    def test_fails_with_the_difference_when_the_yaml_has_moved_on(
        self, committed: Path, old: str, new: str
    ) -> None:
        yaml_file = committed / "kvm-compose.yaml"
        yaml_file.write_text(yaml_file.read_text().replace(old, new))
        words = ("plan", "--detailed-exitcode", "domain-xml", "network-xml")
        assert kvm_compose(*words, folder=committed, check=False).returncode == OUTDATED
        result = self.make("check", committed, check=False)
        assert result.returncode != 0
        assert any(line.startswith("+") and new in line for line in result.stdout.splitlines())

    def test_fails_for_a_committed_artefact_that_somebody_changed(self, committed: Path) -> None:
        domain = committed / "artefacts/web-domain.xml"
        domain.write_text(domain.read_text().replace("512", "513"))
        assert self.make("check", committed, check=False).returncode != 0

    def test_git_is_to_keep_just_the_text(self, copy_of: Copy) -> None:
        folder = copy_of("examples/ci")
        kvm_compose("generate", folder=folder)
        run("git", "init", "-q", ".", folder=folder)
        known = run("git", "ls-files", "--others", "--exclude-standard", folder=folder).stdout.splitlines()
        text = ["artefacts/ci-network.xml", "artefacts/web-domain.xml"]
        assert [path for path in known if path.startswith(("artefacts", ".kvm-compose"))] == text

    @pytest.mark.parametrize("recipe", [".github/workflows/artefacts.yml", ".gitlab-ci.yml"])
    def test_both_recipes_run_the_check(self, recipe: str) -> None:
        jobs = json.dumps(read_yaml((EXAMPLES / "ci" / recipe).read_text()))
        assert "pip install -r requirements.txt" in jobs
        assert "make check" in jobs


class TestOwnDodo:
    def macs(self, folder: Path) -> dict[str, str]:
        with (folder / "macs.csv").open() as file:
            return {row["domain"]: row["mac"] for row in csv.DictReader(file)}

    def test_its_task_follows_the_artefacts(self, copy_of: Copy) -> None:
        folder = copy_of("examples/own-dodo")
        assert ".  macs" in doit(folder=folder).stdout
        guests = state_of(folder)["testbed_guests"].values()
        assert self.macs(folder) == {each["hostname"]: each["interfaces"][0]["mac"] for each in guests}
        assert "-- macs" in doit(folder=folder).stdout

        yaml_file = folder / "kvm-compose.yaml"
        yaml_file.write_text(yaml_file.read_text().replace("52:54:00:00:00:02", "52:54:00:00:00:03"))
        doit("macs", folder=folder)  # which builds what it depends on first
        assert self.macs(folder)["own-dodo-right"] == "52:54:00:00:00:03"

    def test_kvm_compose_works_beside_it(self, copy_of: Copy) -> None:
        folder = copy_of("examples/own-dodo")
        doit(folder=folder)
        assert kvm_compose("plan", "--detailed-exitcode", folder=folder).stdout == ""


class TestRepositoryDodo:
    def test_builds_two_guests_or_the_project_that_is_named(self, copy_of: Copy) -> None:
        root = copy_of("dodo.py").parent
        for name in ("two-guests", "own-dodo"):
            copy_of(f"examples/{name}")
        doit("generate", folder=root)
        assert (root / "examples/two-guests/artefacts/server-domain.xml").exists()
        assert not (root / "examples/own-dodo/artefacts").exists()
        doit("project=examples/own-dodo", "generate", folder=root)
        assert (root / "examples/own-dodo/artefacts/left-domain.xml").exists()
        again = doit("generate", folder=root).stdout
        assert [line for line in again.splitlines() if not line.startswith("-- ")] == []

    def test_says_what_is_wrong_with_the_name(self, copy_of: Copy) -> None:
        root = copy_of("dodo.py").parent
        with pytest.raises(subprocess.CalledProcessError) as caught:
            doit("project=nowhere", "generate", folder=root)
        said = caught.value.stdout + caught.value.stderr
        assert "nowhere/kvm-compose.yaml" in said
        assert "Traceback" not in said
