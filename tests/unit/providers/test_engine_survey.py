"""``doctor`` names the engines of a host, or what is missing and how to get it."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest
from recorder import Recorder

from kvmcompose.effects.survey import Finding
from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.containers.interface import ContainerEngine, EngineFacts
from kvmcompose.providers.engine_survey import survey_engines


class Answering:
    """An engine that answers with facts, or fails."""

    def __init__(self, answer: EngineFacts | DriverError) -> None:
        self._answer = answer

    async def facts(self) -> EngineFacts:
        if isinstance(self._answer, DriverError):
            raise self._answer
        return self._answer


def facts(engine: str, *, rootless: bool = False) -> EngineFacts:
    return EngineFacts(
        engine=engine, version="1.2", rootless=rootless, cpus=2, memory_mb=99, limits=not rootless
    )


def survey(
    installed: bytes, configured: str | None = None, **engines: EngineFacts | DriverError
) -> list[Finding]:
    """What is found where these sockets answer, and these programs and users' sockets are there."""
    asked = {f"/run/{name}.sock": cast(ContainerEngine, Answering(each)) for name, each in engines.items()}
    return asyncio.run(survey_engines(asked, Recorder(("dockerd", 0, installed, b"")), configured))


def test_engines_that_answer_are_named() -> None:
    docker, podman = survey(
        b"dockerd\npodman\n", docker=facts("Docker"), podman=facts("Podman", rootless=True)
    )
    assert (docker.name, docker.detail) == ("Docker", "1.2 at /run/docker.sock (containers)")
    assert podman.name == "Podman"
    assert podman.detail == (
        "rootless, 1.2 at /run/podman.sock; it cannot limit CPUs and memory, or pause (containers)"
    )
    assert docker.ok
    assert podman.ok


def test_engines_of_users_are_named_with_the_key_that_selects_them() -> None:
    socket = b"podman\n/run/user/1000/podman/podman.sock\n"
    silent = DriverError("no container engine answers")
    lacking, users = survey(socket, docker=silent)
    assert not lacking.ok
    assert '"container_engine": "/run/user/1000/podman/podman.sock"' in users.detail
    assert [each.name for each in survey(socket, "docker", docker=facts("Docker"))] == ["Docker"]


@pytest.mark.parametrize("configured", ["podman", "/run", "/run/user/1000/podman/podman.sock"])
def test_an_engine_that_the_config_names_and_that_does_not_answer_is_missing(configured: str) -> None:
    docker, lacking = survey(
        b"dockerd\n", configured, docker=facts("Docker"), podman=DriverError("no container engine answers")
    )
    assert (docker.ok, lacking.ok, lacking.name) == (True, False, "container engine")
    assert lacking.detail.startswith(f"{configured}, which the config names, does not answer")
    assert lacking.mend is not None
    assert "/run/docker.sock answers" in lacking.mend
    assert [each.ok for each in survey(b"", "docker", docker=facts("Docker"))] == [True]


@pytest.mark.parametrize(
    ("installed", "why", "detail", "mend"),
    [
        (b"", "", "not installed", "sudo apt-get install --no-install-recommends docker.io (or podman)"),
        (b"podman\n", "", "podman: installed, but", "sudo systemctl enable --now podman.socket"),
        (b"dockerd\npodman\n", "", "dockerd, podman: ins", "sudo systemctl enable --now docker.socket"),
        (b"dockerd\n", "it denies access", "it denies access", "sudo usermod -aG docker USER, then"),
    ],
)
def test_what_is_missing_is_named_with_a_command(installed: bytes, why: str, detail: str, mend: str) -> None:
    (lacking,) = survey(installed, docker=DriverError(why or "no container engine answers"))
    assert (lacking.ok, lacking.needed_for) == (False, "extras")
    assert lacking.detail.startswith(detail)
    assert lacking.mend is not None
    assert lacking.mend.startswith(mend)
