"""What clients cause is logged a few times a minute only."""

from __future__ import annotations

import logging

from kvmcompose.server.rare_lines import MOST_LINES, RareLines


def test_lines_of_one_text_are_few_and_the_next_tells_how_many_there_were() -> None:
    now = 0.0
    rare = RareLines(lambda: now)

    def say(text: str, *parameters: object) -> str | None:
        record = logging.LogRecord("uvicorn.error", logging.WARNING, "", 0, text, parameters, None)
        return record.getMessage() if rare.filter(record) else None

    said = [say("refused %s", number) for number in range(100)]
    assert said[:MOST_LINES] == [f"refused {number}" for number in range(MOST_LINES)]
    assert set(said[MOST_LINES:]) == {None}
    assert say("something else") == "something else"
    now = 61.0
    assert say("refused %s", "again") == "refused again (and 80 more since the last such line)"
    assert say("refused %s", "again") == "refused again"
