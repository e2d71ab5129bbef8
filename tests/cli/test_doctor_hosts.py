"""``doctor`` in a project: the hosts of the config are checked, too."""

from __future__ import annotations

from pathlib import Path

from golden.bench import new_bench

CONFIG = """\
{"testbed_host_ssh_config": {
  "one": {"ip": "192.0.2.1", "is_main_host": true},
  "two": {"ip": "127.0.0.1", "user": "nobody", "ssh_port": 1, "identity_file": "no-key"}}}
"""


def test_other_hosts_are_checked_and_fail_the_command(tmp_path: Path) -> None:
    bench = new_bench(tmp_path, "lab", {"kvm-compose-config.json": CONFIG})
    ran = bench.run("doctor", "--json")
    assert ran.status == 1, ran.said
    assert list(ran.json["hosts"]) == ["two"]
    (found,) = ran.json["hosts"]["two"]["findings"]
    assert (found["name"], found["ok"]) == ("connection", False)
    assert "127.0.0.1" in found["detail"] or "no-key" in found["detail"]
    text = bench.run("doctor")
    assert "testbed host two:" in text.out
    assert text.out.splitlines()[-1] == "two cannot run guests of testbeds yet"


def test_a_config_that_is_wrong_is_said_first(tmp_path: Path) -> None:
    bench = new_bench(tmp_path, "lab", {"kvm-compose-config.json": '{"testbed_host_ssh_config": 7}'})
    ran = bench.run("doctor")
    assert ran.status == 2
    assert "kvm-compose-config.json:1:" in ran.err


def test_without_a_config_there_is_this_machine_only(tmp_path: Path) -> None:
    ran = new_bench(tmp_path, "lab").run("doctor", "--json")
    assert "hosts" not in ran.json
