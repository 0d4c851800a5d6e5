"""Name what can go wrong: the world's errors as classes, an event's errors as a closed set of reason codes."""

from __future__ import annotations

from enum import StrEnum


class TallyError(Exception):
    """Base of every error that Tally raises itself."""


class SettingsError(TallyError):
    """A setting is unknown, of a wrong type or out of range."""


class KafkaUnavailableError(TallyError):
    """Kafka does not answer within its time limit."""


class DeadLetterWriteError(KafkaUnavailableError):
    """Kafka does not take dead letters within its time limit; without them nothing may go on."""


class SinkUnavailableError(TallyError):
    """Postgres does not answer or refuses for a reason that passes."""


class LostEventsError(TallyError):
    """The source topic no longer holds events that were never counted."""


class StoreUnavailableError(TallyError):
    """The local disk does not take or give what a table needs: full, broken, or not ours."""


class NewerStateError(TallyError):
    """State was written by a later version, in a format that this one does not know."""


class StalledError(TallyError):
    """A process lives and does not get on, although what it depends on answers."""


class DeadLetterLimitError(TallyError):
    """Too large a share of the records are dead letters: something upstream is broken."""


class IncompleteAnswerError(TallyError):
    """A partition has no ready owner, so an answer would miss events."""


class Reason(StrEnum):
    """Why an event cannot be counted; every value is documented in docs/data.md."""

    EMPTY = "empty"
    """The record has no value."""
    TOO_LARGE = "too_large"
    """The value is longer than an event may be."""
    NOT_JSON = "not_json"
    """The value is not one JSON document in UTF-8."""
    SCHEMA = "schema"
    """The document breaks the schema: a field is missing, of a wrong type or out of range."""
    TIME = "time"
    """The event time is not a UTC instant of the years 1970 to 9999."""
    TEXT = "text"
    """A text holds NUL or a lone surrogate, which neither UTF-8 nor Postgres can hold."""
    REFUSED_BY_POSTGRES = "refused_by_postgres"
    """Postgres refused the row."""
    BUG = "bug"
    """Our code failed on this record; the detail names the exception."""


class InvalidEventError(TallyError):
    """One event cannot be counted.

    Attributes:
        reason: code of the closed set.
        detail: what is wrong and where, without the payload; at most 500 characters.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail[:500]
