"""Wrap functions of every kind so that something is told before and after each call."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from typing import Any, Protocol, TypeVar

F = TypeVar("F", bound=Callable[..., Any])
POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class Observer(Protocol):
    """What is told of each call; one observer serves all calls of a function, from any thread."""

    def begin(self) -> Any:
        """Return what `end` of the same call shall know."""
        ...

    def end(self, begun: Any, returned: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Take note of a call that returned; of one that raised nothing is told."""
        ...


def declared_of(func: Callable[..., Any]) -> list[inspect.Parameter]:
    """Return the positional parameters that a function declares before `*args`."""
    return [each for each in inspect.signature(func).parameters.values() if each.kind in POSITIONAL]


def arguments_of(declared: list[inspect.Parameter], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the value of each declared parameter in a call that was valid, however it was passed.

    >>> arguments_of(declared_of(lambda a, b=2, *rest, **more: None), (1,), {"c": 3})
    (1, 2)
    """
    given = args[: len(declared)]
    return given + tuple(_passed_or_default(each, kwargs) for each in declared[len(given) :])


def _passed_or_default(parameter: inspect.Parameter, kwargs: Mapping[str, Any]) -> Any:
    if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
        return parameter.default  # A keyword of the same name belongs to `**kwargs`.
    return kwargs.get(parameter.name, parameter.default)


def observed(func: F, observer_of: Callable[[F], Observer]) -> F:
    """Return *func* with every call told to the observer that *observer_of* makes for it.

    It stays a function of the same kind, name and signature. A coroutine function ends when it is awaited to its end; a
    generator when it is exhausted, with what it returned (None of an asynchronous one); both begin when their body does. What
    the observer raises, the caller sees.
    """
    if isinstance(func, (staticmethod, classmethod)):
        return type(func)(observed(func.__func__, observer_of))  # type: ignore[arg-type]
    if inspect.iscoroutinefunction(func):
        wrapper = _of_coroutine
    elif inspect.isasyncgenfunction(func):
        wrapper = _of_async_generator
    elif inspect.isgeneratorfunction(func):
        wrapper = _of_generator
    else:
        wrapper = _of_function
    return functools.wraps(func)(wrapper(func, observer_of(func)))  # type: ignore[return-value]


def _of_function(func: Callable[..., Any], observer: Observer) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        begun = observer.begin()
        returned = func(*args, **kwargs)
        observer.end(begun, returned, args, kwargs)
        return returned

    return call


def _of_coroutine(func: Callable[..., Any], observer: Observer) -> Callable[..., Any]:
    async def call(*args: Any, **kwargs: Any) -> Any:
        begun = observer.begin()
        returned = await func(*args, **kwargs)
        observer.end(begun, returned, args, kwargs)
        return returned

    return call


def _of_generator(func: Callable[..., Any], observer: Observer) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        begun = observer.begin()
        returned = yield from func(*args, **kwargs)
        observer.end(begun, returned, args, kwargs)
        return returned

    return call


def _of_async_generator(func: Callable[..., Any], observer: Observer) -> Callable[..., Any]:
    async def call(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        begun = observer.begin()
        items = func(*args, **kwargs)
        step = items.__anext__()
        while True:
            try:
                item = await step
            except StopAsyncIteration:
                break
            # There is no asynchronous `yield from`: what comes in by send, throw and close is handed on here.
            try:
                step = items.asend((yield item))
            except GeneratorExit:
                await items.aclose()
                raise
            except BaseException as error:  # noqa: BLE001 - it is the generator's to handle
                step = items.athrow(error)
        observer.end(begun, None, args, kwargs)

    return call
