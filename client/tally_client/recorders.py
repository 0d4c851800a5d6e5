"""Record what functions and views do, by decorating them.

```python
analytics = get_analytics_recorder(Product.CLUBS)

@analytics.record_apiview(ViewEntry(), ViewEntry.time, ViewEntry(name="long", actions=["list"], filter_do_record=is_long))
class Clubs(ModelViewSet): ...

@analytics.record_function(
    FuncEntry(name="hours", get_value=lambda args, hours: hours),
    get_username=lambda args, hours: args[0].username,
)
def hours_used(user, service): ...
```

All entries of one call make one transaction. Views are known by what they do (`dispatch`, `request.method`), so that no
framework is imported. A call that raises is not recorded. Sending never fails a call; callbacks of entries may (see `entries`).
"""

from __future__ import annotations

import logging
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, TextIO, TypeVar

from tally_client.calls import observed
from tally_client.entries import FuncEntry, UnaryFuncEntry, ViewEntry
from tally_client.labs import LabsClient, Product, transaction_of
from tally_client.recordings import ApiFunctionRecording, FunctionRecording, ViewRecording, record_view
from tally_client.tokens import PlatformTokens

log = logging.getLogger(__name__)

ENVIRONMENT = ("ANALYTICS_URL", "PLATFORM_URL", "CLIENT_ID", "CLIENT_SECRET")

F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C", bound=type)
Submitted = Sequence[Mapping[str, str]]


class Recorder(ABC):
    """Makes decorators; a subclass says where transactions go."""

    @abstractmethod
    def submit(
        self,
        data: Submitted,
        product: int | None = None,
        pennkey: str | None = None,
        timestamp: float | datetime | None = None,
    ) -> Any:
        """Hand over one transaction, as `LabsClient.submit`."""

    def record_apiview(self, *entries: ViewEntry) -> Callable[[C], C]:
        """Record every request of a view class (`APIView`, `ViewSet` and what else has `dispatch`).

        The key is `<app>.<view>.<name>.<method>`, from the name of the URL; the pennkey is the name of the request's user. The
        class itself is changed and returned, so that its name, `super()` and subclasses stay as they were.

        Raises:
            TypeError: an entry of another kind, or the class has no `dispatch`.
        """
        _check_kinds(entries, (ViewEntry,))

        def decorate(view_class: C) -> C:
            if not callable(getattr(view_class, "dispatch", None)):
                raise TypeError(f"record_apiview takes a view class: {view_class.__name__} has no dispatch")
            return record_view(view_class, ViewRecording(self.submit, entries, view_class))

        return decorate

    def record_api_function(self, *entries: FuncEntry) -> Callable[[F], F]:
        """Record every call of a function that handles requests: a method of a view class or a view of its own.

        Key and pennkey are those of `record_apiview`. The request is the parameter of that name, else the second one.

        Raises:
            TypeError: an entry of another kind, or the function declares no request.
        """
        _check_kinds(entries, (FuncEntry,))
        return lambda func: observed(func, lambda plain: ApiFunctionRecording(self.submit, entries, plain))

    def record_function(
        self,
        *entries: FuncEntry | UnaryFuncEntry,
        get_username: Callable[[tuple[Any, ...], Any], Any] | None = None,
    ) -> Callable[[F], F]:
        """Record every call of a function, method, coroutine function or generator function.

        The key is `<module>.<qualname>.<name>`.

        Args:
            entries: of both kinds, in one transaction.
            get_username: called with (arguments, returned) when something is recorded; returns the pennkey.

        Raises:
            TypeError: an entry of another kind.
            ValueError: a `UnaryFuncEntry` for a function that does not declare exactly one positional parameter.
        """
        _check_kinds(entries, (FuncEntry, UnaryFuncEntry))
        return lambda func: observed(func, lambda plain: FunctionRecording(self.submit, entries, plain, get_username))


class LabsRecorder(Recorder):
    """Sends what is recorded through a client, in the background."""

    def __init__(self, client: LabsClient) -> None:
        self.client = client

    def submit(
        self,
        data: Submitted,
        product: int | None = None,
        pennkey: str | None = None,
        timestamp: float | datetime | None = None,
    ) -> bool:
        return self.client.submit(data, product, pennkey, timestamp)


class LocalRecorder(Recorder):
    """Prints what would be sent, a line a transaction: for development."""

    def __init__(self, product: Product = Product.OTHER, out: TextIO | None = None) -> None:
        self._product = product
        self._out = out

    def submit(
        self,
        data: Submitted,
        product: int | None = None,
        pennkey: str | None = None,
        timestamp: float | datetime | None = None,
    ) -> None:
        transaction = transaction_of(data, self._product if product is None else product, pennkey, timestamp)
        # One write a line: lines of several threads do not mix. Looked up late, since tests and servers replace stdout.
        (self._out or sys.stdout).write(f"labs analytics would send: {transaction}\n")


class OffRecorder(Recorder):
    """Sends nothing. Callbacks of entries still run, so that what is wrong with them shows."""

    def submit(
        self,
        data: Submitted,
        product: int | None = None,
        pennkey: str | None = None,
        timestamp: float | datetime | None = None,
    ) -> None:
        """Forget the transaction."""


def get_analytics_recorder(product: Product, off: bool = False, *, environment: Mapping[str, str] = os.environ) -> Recorder:
    """Return the recorder that fits where this process runs.

    Args:
        product: of transactions that do not say their own.
        off: record nothing.
        environment: `ANALYTICS_URL`, `PLATFORM_URL`, `CLIENT_ID` and `CLIENT_SECRET` together mean to send; without one of them
            what would be sent is printed.

    Raises:
        ValueError: one of the two is no URL of a server.
    """
    if off:
        return OffRecorder()
    missing = [name for name in ENVIRONMENT if not environment.get(name)]
    if missing:
        log.warning("analytics are printed and not sent: %s not set", ", ".join(missing))
        return LocalRecorder(product)
    url, *platform = (environment[name] for name in ENVIRONMENT)
    return LabsRecorder(LabsClient(url, PlatformTokens(*platform), product=product))


def _check_kinds(entries: Sequence[Any], kinds: tuple[type, ...]) -> None:
    for entry in entries:
        if not isinstance(entry, kinds):
            raise TypeError(f"expected {' or '.join(kind.__name__ for kind in kinds)}, not {type(entry).__name__}")
