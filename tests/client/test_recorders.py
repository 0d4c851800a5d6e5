"""What entries record of decorated functions, and where it goes (Labs, row P17)."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from tally_client.entries import Entry, FuncEntry, UnaryFuncEntry, ViewEntry
from tally_client.labs import Product
from tally_client.recorders import LocalRecorder, OffRecorder

from tests.client.kept import Kept, Submitted

HERE = __name__


@pytest.fixture
def kept() -> Kept:
    return Kept()


def add(a: int, b: int, *_rest: str, **_more: str) -> int:
    return a + b


def boom(*_args: Any) -> Any:
    raise LookupError("a mistake in a callback")


SOURCES: dict[str, Any] = {
    "value": "x",
    "get_value": lambda _param, _returned: "x",
    "get_value_use_before": lambda _param, _returned, _before: "x",
    "get_value_with_args": lambda *_args: "x",
}
PAIRS = [(a, b) for a in SOURCES for b in SOURCES if a < b]


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_a_value_comes_from_one_place(first: str, second: str) -> None:
    """P17: both value and get_value -> ValueError. Which of two would win is nothing to guess."""
    kinds: list[type[Entry]] = (
        [FuncEntry] if "get_value_with_args" in (first, second) else [FuncEntry, UnaryFuncEntry, ViewEntry]
    )
    for kind in kinds:
        with pytest.raises(ValueError, match="one place"):
            kind(name="n", **{first: SOURCES[first], second: SOURCES[second]})


@pytest.mark.parametrize("source", SOURCES)
def test_a_value_of_its_own_needs_a_name(source: str) -> None:
    """P17: value without name -> ValueError. Two such entries of a function would have one key."""
    with pytest.raises(ValueError, match="needs a name"):
        FuncEntry(**{source: SOURCES[source]})


def test_a_view_entry_has_actions_or_methods() -> None:
    """P17: actions+methods -> ValueError."""
    with pytest.raises(ValueError, match="not by both"):
        ViewEntry(actions=["list"], methods=["GET"])


def test_falsy_values_are_values() -> None:
    """P17: 0 and "" are what somebody wants to be told; only None is nothing."""
    for value in (0, "", False):
        assert FuncEntry(name="n", value=value).value_of((), None, None) == str(value)


def test_arguments_before_star_args_are_recorded(kept: Kept) -> None:
    """P17: decorate f(1, 2, *"x") with get_value=lambda args, ret -> "(1, 2);3"."""
    entry = FuncEntry(name="sum", get_value=lambda args, returned: f"{args};{returned}")
    assert kept.record_function(entry)(add)(1, 2, *"x", ignored="y") == 3
    assert kept.pairs == [(f"{HERE}.add.sum", "(1, 2);3")]


def test_an_entry_without_a_name_counts_calls(kept: Kept) -> None:
    """P17: the key is `<module>.<qualname>`, the default value is "1"."""
    kept.record_function(FuncEntry())(add)(1, 2)
    assert kept.transactions == [Submitted([{"key": f"{HERE}.add", "value": "1"}], None)]


def test_values_are_sent_as_text(kept: Kept) -> None:
    """P17 with P3: the intake refuses a value that is no text, and the whole transaction with it."""
    entries = [
        FuncEntry(name="value", value=5),
        FuncEntry(name="got", get_value=lambda _args, returned: returned),
        FuncEntry(name="with_args", get_value_with_args=lambda a, _b: a),
    ]
    kept.record_function(*entries)(add)(1, 2)
    assert [value for _, value in kept.pairs] == ["5", "3", "1"]


def test_all_entries_of_a_call_are_one_transaction(kept: Kept) -> None:
    """P17: what belongs together is stored together; a call of which nothing is recorded submits nothing."""
    recorded = kept.record_function(
        FuncEntry(
            name="big", get_value=lambda _args, returned: returned, filter_do_record=lambda _args, returned: returned > 10
        ),
        FuncEntry(name="biggest", filter_do_record=lambda _args, returned: returned > 10),
    )(add)
    recorded(1, 2)
    assert not kept.transactions
    recorded(10, 2)
    assert [each.pairs for each in kept.transactions] == [[(f"{HERE}.add.big", "12"), (f"{HERE}.add.biggest", "1")]]


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda f: f(1), "(1, 7, 8)"),
        (lambda f: f(1, c=3), "(1, 7, 3)"),
        (lambda f: f(1, 2, 3, 4, d=5), "(1, 2, 3)"),
        (lambda f: f(1, b=2, a=9), "(1, 2, 8)"),
    ],
)
def test_arguments_are_those_of_the_definition_however_they_are_passed(
    kept: Kept, call: Callable[[Callable[..., Any]], Any], expected: str
) -> None:
    """P17: a callback counts on positions. A default that was not passed is an argument too."""

    def function(a: int, /, b: int = 7, c: int = 8, *rest: int, d: int = 0, **more: int) -> None:
        """Take arguments of every kind."""

    call(kept.record_function(FuncEntry(name="args", get_value=lambda args, _: args))(function))
    assert [value for _, value in kept.pairs] == [expected]


def test_a_keyword_is_no_positional_argument_of_the_same_name(kept: Kept) -> None:
    """P17: Python gives it to `**more`; a callback must not get it for the argument."""

    def function(a: int = 1, /, **more: int) -> None:
        """Take `a` by position only."""

    kept.record_function(FuncEntry(name="args", get_value=lambda args, _: args))(function)(a=9)
    assert [value for _, value in kept.pairs] == ["(1,)"]


def test_a_wrong_call_is_the_callers_own_error(kept: Kept) -> None:
    """P17: a decorated function refuses arguments as it did before."""
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'b'"):
        kept.record_function(FuncEntry())(add)(1)  # type: ignore[call-arg]
    assert not kept.transactions


def test_a_unary_entry_gets_the_argument_itself(kept: Kept) -> None:
    """P17: `UnaryFuncEntry` spares the tuple; both kinds stand side by side."""

    def double(x: int, *_rest: str) -> int:
        return 2 * x

    kept.record_function(
        UnaryFuncEntry(name="unary", get_value=lambda x, returned: f"{x};{returned}"),
        FuncEntry(name="tuple", get_value=lambda args, _: args),
    )(double)(4, "x")
    assert [value for _, value in kept.pairs] == ["4;8", "(4,)"]


def test_a_unary_entry_needs_one_declared_parameter(kept: Kept) -> None:
    """P17: which of two arguments is meant shows when the module is loaded, not when it is called."""
    with pytest.raises(ValueError, match=r"one declared parameter, and .*add has 2"):
        kept.record_function(UnaryFuncEntry())(add)


def test_get_username_tells_whose_call_it_was(kept: Kept) -> None:
    """P17: get_username is given the arguments and what was returned, and is asked only where something is recorded."""
    asked: list[tuple[Any, Any]] = []

    def username(args: tuple[Any, ...], returned: Any) -> str:
        asked.append((args, returned))
        return "judtin"

    entry = FuncEntry(filter_do_record=lambda _args, returned: returned == 3)
    recorded = kept.record_function(entry, get_username=username)(add)
    recorded(1, 2)
    recorded(2, 2)
    assert [each.pennkey for each in kept.transactions] == ["judtin"]
    assert asked == [((1, 2), 3)]


def test_before_and_after_meet_in_one_entry(kept: Kept) -> None:
    """P17: each entry gets what its own `compute_before` returned, also where others are filtered away."""
    clubs = ["chess"]

    def found_clubs() -> None:
        clubs.extend(["go", "tennis"])

    kept.record_function(
        FuncEntry(filter_do_record=lambda *_: False, compute_before=lambda: "not mine"),
        FuncEntry(
            name="new", compute_before=lambda: len(clubs), get_value_use_before=lambda _, __, before: len(clubs) - before
        ),
    )(found_clubs)()
    assert kept.pairs == [(f"{path_of_local(found_clubs)}.new", "2")]


def path_of_local(func: Callable[..., Any]) -> str:
    return f"{HERE}.{func.__qualname__}"


def test_time_is_in_microseconds(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """P17: `.time` is a whole number of µs, from before the call to after it."""
    readings = iter([1_000_000_000, 1_001_500_999])
    monkeypatch.setattr("tally_client.entries.time", SimpleNamespace(perf_counter_ns=lambda: next(readings)))
    kept.record_function(FuncEntry.time)(add)(1, 2)
    assert kept.pairs == [(f"{HERE}.add.time", "1500")]


def test_a_filter_that_raises_does_not_record_and_the_call_goes_on(kept: Kept) -> None:
    """P17: filter raises -> not recorded; the other entries of the call are."""
    entries = [FuncEntry(name="bad", filter_do_record=lambda _args, returned: returned["missing"]), FuncEntry(name="good")]
    assert kept.record_function(*entries)(add)(1, 2) == 3
    assert kept.pairs == [(f"{HERE}.add.good", "1")]


@pytest.mark.parametrize(
    "entry",
    [
        FuncEntry(name="n", get_value=boom),
        FuncEntry(name="n", get_value_with_args=boom),
        FuncEntry(name="n", compute_before=boom),
        FuncEntry(name="n", get_value_use_before=boom),
    ],
)
def test_any_other_callback_that_raises_is_seen_by_the_caller(kept: Kept, entry: FuncEntry) -> None:
    """P17: callback raising elsewhere -> propagates. Entries are part of the program; their mistakes must not hide."""
    with pytest.raises(LookupError):
        kept.record_function(entry)(add)(1, 2)
    assert not kept.transactions


def test_get_username_that_raises_is_seen_by_the_caller(kept: Kept) -> None:
    """P17: callback raising elsewhere -> propagates."""
    with pytest.raises(LookupError):
        kept.record_function(FuncEntry(), get_username=boom)(add)(1, 2)


def test_a_call_that_raises_is_not_recorded(kept: Kept) -> None:
    """P17: there is no returned value to record; the error passes as it was."""
    with pytest.raises(LookupError):
        kept.record_function(FuncEntry())(boom)()
    assert not kept.transactions


@pytest.mark.parametrize(
    ("decorate", "wrong"),
    [
        ("record_function", ViewEntry()),
        ("record_function", add),
        ("record_api_function", UnaryFuncEntry()),
        ("record_apiview", FuncEntry()),
    ],
)
def test_entries_of_another_kind_are_refused_at_once(kept: Kept, decorate: str, wrong: object) -> None:
    """P17: a decorator without its brackets, or with the wrong entry, shows when the module is loaded."""
    with pytest.raises(TypeError, match=f"expected .*Entry, not {type(wrong).__name__}"):
        getattr(kept, decorate)(wrong)


def test_a_local_recorder_prints_what_would_be_sent() -> None:
    """P17: `Local…` prints; product 0 is printed as 0."""
    out = io.StringIO()
    recorder = LocalRecorder(Product.OTHER, out=out)
    recorder.record_function(FuncEntry(name="n", value="v"), get_username=lambda *_: "judtin")(add)(1, 2)
    (line,) = out.getvalue().splitlines()
    printed = json.loads(line[line.index("{") :])
    assert printed.pop("timestamp") > 1_700_000_000
    assert printed == {"product": 0, "pennkey": "judtin", "data": [{"key": f"{HERE}.add.n", "value": "v"}]}


def test_a_local_recorder_prints_where_stdout_is_by_then(capsys: pytest.CaptureFixture[str]) -> None:
    """P17: servers and tests replace stdout after the module of recorders was loaded."""
    LocalRecorder(Product.CLUBS).submit([], product=Product.OTHER)
    assert '"product":0' in capsys.readouterr().out


def test_an_off_recorder_sends_nothing_and_still_calls_back(capsys: pytest.CaptureFixture[str]) -> None:
    """P17: `Off…`; a mistake in a callback shows in development, where recording is off, and not first in production."""
    recorder = OffRecorder()
    assert recorder.record_function(FuncEntry())(add)(1, 2) == 3
    with pytest.raises(LookupError):
        recorder.record_function(FuncEntry(name="n", get_value=boom))(add)(1, 2)
    assert capsys.readouterr().out == ""
