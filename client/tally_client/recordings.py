"""Turn one call of a decorated function or view into one transaction."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from tally_client.calls import arguments_of, declared_of
from tally_client.entries import Entry, FuncEntry, UnaryFuncEntry, ViewEntry, datapoints_of

C = TypeVar("C", bound=type)
Submit = Callable[..., Any]
Begun = Sequence["tuple[Entry, Any]"]


class FunctionRecording:
    """Observes a function: keys `<module>.<qualname>.<name>`."""

    def __init__(
        self,
        submit: Submit,
        entries: Sequence[Entry],
        func: Callable[..., Any],
        get_username: Callable[[tuple[Any, ...], Any], Any] | None = None,
    ) -> None:
        """Raise ValueError where a unary entry meets a function that does not declare exactly one parameter."""
        self._submit = submit
        self._entries = entries
        self._declared = declared_of(func)
        self._path = path_of(func)
        self._get_username = get_username
        if len(self._declared) != 1 and any(isinstance(entry, UnaryFuncEntry) for entry in entries):
            raise ValueError(f"a UnaryFuncEntry needs one declared parameter, and {self._path} has {len(self._declared)}")

    def begin(self) -> Begun:
        return begun_with(self._entries)

    def end(self, begun: Begun, returned: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        arguments = arguments_of(self._declared, args, kwargs)
        data = datapoints_of(
            begun,
            key=lambda name: f"{self._path}{name}",
            param=lambda entry: arguments[0] if isinstance(entry, UnaryFuncEntry) else arguments,
            returned=returned,
        )
        if data:
            username = None if self._get_username is None else self._get_username(arguments, returned)
            self._submit(data, pennkey=pennkey_of(username))


class ApiFunctionRecording:
    """Observes a function that is given a request: keys `<app>.<view>.<name>.<method>`."""

    def __init__(self, submit: Submit, entries: Sequence[FuncEntry], func: Callable[..., Any]) -> None:
        """Raise TypeError where the function declares no request."""
        self._submit = submit
        self._entries = entries
        self._declared = declared_of(func)
        self._path = path_of(func)
        names = [parameter.name for parameter in self._declared]
        self._position = names.index("request") if "request" in names else 1
        if self._position >= len(names):
            raise TypeError(f"{self._path} declares no request: neither a parameter of that name nor a second one")

    def begin(self) -> Begun:
        return begun_with(self._entries)

    def end(self, begun: Begun, returned: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        arguments = arguments_of(self._declared, args, kwargs)
        request = arguments[self._position]
        data = datapoints_of(begun, key=request_key(request, self._path), param=lambda _: arguments, returned=returned)
        if data:
            self._submit(data, pennkey=user_of(request))


class ViewRecording:
    """Records the requests of a view class: keys `<app>.<view>.<name>.<method>`."""

    def __init__(self, submit: Submit, entries: Sequence[ViewEntry], view_class: type) -> None:
        self._submit = submit
        self._entries = entries
        self._path = path_of(view_class)

    def begin(self, request: Any) -> Begun:
        return begun_with([entry for entry in self._entries if entry.takes_method(request.method)])

    def end(self, begun: Begun, response: Any, *, view: Any, request: Any) -> None:
        action = getattr(view, "action", None)  # A view set knows it once it has dispatched.
        taken = [(entry, before) for entry, before in begun if isinstance(entry, ViewEntry) and entry.takes_action(action)]
        data = datapoints_of(taken, key=request_key(request, self._path), param=lambda _: request, returned=response)
        if data:
            self._submit(data, pennkey=user_of(request))


def record_view(view_class: C, recording: ViewRecording) -> C:
    """Make the `dispatch` of a view class tell a recording, and return the class.

    Where the class has none of its own it gets one that asks the next class in line, as `super()` does: the mixins of a
    subclass keep their turn. A view may answer with an awaitable; then the response is what that becomes.
    """
    own = view_class.__dict__.get("dispatch")

    @functools.wraps(view_class.dispatch)  # type: ignore[attr-defined]
    def dispatch(view: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        def end(response: Any) -> None:
            # By now the view has the framework's own request, which knows the user.
            recording.end(begun, response, view=view, request=getattr(view, "request", request))

        begun = recording.begin(request)
        inner = super(view_class, view).dispatch if own is None else own.__get__(view)  # type: ignore[arg-type]
        response = inner(request, *args, **kwargs)
        if inspect.isawaitable(response):
            return _end_later(response, end)
        end(response)
        return response

    view_class.dispatch = dispatch  # type: ignore[attr-defined]
    return view_class


async def _end_later(response: Awaitable[Any], end: Callable[[Any], None]) -> Any:
    awaited = await response
    end(awaited)
    return awaited


def begun_with(entries: Sequence[Entry]) -> Begun:
    """Return the entries, each with what it needs to know of the time before the call."""
    return [(entry, entry.before()) for entry in entries]


def path_of(named: Any) -> str:
    """Return `<module>.<qualname>` of a function or class; of what has no name of its own, its class's."""
    owner = named if hasattr(named, "__qualname__") else type(named)
    return f"{owner.__module__}.{owner.__qualname__}"


def request_key(request: Any, otherwise: str) -> Callable[[str], str]:
    """Return what makes the keys of a request: `<app>.<view><name>.<method>`.

    Args:
        request: `resolver_match.view_name` is its `<app>:<view>`.
        otherwise: stands for `<app>.<view>` where the request was not found by a URL, as in tests.
    """
    view_name = getattr(getattr(request, "resolver_match", None), "view_name", None)
    view = view_name.replace(":", ".").replace("-", "_") if view_name else otherwise
    return lambda name: f"{view}{name}.{request.method.lower()}"


def user_of(request: Any) -> str | None:
    """Return the pennkey of who asks, None where nobody is known."""
    return pennkey_of(getattr(getattr(request, "user", None), "username", None))


def pennkey_of(username: Any) -> str | None:
    """Return a user name as text; None for none and for the empty name of an anonymous user."""
    return None if username is None else str(username) or None
