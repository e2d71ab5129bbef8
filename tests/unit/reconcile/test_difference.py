"""What has to change, given what is desired and what exists."""

from __future__ import annotations

import msgspec

from kvmcompose.core.resource import Change, Found, Reason, ReasonCode, Ref, Resource, Verb
from kvmcompose.reconcile.difference import difference


def compare(wanted: Resource, found: Found) -> Change | None:
    """Resources of this test are strings."""
    if wanted.spec == found.spec:
        return None
    reason = Reason(ReasonCode.CHANGED, "text", found.spec, wanted.spec)
    return Change(verb=Verb.UPDATE, ref=wanted.ref, reasons=(reason,), wanted=wanted, found=found)


TOYS = {"toy": compare, "box": compare}


def toy(name: str, spec: str = "x", host: str = "one", kind: str = "toy") -> Resource:
    return Resource(ref=Ref(kind, name, host), spec=spec)


def there(name: str, spec: str = "x", host: str = "one", kind: str = "toy") -> Found:
    return Found(ref=Ref(kind, name, host), spec=spec)


def verbs(*changes: Change) -> list[tuple[str, str]]:
    return [(change.verb.value, change.ref.name) for change in changes]


def test_what_is_as_it_should_be_does_not_change() -> None:
    assert difference([toy("a"), toy("b")], [there("b"), there("a")], TOYS) == ()


def test_each_has_a_change_with_its_reasons() -> None:
    changes = difference(
        [toy("new"), toy("other", "y"), toy("gone")],
        [there("other"), there("old")],
        TOYS,
        earlier=lambda: {Ref("toy", "gone", "one"): "x"},
    )
    assert verbs(*changes) == [("create", "new"), ("update", "other"), ("repair", "gone"), ("remove", "old")]
    assert [change.reasons[0].code.value for change in changes] == ["new", "changed", "missing", "unwanted"]
    assert changes[1].reasons == (Reason(ReasonCode.CHANGED, "text", "x", "y"),)


def test_on_another_host_it_is_moved() -> None:
    (change,) = difference([toy("a", host="two")], [there("a")], TOYS)
    assert (change.verb, change.ref) == (Verb.MOVE, Ref("toy", "a", "two"))
    assert change.reasons == (Reason(ReasonCode.CHANGED, "host", "one", "two"),)
    assert change.found is not None
    assert change.found.ref.host == "one"


def test_two_kinds_do_not_meet() -> None:
    changes = difference([toy("a", host="two")], [there("a", kind="box")], TOYS)
    assert verbs(*changes) == [("create", "a"), ("remove", "a")]


def test_what_should_be_on_two_hosts_is_not_moved_between_them() -> None:
    changes = difference([toy("a"), toy("a", host="two")], [there("a")], TOYS)
    assert verbs(*changes) == [("create", "a")]


def test_nothing_desired_is_down() -> None:
    assert verbs(*difference([], [there("a"), there("b")], TOYS)) == [("remove", "a"), ("remove", "b")]


def test_what_differs_from_what_was_brought_up_is_repaired() -> None:
    changes = difference(
        [toy("edited", "y"), toy("same")],
        [there("edited"), there("same", "z")],
        TOYS,
        earlier=lambda: {Ref("toy", "edited", "one"): "x", Ref("toy", "same", "one"): "x"},
    )
    assert verbs(*changes) == [("update", "edited"), ("repair", "same")]


def test_what_does_not_outlive_what_it_needs_comes_again() -> None:
    inside = msgspec.structs.replace(toy("inside", kind="box"), needs=(Ref("toy", "a", "two"),))
    found = [there("a"), there("inside", kind="box")]
    changes = difference([toy("a", host="two"), inside], found, TOYS, lost_with_needs=["box"])
    assert verbs(*changes) == [("move", "a"), ("create", "inside")]
    assert changes[1].reasons == (Reason(ReasonCode.NEEDED),)
