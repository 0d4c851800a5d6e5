"""Functions of every kind are recorded when their call has ended (Labs, row P17)."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator, Generator
from typing import Any

import pytest
from tally_client.entries import FuncEntry

from tests.client.kept import Kept

HERE = __name__


@pytest.fixture
def kept() -> Kept:
    return Kept()


def add(a: int, b: int, *_rest: str, **_more: str) -> int:
    return a + b


def test_a_decorated_function_keeps_its_name_and_signature(kept: Kept) -> None:
    """P17: frameworks and readers look at them; the recorder is not to be seen."""
    recorded = kept.record_function(FuncEntry())(add)
    assert (recorded.__name__, recorded.__qualname__, recorded.__module__) == ("add", "add", HERE)
    assert inspect.signature(recorded) == inspect.signature(add)
    assert inspect.unwrap(recorded) is add


class Shelf:
    """Methods of every kind, decorated above and below their own decorators."""

    kept = Kept()
    entry = FuncEntry(name="args", get_value_with_args=lambda *args: args[-1])

    @kept.record_function(entry)
    def method(self, a: int) -> int:
        return a

    @classmethod
    @kept.record_function(entry)
    def of_class(cls, a: int) -> int:
        return a

    @kept.record_function(entry)
    @staticmethod
    def static(a: int) -> int:
        return a


def test_methods_are_recorded() -> None:
    """P17: `self` is the first argument of a method; static and class methods stay what they are."""
    shelf = Shelf()
    assert [shelf.method(1), Shelf.of_class(2), shelf.static(3), Shelf.static(4)] == [1, 2, 3, 4]
    names = ["method", "of_class", "static", "static"]
    assert Shelf.kept.pairs == [(f"{HERE}.Shelf.{name}.args", str(n)) for n, name in enumerate(names, start=1)]


async def test_a_coroutine_function_is_recorded_when_it_has_returned(kept: Kept) -> None:
    """P17: what it returns is the result, not the coroutine; it stays a coroutine function for frameworks that ask."""
    go = asyncio.Event()

    @kept.record_function(FuncEntry(name="returned", get_value=lambda _args, returned: returned))
    async def slowly(a: int) -> int:
        await go.wait()
        return a

    assert inspect.iscoroutinefunction(slowly)
    task = asyncio.create_task(slowly(4))
    await asyncio.sleep(0)
    assert not kept.transactions
    go.set()
    assert await task == 4
    assert [value for _, value in kept.pairs] == ["4"]


async def test_a_canceled_coroutine_is_not_recorded(kept: Kept) -> None:
    """P17: it did not return."""

    @kept.record_function(FuncEntry())
    async def forever() -> None:
        await asyncio.Event().wait()

    task = asyncio.create_task(forever())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not kept.transactions


def test_a_generator_is_recorded_when_it_is_exhausted(kept: Kept) -> None:
    """P17: it returns then, and only then is known how long it took; send and throw reach it as before."""

    @kept.record_function(FuncEntry(name="returned", get_value=lambda args, returned: f"{args};{returned}"))
    def echo(first: str) -> Generator[Any, Any, str]:
        heard = yield first
        try:
            yield heard
        except KeyError:
            yield "caught"
        return "end"

    assert inspect.isgeneratorfunction(echo)
    generator: Any = echo("a")
    assert (next(generator), generator.send("b"), generator.throw(KeyError("k"))) == ("a", "b", "caught")
    assert not kept.transactions
    assert list(generator) == []
    assert [value for _, value in kept.pairs] == ["('a',);end"]


async def test_an_asynchronous_generator_is_recorded_when_it_is_exhausted(kept: Kept) -> None:
    """P17: as a generator; Python has no `yield from` for these, so each way in is tried."""
    closed: list[str] = []

    @kept.record_function(FuncEntry(name="args", get_value=lambda args, returned: f"{args};{returned}"))
    async def echo(first: str) -> AsyncIterator[Any]:
        try:
            heard = yield first
            try:
                yield heard
            except KeyError:
                yield "caught"
        finally:
            closed.append(first)

    assert inspect.isasyncgenfunction(echo)
    generator: Any = echo("a")
    assert [await generator.__anext__(), await generator.asend("b"), await generator.athrow(KeyError("k"))] == [
        "a",
        "b",
        "caught",
    ]
    assert [item async for item in generator] == []
    assert [value for _, value in kept.pairs] == ["('a',);None"]

    left: Any = echo("left early")
    await left.__anext__()
    await left.aclose()
    assert closed == ["a", "left early"]
    assert len(kept.transactions) == 1


def test_threads_do_not_mix_their_calls(kept: Kept) -> None:
    """P17: one decorated function serves all threads of a server at once, and a call may begin inside another."""
    started = threading.Barrier(8)

    @kept.record_function(
        FuncEntry(
            name="pair",
            compute_before=threading.get_ident,
            get_value_use_before=lambda args, returned, before: (args[0] == returned, before == threading.get_ident()),
        )
    )
    def fall(n: int) -> int:
        if n == 5:
            started.wait()
        return n if n == 0 else fall(n - 1) + 1

    threads = [threading.Thread(target=lambda: [fall(5)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [value for _, value in kept.pairs] == ["(True, True)"] * 8 * 6
