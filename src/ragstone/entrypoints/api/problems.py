"""Errors as problem documents (RFC 9457). `type` is a stable URN, `next_step` says what to do now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
from starlette.responses import Response

from ragstone.core.errors import RagstoneError, Transient, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 1
TITLES = {
    "usage": "The request is wrong",
    "not_found": "Not found",
    "busy": "Too much to do at once",
    "unavailable": "A part does not answer",
    "transient": "A part does not answer",
    "deadline_exceeded": "Out of time",
    "refused": "A guard said no",
    "integrity": "Bytes are not what they must be",
    "exhausted": "Out of space",
    "method_not_allowed": "Method not allowed",
    "too_large": "The body is too large",
    "media_type": "The body is not JSON",
    "body_timeout": "The body did not arrive in time",
    "not_ready": "Not ready",
}
# Errors name the command line's options; here the same knobs are fields.
SPELLINGS = {"--deadline-ms": "deadline_ms", "--as-of": "as_of"}
FAULT_TITLE = "A fault in the program"
FAULT_NEXT = "try again; if it goes on, look for this trace id in the log of the server and report it"


class HttpError(UsageError):
    """A request that is wrong as HTTP: its own status, a stable code, the field at fault if there is one."""

    code: ClassVar[str] = "usage"

    def __init__(
        self,
        what: str,
        *,
        status: int = 400,
        fault: str = "usage",
        field: str = "",
        doing: str = "",
        next_step: str = "",
    ) -> None:
        super().__init__(what, doing=doing, next_step=next_step)
        self.status = status
        self.fault = fault
        self.field = field


def problem_document(error: BaseException, trace_id: str) -> dict[str, Any]:
    """The problem that an error is. A fault in the program shows nothing of its inside."""
    code, title, status = "fault", FAULT_TITLE, 500
    detail, next_step, field = "the request met a fault in the program", FAULT_NEXT, ""
    if isinstance(error, RagstoneError):
        code, status = error.code, error.http_status
        if isinstance(error, HttpError):
            code, status, field = error.fault, error.status, error.field
        title, next_step = TITLES.get(code, "The request failed"), error.next_step
        detail = f"{error.what} (while {error.doing})" if error.doing else error.what
    document = {
        "type": f"urn:ragstone:problem:{code}",
        "title": title,
        "status": status,
        "detail": _spelt(detail),
        "next_step": _spelt(next_step),
        "instance": f"urn:ragstone:trace:{trace_id}",
        "trace_id": trace_id,
    }
    return {**document, "field": field} if field else document


def problem_response(
    error: BaseException,
    trace_id: str,
    extra: Mapping[str, Any] | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    """The response for an error; what may succeed later says when to try."""
    document = {**problem_document(error, trace_id), **(extra or {})}
    headers = dict(headers or {})
    if isinstance(error, Transient) and error.http_status == 503:  # noqa: PLR2004 - Service Unavailable
        headers["Retry-After"] = str(RETRY_AFTER_S)
    body = msgspec.json.encode(document)
    return Response(body, document["status"], headers=headers, media_type=MEDIA_TYPE)


def _spelt(text: str) -> str:
    for option, field in SPELLINGS.items():
        text = text.replace(option, field)
    return text
