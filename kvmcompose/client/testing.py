"""Asks running guests what the YAML expects, through the server, and judges the answers."""

from __future__ import annotations

from collections.abc import Callable

from kvmcompose.client.action import Watcher, perform
from kvmcompose.client.remote import RemoteServer
from kvmcompose.core.checked import CheckDocument
from kvmcompose.core.commands import Test
from kvmcompose.core.deployment import Action, ActionState
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.core.probe import MOST_QUESTIONS, Probed, Question
from kvmcompose.core.tested import TestDocument
from kvmcompose.effects.resources import schemas
from kvmcompose.pipeline.compile import Compiled
from kvmcompose.pipeline.logical import Documents, InputFile
from kvmcompose.reachability.check import check, standing_probes
from kvmcompose.reachability.tested import PacketJudge

#: For how long a packet that nothing answers is sent again, in seconds.
SECONDS = 3


class NotTestedError(KvmComposeError):
    """The test did not come to its end; ``action`` says why."""

    def __init__(self, action: Action) -> None:
        super().__init__(f"the test ended as {action.state}")
        self.action = action


def run_tests(
    server: RemoteServer,
    name: str,
    compiled: Compiled,
    testbed: InputFile,
    watcher: Watcher,
    *,
    seconds: int = SECONDS,
    ended: Callable[[Action], None] = lambda _action: None,
) -> TestDocument:
    """Test all lines of ``expect``; ``testbed`` is the YAML, ``ended`` receives each action.

    Raises NotTestedError, ServerError.
    """
    documents = Documents(testbed, None, schemas())
    judge = PacketJudge(compiled.placed.logical, documents, standing_probes(compiled))
    questions = judge.questions()
    answers: dict[Question, Probed] = {}

    def keep(answer: Probed) -> None:
        answers[answer.question] = answer

    for start in range(0, len(questions), MOST_QUESTIONS):
        command = Test(questions=questions[start : start + MOST_QUESTIONS], seconds=seconds)
        action = perform(server, name, command, watcher, on_answer=keep)
        ended(action)
        if action.state is not ActionState.SUCCEEDED:
            raise NotTestedError(action)
    return judge.document(answers, _checked(compiled, testbed))


def _checked(compiled: Compiled, testbed: InputFile) -> CheckDocument | None:
    """Return what ``kvm-compose check`` says, None where that does not work."""
    try:
        return check(compiled, testbed)
    except KvmComposeError:
        return None
