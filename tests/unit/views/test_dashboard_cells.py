"""An answer is made of the longest pieces that are whole, each event in exactly one of them."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.rollups import DAY_S, HOUR_S, TooManyDimensionsError, slice_of
from streams.topics import USER_TAGS
from views.dashboard_cells import DayState, HourState, NotKeptError, Span, pieces_of
from views.dashboard_queries import Choice, Source

DAY = date(2026, 3, 2)
NEXT = date(2026, 3, 3)
START_S = 20_000 * DAY_S


def choice(step_s: int, hours: tuple[int, int]) -> Choice:
    return Choice(Source.POSTGRES, step_s, START_S + hours[0] * HOUR_S, START_S + hours[1] * HOUR_S)


def hour(number: int, *, whole: bool = True, day: date = DAY, has_minutes: bool = True) -> HourState:
    return HourState(day, START_S + number * HOUR_S, whole, has_minutes)


def test_whole_hours_are_taken_as_they_are_and_the_others_by_minutes() -> None:
    """What arrived later lies under its own day and is a piece of its own; touching minutes are one scan."""
    states = [hour(0), hour(1, whole=False), hour(2, whole=False), hour(0, day=NEXT, whole=False), hour(9)]
    pieces = pieces_of(choice(HOUR_S, (0, 4)), states, [])
    assert pieces.hours == [(DAY, START_S)]
    assert pieces.minutes == [Span(DAY, START_S + HOUR_S, START_S + 3 * HOUR_S), Span(NEXT, START_S, START_S + HOUR_S)]
    assert pieces.days == []


def test_minutes_are_cut_to_the_range() -> None:
    """A range of minutes begins and ends within hours."""
    asked = Choice(Source.POSTGRES, 60, START_S + 600, START_S + HOUR_S + 120)
    assert pieces_of(asked, [hour(0), hour(1)], []).minutes == [Span(DAY, START_S + 600, START_S + HOUR_S + 120)]


def test_whole_day_stands_for_its_hours() -> None:
    """The hours of another day of arrival are not in it; a day that is not whole is asked by its hours."""
    states = [hour(3), hour(4), hour(3, day=NEXT), hour(30, whole=False)]
    days = [DayState(DAY, START_S, True), DayState(NEXT, START_S, False), DayState(DAY, START_S + DAY_S, False)]
    pieces = pieces_of(choice(DAY_S, (0, 48)), states, days)
    assert (pieces.days, pieces.hours) == ([(DAY, START_S)], [(NEXT, START_S + 3 * HOUR_S)])
    assert pieces.minutes == [Span(DAY, START_S + 30 * HOUR_S, START_S + 31 * HOUR_S)]


def test_what_is_kept_in_longer_steps_only_is_not_answered_with_less() -> None:
    """Minutes that were dropped, hours that were: the caller asks for longer steps."""
    with pytest.raises(NotKeptError):
        pieces_of(choice(60, (0, 2)), [hour(0), hour(1, has_minutes=False)], [])
    assert pieces_of(choice(60, (0, 1)), [hour(0), hour(1, has_minutes=False)], []).minutes
    with pytest.raises(NotKeptError):
        pieces_of(choice(HOUR_S, (0, 2)), [hour(0)], [DayState(DAY, START_S, True), DayState(NEXT, START_S, True)])
    assert pieces_of(choice(DAY_S, (0, 24)), [], [DayState(DAY, START_S, True)]).days == [(DAY, START_S)]


STATES = st.lists(
    st.builds(hour, st.integers(0, 71), whole=st.booleans(), day=st.sampled_from([DAY, NEXT])),
    unique_by=lambda state: (state.stored_on, state.start),
)
DAYS = st.dictionaries(st.tuples(st.sampled_from([DAY, NEXT]), st.integers(0, 2)), st.booleans())


@given(states=STATES, days=DAYS, step_s=st.sampled_from([60, HOUR_S, DAY_S]))
def test_every_hour_is_in_exactly_one_piece(states: list[HourState], days: dict[tuple[date, int], bool], step_s: int) -> None:
    """Nothing twice, nothing left out."""
    with_hours = {(state.stored_on, (state.start - START_S) // DAY_S) for state in states}
    day_states = [
        DayState(day, START_S + number * DAY_S, whole) for (day, number), whole in days.items() if (day, number) in with_hours
    ]
    pieces = pieces_of(choice(step_s, (0, 72)), states, day_states)
    covered = [(day, start + number * HOUR_S) for day, start in pieces.days for number in range(24)]
    covered += pieces.hours
    covered += [(span.stored_on, start) for span in pieces.minutes for start in range(span.start, span.end, HOUR_S)]
    assert len(covered) == len(set(covered))
    assert {(state.stored_on, state.start) for state in states} <= set(covered)


def test_question_for_more_dimensions_than_are_kept_together_is_refused() -> None:
    """The kind is always there, two more may be."""
    assert slice_of(USER_TAGS, {"action", "category_id"}).number == 4
    assert slice_of(USER_TAGS, {"brand_id", "origin"}).dimensions == ("action", "origin", "brand_id")
    with pytest.raises(TooManyDimensionsError, match="at most 2"):
        slice_of(USER_TAGS, {"origin", "brand_id", "category_id"})
