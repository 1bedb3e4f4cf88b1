"""What a caller may send, typed; anything else is refused with the field and what it must be."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec

from ragstone.entrypoints.api.problems import HttpError
from ragstone.entrypoints.documents import CORPUS

if TYPE_CHECKING:
    from starlette.requests import Request

BODY_BYTES_MAX = 1_000_000
BODY_WITHIN_S = 10.0
DOING = "reading the request"
FIELD = re.compile(r"`\$\.?([^`]*)`|field `([^`]+)`")

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Millis = Annotated[int, msgspec.Meta(ge=1, le=600_000)]
AsOf = Annotated[str, msgspec.Meta(max_length=64)] | int
Principals = str | list[str]


class SearchRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST /v1/search`; the parameters of `GET /v1/search`, where `q` is the query."""

    query: str
    corpus: Name = CORPUS
    limit: Annotated[int, msgspec.Meta(ge=1, le=100)] = 10
    cursor: str | None = None
    filter: str | dict[str, Any] | None = None
    as_of: AsOf | None = None
    deadline_ms: Millis | None = None
    principals: Principals | None = msgspec.field(name="as", default=None)


class AnswerRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST /v1/answers`."""

    question: str
    corpus: Name = CORPUS
    filter: str | dict[str, Any] | None = None
    as_of: AsOf | None = None
    deadline_ms: Millis | None = None
    stream: bool | None = None
    principals: Principals | None = msgspec.field(name="as", default=None)


Body = TypeVar("Body", SearchRequest, AnswerRequest)


async def body_of(request: Request, kind: type[Body]) -> Body:
    """The JSON body as `kind`. HttpError 400, 408, 413 or 415."""
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    # Not only tidiness: a foreign web page can send any other type across origins without asking first.
    if media != "application/json":
        raise HttpError(
            f"the content type is {media!r}" if media else "there is no content type",
            status=415,
            fault="media_type",
            doing=DOING,
            next_step="send JSON with the header Content-Type: application/json",
        )
    raw = await _bytes(request)
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise wrong_field(error, kind) from None


def query_of(request: Request) -> SearchRequest:
    """The query parameters of a GET as a search. HttpError 400."""
    values: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name in values:
            raise HttpError(f"the parameter {name!r} comes twice", field=name, doing=DOING, next_step="send it once")
        values[name] = value
    if "q" in values:
        values["query"] = values.pop("q")
    try:
        return msgspec.convert(values, SearchRequest, strict=False)
    except msgspec.ValidationError as error:
        raise wrong_field(error, SearchRequest) from None


def wrong_field(error: Exception, kind: type[msgspec.Struct]) -> HttpError:
    """What a decoding error says, with the field at fault and the fields there are."""
    text = str(error)
    found = FIELD.search(text)
    field = (found.group(1) or found.group(2) or "") if found else ""
    known = ", ".join(each.encode_name for each in msgspec.structs.fields(kind))
    if isinstance(error, msgspec.ValidationError):
        said, _, place = text.partition(" - at ")
        if field and place:
            text = f"the field {field!r} is wrong: {said[0].lower()}{said[1:]}"
        return HttpError(text, field=field, doing=DOING, next_step=f"mend that field; the fields are: {known}")
    return HttpError(f"the body is not JSON: {text}", doing=DOING, next_step=f"send a JSON object with: {known}")


async def _bytes(request: Request) -> bytes:
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > BODY_BYTES_MAX:
        raise _too_large()
    gathered = bytearray()
    try:
        async with asyncio.timeout(BODY_WITHIN_S):
            async for piece in request.stream():
                gathered += piece
                if len(gathered) > BODY_BYTES_MAX:
                    raise _too_large()
    except TimeoutError:
        raise HttpError(
            f"the body did not arrive within {BODY_WITHIN_S:g} s",
            status=408,
            fault="body_timeout",
            doing=DOING,
            next_step="send it again",
        ) from None
    return bytes(gathered)


def _too_large() -> HttpError:
    return HttpError(
        f"the body has more than {BODY_BYTES_MAX} bytes",
        status=413,
        fault="too_large",
        doing=DOING,
        next_step="send less",
    )
