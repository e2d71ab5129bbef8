"""Sessions of browsers on a machine with several users, and what logs say of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "server"))

from daemon import Daemon
from people import ALICE, BOB, Shared, ask
from signed_in import Browser

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be several users")

_SIGN_IN = """
import encodings.idna, http.client, json, os, sys
uid, port, code = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
os.setgid(uid)
os.setuid(uid)
connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
connection.request("POST", "/api/session", json.dumps({"code": code}), {"Content-Type": "application/json"})
answer = connection.getresponse()
print(answer.status, answer.read().decode())
"""


def sign_in_as(uid: int, port: int, code: str) -> tuple[int, str]:
    """Sign in from a process of another user of this machine."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _SIGN_IN, str(uid), str(port), code],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    status, _, text = done.stdout.partition(" ")
    return int(status), text


def link(server: Shared, uid: int) -> tuple[int, str]:
    """Return the port and the code of a link that a user makes."""
    answer = ask(server.socket, uid, "POST", "/links", body={})
    assert answer.status == 201, answer
    address, _, code = answer.json["address"].partition("/#sign-in=")
    return int(address.rpartition(":")[2]), code


def audited(server: Shared) -> list[dict[str, object]]:
    lines = (server.root / "state" / "audit.log").read_text().splitlines()
    return [json.loads(each) for each in lines]


def test_a_link_is_for_its_users_browser(shared: Shared) -> None:
    """What a browser is started with can be read by everybody, so another user can be faster."""
    port, code = link(shared, ALICE)
    status, text = sign_in_as(BOB, port, code)
    assert (status, "another user" in text) == (403, True)
    status, text = sign_in_as(ALICE, port, code)
    assert (status, json.loads(text)["name"]) == (201, f"uid {ALICE}")
    port, code = link(shared, ALICE)
    assert sign_in_as(0, port, code)[0] == 201  # the end of a tunnel, for example


def test_a_session_has_the_rights_of_its_user(shared: Shared) -> None:
    for uid, wanted in ((ALICE, 200), (BOB, 403), (0, 200)):
        port, code = link(shared, uid)
        browser = Browser(port)
        assert browser.sign_in(code=code).status == 201
        assert browser.ask("GET", "/api/deployments/alices/actions").status == wanted
        (deployment,) = browser.ask("GET", "/api/deployments").json
        assert (deployment["project_location"] != "") == (wanted == 200)
        answer = browser.ask("POST", "/api/deployments/alices/action", {"command": "cancel"})
        assert answer.status in (403, 422)


def test_logs_say_who_and_nothing_secret(shared: Shared) -> None:
    port, code = link(shared, ALICE)
    browser = Browser(port)
    browser.sign_in(code=code)
    browser.ask("DELETE", "/api/deployments/alices")
    Browser(port).sign_in(code=code)
    Browser(port).sign_in(token="a-wrong-token")  # noqa: S106
    browser.ask("GET", "/api/deployments", Cookie=None)
    lines = audited(shared)
    (removed,) = [each for each in lines if each.get("method") == "DELETE"]
    assert (removed["person"], removed["uid"], removed["outcome"]) == (f"uid {ALICE}", ALICE, "allowed")
    (begun,) = [each for each in lines if each.get("path") == "/api/session" and each["status"] == 201]
    assert begun["session"] == removed["session"]
    refused = [each for each in lines if each.get("path") == "/api/session" and each["status"] == 401]
    assert [(each["outcome"], each["address"]) for each in refused] == [("refused", "127.0.0.1")] * 2
    assert len({each["reason"] for each in refused}) == 1
    secrets = (code, browser.key or "", (browser.cookie or "").partition("=")[2], "a-wrong-token")
    for path in (shared.root / "state" / "audit.log", shared.daemon.log, *(shared.root / "state").iterdir()):
        content = path.read_bytes() if path.is_file() else b""
        assert not any(each.encode() in content for each in secrets), path


@pytest.fixture
def two(place: Path) -> Iterator[tuple[Daemon, Daemon]]:
    """Two servers without TCP listeners; the first says all that it can."""
    made = []
    for name, options in (("a", ("-v",)), ("b", ())):
        (place / name).mkdir()
        made.append(Daemon(place / name / "state", place / name, options))
        made[-1].start()
    yield made[0], made[1]
    for each in made:
        each.kill()


def test_each_server_gets_a_port_and_sessions_of_its_own(two: tuple[Daemon, Daemon]) -> None:
    browsers = []
    for server in two:
        assert "http://" not in server.said  # no TCP listener before a browser needs one
        address, _, code = server.client().make_link().address.partition("/#sign-in=")
        port = int(address.rpartition(":")[2])
        assert server.client().make_link().address.startswith(f"http://127.0.0.1:{port}/#")
        assert Browser(port).ask("GET", "/api/deployments").status == 401
        assert Browser(port).ask("GET", "/", Host="rebound.example").status == 403
        browsers.append(Browser(port))
        assert browsers[-1].sign_in(code=code).status == 201
        assert code not in server.said
    assert browsers[0].host != browsers[1].host
    # a browser sends the cookies of both to each of them
    cookies = f"{browsers[1].cookie}; {browsers[0].cookie}"
    for browser, other in (browsers, browsers[::-1]):
        assert browser.ask("GET", "/api/deployments", Cookie=cookies).status == 200
        stolen = {"Cookie": cookies, "X_Kvm_Compose_Key": other.key}
        assert browser.ask("GET", "/api/deployments", **stolen).status == 401
    assert two[0].stop() == 0  # with a listener that was opened later
    with pytest.raises(ConnectionError):
        browsers[0].ask("GET", "/")
    assert browsers[1].ask("GET", "/api/session", Cookie=cookies).status == 200
