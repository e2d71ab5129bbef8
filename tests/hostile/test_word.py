"""The user's word: what networks do to hosts, who is asked and how, what servers refuse."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from golden.bench import Bench, golden_bench

LOOPBACK = "tcp:127.0.0.1:6653"


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return {"KVM_COMPOSE_STATE_DIR": str(tmp_path / "state"), "KVM_COMPOSE_SERVER": "http://127.0.0.1:9"}


@pytest.fixture
def lab(tmp_path: Path) -> Bench:
    return golden_bench(tmp_path, "base-one-host")


def control(bench: Bench, controller: str, name: str = "kvm-compose.yaml") -> None:
    """Give the first bridge another controller."""
    path = bench.folder / name
    text = path.read_text()
    assert LOOPBACK in text
    path.write_text(text.replace(LOOPBACK, controller, 1))


# -- what a network does ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "controller",
    [
        "tcp:192.0.2.7:6653", "tcp:evil.example:6653", "tcp:localhost:6653", "tcp:0.0.0.0:6653",
        "tcp:127.1:6653", "tcp:127.0.0.1.evil.example:6653", "tcp:127.0.0.1@evil:1", "tcp:[::]:6653",
        "tcp:[::ffff:192.0.2.7]:6653", "tcp:[2001:db8::1]:6653", "ssl:192.0.2.7:6653",
        "unix:/run/docker.sock", "unix:127.0.0.1",
    ],
)  # fmt: skip
def test_a_controller_is_named(lab: Bench, env: dict[str, str], controller: str) -> None:
    control(lab, f"'{controller}'")
    lab.generate()
    ran = lab.run("trust", **env)
    assert ran.status == 3
    assert f"bridge br0: OpenFlow controller {controller}: " in ran.out
    assert len(ran.out.splitlines()) == 1


@pytest.mark.parametrize("controller", ["ptcp:6653:0.0.0.0", "pssl:6653", "punix:/etc/cron.d/x"])
def test_a_bridge_that_listens_is_named_whatever_wrote_the_state(
    lab: Bench, env: dict[str, str], controller: str
) -> None:
    control(lab, f"'{controller}'")
    assert lab.run("validate", **env).status == 2
    lab = golden_bench(lab.root / "other", "base-one-host")
    lab.generate()
    control(lab, controller, "state.json")
    ran = lab.run("trust", **env)
    assert ran.status == 3
    assert f"OpenFlow controller {controller}: " in ran.out


@pytest.mark.parametrize("controller", [LOOPBACK, "tcp:127.0.0.2", "'tcp:[::1]:6653'", "ssl:127.0.0.1:6653"])
def test_a_controller_of_ones_own_is_not_asked_for(lab: Bench, env: dict[str, str], controller: str) -> None:
    control(lab, controller)
    lab.generate()
    assert lab.run("trust", **env).status == 0


# -- what plan says of it --------------------------------------------------------------------------------

WORD = "up would ask for your word on 1 thing that it does to the host: kvm-compose trust"


def test_plan_says_that_up_will_ask(lab: Bench, env: dict[str, str]) -> None:
    control(lab, "tcp:192.0.2.7:6653")
    for _ in range(2):  # before and after it is built
        ran = lab.run("plan", **env)
        assert (ran.status, ran.err.splitlines().count(WORD)) == (0, 1)
        assert WORD not in ran.out
        assert WORD not in lab.run("plan", "--json", **env).said
        lab.generate()
    assert WORD not in lab.run("plan", **env, KVM_COMPOSE_TRUST="1").err
    lab.run("trust", "--yes", **env)
    assert "your word" not in lab.run("plan", **env).err
    xml = next((lab.folder / "artefacts").glob("*-domain.xml"))
    xml.write_text(xml.read_text().replace("</devices>", "<emulator>/opt/evil</emulator></devices>"))
    ran = lab.run("plan", **env)
    assert ran.err.splitlines().count(WORD) == 1, ran.err


def test_plan_says_nothing_of_what_will_be_written(lab: Bench, env: dict[str, str]) -> None:
    """The XML is still that of the bridge's old name, which the new state does not know."""
    lab.generate()
    lab.yaml.write_text(lab.yaml.read_text().replace("br1", "other"))
    ran = lab.run("plan", **env)
    assert "rebuild" in ran.out
    assert "your word" not in ran.said
