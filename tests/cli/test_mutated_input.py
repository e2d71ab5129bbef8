"""Whatever stands in the two files: an answer with an exit status, never a traceback."""

from __future__ import annotations

import copy
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from golden.bench import GOLDEN, Bench, cases, golden_bench

#: Values that have been wrong somewhere before.
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 63, 2**31, 2**63, 10**30, 1.5, "", " ", "~", "null", "on", "010", "1e3",
    "0x10", "9" * 5000, "-", "--", "..", "../..", "/", "/dev/zero", "/dev/null", "/proc/self/mem", "~/x",
    "~nobody-here/x", "${PWD}", "\u0130", "a" * 300, "a" * 70000, "br0", "br9", "server",
    "52:54:00:12:34:56", "10.0.0.1", "10.0.0.255", "::1", "dynamic", "debian_12", "disks/base.raw", "disks",
    "setup.sh", "kvm-compose.yaml", "artefacts/x", "state.json", "circle", "strange", "\u2028", "\x85",
    "a\nb",
    "'", '"', "{{ x }}", "<x>", "$(x)", "%s", "[", "{", "&a", "*a", "!x", [], {}, [[]], [None], {"": ""},
    {"a": {"b": "c"}}, ["br0", "br1"], [0, 0, 1], list(range(50)),
)  # fmt: skip

_LONG = bool(os.environ.get("KVM_COMPOSE_TEST_LONG"))
#: How many of them are tried in a place that takes a file, and in any other.
ODD_PER_FILE, ODD_PER_PLACE = (len(ODD), 16) if _LONG else (6, 1)

JUNK = (
    b"\t", b"\r", b"\xff", b"\0", b": ", b"- ", b"[", b"}", b"&a ", b"*a", b"<<: *a\n", b"---\n", b"...\n",
    b"? ", b"\xef\xbb\xbf", b"%YAML 9.9\n", b"|\n", b"!!python/object:os.system ", b"\xe2\x80\xa8",
)  # fmt: skip

KEYS = (
    "name", "bridge", "interfaces", "libvirt", "docker", "clone", "scaling", "count", "clones", "cloud_image",
    "existing_disk", "iso_guest", "path", "context", "network", "bridges", "external_bridge",
    "bridge_connections",
    "machines", "ip", "mac", "<<", "", "x", "ovn", "switch", "environment", "load_balancing",
)  # fmt: skip


class _Plain(yaml.SafeDumper):
    """Writes every scalar without quotes where YAML can: the schema decides what it is."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}


def _as_text(dumper: yaml.SafeDumper, value: object) -> yaml.Node:
    word = {"None": "null", "True": "true", "False": "false"}.get(str(value), str(value))
    return dumper.represent_scalar("tag:yaml.org,2002:str", word)


for _kind in (type(None), bool, int, float):
    _Plain.add_representer(_kind, _as_text)


def written(value: Any) -> str:
    return yaml.dump(value, Dumper=_Plain, allow_unicode=True)  # type: ignore[no-any-return]


def texts(path: Path) -> Any:
    """A YAML file as lists, mappings and texts."""
    return yaml.load(path.read_bytes(), yaml.BaseLoader)  # noqa: S506


INPUTS = {case: texts(GOLDEN / case / "kvm-compose.yaml") for case in cases()}


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in items:
        yield from places(child, (*path, key))


def mutate(value: Any, chance: random.Random) -> Any:  # noqa: C901 (a way to change it each)
    """One change somewhere in the data."""
    path = chance.choice(list(places(value)))
    if not path:
        return chance.choice([*ODD, value])
    *above, last = path
    parent = value
    for step in above:
        parent = parent[step]
    match chance.randrange(7):
        case 0:
            del parent[last]
        case 1 | 2:
            parent[last] = chance.choice(ODD)
        case 3:
            parent[last] = [parent[last]]
        case 4 if isinstance(parent, list):
            parent.append(parent[last])
        case 4:
            parent[chance.choice(KEYS)] = parent[last]
        case 5 if isinstance(parent, dict):
            parent[chance.choice(KEYS)] = parent.pop(last)
        case 5:
            parent.reverse()
        case _:
            donor = INPUTS[chance.choice(list(INPUTS))]
            graft = donor
            for step in chance.choice(list(places(donor))):
                graft = graft[step]
            parent[last] = copy.deepcopy(graft)
    return value


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """One project folder for all examples; every golden file that one could name lies in it."""
    bench = golden_bench(tmp_path_factory.mktemp("mutated"), "base-three-hosts", "mutated")
    for case in cases():
        shutil.copytree(
            GOLDEN / case, bench.folder, dirs_exist_ok=True, symlinks=True,
            ignore=shutil.ignore_patterns("expected", "kvm-compose*", "templates"),
        )  # fmt: skip
    (bench.folder / "circle").symlink_to("circle")
    (bench.folder / "strange").mkdir()
    (bench.folder / "strange" / os.fsdecode(b"not \xff utf-8")).write_text("")
    (bench.folder / "strange" / "circle").symlink_to("circle")
    return bench


def assert_an_answer(bench: Bench) -> None:
    """Validate and plan end with a status of theirs, agree, and say something when they refuse."""
    validated = bench.run("validate")
    assert validated.status in (0, 2), validated.said
    planned = bench.run("plan")
    assert planned.status == validated.status, planned.said
    if validated.status == 2:
        assert "error:" in validated.err
        assert validated.err.splitlines()[-1].endswith(("problem", "problems"))
    for ran in (validated, planned):
        assert "Traceback" not in ran.said


def limits(examples: int) -> settings:
    return settings(
        max_examples=examples if _LONG else examples // 3,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


@limits(150)
@given(case=st.sampled_from(sorted(INPUTS)), seed=st.integers(0, 2**32), changes=st.integers(1, 4))
def test_a_changed_testbed_gets_an_answer(shared: Bench, case: str, seed: int, changes: int) -> None:
    chance = random.Random(seed)  # noqa: S311 (of no consequence)
    value = texts(GOLDEN / case / "kvm-compose.yaml")
    for _ in range(changes):
        value = mutate(value, chance)
        if not isinstance(value, dict | list):
            break
    shared.yaml.write_text(written(value), encoding="utf-8")
    assert_an_answer(shared)


@limits(60)
@given(seed=st.integers(0, 2**32), changes=st.integers(1, 3))
def test_a_changed_config_gets_an_answer(shared: Bench, seed: int, changes: int) -> None:
    chance = random.Random(seed)  # noqa: S311 (of no consequence)
    case = GOLDEN / "base-three-hosts"
    shutil.copy(case / "kvm-compose.yaml", shared.yaml)
    value = yaml.safe_load((case / "kvm-compose-config.json").read_bytes())
    for _ in range(changes):
        value = mutate(value, chance)
        if not isinstance(value, dict | list):
            break
    import json  # noqa: PLC0415

    before = shared.config.read_bytes()
    shared.config.write_text(json.dumps(value), encoding="utf-8")
    try:
        assert_an_answer(shared)
    finally:
        shared.config.write_bytes(before)


@limits(100)
@given(
    case=st.sampled_from(sorted(INPUTS)),
    noise=st.lists(
        st.tuples(st.floats(0, 1), st.integers(0, 40), st.binary(max_size=12) | st.sampled_from(JUNK)),
        min_size=1,
        max_size=4,
    ),
)
def test_noise_in_a_testbed_gets_an_answer(
    shared: Bench, case: str, noise: list[tuple[float, int, bytes]]
) -> None:
    data = (GOLDEN / case / "kvm-compose.yaml").read_bytes()
    for where, length, junk in noise:
        at = int(where * len(data))
        data = data[:at] + junk + data[at + length :]
    shared.yaml.write_bytes(data)
    assert_an_answer(shared)


@limits(60)
@given(data=st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "replace")))
def test_anything_at_all_gets_an_answer(shared: Bench, data: bytes) -> None:
    shared.yaml.write_bytes(data)
    assert_an_answer(shared)
    shutil.copy(GOLDEN / "base-three-hosts/kvm-compose.yaml", shared.yaml)
    before = shared.config.read_bytes()
    shared.config.write_bytes(data)
    try:
        assert_an_answer(shared)
    finally:
        shared.config.write_bytes(before)


@pytest.mark.parametrize("value", ODD, ids=lambda value: repr(value)[:20])
def test_an_odd_value_in_any_place_gets_an_answer(shared: Bench, value: Any) -> None:
    """Each value in every place of one golden project, some of them at a time."""
    case = GOLDEN / "base-three-hosts/kvm-compose.yaml"
    paths = [path for path in places(texts(case)) if path]
    for start in range(0, len(paths), 12):
        changed = texts(case)
        for *above, last in sorted(paths[start : start + 12], key=len, reverse=True):
            parent = changed
            for step in above:
                parent = parent[step] if isinstance(parent, dict | list) else None
            if isinstance(parent, dict | list):
                parent[last] = value
        shared.yaml.write_text(written(changed), encoding="utf-8")
        ran = shared.run("validate")
        assert ran.status in (0, 2), ran.said


#: Under these stands the name of a file, which can be wrong in more ways than other values.
FILE_KEYS = {"path", "context", "setup_script", "run_script", "shared_setup", "script", "source", "env_file"}


def kinds_of_places() -> dict[tuple[Any, ...], tuple[str, tuple[Any, ...]]]:
    """A case and a place in it for each way through the data, whatever the numbers of list items are."""
    found: dict[tuple[Any, ...], tuple[str, tuple[Any, ...]]] = {}
    for case, value in INPUTS.items():
        for path in places(value):
            if path:
                kind = tuple("[]" if isinstance(step, int) else step for step in path)
                found.setdefault(kind, (case, path))
    return found


@pytest.mark.long
def test_one_odd_value_where_all_else_is_right_gets_an_answer(shared: Bench) -> None:
    chance = random.Random(3)  # noqa: S311 (of no consequence)
    failed = []
    for case, path in kinds_of_places().values():
        for value in chance.sample(ODD, ODD_PER_FILE if path[-1] in FILE_KEYS else ODD_PER_PLACE):
            changed = copy.deepcopy(INPUTS[case])
            parent = changed
            for step in path[:-1]:
                parent = parent[step]
            parent[path[-1]] = value
            shared.yaml.write_text(written(changed), encoding="utf-8")
            try:
                ran = shared.run("validate")
            except Exception as error:  # noqa: BLE001 (all that no command may let through)
                failed.append(f"{path}: {value!r:.40}: {error!r:.80}")
                continue
            if ran.status not in (0, 2):
                failed.append(f"{path}: {value!r:.40}: {ran.said}")
    assert failed == []


def mutate_kindly(value: Any, chance: random.Random) -> Any:
    """A value becomes one that stands under the same key elsewhere: often that is right."""
    path = chance.choice([path for path in places(value) if path and isinstance(path[-1], str)])
    parent = value
    for step in path[:-1]:
        parent = parent[step]
    found = []
    for donor in INPUTS.values():
        for other in places(donor):
            if other and other[-1] == path[-1]:
                graft = donor
                for step in other:
                    graft = graft[step]
                found.append(graft)
    parent[path[-1]] = copy.deepcopy(chance.choice(found))
    return value


def test_what_a_valid_mutant_plans_it_also_builds(tmp_path: Path) -> None:
    """Its build must not find out what the check overlooked, and a second one must find nothing to do."""
    chance = random.Random(11)  # noqa: S311 (of no consequence)
    built = 0
    for number in range(60):
        case = chance.choice(sorted(INPUTS))
        bench = golden_bench(tmp_path / str(number % 3), case, f"m{number}")
        value = texts(bench.yaml)
        for _ in range(chance.randrange(1, 4)):
            value = mutate_kindly(value, chance)
        bench.yaml.write_text(written(value), encoding="utf-8")
        if bench.run("validate").status == 0:
            bench.generate()
            assert bench.generate() == {}
            built += 1
        shutil.rmtree(bench.folder)
    assert built >= 10
