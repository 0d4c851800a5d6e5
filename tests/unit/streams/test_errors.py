"""Every reason code means something to a user, and an error's text stays short."""

from __future__ import annotations

import re

from streams.errors import InvalidEventError, Reason, TallyError


def test_reason_codes_are_lower_case_words() -> None:
    """They are label values of metrics and headers of dead letters: dashboards are built on them."""
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", reason) for reason in Reason)


def test_detail_is_cut() -> None:
    """It travels in a record's header."""
    error = InvalidEventError(Reason.SCHEMA, "x" * 10_000)
    assert error.detail == "x" * 500
    assert isinstance(error, TallyError)
    assert InvalidEventError(Reason.TIME, "before 1970").args == ("time: before 1970",)
