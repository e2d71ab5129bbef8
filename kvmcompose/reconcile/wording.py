"""Changes and their reasons in words: the only place that has them."""

from __future__ import annotations

from collections.abc import Sequence

from kvmcompose.core.resource import Change, Loss, Reason, ReasonCode, Verb

#: So many guests whose set-up is out of date are named.
_MOST_LINES = 20
#: What kinds of resources are called; others by their kind.
_NOUNS = {
    "container": "guest",
    "container-image": "image",
    "container-volume": "volume",
    "libvirt-domain": "guest",
    "libvirt-network": "network",
    "ovn-binding": "guest",
    "ovn-central": "OVN's databases at",
    "ovn-chassis": "chassis",
    "ovn-host-port": "interface",
    "ovn-outside": "way out",
    "ovn-row": "",
    "ovs-bridge": "bridge",
    "ovs-port": "port",
    "veth": "link",
    "management-port": "management port",
    "golden-image": "golden image",
    "reachable": "guest",
    "healthy": "guest",
    "dns-name": "DNS name of",
    "set-up": "set-up of",
    "run-scripts": "run scripts of",
    "files": "files on",
    "disk": "disk of",
    "project-folder": "link to the project folder",
}


def subject(change: Change) -> str:
    """Return what a change is about: ``guest web``, ``bridge br0 on two``."""
    noun = _NOUNS.get(change.ref.kind, change.ref.kind)
    name = change.guest or change.ref.name
    if change.ref.kind == "disk" and change.ref.name != name:  # not the guest's first one
        return f"disk {change.ref.name} of {name}"
    if change.ref.kind == "disk" and change.guest is None:  # of all guests that share it
        noun = "disk"
    return f"{noun} {name}".strip()


#: A reason by its code; ``CHANGED`` and ``STATE`` have parts that may be missing.
_REASONS = {
    ReasonCode.NEW: "new",
    ReasonCode.UNWANTED: "not in the testbed any more",
    ReasonCode.MISSING: "{subject} is missing",
    ReasonCode.ADDED: "{subject} added",
    ReasonCode.REMOVED: "{subject} removed",
    ReasonCode.EDITED: "{subject} has changed",
    ReasonCode.NEEDED: "{subject} starts again",
    ReasonCode.FORMAT: "brought up by an earlier version of kvm-compose",
    ReasonCode.ASKED: "{subject}",
    ReasonCode.OUTDATED: "{subject} has changed",
}


def because(reason: Reason) -> str:
    """Return a reason in words."""
    if reason.code is ReasonCode.CHANGED:
        if reason.before is None and reason.after is None:
            return f"{reason.subject} changed"
        return f"{reason.subject}: {reason.before or '(none)'} -> {reason.after or '(none)'}"
    if reason.code is ReasonCode.STATE:
        return f"is {reason.before}" + (f" ({reason.subject})" if reason.subject else "")
    return _REASONS[reason.code].format(subject=reason.subject).strip()


#: What is wrong where nothing is known of what is in a guest.
_NOT_SEEN = {
    "ovn-binding": "its logical ports are not bound",
    "healthy": "not seen to be healthy since it was started",
    "reachable": "not seen to be ready since it was started",
    "set-up": "not known to have run",
    "run-scripts": "not known to have run since the guest started",
}


def reasons_text(change: Change) -> tuple[str, ...]:
    """Return the reasons for a change in words."""
    unseen = change.found is None and any(each.code is ReasonCode.MISSING for each in change.reasons)
    if unseen and change.ref.kind in _NOT_SEEN:
        return (_NOT_SEEN[change.ref.kind],)
    return tuple(because(each) for each in change.reasons)


_LOSSES = {
    Loss.DISK: "data that it wrote is lost",
    Loss.OWN_FILES: "files that it wrote outside of its volumes are lost",
    Loss.TPM: "its TPM does not move: it has another one there, which opens nothing that this one has sealed",
}


def loss(change: Change) -> str:
    """Return which data a change loses, as a part of a sentence; "" for none."""
    return _LOSSES[change.loss] if change.loss is not None else ""


def is_outdated(change: Change) -> bool:
    """Return whether it is that something that ran in a guest has changed since."""
    return change.ref.kind == "set-up" and change.pending


def sentence(change: Change) -> str:
    """Return a change on one line: ``guest web: restart: memory_mb: 128 -> 256``."""
    reasons = ", ".join(reasons_text(change))
    if is_outdated(change):
        return difference_text(change)
    verb = f"{change.verb} pending" if change.pending else str(change.verb)
    lost = loss(change)
    return f"{subject(change)}: {verb}" + (f": {reasons}" if reasons else "") + (f"; {lost}" if lost else "")


def difference_text(change: Change) -> str:
    """Return how something differs from what it should be: ``guest web: memory_mb: 128 -> 256``."""
    if change.ref.kind in _NOT_SEEN and change.found is None:
        return f"{subject(change)}: {_NOT_SEEN[change.ref.kind]}"
    why = ", ".join(reasons_text(change))
    if is_outdated(change):
        return f"{subject(change)} is out of date: {why}"
    return f"{subject(change)}: {why}"


def left_text(change: Change) -> str:
    """Return what was to go, and has not: ``guest web: still there``."""
    return f"{subject(change)}: still there"


def is_drift(change: Change) -> bool:
    """Return whether something was changed outside of kvm-compose, which ``up`` repairs."""
    return change.verb is Verb.REPAIR


def left_lines(changes: Sequence[Change]) -> list[str]:
    """Return what an ``up`` leaves as it is, a line each, and what would do it."""
    outdated = [each for each in changes if is_outdated(each)]
    lines = [f"left as it is: {sentence(each)}" for each in changes if not is_outdated(each)]
    lines += [sentence(each) for each in outdated[:_MOST_LINES]]
    if len(outdated) > _MOST_LINES:
        lines.append(f"the set-up of {len(outdated) - _MOST_LINES} other guests is out of date")
    if outdated:
        names = " ".join(each.guest or "" for each in outdated) if len(outdated) <= _MOST_LINES else ""
        lines.append(f"to run these scripts again: kvm-compose up --rerun-scripts {names}".rstrip())
    return lines


def causes(changes: Sequence[Change]) -> list[Change]:
    """Return the changes without those that follow from others, as what they need changes."""
    changed = {change.ref for change in changes}
    return [each for each in changes if each.wanted is None or changed.isdisjoint(each.wanted.needs)]


def summary(changes: tuple[Change, ...]) -> str:
    """Return how many changes there are of each kind: ``2 to create, 1 to restart``."""
    counts = dict.fromkeys(Verb, 0)
    for change in changes:
        counts[change.verb] += not change.pending
    return ", ".join(f"{count} to {verb}" for verb, count in counts.items() if count)
