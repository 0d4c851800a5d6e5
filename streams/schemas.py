"""Say what an event may look like: the pydantic models are the authority, for users who read them and for every decoder."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from streams.event_time import parse_instant

TEXT_LENGTH_MAX = 512
INT32 = (-(2**31), 2**31 - 1)
INT64 = (-(2**63), 2**63 - 1)


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
Instant = Annotated[str, Field(strict=True, max_length=30), AfterValidator(check_instant)]


class EventSchema(BaseModel):
    """What every schema does: accept unknown fields and leave them out, take no value for another type's."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class ProductInfoV1(EventSchema):
    """The product that a user saw or bought; `product_id` keeps the JSON type it came with."""

    product_id: Annotated[int, Field(strict=True, ge=INT64[0], le=INT64[1])] | Text
    brand_id: Text
    category_id: Text
    price: Annotated[int, Field(strict=True, ge=INT32[0], le=INT32[1])]


class UserTagV1(EventSchema):
    """A user saw or bought a product: the event of `user-tags.v1`.

    `time` is UTC, `YYYY-MM-DDTHH:MM:SS[.f{1,9}]Z`, from 1970 on; it is kept as received and ordered by its milliseconds.
    """

    time: Instant
    cookie: Text
    country: Text
    device: Literal["PC", "MOBILE", "TV"]
    action: Literal["VIEW", "BUY"]
    origin: Text
    product_info: ProductInfoV1
