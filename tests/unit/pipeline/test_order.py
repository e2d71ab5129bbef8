"""``depends_on`` and ``healthcheck``: what they mean, and what is refused."""

from __future__ import annotations

import json
import time

import pytest

from golden.memory import SCHEMAS, compile_text, hosts
from kvmcompose.core.errors import InputError, KvmComposeError, Problem
from kvmcompose.core.order import Condition, Healthcheck
from kvmcompose.core.state import GuestState, encode_state
from kvmcompose.pipeline.order import seconds
from kvmcompose.pipeline.stored import read_state

BODY = """\
    interfaces: [{bridge: br0}]
    libvirt: {cpus: 1, memory_mb: 64, libvirt_type: {cloud_image: {name: debian_12}}}
"""
CLONES = """\
    libvirt:
      cpus: 1
      memory_mb: 64
      libvirt_type: {cloud_image: {name: debian_12}}
      scaling: {count: 2, interfaces: [{bridge: br0, clones: [0, 1]}]}
"""
NETWORK = "network: {bridges: [{name: br0}], external_bridge: br0}\n"


def lab(*machines: tuple[str, str], body: str = BODY) -> str:
    """A lab of machines; each is a name and its lines of order."""
    return "machines:\n" + "".join(machine(name, lines, body) for name, lines in machines) + NETWORK


def machine(name: str, lines: str, body: str = BODY) -> str:
    return f"  - name: {name}\n" + "".join(f"    {line}\n" for line in lines.splitlines()) + body


def guests(text: str) -> dict[str, GuestState]:
    return compile_text(text, on=hosts(1)).state.testbed_guests


def problems(text: str) -> list[Problem]:
    with pytest.raises(InputError) as caught:
        compile_text(text, on=hosts(1))
    return list(caught.value.problems)


def test_a_list_waits_for_starts_and_a_mapping_for_what_it_says() -> None:
    found = guests(
        lab(
            ("db", "healthcheck: {command: [pg_isready, -q]}"),
            ("web", "depends_on: [db]"),
            ("proxy", "depends_on: {web: {}, db: {condition: healthy}}"),
        )
    )
    assert found["web"].depends_on == {"db": Condition.STARTED}
    assert found["proxy"].depends_on == {"web": Condition.STARTED, "db": Condition.HEALTHY}
    assert found["db"].healthcheck == Healthcheck(command=("pg_isready", "-q"))
    assert found["db"].depends_on == {}
    assert found["web"].healthcheck is None


def test_a_machine_with_clones_means_all_of_them_and_its_golden_image_none() -> None:
    text = (
        "machines:\n"
        + machine("db", "healthcheck: {command: 'true'}", CLONES)
        + machine("web", "depends_on: {db: {condition: healthy}}", CLONES)
        + machine("one", "depends_on: [db-1]")
        + NETWORK
    )
    found = guests(text)
    both = {"db-0": Condition.HEALTHY, "db-1": Condition.HEALTHY}
    assert found["web-0"].depends_on == found["web-1"].depends_on == both
    assert found["web"].depends_on == {}
    assert found["one"].depends_on == {"db-1": Condition.STARTED}
    assert found["db"].healthcheck is None
    assert found["db-1"].healthcheck == Healthcheck(command="true")


@pytest.mark.parametrize(
    ("written", "wanted"),
    [("30", 30.0), ("1.5", 1.5), ("30s", 30.0), ("1m30s", 90.0), ("500ms", 0.5), ("1h", 3600.0)],
)
def test_times_are_seconds_or_as_docker_writes_them(written: str, wanted: float) -> None:
    found = guests(lab(("db", f"healthcheck: {{command: x, interval: {written}}}")))["db"].healthcheck
    assert found is not None
    assert found.interval == wanted


def test_the_state_has_what_was_written_and_is_as_before_without() -> None:
    text = lab(("db", "healthcheck: {command: x, retries: 2, start_period: 1m}"), ("web", "depends_on: [db]"))
    state = compile_text(text, on=hosts(1)).state
    data = encode_state(state)
    documents = json.loads(data)["testbed_guests"]
    assert documents["db"]["healthcheck"] == {"command": "x", "retries": 2, "start_period": 60.0}
    assert documents["web"]["depends_on"] == {"db": "started"}
    assert "depends_on" not in documents["db"]
    assert "healthcheck" not in documents["web"]
    read = read_state(data, SCHEMAS)
    assert read.testbed_guests["db"].healthcheck == state.testbed_guests["db"].healthcheck
    assert read.testbed_guests["web"].depends_on == {"db": "started"}


@pytest.mark.parametrize(
    ("lines", "place", "code", "text"),
    [
        ("depends_on: [dbb]", (6, 18), "unknown-guest", "did you mean 'db'?"),
        ("depends_on: {dbb: {}}", (6, 18), "unknown-guest", "did you mean 'db'?"),
        ("depends_on: [web]", (6, 18), "dependency-cycle", "'web' cannot depend on itself"),
        ("depends_on: {db: {condition: healthy}}", (6, 34), "no-healthcheck", "which has no healthcheck"),
        ("depends_on: {db: {condition: service_healthy}}", (6, 34), "bad-value", "healthy"),
        ("depends_on: db", (6, 17), "wrong-type", "a list of names"),
        ("healthcheck: {command: ''}", (6, 28), "empty-value", ""),
        ("healthcheck: {command: [' ', '']}\nnope: 1", (7, 5), "unknown-key", "nope"),
        ("healthcheck: {command: ['']}", (6, 29), "empty-value", "the command is empty"),
        ('healthcheck: {command: "a\\0b"}', (6, 28), "control-character", ""),
        ("healthcheck: {command: x, interval: soon}", (6, 41), "bad-value", "1m30s"),
        ("healthcheck: {command: x, interval: 0}", (6, 41), "out-of-range", "too short"),
        ("healthcheck: {command: x, interval: 48h}", (6, 41), "out-of-range", "too long"),
        ("healthcheck: {command: x, timeout: 11m}", (6, 40), "out-of-range", "0.1 to 600 seconds"),
        ("healthcheck: {command: x, timeout: 601}", (6, 40), "out-of-range", "0.1 to 600 seconds"),
        ("healthcheck: {command: x, interval: 61m}", (6, 41), "out-of-range", "0.1 to 3600 seconds"),
        ("healthcheck: {command: x, interval: -1}", (6, 41), "out-of-range", ""),
        ("healthcheck: {command: x, interval: 9999999999h}", (6, 41), "bad-value", ""),
        ("healthcheck: {command: x, retries: 0}", (6, 40), "out-of-range", ""),
        ("healthcheck: {test: [CMD, x]}", (6, 19), "unknown-key", "write command"),
        ("healthcheck: {command: [CMD, x]}", (6, 29), "bad-value", "leave it out"),
        ("healthcheck: {command: [CMD-SHELL, x]}", (6, 29), "bad-value", "without a list"),
        ("healthcheck: {command: [NONE]}", (6, 29), "bad-value", "has none"),
        ("healthcheck: true", (6, 18), "wrong-type", ""),
    ],
)
def test_refused_at_its_place(lines: str, place: tuple[int, int], code: str, text: str) -> None:
    found = problems(lab(("db", ""), ("web", lines)))
    mine = [each for each in found if each.code == code]
    assert mine, found
    assert place in [(each.location.line, each.location.column) for each in mine]
    assert any(text in f"{each.message} {each.wanted} {each.hint}" for each in mine), mine


def test_a_guest_without_cloud_init_can_only_be_started() -> None:
    iso = BODY.replace("cloud_image: {name: debian_12}", "iso_guest: {path: /tmp/none.iso}")
    text = (
        "machines:\n"
        + machine("box", "healthcheck: {command: x}", iso)
        + machine("web", "depends_on: {box: {condition: reachable}}")
        + machine("one", "depends_on: {box: {condition: setup_done}}")
        + NETWORK
    )
    found = [each.path for each in problems(text) if each.code == "needs-cloud-init"]
    assert found == [
        "machines[0].healthcheck",
        "machines[1].depends_on.box.condition",
        "machines[2].depends_on.box.condition",
    ]


def test_a_cycle_is_shown_once_from_its_first_machine() -> None:
    (found,) = problems(lab(("a", "depends_on: [c]"), ("b", "depends_on: [a]"), ("c", "depends_on: [b]")))
    assert found.message == "the machines depend on each other: a -> c -> b -> a"
    assert (found.path, found.location.line, found.location.column) == ("machines[0].depends_on[0]", 3, 18)


def test_each_of_several_cycles_is_reported() -> None:
    names = ["a", "b", "c", "d"]
    after = {"a": "b", "b": "a", "c": "d", "d": "c"}
    found = problems(lab(*((name, f"depends_on: [{after[name]}]") for name in names)))
    assert [each.message.rpartition(": ")[2] for each in found] == ["a -> b -> a", "c -> d -> c"]


@pytest.mark.parametrize(
    ("after", "text"),
    [
        (
            {"a": "c", "b": "a", "c": "b"},
            "testbed_guests.a.depends_on: the guests depend on each other: a -> c -> b -> a",
        ),
        ({"b": "b"}, "testbed_guests.b.depends_on: the guest depends on itself"),
    ],
)
def test_a_state_with_a_cycle_is_not_read(after: dict[str, str], text: str) -> None:
    state = compile_text(lab(("a", ""), ("b", ""), ("c", "")), on=hosts(1)).state
    document = json.loads(encode_state(state))
    for name, other in after.items():
        document["testbed_guests"][name]["depends_on"] = {other: "started"}
    with pytest.raises(KvmComposeError) as caught:
        read_state(json.dumps(document).encode(), SCHEMAS)
    assert text in caught.value.message


@pytest.mark.parametrize(("key", "value"), [("timeout", 601), ("interval", 3601)])
def test_a_state_with_a_healthcheck_that_takes_too_long_is_not_read(key: str, value: float) -> None:
    state = compile_text(lab(("db", "healthcheck: {command: x}")), on=hosts(1)).state
    document = json.loads(encode_state(state))
    document["testbed_guests"]["db"]["healthcheck"][key] = value
    with pytest.raises(KvmComposeError, match=rf"healthcheck\.{key}"):
        read_state(json.dumps(document).encode(), SCHEMAS)


def test_clones_that_depend_on_each_other_make_a_cycle() -> None:
    text = (
        "machines:\n"
        + machine("db", "depends_on: [web-1]", CLONES)
        + machine("web", "depends_on: {db-0: {}}", CLONES)
        + NETWORK
    )
    (found,) = problems(text)
    assert found.message == "the machines depend on each other: db -> web -> db"


def test_a_cycle_of_ten_thousand_machines_is_found_in_time_and_shown_in_short() -> None:
    count = 10_000
    text = lab(*((f"m{number}", f"depends_on: [m{(number + 1) % count}]") for number in range(count)))
    began = time.process_time()
    (found,) = [each for each in problems(text) if each.code == "dependency-cycle"]
    assert time.process_time() - began < 60
    assert "(10000 machines)" in found.message
    assert len(found.message) < 200


def test_dependencies_that_multiply_are_limited() -> None:
    many = CLONES.replace("count: 2", "count: 400").replace("[0, 1]", str(list(range(400))))
    text = "machines:\n" + machine("a", "", many) + machine("b", "depends_on: [a]", many) + NETWORK
    (found,) = [each for each in problems(text) if each.code == "too-many"]
    assert found.message == "the guests depend 160000 times on others"


def test_seconds_of_parts() -> None:
    assert seconds("1h1m1s1ms") == 3661.001
