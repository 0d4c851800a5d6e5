"""What a decorated function or view records: names, values and filters, as data.

An entry becomes one datapoint a call: a key that its `name` is part of, and a value that is sent as text. Each entry takes the
value from at most one place, and without any it is "1". An entry knows nothing of HTTP or of where datapoints go.

Callbacks are part of the program that is decorated: what they raise, the caller sees. Only a filter that raises means "do not
record".
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

log = logging.getLogger(__name__)

DEFAULT_VALUE = 1
FAILURE_STATUS_MIN = 400
NS_PER_US = 1_000


def succeeded(_request: Any, response: Any) -> bool:
    """Say whether a response is none of an error: views record only those unless told otherwise."""
    return bool(response.status_code < FAILURE_STATUS_MIN)


def failed(_param: Any, response: Any) -> bool:
    """Say whether a response is one of an error (status >= 400)."""
    return bool(response.status_code >= FAILURE_STATUS_MIN)


def _status_of(_param: Any, response: Any) -> Any:
    return response.status_code


def _now_ns() -> int:
    return time.perf_counter_ns()


def _microseconds_since(_param: Any, _returned: Any, started_ns: int) -> int:
    return (_now_ns() - started_ns) // NS_PER_US


@dataclass(frozen=True)
class Entry:
    """One datapoint of each recorded call.

    Attributes:
        name: part of the key; required with a value of one's own.
        value: sent with each call; anything that `str` takes.
        get_value: called with (param, returned) after the call.
        get_value_use_before: the same, with what `compute_before` had returned as third argument.
        compute_before: called without arguments before each call.
        filter_do_record: called with (param, returned); records when true. None: always records.

    *param* is what the kind of entry says: a request, the arguments, the one argument. *returned* is what the call returned.

    Raises:
        ValueError: more than one source of the value, or one without a name.
    """

    name: str | None = None
    value: Any = None
    get_value: Callable[[Any, Any], Any] | None = None
    get_value_use_before: Callable[[Any, Any, Any], Any] | None = None
    compute_before: Callable[[], Any] | None = None
    filter_do_record: Callable[[Any, Any], Any] | None = None

    SOURCES: ClassVar[tuple[str, ...]] = ("value", "get_value", "get_value_use_before")

    def __post_init__(self) -> None:
        given = [source for source in self.SOURCES if getattr(self, source) is not None]
        if len(given) > 1:
            raise ValueError(f"an entry takes its value from one place, not from {' and '.join(given)}")
        if given and self.name is None:
            raise ValueError(f"an entry with {given[0]} needs a name")

    def before(self) -> Any:
        """Return what the value may need to know of the time before the call."""
        return self.compute_before() if self.compute_before is not None else None

    def records(self, param: Any, returned: Any) -> bool:
        """Say whether this call is recorded; a filter that raises says no."""
        if self.filter_do_record is None:
            return True
        try:
            return bool(self.filter_do_record(param, returned))
        except Exception as error:  # noqa: BLE001 - filters look into answers that may lack what they look for
            log.debug("not recorded: the filter of entry %r raised %s", self.name, type(error).__name__)
            return False

    def value_of(self, param: Any, returned: Any, before: Any) -> str:
        """Return the value of a call as text."""
        return str(self._value_of(param, returned, before))

    def _value_of(self, param: Any, returned: Any, before: Any) -> Any:
        if self.value is not None:
            return self.value
        if self.get_value is not None:
            return self.get_value(param, returned)
        if self.get_value_use_before is not None:
            return self.get_value_use_before(param, returned, before)
        return DEFAULT_VALUE


@dataclass(frozen=True)
class ViewEntry(Entry):
    """An entry of a view class: *param* is the request, *returned* the response.

    Attributes:
        actions: record these actions of a view set only (`list`, `retrieve`, …). None: all.
        methods: record these HTTP methods only, in any case. None: all.
        filter_do_record: by default responses with a status below 400. None: all.

    Raises:
        ValueError: actions and methods together, or as `Entry`.
    """

    filter_do_record: Callable[[Any, Any], Any] | None = succeeded
    actions: Sequence[str] | None = None
    methods: Sequence[str] | None = None

    time: ClassVar[ViewEntry]
    status: ClassVar[ViewEntry]
    failure_status: ClassVar[ViewEntry]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.actions is not None and self.methods is not None:
            raise ValueError("an entry is limited by actions or by methods, not by both")

    def takes_action(self, action: str | None) -> bool:
        """Say whether requests of this action of a view set are recorded; a plain view has none."""
        return self.actions is None or action in self.actions

    def takes_method(self, method: str) -> bool:
        """Say whether requests of this HTTP method are recorded."""
        return self.methods is None or method.upper() in {name.upper() for name in self.methods}


@dataclass(frozen=True)
class FuncEntry(Entry):
    """An entry of a function: *param* is the tuple of its declared positional arguments, *returned* what it returned.

    Declared are those before `*args`, in the order of the definition and however the caller passed them, defaults included.

    Attributes:
        get_value_with_args: called with those arguments, unpacked.
    """

    get_value_with_args: Callable[..., Any] | None = None

    SOURCES: ClassVar[tuple[str, ...]] = (*Entry.SOURCES, "get_value_with_args")
    time: ClassVar[FuncEntry]
    status: ClassVar[FuncEntry]
    failure_status: ClassVar[FuncEntry]

    def _value_of(self, param: Any, returned: Any, before: Any) -> Any:
        if self.get_value_with_args is not None:
            return self.get_value_with_args(*param)
        return super()._value_of(param, returned, before)


@dataclass(frozen=True)
class UnaryFuncEntry(Entry):
    """An entry of a function with one declared positional argument: *param* is that argument itself."""

    time: ClassVar[UnaryFuncEntry]
    status: ClassVar[UnaryFuncEntry]
    failure_status: ClassVar[UnaryFuncEntry]


READY_MADE: Mapping[str, Mapping[str, Any]] = {
    "time": {"name": "time", "compute_before": _now_ns, "get_value_use_before": _microseconds_since},
    "status": {"name": "status", "get_value": _status_of, "filter_do_record": None},
    "failure_status": {"name": "failure_status", "get_value": _status_of, "filter_do_record": failed},
}
"""Attributes of each kind of entry: the duration in whole microseconds, the status of every response, that of failures only."""

for _name, _fields in READY_MADE.items():
    for _kind in (ViewEntry, FuncEntry, UnaryFuncEntry):
        setattr(_kind, _name, _kind(**_fields))


def datapoints_of(
    entries: Sequence[tuple[Entry, Any]], *, key: Callable[[str], str], param: Callable[[Entry], Any], returned: Any
) -> list[Mapping[str, str]]:
    """Return the datapoints of one call, in the order of the entries.

    Args:
        entries: each with what its `before` had returned.
        key: makes the key of `.<name>`, or of "" for an entry without a name.
        param: what an entry of that kind is given.
        returned: what the call returned.
    """
    found: list[Mapping[str, str]] = []
    for entry, before in entries:
        given = param(entry)
        if entry.records(given, returned):
            name = f".{entry.name}" if entry.name else ""
            found.append({"key": key(name), "value": entry.value_of(given, returned, before)})
    return found
