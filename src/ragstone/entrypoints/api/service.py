"""What the endpoints stand on: the parts, the gate, and the one way from a request to an outcome."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from starlette.responses import Response

from ragstone import flow
from ragstone.core.deadline import Deadline
from ragstone.core.errors import DeadlineExceeded
from ragstone.core.filters import Filter, parse_filter
from ragstone.entrypoints.api.problems import HttpError
from ragstone.entrypoints.api.trust import asker_of, is_believed
from ragstone.entrypoints.documents import TENANT, begin_page

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request

    from ragstone.bootstrap import System
    from ragstone.entrypoints.api.admission import Gate
    from ragstone.entrypoints.api.requests import AnswerRequest, SearchRequest

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Service:
    """One server's parts. `loopback_only` says that it listens on this machine's own addresses alone."""

    system: System
    parts: flow.AnswerParts
    gate: Gate
    loopback_only: bool

    def deadline(self, millis: int | None) -> Deadline:
        """The caller's deadline, or the one of the settings."""
        return Deadline.after((millis or self.system.settings.answer.deadline_ms) / 1000)

    async def search(self, request: Request, wanted: SearchRequest) -> flow.Outcome:
        """The passages for a request."""
        filters = parse_filter(wanted.filter)
        offset, as_of = begin_page(wanted.cursor, _text(wanted.as_of), wanted.query, filters, wanted.corpus)
        question = self._question(request, wanted.query, wanted, filters, as_of)
        return await self._decide(flow.search, replace(question, limit=wanted.limit, offset=offset))

    async def answer(self, request: Request, wanted: AnswerRequest) -> flow.Outcome:
        """The answer to a request."""
        filters = parse_filter(wanted.filter)
        question = self._question(request, wanted.question, wanted, filters, _text(wanted.as_of))
        return await self._decide(flow.ask, question)

    def _question(
        self,
        request: Request,
        text: str,
        wanted: SearchRequest | AnswerRequest,
        filters: Filter | None,
        as_of: str | None,
    ) -> flow.Question:
        flow.check_question(text, self.parts.question_chars_max)
        if "\0" in text:
            raise HttpError(
                "the question holds a NUL character", doing="reading the question", next_step="leave it out"
            )
        asker = asker_of(wanted.principals, believed=is_believed(request, loopback_only=self.loopback_only))
        request.state.asker = asker
        return flow.Question(
            text=text,
            tenant=TENANT,
            corpus=wanted.corpus,
            asker=asker,
            filters=filters,
            as_of=as_of,
            deadline=self.deadline(wanted.deadline_ms),
            trace_id=request.state.trace_id,
        )

    async def _decide(
        self,
        decide: Callable[[flow.AnswerParts, flow.Question], Awaitable[flow.Outcome]],
        question: flow.Question,
    ) -> flow.Outcome:
        async with self.gate.place(question.deadline):
            return await in_time(decide(self.parts, question), question.deadline, "answering")


async def in_time(work: Awaitable[Result], deadline: Deadline, doing: str) -> Result:
    """The result of `work`, or DeadlineExceeded: a part that hangs must not hold the caller beyond it."""
    try:
        async with asyncio.timeout(deadline.left_s) as clock:
            return await work
    except TimeoutError:
        if not clock.expired():
            raise
        raise DeadlineExceeded(
            f"the deadline of {deadline.budget_s:g} s has passed",
            doing=doing,
            next_step="give it more time with deadline_ms",
        ) from None


def service_of(request: Request) -> Service:
    """The service behind a request."""
    service: Service = request.app.state.service
    return service


def document_response(document: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON document."""
    return Response(msgspec.json.encode(document), status, headers=headers, media_type="application/json")


def _text(as_of: str | int | None) -> str | None:
    return None if as_of is None else str(as_of)
