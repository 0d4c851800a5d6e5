"""Say what an event may look like: the pydantic models are the authority, for users who read them and for every decoder.

What is personal data is said here once (`PERSONAL`); the comments of Postgres repeat it, and a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from streams.event_time import parse_instant

TEXT_LENGTH_MAX = 512
VALUE_LENGTH_MAX = 8_192
PROPERTIES_LENGTH_MAX = 262_144
DATAPOINTS_MAX = 10_000
INT32 = (-(2**31), 2**31 - 1)
INT64 = (-(2**63), 2**63 - 1)
PERSONAL: Any = Field(json_schema_extra={"personal": True})
"""A field about a person: what is in it says who somebody is, or what somebody who is named beside it did."""


def check_text(text: str) -> str:
    """Refuse NUL, which Postgres cannot hold and which ends a user in the keys of rows."""
    if "\0" in text:
        raise ValueError("holds the character NUL")
    return text


def check_instant(text: str) -> str:
    """Refuse what is no event time; see `streams.event_time`."""
    parse_instant(text)
    return text


Text = Annotated[str, Field(strict=True, max_length=TEXT_LENGTH_MAX), AfterValidator(check_text)]
LongText = Annotated[str, Field(strict=True, max_length=VALUE_LENGTH_MAX), AfterValidator(check_text)]
Properties = Annotated[str, Field(strict=True, max_length=PROPERTIES_LENGTH_MAX), AfterValidator(check_text)]
Instant = Annotated[str, Field(strict=True, max_length=30), AfterValidator(check_instant)]


class EventSchema(BaseModel):
    """What every schema does: accept unknown fields and leave them out, take no value for another type's."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class ProductInfoV1(EventSchema):
    """The product that a user saw or bought; `product_id` keeps the JSON type it came with."""

    product_id: Annotated[Annotated[int, Field(strict=True, ge=INT64[0], le=INT64[1])] | Text, PERSONAL]
    brand_id: Annotated[Text, PERSONAL]
    category_id: Annotated[Text, PERSONAL]
    price: Annotated[int, Field(strict=True, ge=INT32[0], le=INT32[1]), PERSONAL]


class UserTagV1(EventSchema):
    """A user saw or bought a product: the event of `user-tags.v1`.

    `time` is UTC, `YYYY-MM-DDTHH:MM:SS[.f{1,9}]Z`, from 1970 on; it is kept as received and ordered by its milliseconds.
    """

    time: Annotated[Instant, PERSONAL]
    cookie: Annotated[Text, PERSONAL]
    country: Annotated[Text, PERSONAL]
    device: Annotated[Literal["PC", "MOBILE", "TV"], PERSONAL]
    action: Annotated[Literal["VIEW", "BUY"], PERSONAL]
    origin: Annotated[Text, PERSONAL]
    product_info: ProductInfoV1


class DatapointV1(EventSchema):
    """One thing that a submission tells: what it is about, and what was seen of it."""

    key: Annotated[Text, PERSONAL]
    value: Annotated[LongText, PERSONAL]


class EventV1(EventSchema):
    """What one submission says of one user and product: the event of `events.v1`. It is counted whole or not at all.

    An `EVENT` has one datapoint, whose key is the event's type and whose value is empty; a `TRANSACTION` has up to 10,000.
    `id` names the submission: of one user it is counted once within 48 hours. `user` is the user's id, else the anonymous one,
    empty where nobody is known. `properties` is the text of a JSON object, kept as received, `{}` where there are none.
    """

    kind: Annotated[Literal["EVENT", "TRANSACTION"], PERSONAL]
    id: Annotated[Text, PERSONAL]
    product: Annotated[Text, PERSONAL]
    user: Annotated[Text, PERSONAL]
    time: Annotated[Instant, PERSONAL]
    source: Annotated[Text, PERSONAL]
    properties: Annotated[Properties, PERSONAL]
    data: Annotated[list[DatapointV1], Field(max_length=DATAPOINTS_MAX)]


def personal_fields(schema: type[BaseModel], path: str = "") -> Iterator[str]:
    """Yield the dotted paths of the fields that are personal data.

    >>> list(personal_fields(ProductInfoV1))
    ['product_id', 'brand_id', 'category_id', 'price']
    """
    for name, field in schema.model_fields.items():
        if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("personal"):
            yield f"{path}{name}"
        for model in (field.annotation, *get_args(field.annotation)):
            if isinstance(model, type) and issubclass(model, BaseModel):
                yield from personal_fields(model, f"{path}{name}.")
