"""``kvm-compose placement``, and builds whose placement depends on how large guests are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from golden.bench import Bench, new_bench

HOSTS = ("one", "two", "three")
BODY = "libvirt: {cpus: 1, memory_mb: %d, libvirt_type: {cloud_image: {name: debian_12}}}"


def config(memory_mb: int | None) -> str:
    hosts = {
        name: {"ip": f"192.0.2.{number}", "virt_type": "qemu", "is_main_host": number == 1}
        | ({"memory_mb": memory_mb} if memory_mb else {})
        for number, name in enumerate(HOSTS, 1)
    }
    keys = {"ssh_public_key_location": "keys/id_ed25519.pub", "ssh_private_key_location": "keys/id_ed25519"}
    return json.dumps({"testbed_host_ssh_config": hosts} | keys)


def yaml_of(strategy: str, constraints: str = "{}") -> str:
    machines = "".join(
        f"  - name: g{number}\n    interfaces: [{{bridge: b{number}}}]\n    {BODY % (100 + number)}\n"
        for number in range(9)
    )
    bridges = ", ".join(f"{{name: b{number}}}" for number in range(9))
    links = ", ".join(f"[b{number}, b{number + 1}]" for number in range(8))
    return (
        f"machines:\n{machines}network: {{bridges: [{bridges}], bridge_connections: [{links}]}}\n"
        f"testbed_options: {{load_balancing: {strategy}, placement: {constraints}}}\n"
    )


def bench_of(root: Path, strategy: str, constraints: str = "{}", memory_mb: int | None = 330) -> Bench:
    files = {"kvm-compose.yaml": yaml_of(strategy, constraints), "kvm-compose-config.json": config(memory_mb)}
    return new_bench(root, "lab", files)


def test_all_strategies_are_compared_with_each_other_and_the_last_build(tmp_path: Path) -> None:
    bench = bench_of(tmp_path, "spread")
    before = bench.run("placement", "--compare", "--json").json
    assert before["chosen"] == "spread"
    assert before["strategies"].keys() == {"min_tunnels", "pack", "round_robin", "spread"}
    assert before["strategies"]["spread"]["moved"] is None
    assert bench.run("generate", "state").status == 0
    after = bench.run("placement", "--compare", "--json").json["strategies"]
    assert after["spread"]["moved"] == []
    assert after["min_tunnels"]["tunnels"] < after["round_robin"]["tunnels"] == 8
    state = json.loads((bench.folder / "state.json").read_bytes())["testbed_guests"]
    bench.edit("load_balancing: spread", "load_balancing: min_tunnels")
    placed = bench.run("placement", "--json").json["guests"]
    moved = [name for name in placed if placed[name]["host"] != state[name]["testbed_host"]]
    assert after["min_tunnels"]["moved"] == moved
    loads = after["min_tunnels"]["hosts"]
    assert sum(each["memory_mb"] for each in loads.values()) == sum(100 + number for number in range(9))
    assert all(each["memory_mb"] <= each["memory_mb_available"] for each in loads.values())


def test_what_a_strategy_cannot_do_does_not_hide_the_others(tmp_path: Path) -> None:
    bench = bench_of(tmp_path, "round_robin", "{together: [[g0, g1]]}")
    assert bench.run("placement").status == 2
    ran = bench.run("placement", "--compare")
    assert ran.status == 0
    assert "cannot place this testbed" in ran.out
    assert "round_robin: round_robin separates them" in ran.err
    assert "round_robin *" in ran.out
    assert [line.split()[0] for line in ran.out.splitlines()[1:]] == [
        "min_tunnels", "pack", "round_robin", "spread",
    ]  # fmt: skip


def test_a_broken_state_is_no_last_build(tmp_path: Path) -> None:
    bench = bench_of(tmp_path, "pack")
    for broken in ("", "[]", "{}", '{"testbed_guests": {"g0": 1}}'):
        bench.write("state.json", broken)
        ran = bench.run("placement", "--compare")
        assert ran.status == 0, ran.said
        assert "nothing was built yet" in ran.err


@pytest.mark.parametrize("strategy", ["pack", "spread", "min_tunnels", "round_robin"])
def test_a_placement_is_explained(strategy: str, tmp_path: Path) -> None:
    bench = bench_of(tmp_path, strategy, "{pin: {g4: two}}", memory_mb=2000)
    ran = bench.run("placement", "--explain")
    assert ran.status == 0, ran.said
    assert ran.out.startswith(f"{strategy}: ")
    for words in ("pin: g4 to two", "MEMORY (MiB)", "of 2000 (", "pinned to two"):
        assert words in ran.out
    explained = bench.run("placement", "--explain", "--json").json
    assert explained["wishes"]["pin"] == {"g4": "two"}
    assert explained["guests"]["g4"]["host"] == "two"
    assert set(explained["hosts"]) == set(HOSTS)


@pytest.mark.parametrize("strategy", ["pack", "spread", "min_tunnels"])
def test_a_guest_that_grows_is_placed_anew_as_a_clean_build_would(strategy: str, tmp_path: Path) -> None:
    bench = bench_of(tmp_path, strategy, memory_mb=500)
    assert bench.run("generate").status == 0
    before = (bench.folder / "state.json").read_bytes()
    bench.edit("memory_mb: 101", "memory_mb: 450")
    assert bench.run("generate").status == 0
    after = (bench.folder / "state.json").read_bytes()
    clean = bench_of(tmp_path / "clean", strategy, memory_mb=500)
    clean.edit("memory_mb: 101", "memory_mb: 450")
    assert clean.run("generate").status == 0
    assert after == (clean.folder / "state.json").read_bytes()
    hosts = [
        [each["testbed_host"] for each in json.loads(state)["testbed_guests"].values()]
        for state in (before, after)
    ]
    assert hosts[0] != hosts[1]
    bench.edit("memory_mb: 450", "memory_mb: 501")
    ran = bench.run("generate")
    assert ran.status == 2
    assert "no-room" in ran.err


def test_round_robin_sees_a_guest_that_outgrows_its_host(tmp_path: Path) -> None:
    bench = bench_of(tmp_path, "round_robin", memory_mb=400)
    assert bench.run("generate").status == 0
    bench.edit("memory_mb: 101", "memory_mb: 301")
    ran = bench.run("generate")
    assert ran.status == 2
    for words in ("'two'", "512 MiB of guests", "at most unlimited CPUs and 400 MiB", "[no-room]"):
        assert words in ran.err
