"""Machines edited in a testbed: what ``amend`` says has to be what compiling everything says."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_compile import JUNK, AnyFiles

from golden.bench import GOLDEN
from golden.memory import SCHEMAS, MemoryFiles, compile_text, host, hosts
from kvmcompose.core.artefact import Literal
from kvmcompose.core.errors import InputError
from kvmcompose.core.model import Host
from kvmcompose.pipeline.amend import Amended, Built, amend
from kvmcompose.pipeline.compile import STATE_PATH, Compiled, guest_artefacts, guest_slice

CASES = ["base-one-host", "clones-one-host", "no-external", "disks", "addresses"]
ON = hosts(2)


def text_of(case: str) -> str:
    return (GOLDEN / case / "kvm-compose.yaml").read_text(encoding="utf-8")


def compiled(text: str, on: tuple[Host, ...] = ON) -> Compiled | None:
    try:
        return compile_text(text, files=AnyFiles(), on=on)
    except InputError:
        return None


def state_bytes(whole: Compiled) -> bytes:
    (content,) = (each.content for each in whole.artefacts if each.path == STATE_PATH)
    assert isinstance(content, Literal)
    return content.data


def amended(before: str, after: str, files: MemoryFiles | None = None) -> Amended | None:
    """What ``amend`` says; when it says anything, it is what compiling says."""
    was, is_now = compiled(before), compiled(after)
    if was is None:
        return None
    built = Built(before.encode(), was.machines, state_bytes(was))
    found = amend(built, after.encode(), "lab", SCHEMAS, files or AnyFiles())
    if found is None:
        return None
    assert is_now is not None, "what is wrong was called an edit"
    assert is_now.warnings == ()
    assert found.state == state_bytes(is_now)
    assert found.shared == is_now.state.shared
    for name, guest in is_now.state.testbed_guests.items():
        if name not in found.guests:
            assert is_now.slice(name) == was.slice(name)
            assert is_now.artefacts_of(name) == was.artefacts_of(name)
            continue
        assert guest_slice(found.guests[name], found.shared, found.guests) == is_now.slice(name)
        assert guest_artefacts(guest, found.shared) == is_now.artefacts_of(name)
    assert [each for each in is_now.common_artefacts if each.path != STATE_PATH] == [
        each for each in was.common_artefacts if each.path != STATE_PATH
    ]
    return found


@pytest.mark.parametrize(
    ("case", "old", "new"),
    [
        ("base-one-host", "memory_mb: 512", "memory_mb: 640"),
        ("base-one-host", "cpus: 1", "cpus: 3"),
        ("base-one-host", "memory_mb: 512", "memory_mb: 512 # for now"),
        ("clones-one-host", "memory_mb: 256", "memory_mb: 257"),
        ("clones-one-host", "script: ", "script: x"),
        ("disks", "memory_mb: ", "memory_mb: 1"),
    ],
)
def test_what_a_machine_has_within_is_an_edit(case: str, old: str, new: str) -> None:
    text = text_of(case)
    edited = text.replace(old, new, 1)
    assert edited != text
    found = amended(text, edited)
    assert found is not None
    assert found.guests


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("- name: ", "- name: x"),  # its name, and so its addresses
        ("bridge: br", "bridge: xbr"),
        ("libvirt:", "docker:"),
        ("machines:", "machines: # all of them"),
        ("memory_mb: 512", "memory_mb: much"),
        ("cpus: 1", "cpus: 1\n      cpus: 1"),
        ("cpus: 1", "cpus: &one 1"),
        ("cpus: 1", "cpus: !!int 1"),
        ("cpus: 1", "cpus:\t1"),
        ("cpus: 1", "cpus: 1\u2028"),
        ("cpus: 1", "cpus: 1\r\n"),
        ("cpus: 1", "cpus: '1"),
    ],
)
def test_everything_else_is_none(old: str, new: str) -> None:
    text = text_of("base-one-host")
    edited = text.replace(old, new, 1)
    assert edited != text
    assert amended(text, edited) is None


def test_an_added_and_a_removed_machine_are_no_edit() -> None:
    text = text_of("base-one-host")
    first = text.index("  - name: ")
    second = text.index("  - name: ", first + 1)
    assert amended(text, text[:first] + text[second:]) is None
    assert amended(text[:first] + text[second:], text) is None


@pytest.mark.parametrize(
    ("strategy", "edit"), [("round_robin", True), ("pack", False), ("spread", False), ("min_tunnels", False)]
)
def test_the_size_of_a_guest_matters_to_a_strategy_that_weighs_guests(strategy: str, edit: bool) -> None:
    text = text_of("base-one-host") + f"testbed_options: {{load_balancing: {strategy}}}\n"
    text = re.sub(r"^testbed_options:\n(  .*\n)+", "", text, flags=re.MULTILINE)
    assert (amended(text, text.replace("memory_mb: 512", "memory_mb: 640", 1)) is not None) == edit


@pytest.mark.parametrize(("room", "edit"), [({}, True), ({"memory_mb": 8000}, False), ({"cpus": 64}, False)])
def test_the_size_of_a_guest_matters_where_hosts_have_a_capacity(room: dict[str, int], edit: bool) -> None:
    text = text_of("base-one-host")
    state = state_bytes(compile_text(text, files=AnyFiles(), on=(host(**room),)))
    built = Built(text.encode(), compile_text(text, files=AnyFiles()).machines, state)
    for old, new in (("memory_mb: 512", "memory_mb: 640"), ("cpus: 1", "cpus: 3")):
        edited = text.replace(old, new, 1).encode()
        assert (amend(built, edited, "lab", SCHEMAS, AnyFiles()) is not None) == edit
    noted = text.replace("memory_mb: 512", "memory_mb: 512 # for now", 1).encode()
    assert amend(built, noted, "lab", SCHEMAS, AnyFiles()) is not None


def test_a_file_that_is_missing_is_for_the_full_way_to_tell() -> None:
    text = text_of("base-one-host")
    edited = re.sub(r"script: \S+", "script: not-there.sh", text, count=1)
    assert edited != text
    assert amended(text, edited, MemoryFiles({"key.pub", "key"})) is None


def test_more_than_a_few_machines_are_no_edit() -> None:
    text = text_of("base-one-host")
    assert text.count("cpus: 1") > 1
    many = len(re.findall(r"^ *- name: ", text, re.MULTILINE))
    assert many < 8
    assert amended(text, text.replace("cpus: 1", "cpus: 2")) is None


def test_a_state_that_is_not_what_the_text_comes_to_is_not_amended() -> None:
    text = text_of("base-one-host")
    was = compiled(text)
    assert was is not None
    state = state_bytes(was)
    edited = text.replace("memory_mb: 512", "memory_mb: 640", 1).encode()
    assert amend(Built(text.encode(), was.machines, state), edited, "lab", SCHEMAS, AnyFiles()) is not None
    for broken in (
        state.replace(b'"memory_mb": 512', b'"memory_mb": 513'),
        state.replace(b'"testbed_guests"', b'"guests"'),
        state.replace(b'"version": 1', b'"version": 2'),
        state.replace(b'"guest_id": 1', b'"guest_id": "none"'),
        state[: len(state) // 2],
        b"",
    ):
        assert amend(Built(text.encode(), was.machines, broken), edited, "lab", SCHEMAS, AnyFiles()) is None
    assert amend(Built(text.encode(), was.machines, state), edited, "other", SCHEMAS, AnyFiles()) is None
    assert amend(Built(text.encode(), was.machines + 1, state), edited, "lab", SCHEMAS, AnyFiles()) is None
    assert amend(Built(text.encode(), was.machines, state), b"\xff", "lab", SCHEMAS, AnyFiles()) is None


def test_a_quote_that_swallows_a_machine_is_seen() -> None:
    text = text_of("base-one-host")
    at = text.index("  - name: ", text.index("  - name: ") + 1)
    hidden = f'{text[:at]}  - name: "\n{text[at:]}'
    assert amended(text, hidden) is None
    assert amended(hidden, hidden.replace("memory_mb: 512", "memory_mb: 640", 1)) is None


WORDS = (*JUNK, "0", "1", "7", "true", "null", "br0", "br1", "debian_12", "setup.sh", "[]", "{}")


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(case=st.sampled_from(CASES), seed=st.integers(0, 2**32))
def test_it_never_says_other_than_compiling_does(case: str, seed: int) -> None:
    """Edit after edit, most of them nonsense, each after the last that could be compiled."""
    chance = random.Random(seed)  # noqa: S311 (of no consequence)
    text = text_of(case)
    for _ in range(4):
        at = chance.choice([found.start() for found in re.finditer(r"\b\w|\n|: ", text)])
        until = at + chance.choice([0, 0, 1, 1, 3, 20])
        changed = text[:at] + chance.choice(WORDS) + text[until:]
        amended(text, changed)
        if compiled(changed) is not None and chance.random() < 0.5:
            text = changed


def test_numbers_alone_are_edits_always() -> None:
    chance = random.Random(1)  # noqa: S311 (of no consequence)
    found = 0
    for case in ("base-one-host", "clones-one-host", "disks"):
        text = text_of(case)
        for _ in range(10):
            number = chance.choice(list(re.finditer(r"(?<=memory_mb: )\d+|(?<=cpus: )\d+", text)))
            changed = f"{text[: number.start()]}{chance.randrange(64, 128)}{text[number.end() :]}"
            found += amended(text, changed) is not None
    assert found == 30
