"""What is recorded of views and of functions that handle requests (Labs, row P17)."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from tally_client.entries import FuncEntry, ViewEntry
from tally_client.recorders import Recorder

from tests.client.kept import Kept

HERE = __name__


@pytest.fixture
def kept() -> Kept:
    return Kept()


def a_request(method: str = "GET", *, view_name: str = "clubs:club-list", username: str = "judtin") -> Any:
    """Build what Django gives a view, as far as a recorder looks at it."""
    return SimpleNamespace(
        method=method, resolver_match=SimpleNamespace(view_name=view_name), user=SimpleNamespace(username=username)
    )


class View:
    """What Django's `View` does, as far as a recorder touches it."""

    def dispatch(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        self.request = request
        handler = getattr(self, request.method.lower(), None)
        return SimpleNamespace(status_code=405, data=None) if handler is None else handler(request, *args, **kwargs)


class ViewSet(View):
    """A view that learns its action while it dispatches, as those of the REST framework do."""

    def dispatch(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        self.action = {"GET": "list", "POST": "create"}.get(request.method)
        return super().dispatch(request, *args, **kwargs)


def answered(data: Any = "Hello", status: int = 200) -> Any:
    return SimpleNamespace(status_code=status, data=data)


def clubs_view(kept: Recorder, *entries: ViewEntry, base: type = View) -> Any:
    """Make a decorated view that answers GET with 200."""

    @kept.record_apiview(*entries)
    class Clubs(base):
        """List clubs."""

        def get(self, request: Any, *_args: Any, **_kwargs: Any) -> Any:
            return answered(f"Hello {request.user.username}")

    return Clubs()


def test_a_view_is_recorded_by_app_view_name_and_method(kept: Kept) -> None:
    """P17: `<app>.<view>.<name>.<method>`, the user of the request, value "1" by default."""
    response = clubs_view(kept, ViewEntry(), ViewEntry(name="n")).dispatch(a_request(), "positional", pk=3)
    assert response.data == "Hello judtin"
    assert [(each.pairs, each.pennkey) for each in kept.transactions] == [
        ([("clubs.club_list.get", "1"), ("clubs.club_list.n.get", "1")], "judtin")
    ]


def test_the_request_is_the_one_that_the_framework_made_of_it(kept: Kept) -> None:
    """P17: only the REST framework's own request knows the user of a token; the one that came in knows nobody."""

    @kept.record_apiview(ViewEntry(name="n", get_value=lambda request, _: request.data))
    class Parsing(View):
        def dispatch(self, request: Any, *args: Any, **kwargs: Any) -> Any:
            parsed = SimpleNamespace(**{**vars(request), "user": SimpleNamespace(username="of the token"), "data": "parsed"})
            return super().dispatch(parsed, *args, **kwargs)

        def get(self, _request: Any) -> Any:
            return answered()

    Parsing().dispatch(a_request(username=""))
    assert [(each.pairs, each.pennkey) for each in kept.transactions] == [
        ([("clubs.club_list.n.get", "parsed")], "of the token")
    ]


def test_callbacks_of_a_view_get_request_and_response(kept: Kept) -> None:
    """P17: the param of a `ViewEntry` is the request that the view ended with."""
    entry = ViewEntry(name="n", get_value=lambda request, response: f"{request.method};{response.data}")
    clubs_view(kept, entry).dispatch(a_request())
    assert kept.pairs == [("clubs.club_list.n.get", "GET;Hello judtin")]


def test_views_record_successes_unless_told_otherwise(kept: Kept) -> None:
    """P17: ViewEntry's default filter is status < 400; None records all; a filter of one's own replaces it."""
    view = clubs_view(
        kept,
        ViewEntry(name="default"),
        ViewEntry(name="all", filter_do_record=None),
        ViewEntry(name="own", filter_do_record=lambda request, _: request.method == "POST"),
    )
    view.dispatch(a_request("GET"))
    view.dispatch(a_request("POST"))
    keys = [key.removeprefix("clubs.club_list.") for key, _ in kept.pairs]
    assert keys == ["default.get", "all.get", "all.post", "own.post"]


def test_ready_made_entries_record_status_and_failures(kept: Kept) -> None:
    """P17: `.status` of every response, `.failure_status` of those of 400 and above, `.time` of successes."""
    view = clubs_view(kept, ViewEntry.status, ViewEntry.failure_status, ViewEntry.time)
    view.dispatch(a_request("GET"))
    view.dispatch(a_request("POST"))
    (status, code), (time, duration), *failed = kept.pairs
    assert (status, code) == ("clubs.club_list.status.get", "200")
    assert time == "clubs.club_list.time.get" and duration.isdigit()
    assert failed == [("clubs.club_list.status.post", "405"), ("clubs.club_list.failure_status.post", "405")]


def test_entries_are_limited_to_methods(kept: Kept) -> None:
    """P17: `methods`; what an entry would compute before the call is not computed for requests it does not take."""
    counted: list[str] = []
    entry = ViewEntry(name="n", methods=["post"], filter_do_record=None, compute_before=lambda: counted.append("once"))
    view = clubs_view(kept, entry)
    for method in ("GET", "POST", "DELETE"):
        view.dispatch(a_request(method))
    assert kept.pairs == [("clubs.club_list.n.post", "1")]
    assert counted == ["once"]


def test_entries_are_limited_to_actions_of_a_view_set(kept: Kept) -> None:
    """P17: `actions`; the neighbor of an entry that is left out keeps its own before."""
    entries = [
        ViewEntry(name="create", actions=["create"], filter_do_record=None, compute_before=lambda: "not mine"),
        ViewEntry(
            name="list", actions=["list"], compute_before=lambda: "mine", get_value_use_before=lambda _, __, before: before
        ),
    ]
    view = clubs_view(kept, *entries, base=ViewSet)
    view.dispatch(a_request("GET"))
    view.dispatch(a_request("DELETE"))
    assert kept.pairs == [("clubs.club_list.list.get", "mine")]


def test_nobody_logged_in_is_nobody(kept: Kept) -> None:
    """P17 with P11: an anonymous user has an empty name; the body then has no pennkey, so that the session may tell."""
    clubs_view(kept, ViewEntry()).dispatch(a_request(username=""))
    assert [each.pennkey for each in kept.transactions] == [None]


def test_a_request_without_a_url_is_known_by_the_view(kept: Kept) -> None:
    """Tests of products call views directly: there is no URL then, and the view must answer all the same."""
    view = clubs_view(kept, ViewEntry())
    view.dispatch(SimpleNamespace(method="GET", resolver_match=None, user=SimpleNamespace(username="x")))
    assert kept.pairs == [(f"{HERE}.{type(view).__qualname__}.get", "1")]


def test_a_decorated_view_stays_the_same_class(kept: Kept) -> None:
    """P17: views name themselves in `super(Clubs, self)`, are subclassed with mixins, and are found by their name."""

    class Loud:
        def dispatch(self, request: Any, *args: Any, **kwargs: Any) -> Any:
            response = super().dispatch(request, *args, **kwargs)  # type: ignore[misc]
            response.data = response.data.upper()
            return response

    @kept.record_apiview(ViewEntry())
    class Plain(View):
        def get(self, _request: Any) -> Any:
            return answered("plain")

    @kept.record_apiview(ViewEntry(name="own"))
    class Own(Plain):
        def dispatch(self, request: Any, *args: Any, **kwargs: Any) -> Any:
            return super(Own, self).dispatch(request, *args, **kwargs)  # noqa: UP008 - as old views do it

    class LoudPlain(Plain, Loud, View):
        """Loud stands behind Plain, and must have its turn."""

    assert (Plain.__name__, Plain.dispatch.__name__) == ("Plain", "dispatch")
    assert LoudPlain().dispatch(a_request()).data == "PLAIN"
    assert len(kept.transactions) == 1
    assert Own().dispatch(a_request()).data == "plain"
    assert [key for key, _ in kept.pairs[1:]] == ["clubs.club_list.get", "clubs.club_list.own.get"]


async def test_a_view_that_answers_later_is_recorded_later(kept: Kept) -> None:
    """P17: asynchronous handlers return an awaitable through a plain `dispatch`."""

    @kept.record_apiview(ViewEntry.status)
    class Later(View):
        async def get(self, _request: Any) -> Any:
            await asyncio.sleep(0)
            return answered(status=202)

    answer = Later().dispatch(a_request())
    assert not kept.transactions
    assert (await answer).status_code == 202
    assert kept.pairs == [("clubs.club_list.status.get", "202")]


def test_only_views_can_be_decorated_as_views(kept: Kept) -> None:
    """P17: a class without `dispatch` would never be recorded, without a word."""
    with pytest.raises(TypeError, match="SimpleNamespace has no dispatch"):
        kept.record_apiview(ViewEntry())(SimpleNamespace)


def test_an_api_function_is_recorded_by_its_request(kept: Kept) -> None:
    """P17: key and user of the request; callbacks get the arguments, `self` and request among them."""

    class Plain(View):
        @kept.record_api_function(
            FuncEntry(name="args", get_value_with_args=lambda _self, request, pk: f"{request.method} {pk}"),
            FuncEntry.status,
            FuncEntry.failure_status,
        )
        def get(self, request: Any, pk: int) -> Any:
            return answered()

    Plain().dispatch(a_request(), pk=3)
    assert [(each.pairs, each.pennkey) for each in kept.transactions] == [
        ([("clubs.club_list.args.get", "GET 3"), ("clubs.club_list.status.get", "200")], "judtin")
    ]


def test_a_view_function_has_its_request_by_name(kept: Kept) -> None:
    """P17: the request is the second argument of a method, and the first of a function that is a view of its own."""
    entry = FuncEntry(name="n", get_value=lambda args, _: len(args))
    kept.record_api_function(entry)(lambda request, pk: answered())(a_request("POST"), 3)
    kept.record_api_function(entry)(lambda _view, req: answered())(None, a_request("PUT"))
    assert kept.pairs == [("clubs.club_list.n.post", "2"), ("clubs.club_list.n.put", "2")]
    with pytest.raises(TypeError, match="declares no request"):
        kept.record_api_function(entry)(lambda pk: pk)
