"""``up --watch``: what is saved is brought up, whatever the editor and however wrong."""

from __future__ import annotations

import queue
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from kvmcompose.client import action as client_action

if TYPE_CHECKING:
    from conftest import Lab
    from kvmcompose.core.deployment import Action

_SECONDS = 90


class Watching:
    """A running ``up --watch``, read line by line."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.said: list[str] = []
        self._lines: queue.Queue[str | None] = queue.Queue()
        self.process = lab.start("up", "--watch")
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def until(self, pattern: str) -> list[str]:
        """Return the lines up to one that has a match."""
        found: list[str] = []
        deadline = time.monotonic() + _SECONDS
        while time.monotonic() < deadline:
            try:
                line = self._lines.get(timeout=max(0.1, deadline - time.monotonic()))
            except queue.Empty:
                break
            if line is None:
                break
            found.append(line)
            if re.search(pattern, line):
                self.said += found
                return found
        raise AssertionError(f"no {pattern!r} in {found}")

    def idle(self) -> list[str]:
        """Return the lines until it waits for an edit."""
        return self.until(r"^watching \d+ files")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()

    def end(self, number: signal.Signals = signal.SIGINT) -> str:
        self.process.send_signal(number)
        self.process.wait(_SECONDS)
        rest = []
        while (line := self._lines.get(timeout=_SECONDS)) is not None:
            rest.append(line)
        return "\n".join(rest)


@pytest.fixture
def follow() -> Iterator[Callable[[Lab], Watching]]:
    """Starts ``up --watch`` in a lab; all are gone after the test."""
    started: list[Watching] = []

    def start(lab: Lab) -> Watching:
        started.append(Watching(lab))
        return started[-1]

    yield start
    for each in started:
        each.close()


@pytest.fixture
def watching(lab: Lab, follow: Callable[[Lab], Watching]) -> Watching:
    """A lab that is up, and waits for an edit."""
    found = follow(lab)
    found.idle()
    return found


def replace(lab: Lab, name: str, text: str) -> None:
    """Save a file as many editors do: another one takes its place."""
    new = lab.folder / f".{name}.swp"
    new.write_text(text)
    new.rename(lab.folder / name)


def memory(lab: Lab) -> dict[str, int]:
    return {each["name"]: each["given_mb"] for each in lab.must("status", "--json").json["guests"]}


def test_what_is_saved_in_place_or_by_rename_is_brought_up(watching: Watching) -> None:
    lab = watching.lab
    lab.bench.edit("memory_mb: 128\n      libvirt_type", "memory_mb: 192\n      libvirt_type")
    lines = watching.idle()
    assert lines[0] == "changed: kvm-compose.yaml"
    assert any("start web" in line for line in lines)
    assert not any("start db" in line for line in lines)
    text = (lab.folder / "kvm-compose.yaml").read_text()
    replace(lab, "kvm-compose.yaml", text.replace("memory_mb: 192", "memory_mb: 256"))
    assert watching.idle()[0] == "changed: kvm-compose.yaml"
    assert memory(lab) == {"web": 256, "db": 128}


def test_a_broken_yaml_is_reported_and_the_testbed_left(watching: Watching) -> None:
    lab = watching.lab
    good = (lab.folder / "kvm-compose.yaml").read_text()
    before = lab.must("status", "--json").json
    lab.bench.edit("memory_mb: 128\n      libvirt_type", "memory_mb: lots\n      libvirt_type")
    lines = watching.idle()
    assert any(re.search(r"kvm-compose\.yaml:7:\d+: ", line) for line in lines), lines
    (lab.folder / "kvm-compose.yaml").write_text("machines: [")
    assert any(re.search(r"kvm-compose\.yaml:\d+:\d+: ", line) for line in watching.idle())
    (lab.folder / "kvm-compose.yaml").unlink()
    assert any("kvm-compose.yaml" in line for line in watching.idle()[1:])
    after = lab.must("status", "--json").json
    assert [each["state"] for each in after["guests"]] == ["running", "running"]
    assert after["deployment"]["last_action_uuid"] == before["deployment"]["last_action_uuid"]
    replace(lab, "kvm-compose.yaml", good.replace("memory_mb: 128, lib", "memory_mb: 160, lib"))
    watching.until("up: 2 guests")
    assert memory(lab) == {"web": 128, "db": 160}


def test_the_files_that_are_watched_follow_the_yaml(watching: Watching) -> None:
    lab = watching.lab
    text = (lab.folder / "kvm-compose.yaml").read_text()
    (lab.folder / "kvm-compose.yaml").write_text(text.replace("setup.sh", "other/second.sh"))
    assert any("other/second.sh" in line for line in watching.idle()[1:])  # it is not there
    (lab.folder / "other").mkdir()
    lab.bench.write("other/second.sh", "#!/bin/sh\necho one\n")
    watching.until("up: 2 guests")
    watching.idle()
    lab.bench.write("other/second.sh", "#!/bin/sh\necho two\n")
    assert watching.idle()[0] == "changed: other/second.sh"
    lab.bench.write("setup.sh", "#!/bin/sh\nfalse\n")  # nothing names it any more
    lab.bench.write("notes.txt", "nor this")
    lab.bench.edit("memory_mb: 128, lib", "memory_mb: 192, lib")
    assert watching.idle()[0] == "changed: kvm-compose.yaml"


def test_all_of_a_context_is_watched(watching: Watching) -> None:
    lab = watching.lab
    for number in range(40):
        lab.bench.write(f"web/site/{number}.html", "one")
    lab.bench.edit("setup_script: setup.sh", "setup_script: setup.sh, context: web")
    watching.until("up: 2 guests")
    watching.idle()
    lab.bench.write("web/site/7.html", "two")
    assert watching.idle()[0] == "changed: web/site/7.html"
    lab.bench.write("web/site/new/41.html", "new")
    assert watching.idle()[0].startswith("changed: web/site")
    shutil.rmtree(lab.folder / "web/site/new")
    assert watching.idle()[0].startswith("changed: web/site")


def test_an_edit_while_it_works_is_taken_up_afterwards(idle: Lab, follow: Callable[[Lab], Watching]) -> None:
    idle.must("generate")
    idle.serve("--delay", "0.1")
    watching = follow(idle)
    watching.until("^network:")
    idle.bench.edit("memory_mb: 128, lib", "memory_mb: 192, lib")
    watching.until("up: 2 guests")
    watching.until("changed: kvm-compose.yaml")
    watching.until("up: 2 guests")
    assert memory(idle) == {"web": 128, "db": 192}
    watching.end()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_the_testbed_up(watching: Watching, number: signal.Signals) -> None:
    said = watching.end(number)
    assert "watching has ended; the testbed stays as it is" in said
    assert "Traceback" not in said
    assert watching.process.returncode == 130
    assert watching.lab.state() == "up"


@pytest.mark.timeout(120)
@pytest.mark.parametrize("words", [("up",), ("up", "--watch")])
def test_ctrl_c_as_the_action_ends_is_not_lost(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    def watch(*arguments: Any, **options: Any) -> Action:
        action = followed(*arguments, **options)
        signal.raise_signal(signal.SIGINT)
        return action

    followed = client_action.watch
    monkeypatch.setattr(client_action, "watch", watch)
    ran = lab.must(*words, status=130)
    assert "up: 2 guests" in ran.said
    assert lab.state() == "up"


def test_ctrl_c_while_it_works_cancels_that(idle: Lab, follow: Callable[[Lab], Watching]) -> None:
    idle.must("generate")
    idle.serve("--delay", "0.4")
    watching = follow(idle)
    watching.until("^network:")
    said = watching.end()
    assert "up was cancelled" in said
    assert "watching has ended" in said
    assert (watching.process.returncode, idle.state()) == (130, "failed")


def test_a_refusal_is_shown_and_the_next_edit_waited_for(watching: Watching) -> None:
    lab = watching.lab
    text = (lab.folder / "kvm-compose.yaml").read_text()
    lab.bench.write("templates/domain.xml.j2", "<domain>")
    lines = watching.idle()
    assert any(line.startswith("error: ") for line in lines), lines
    shutil.rmtree(lab.folder / "templates")
    watching.idle()
    (lab.folder / "kvm-compose.yaml").write_text(text.replace("memory_mb: 128, lib", "memory_mb: 192, lib"))
    watching.until("up: 2 guests")
    assert memory(lab)["db"] == 192


@pytest.mark.parametrize("option", ["--detach", "--no-generate", "--provision"])
def test_what_makes_no_sense_at_each_edit_is_refused(idle: Lab, option: str) -> None:
    assert f"--watch and {option} exclude each other" in idle.must("up", "--watch", option, status=2).err


def test_without_the_package_that_watches_it_says_so(lab: Lab) -> None:
    broken = lab.folder / "broken"
    broken.mkdir()
    (broken / "watchfiles.py").write_text("raise ImportError\n")
    process = lab.start("up", "--watch", PYTHONPATH=str(broken))
    _out, err = process.communicate(timeout=_SECONDS)
    assert "requires the Python package watchfiles\n    hint: pip install watchfiles" in err
    assert process.returncode == 3
    assert lab.run("deployments", "info", "lab").status == 1  # before anything was done
