"""What is said of a build that fails: the step, and the last lines that its command printed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.containers import images


async def _answer(lines: list[str], error: str) -> AsyncIterator[bytes]:
    for line in lines:
        yield json.dumps({"stream": line + "\n"}).encode() + b"\n"
    yield json.dumps({"errorDetail": {"message": error}, "error": error}).encode() + b"\n"


def failed(*lines: str, error: str) -> tuple[DriverError, list[str]]:
    """Return the error of a build, and what was passed on before."""
    said: list[str] = []

    async def follow() -> None:
        await images._BuildProgress("build the image of web", said.append).follow(_answer([*lines], error))

    with pytest.raises(DriverError) as raised:
        asyncio.run(follow())
    return raised.value, said


@pytest.mark.parametrize("step", ["Step 2/3 : RUN make", "STEP 2/3: RUN make", "[1/2] STEP 2/3: RUN make"])
def test_the_last_lines_of_the_step_are_shown_without_those_of_the_engine(step: str) -> None:
    lines = ["Step 1/3 : FROM tiny:1", " ---> 1234", "of another step", step, " ---> Running in 1234"]
    printed = [f"line {number}" for number in range(20)]
    error, said = failed(*lines, *printed, "Removing intermediate container 1234", error="returned code: 2")
    assert said == [*lines, *printed, "Removing intermediate container 1234"]
    first, *others = error.message.splitlines()
    assert first == f"cannot build the image of web: {step}: returned code: 2"
    assert others == [f"  | line {number}" for number in range(10, 20)]
    assert error.hint is None


def test_a_base_image_that_is_not_there_has_a_hint() -> None:
    error, _ = failed("Step 1/2 : FROM debian:12", error="network is unreachable")
    assert "docker load -i FILE" in (error.hint or "")


def test_a_build_that_prints_without_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "LARGEST_BUILD_LOG", 1 << 20)
    error, said = failed("Step 1/2 : RUN yes", *["y" * 1000] * 2000, error="never read")
    assert "it prints more than 1 MiB" in error.message
    assert len(said) < 1100
