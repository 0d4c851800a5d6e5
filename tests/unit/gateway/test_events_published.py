"""The published documents are right by their own rules, and what they show as an example is taken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from gateway.answers import Message
from gateway.events_published import STATUSES, Published, json_schemas, openapi
from gateway.events_schema import ProducerEventV1
from tests.support.events_door import EventsDoor, a_batch, an_event

OPENAPI_SCHEMA = Path(__file__).parents[2] / "support" / "openapi-3.1.json"
EXAMPLES: list[dict[str, Any]] = ProducerEventV1.model_json_schema()["examples"]


@pytest.mark.parametrize("name", json_schemas()["schemas"])
def test_each_schema_is_one(name: str) -> None:
    """By the dialect that it names."""
    schema = json_schemas()["schemas"][name]
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == jsonschema.Draft202012Validator.META_SCHEMA["$id"]


async def test_examples_are_taken() -> None:
    """Who copies one has a request that works, but for its time."""
    assert EXAMPLES
    schemas = json_schemas()["schemas"]
    door = EventsDoor()
    answered = await door.post(a_batch(*EXAMPLES))
    assert set(answered.words.values()) <= {"ok", "warning"}
    jsonschema.Draft202012Validator(schemas["batch"]).validate({"batch": EXAMPLES})
    jsonschema.Draft202012Validator(schemas["answer"]).validate(answered.body)


def test_the_openapi_document_is_one() -> None:
    """By the schema of OpenAPI 3.1; and it names every status that the contract has."""
    meta = json.loads(OPENAPI_SCHEMA.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(meta).validate(openapi())
    statuses = {*map(str, (200, 202, 400, 401, 403, 408, 413, 415, 422, 429, 503))}
    assert set(openapi()["paths"]["/v1/events"]["post"]["responses"]) == statuses


def test_references_of_the_openapi_document_lead_somewhere() -> None:
    """And the schemas in it are right."""
    document = openapi()
    for schema in document["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    references = list(references_in(document))
    assert references
    for reference in references:
        place: Any = document
        for part in reference.removeprefix("#/").split("/"):
            place = place[part]


def references_in(value: Any) -> Any:
    if isinstance(value, dict):
        for name, part in value.items():
            if name == "$ref":
                yield part
            else:
                yield from references_in(part)
    elif isinstance(value, list):
        for part in value:
            yield from references_in(part)


async def test_answers_are_as_documented() -> None:
    """A body for each kind of answer, against the schema that the document names for its status."""
    door = EventsDoor()
    bodies = [a_batch(an_event(), an_event(type=...)), b"{", a_batch(5), a_batch()]
    schemas = {model.__name__: name for name, model in (("answer", STATUSES["200"][1]), ("error", STATUSES["400"][1]))}
    for body in bodies:
        answered = await door.post(body)
        schema = json_schemas()["schemas"][schemas[STATUSES[str(answered.status)][1].__name__]]
        jsonschema.Draft202012Validator(schema).validate(answered.body)


async def test_documents_are_hidden_where_the_settings_say_so() -> None:
    """Labs P23: in production `/openapi.json` is 404."""
    assert await asked(Published(openapi())) == (200, json.loads(json.dumps(openapi())))
    assert (await asked(Published(openapi(), is_hidden=True)))[0] == 404


async def test_documents_are_only_read() -> None:
    """As every path: another method is 405, OPTIONS the list of those that there are."""
    assert [(await asked(Published({}), method))[0] for method in ("GET", "HEAD", "POST", "OPTIONS")] == [200, 200, 405, 204]


async def asked(published: Published, method: str = "GET") -> tuple[int, Any]:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    await published({"method": method, "headers": []}, receive, send)
    return sent[0]["status"], json.loads(sent[1]["body"] or b"null")
