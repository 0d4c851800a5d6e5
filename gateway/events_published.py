"""Publish what `/v1` takes and answers: JSON Schemas and an OpenAPI document, made of the pydantic models."""

from __future__ import annotations

from typing import Any

import msgspec
from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import models_json_schema

from gateway import events_beacon, events_route
from gateway.answers import Headers, Receive, Scope, Send, answer, answer_other_method, error_body
from gateway.events_answers import Word
from gateway.events_schema import Code, ProducerBatchV1, ProducerEventV1
from streams.request_id import SANE
from streams.version import VERSION

SCHEMAS_PATH = "/v1/schemas"
OPENAPI_PATH = "/openapi.json"
DIALECT = "https://json-schema.org/draft/2020-12/schema"
CACHE: Headers = [(b"cache-control", b"public, max-age=300")]


References = dict[type[BaseModel], dict[str, Any]]
"""Where in the document the schema of a model stands."""


class ResultV1(BaseModel):
    """What became of one event. A word that a client does not know means: do not send it again."""

    model_config = ConfigDict(title="Result")

    result: Word = Field(
        description="ok: durable; duplicate: accepted before; warning: durable, but changed; drop: refused for good; "
        "retry: not known to be durable, send it again after Retry-After."
    )
    code: str | None = Field(None, description=f"Why. Of drop and warning one of: {', '.join(Code)}.")
    detail: str | None = Field(None, description="Why, for people.")


class AnswerV1(BaseModel):
    """What became of the events of a request, by their ids; of what has no id, by its position in brackets."""

    model_config = ConfigDict(title="Answer")

    request_id: str = Field(description="The request's X-Request-Id, or the gateway's own.")
    results: dict[str, ResultV1]


class ErrorV1(BaseModel):
    """Why a request failed."""

    model_config = ConfigDict(title="ErrorDetail")

    code: str = Field(description="For programs.")
    message: str = Field(description="For people.")


class ErrorAnswerV1(BaseModel):
    """A request of which nothing was taken; `results` where events were looked at."""

    model_config = ConfigDict(title="Error")

    error: ErrorV1
    request_id: str | None = None
    results: dict[str, ResultV1] | None = None


MODELS: dict[str, type[BaseModel]] = {
    "event": ProducerEventV1,
    "batch": ProducerBatchV1,
    "answer": AnswerV1,
    "error": ErrorAnswerV1,
}
STATUSES: dict[str, tuple[str, type[BaseModel]]] = {
    "200": ("Kafka has acknowledged every event that is `ok`; look at each result.", AnswerV1),
    "202": (
        "With `wait=false`: the events wait to be written, which promises nothing; results has those that do not.",
        AnswerV1,
    ),
    "400": ("The whole body cannot be read.", ErrorAnswerV1),
    "401": ("No valid credentials.", ErrorAnswerV1),
    "403": ("The credentials do not allow this product or source; nothing was taken.", ErrorAnswerV1),
    "408": ("The body did not arrive in time. Send it again.", ErrorAnswerV1),
    "413": ("Too many bytes or events: split the batch.", ErrorAnswerV1),
    "415": ("Another content type or encoding than those named here.", ErrorAnswerV1),
    "422": ("None of the events is valid.", ErrorAnswerV1),
    "429": ("Past the quota. Send it again after Retry-After.", ErrorAnswerV1),
    "503": ("Kafka does not acknowledge, or too much waits. Send it again after Retry-After.", ErrorAnswerV1),
}


class Published:
    """ASGI application that answers one document, the same to everybody."""

    def __init__(self, document: dict[str, Any], *, is_hidden: bool = False) -> None:
        """Answer *document*, or that there is none."""
        self._body = msgspec.json.encode(document)
        self._is_hidden = is_hidden

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._is_hidden:
            await answer(send, 404, error_body("not_found", "not found"))
        elif scope["method"] not in ("GET", "HEAD"):
            await answer_other_method(send, scope["method"], "GET, HEAD, OPTIONS")
        else:
            await answer(send, 200, self._body, list(CACHE))


def json_schemas() -> dict[str, Any]:
    """Return the schema of each model by its name; each stands alone."""
    return {"schemas": {name: {"$schema": DIALECT, **model.model_json_schema()} for name, model in MODELS.items()}}


def openapi() -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of `/v1`."""
    models: list[type[BaseModel]] = [*MODELS.values(), ResultV1]
    references, definitions = models_json_schema(
        [(model, "validation") for model in models], ref_template="#/components/schemas/{model}"
    )
    of: References = {model: references[model, "validation"] for model in models}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Tally", "version": VERSION, "description": "Events of producers, each counted exactly once."},
        "paths": {
            events_route.PATH: {"post": _events(of)},
            events_beacon.PATH: {"post": _beacon()},
            SCHEMAS_PATH: {"get": {"summary": "JSON Schemas of events and answers", "responses": {"200": _json(None)}}},
        },
        "components": {
            "schemas": definitions["$defs"],
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
                "key": {"type": "apiKey", "in": "header", "name": "Authorization", "description": "ApiKey <key>"},
            },
        },
        "security": [{}, {"token": []}, {"key": []}],
    }


def _events(of: References) -> dict[str, Any]:
    """Return the operation of the route of events."""
    either = {"anyOf": [of[ProducerBatchV1], of[ProducerEventV1]]}
    encodings = {"type": "string", "enum": ["gzip", "deflate", "zstd"]}
    return {
        "summary": "Send events",
        "parameters": [
            _parameter("query", "wait", {"type": "boolean", "default": True}, "false: answer before Kafka has acknowledged."),
            _parameter("header", "Content-Encoding", encodings, "One of these, or none."),
            _parameter("header", "X-Request-Id", {"type": "string", "pattern": f"^{SANE}$"}, "Comes back."),
            _parameter("header", "X-Sent-At", {"type": "string", "format": "date-time"}, "Shows how far clocks differ."),
        ],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": either},
                "application/x-ndjson": {"schema": {"type": "string", "description": "One event a line."}},
            },
        },
        "responses": {status: _json(text, of[model]) for status, (text, model) in STATUSES.items()},
    }


def _beacon() -> dict[str, Any]:
    """Return the operation of the beacon."""
    text = "JSON of one event or a batch, which may hold the API key as `key`."
    return {
        "summary": "Send events that nobody waits for",
        "parameters": [_parameter("query", "key", {"type": "string"}, "The API key.")],
        "requestBody": {"content": {"text/plain": {"schema": {"type": "string", "description": text}}}},
        "responses": {"204": {"description": "Always; it promises nothing."}},
    }


def _parameter(place: str, name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"in": place, "name": name, "required": False, "schema": schema, "description": description}


def _json(description: str | None, schema: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"description": description or "A document.", "content": {"application/json": {"schema": schema or {}}}}
