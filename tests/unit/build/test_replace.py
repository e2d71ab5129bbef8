"""Files are put in their places and taken away only as they were when that was decided."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvmcompose.build import replace
from kvmcompose.build.replace import keep_as, keep_copy, move_new, put, seen_at, take_away


@pytest.fixture(params=["renameat2", "without it"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    if request.param != "renameat2":
        monkeypatch.setattr(replace, "_renameat2", None)
    (tmp_path / "staged").write_text("ours")
    return tmp_path


def names(folder: Path) -> dict[str, str]:
    return {each.name: each.read_text() for each in folder.iterdir() if each.is_file()}


def test_a_new_file_takes_a_free_place_only(folder: Path) -> None:
    assert put(f"{folder}/staged", f"{folder}/x", None)
    assert names(folder) == {"x": "ours"}
    (folder / "staged").write_text("next")
    assert not put(f"{folder}/staged", f"{folder}/x", None)
    assert names(folder) == {"x": "ours", "staged": "next"}


def test_what_was_seen_is_replaced_and_what_changed_is_not(folder: Path) -> None:
    place = folder / "x"
    place.write_text("built")
    seen = seen_at(str(place))
    assert put(f"{folder}/staged", str(place), seen)
    assert names(folder) == {"x": "ours"}
    (folder / "staged").write_text("next")
    assert not put(f"{folder}/staged", str(place), seen)
    assert names(folder) == {"x": "ours", "staged": "next"}


def test_what_went_meanwhile_is_made(folder: Path) -> None:
    place = folder / "x"
    place.write_text("built")
    seen = seen_at(str(place))
    place.unlink()
    assert put(f"{folder}/staged", str(place), seen)
    assert names(folder) == {"x": "ours"}


def test_an_edit_at_the_very_last_moment_is_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the last look, before the kernel exchanges the names."""
    place, staged = tmp_path / "x", tmp_path / "staged"
    place.write_text("built")
    staged.write_text("ours")
    seen = seen_at(str(place))
    rename = replace._rename

    def late(source: str, target: str, flags: int) -> bool:
        if place.read_text() == "built":
            place.write_text("by hand")
        return rename(source, target, flags)

    monkeypatch.setattr(replace, "_rename", late)
    assert not put(str(staged), str(place), seen)
    assert names(tmp_path) == {"x": "by hand", "staged": "ours"}


def test_links_and_folders_in_the_way_stay(folder: Path) -> None:
    place = folder / "x"
    place.write_text("built")
    seen = seen_at(str(place))
    place.unlink()
    place.mkdir()
    assert not put(f"{folder}/staged", str(place), seen)
    assert place.is_dir()
    with pytest.raises(FileExistsError):
        move_new(f"{folder}/staged", str(place))


def test_only_what_was_seen_is_taken_away(folder: Path) -> None:
    place = folder / "x"
    place.write_text("built")
    seen = seen_at(str(place))
    assert seen is not None
    place.write_text("by hand")
    assert not take_away(str(place), f"{folder}/aside", seen)
    now = seen_at(str(place))
    assert now is not None
    assert take_away(str(place), f"{folder}/aside", now)
    assert take_away(str(place), f"{folder}/aside", now)  # gone already
    assert names(folder) == {"staged": "ours"}


def test_names_that_are_taken_get_numbers(folder: Path) -> None:
    place = folder / "x"
    for text in ("first", "second"):
        place.write_text(text)
        keep_copy(str(place))
        place.unlink()
    assert keep_as(f"{folder}/staged", f"{place}.orig") == f"{place}.orig.2"
    assert names(folder) == {"x.orig": "first", "x.orig.1": "second", "x.orig.2": "ours"}
