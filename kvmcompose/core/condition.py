"""The state of a deployment in one word."""

from __future__ import annotations

from kvmcompose.core.commands import PowerVerb
from kvmcompose.core.deployment import ActionState, Phase

#: What an action does meanwhile, by its command.
_DOING = {
    "up": "starting",
    "down": "stopping",
    PowerVerb.START: "starting",
    PowerVerb.STOP: "stopping",
    PowerVerb.RESTART: "restarting",
    PowerVerb.PAUSE: "pausing",
    PowerVerb.RESUME: "resuming",
}
#: Up, but not as it was brought up.
DEGRADED = "degraded"


def condition(state: Phase, failed: str | None, last: str, ended: str | None) -> str:
    """Return the condition of a deployment (see ``Deployment``).

    ``failed`` is the command that failed, ``last`` that of the last action, which ended as ``ended``.
    """
    if state is Phase.RUNNING:
        return _DOING.get(last, state)
    if state is Phase.FAILED and last == failed and ended in (ActionState.CANCELLED, ActionState.INTERRUPTED):
        return ended
    return state
